# SPDX-License-Identifier: Apache-2.0
"""Detectors of two stages: the second makes boxes and classes of the proposals that the first chose."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from costs import slow_but
from PIL import Image

from portable_cam.errors import HeadError
from portable_cam.explanation import Explanation
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.detect.nms import suppress

FIRST = """
    c = Conv<strides=[8,8]>(x, k) f = Relu(c) o = Conv(f, ko) o1 = Reshape(o, flat3) a3 = Unsqueeze(anchors, d0)
    sel = NonMaxSuppression(a3, o1, most, high) six = Gather<axis=1>(sel, two)
    rois = Gather<axis=0>(anchors, six) bi = Mul(six, nought)
    p = RoiAlign<output_height=3, output_width=3, sampling_ratio=2, spatial_scale=0.125>(f, rois, bi)
    g = GlobalAveragePool(p) v = Flatten(g) l = Gemm(v, wc) q = Softmax<axis=-1>(l) s = Slice(q, one1, four1, d1)
"""
#: A box for each class, or one for all.
BOXES = {
    "a box for each class": """
        db = Gemm(v, wb) d4 = Reshape(db, n44) r3 = Unsqueeze(rois, d1) bx = Add(d4, r3) b = Slice(bx, one1, four1, d1)
        bf = Reshape(b, n4) sf = Reshape(s, n1) hot = Greater(sf, low) nz = NonZero(hot) keep = Squeeze(nz, d0)
        bk = Gather(bf, keep) sk = Gather(sf, keep) lab = Mod(keep, three) """,
    "a box for all classes": """
        db = Gemm(v, w1) b = Add(db, rois) best = ReduceMax<keepdims=0>(s, d1) lab0 = ArgMax<axis=1, keepdims=0>(s)
        hot = Greater(best, low) nz = NonZero(hot) keep = Squeeze(nz, d0)
        bk = Gather(b, keep) sk = Gather(best, keep) lab = Gather(lab0, keep) """,
}
LAST = """
    lf = Cast<to=1>(lab) off = Mul(lf, far) off1 = Unsqueeze(off, d1) apart = Add(bk, off1)
    n3 = Unsqueeze(apart, d0) s3 = Unsqueeze(sk, d01)
    fin = NonMaxSuppression(n3, s3, most, half) fx = Gather<axis=1>(fin, two)
    boxes = Gather(bk, fx) scores = Gather(sk, fx) labels = Gather(lab, fx)
"""
INTEGERS = {
    "flat3": [1, 1, -1], "d0": [0], "d1": [1], "d01": [0, 1], "most": [12], "one1": [1], "four1": [4],
    "n44": [-1, 4, 4], "n4": [-1, 4], "n1": [-1], "two": 2, "nought": 0, "three": 3,
}  # fmt: skip
FORM = {"family": "inner_nms", "form": "xyxy", "unit": "pixels"}
PHOTO = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def two_stages(kind: str) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    y, x = (np.indices((8, 8)) * 8 + 4).reshape(2, -1)
    floats = {
        "k": random.normal(size=(8, 3, 8, 8)) * 0.1,
        "ko": random.normal(size=(1, 8, 1, 1)),
        "wc": random.normal(size=(8, 4)) * 2,
        "wb": random.normal(size=(8, 16)) * 2,
        "w1": random.normal(size=(8, 4)) * 2,
        "anchors": np.stack([x - 10, y - 10, x + 10, y + 10], 1),
        "high": [0.6],
        "half": [0.5],
        "low": 0.05,
        "far": 1000,
    }
    body = FIRST + BOXES[kind] + LAST
    outputs = "float[n,4] boxes, float[n] scores, int64[n] labels"
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[1,3,64,64] x) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    arrays = {n: np.asarray(v, np.float32) for n, v in floats.items()}
    arrays |= {n: np.asarray(v, np.int64) for n, v in INTEGERS.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in arrays.items() if n in used)
    return model


@pytest.fixture(scope="module", params=slow_but(["a box for each class"], BOXES))
def explained(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, DetectExplainer, Explanation]:
    model = two_stages(request.param)
    explainer = DetectExplainer(model, ("layercam", "gradient"), head=FORM, check=True)
    return model, explainer, explainer(PHOTO)


def test_what_a_box_is_has_to_be_said() -> None:
    """The proposals stand wherever the first stage found something: no grid tells x from y."""
    with pytest.raises(HeadError, match=r"is not told by where its boxes lie.*\"family\": \"inner_nms\""):
        DetectExplainer(two_stages("a box for each class"))


def test_the_boxes_are_the_models_own(explained: tuple[onnx.ModelProto, DetectExplainer, Explanation]) -> None:
    model, explainer, _ = explained
    x = explainer.preprocessing(np.asarray(PHOTO))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, labels = session.run(None, {"x": x})
    head = explainer.head
    raw, raw_scores = explainer.detect(x)
    found = suppress(raw, raw_scores, 0.05, head.overlap, best_only=head.best_only, across_classes=head.across_classes)
    ours = {(d.label, *(round(float(v), 1) for v in (10 * d.score, *d.box))) for d in found}
    theirs = {
        (int(n), *(round(float(v), 1) for v in (10 * s, *b))) for n, s, b in zip(labels, scores, boxes, strict=True)
    }
    assert set(theirs) <= set(ours)  # which keeps no more than so many of a class
    assert len(theirs) > 2


def test_the_logit_of_the_second_stage(explained: tuple[onnx.ModelProto, DetectExplainer, Explanation]) -> None:
    """Against central differences, through the pooling of the proposals to the image."""
    _, explainer, explanation = explained
    assert explainer.explainer.cut == "Softmax"
    assert np.abs(explanation["layercam"]).max() > 0
    checks = {c["name"]: c for c in explanation.checks}
    for name in ("outputs", "score", "layer", "input", "maps"):
        assert checks[name]["passed"] is True, checks[name]["detail"]


def test_a_region_chooses_a_box_of_a_class(explained: tuple[onnx.ModelProto, DetectExplainer, Explanation]) -> None:
    _, explainer, explanation = explained
    box, label = explanation.details[0].box, explanation.details[0].class_number
    marked = explainer(PHOTO, str(label), region=box)
    assert marked.targets[0, 0] == explanation.targets[0, 0]
