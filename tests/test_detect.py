# SPDX-License-Identifier: Apache-2.0
"""Families of detectors: recognised from graphs, decoded by numbers written out by hand; NMS; heads in JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from costs import slow_but
from detectors import CELLS, IMAGE, SIZE, joined, scales

from portable_cam import assets
from portable_cam.errors import OptionError, TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalize import normalize
from portable_cam.image.geometry import fit
from portable_cam.tasks import detect
from portable_cam.tasks.detect import centernet, fastestdet, nanodet, ssd, yolo, yolox, yunet
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.detect.head import grid
from portable_cam.tasks.recognize import recognize

RANDOM = np.random.default_rng(0)

#: Behind ``joined``: the first numbers decoded in ``m``, the others behind a sigmoid in ``p``.
DECODED = "b, s = Split<axis = 1>(z, parts) m = Mul(b, two) p = Sigmoid(s) "


def parts(*sizes: int) -> dict[str, np.ndarray]:
    return {"parts": np.array(sizes, np.int64), "two": np.float32(2)}


def recognized(model: onnx.ModelProto) -> detect.Head:
    return detect.find_head(model, SIZE)


# -- recognising -------------------------------------------------------------------------------------------------------


def test_yolov8(make_model: Any) -> None:
    body, weights = joined(7, DECODED + "y = Concat<axis = 1>(m, p)")
    head = recognized(make_model(body, weights | parts(4, 3), IMAGE, f"float[1,7,{CELLS}] y"))
    assert (head.family, head.preset) == ("yolov8", "yolo")


def test_yolov5(make_model: Any) -> None:
    last = "r = Reshape(z, rows) b, s = Split<axis = 2>(r, parts) m = Mul(b, two) p = Sigmoid(s) "
    body, weights = joined(24, last + "y = Concat<axis = 2>(m, p)")
    weights |= parts(4, 4) | {"rows": np.array([1, 3 * CELLS, 8], np.int64)}
    assert recognized(make_model(body, weights, IMAGE, f"float[1,{3 * CELLS},8] y")).family == "yolov5"


def test_yolox_only_where_nothing_is_decoded(make_model: Any) -> None:
    weights = {"flat": np.array([1, 8, -1], np.int64)}
    joins = ""
    for s in (8, 16, 32):
        for kind, numbers in (("b", 4), ("o", 1), ("c", 3)):
            joins += f"{kind}{s} = Conv<strides = [{s}, {s}]>(x, {kind}w{s}) "
            weights[f"{kind}w{s}"] = RANDOM.standard_normal((numbers, 3, s, s)).astype(np.float32)
        joins += f"p{s} = Sigmoid(o{s}) q{s} = Sigmoid(c{s}) j{s} = Concat<axis = 1>(b{s}, p{s}, q{s}) "
        joins += f"f{s} = Reshape(j{s}, flat) "
    joins += "z = Concat<axis = 2>(f8, f16, f32) "
    raw = make_model(joins + "y = Transpose<perm = [0, 2, 1]>(z)", weights, IMAGE, f"float[1,{CELLS},8] y")
    assert recognized(raw).family == "yolox"
    weights |= parts(4, 4)
    decoded = joins + "b, s = Split<axis = 1>(z, parts) m = Mul(b, two) k = Concat<axis = 1>(m, s) "
    decoded += "y = Transpose<perm = [0, 2, 1]>(k)"
    assert recognized(make_model(decoded, weights, IMAGE, f"float[1,{CELLS},8] y")).family == "yolov5"


def test_centernet(make_model: Any) -> None:
    body, weights = scales(3, (8,))
    weights |= {"v": RANDOM.standard_normal((2, 3, 8, 8)), "u": RANDOM.standard_normal((2, 3, 8, 8))}
    body += "hm = Sigmoid(s8) wh = Conv<strides = [8, 8]>(x, v) reg = Conv<strides = [8, 8]>(x, u)"
    outputs = "float[1,3,8,4] hm, float[1,2,8,4] wh, float[1,2,8,4] reg"
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    head = recognized(make_model(body, weights, IMAGE, outputs))
    assert (head.family, set(head.tensors)) == ("centernet", {"hm", "wh", "reg"})


@pytest.mark.parametrize(
    ("model", "family"),
    slow_but(
        ["det_fastestdet_coco_352"],
        [
            ("det_yolox_nano_coco_416", "yolox"),
            ("det_fastestdet_coco_352", "fastestdet"),
            ("det_nanodet_m_coco_416", "nanodet"),
            ("det_ultraface_ssd_rfb320", "ssd"),
        ],
    ),
)
def test_a_quantised_detector(zoo: Path, model: str, family: str) -> None:
    """What quantises on the way to the outputs is no part of the head."""
    quantised = normalize(zoo / "models" / f"{model}.onnx")
    graph = quantised.graph
    builder, kinds = Builder(graph), {"Conv", "Sigmoid", "Concat", "Softmax", "Relu", "Reshape", "Transpose"}
    scale, zero = builder.constant(0.05, ir.DataType.FLOAT), builder.constant(128, ir.DataType.UINT8)
    for value in [node.outputs[0] for node in graph if node.op_type in kinds]:
        if value.dtype == ir.DataType.FLOAT:
            pair = builder.op("DequantizeLinear", builder.op("QuantizeLinear", value, scale, zero), scale, zero)
            pair.shape, pair.dtype = value.shape, value.dtype
            readers = [use for use in value.uses() if use.node.op_type != "QuantizeLinear"]
            if value.is_graph_output():
                graph.outputs[graph.outputs.index(value)] = pair
            for use in readers:
                use.node.replace_input_with(use.idx, pair)
    graph.sort()
    size = tuple(d for d in image_input(graph).shape.dims[2:])
    assert detect.find_head(quantised, size).family == family


def test_a_classifier_is_no_detector(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(TargetError, match=r"'y' \[-1, 5\] are not those of a detector known here .*head="):
        detect.find_head(small_cnn, (8, 8))


# -- decoding ----------------------------------------------------------------------------------------------------------


def test_grid_goes_row_by_row() -> None:
    places, strides = grid(SIZE, (8, 16, 32))
    assert places.shape == (CELLS, 2)
    np.testing.assert_array_equal(places[[0, 1, 4, 32, -1]], [[0, 0], [1, 0], [0, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(strides[[0, 31, 32, -1], 0], [8, 8, 16, 32])


def test_decode_yolox() -> None:
    rows = np.zeros((1, CELLS, 7), np.float32)
    rows[0, 5] = [0.5, 0.25, np.log(2), np.log(4), 0.5, 0.8, 0.4]  # cell in column 1, row 1 of stride 8
    boxes, scores = yolox.head("y").decode({"y": rows}, SIZE)
    np.testing.assert_allclose(boxes[5], [12 - 8, 10 - 16, 12 + 8, 10 + 16], rtol=1e-6)
    np.testing.assert_allclose(scores[5], [0.4, 0.2], rtol=1e-6)


def test_decode_yolo() -> None:
    row = np.array([10, 20, 4, 6, 0.5, 0.8, 0.4], np.float32)
    boxes, scores = yolo.head("y", "rows").decode({"y": row[None, None]}, SIZE)
    np.testing.assert_allclose(boxes, [[8, 17, 12, 23]])
    np.testing.assert_allclose(scores, [[0.4, 0.2]], rtol=1e-6)
    boxes, scores = yolo.head("y", "columns").decode({"y": row[None, :, None]}, SIZE)
    np.testing.assert_allclose(boxes, [[8, 17, 12, 23]])
    np.testing.assert_allclose(scores, row[None, 4:])


def test_decode_nanodet() -> None:
    head = nanodet.head([("c", "d")], (32,))
    distances = np.full((1, 2, 32), -50, np.float32)
    distances[0, 1, [0, 8 + 2, 16 + 1, 24 + 7]] = 50  # 0, 2, 1 and 7 strides to left, top, right and bottom
    boxes, scores = head.decode({"c": np.array([[[0.1], [0.9]]]), "d": distances}, SIZE)
    np.testing.assert_allclose(boxes[1], [16, 48 - 64, 16 + 32, 48 + 224])
    np.testing.assert_array_equal(scores, [[0.1], [0.9]])


def test_decode_yunet() -> None:
    head = yunet.head([("c", "o", "b")], (32,))  # cells (0, 0) and (0, 1) of stride 32
    numbers = np.array([[[0, 0, 0, 0], [0.5, 0.25, np.log(0.5), np.log(2)]]])
    outputs = {"c": np.array([[[0.1], [0.5]]]), "o": np.array([[[0.2], [0.5]]]), "b": numbers}
    boxes, scores = head.decode(outputs, SIZE)
    np.testing.assert_allclose(boxes[1], [16 - 8, 40 - 32, 16 + 8, 40 + 32])
    np.testing.assert_allclose(scores, [[np.sqrt(0.02)], [0.5]], rtol=1e-6)


def test_decode_yunet_with_priors() -> None:
    priors = yunet.priors((64, 64))
    assert len(priors) == 8 * 8 * 3 + 4 * 4 * 2 + 2 * 2 * 2 + 3
    np.testing.assert_allclose(priors[25], np.array([4, 12, 16, 16]) / 64)  # the second of the first cell of row 1
    loc = np.zeros((len(priors), 14))
    loc[25, :4] = [1, -1, np.log(2) / 0.2, 0]
    conf, iou = np.tile([0.75, 0.25], (len(priors), 1)), np.full((len(priors), 1), 1.44)
    boxes, scores = yunet.with_priors("c", "i", "l").decode({"c": conf, "i": iou, "l": loc}, (64, 64))
    np.testing.assert_allclose(boxes[25], [4 + 1.6 - 16, 12 - 1.6 - 8, 4 + 1.6 + 16, 12 - 1.6 + 8], rtol=1e-5)
    np.testing.assert_allclose(scores[25], [0.5])  # the IoU counts as one


@pytest.mark.parametrize(
    ("name", "size"),
    slow_but(
        ["det_yunet_2021_120x160_nobatch"],
        [("det_yunet_n_320", None), ("det_yunet_n_dynamic", 320), ("det_yunet_2021_120x160_nobatch", None)],
    ),
)
def test_yunet_finds_the_face(zoo: Path, name: str, size: int | None) -> None:
    """One face in the photo, where another detector finds it, explained at the face; its score is the model's own."""
    path = zoo / "brought" / f"{name}.onnx"
    assert recognize(path)[0] == "detect"
    checked = name != "det_yunet_n_dynamic"
    explainer = DetectExplainer(path, preprocessing=None if size is None else {"size": size}, check=checked)
    explained = explainer(assets.photo("astronaut.jpg"))
    assert (explained.labels, explainer.head.family) == ([["face"]], "yunet")
    box = np.array(explained.details[0].box)
    assert detect.iou(box, np.array([[180.0, 62, 268, 174]]))[0] > 0.75
    left, top, right, bottom = (round(edge) for edge in box)
    heat = explained.geometry.on_photo(explained["layercam"][0, 0])
    assert heat[top:bottom, left:right].sum() > 0.5 * heat.sum()
    assert not checked or {c["passed"] for c in explained.checks} <= {True, "not tested"}
    assert not checked or {c["name"]: c["passed"] for c in explained.checks}["score"] is True


def test_decode_ssd() -> None:
    scores = np.array([[[0.1, 0.7, 0.2]]], np.float32)
    boxes, found = ssd.decoded("s", "b").decode({"s": scores, "b": np.array([[[0.25, 0.5, 0.5, 1]]])}, SIZE)
    np.testing.assert_allclose(boxes, [[8, 32, 16, 64]])
    np.testing.assert_array_equal(found, scores[0, :, 1:])
    head = ssd.with_priors("s", "b", np.array([[0.5, 0.5, 0.2, 0.4]], np.float32))
    raw = np.array([[[1, -1, np.log(2) / 0.2, 0]]], np.float32)
    boxes, _ = head.decode({"s": scores, "b": raw}, (100, 100))
    np.testing.assert_allclose(boxes, [[52 - 20, 46 - 20, 52 + 20, 46 + 20]], rtol=1e-5)
    assert head.tensors == ("s", "b")


def test_priors_of_ultraface() -> None:
    priors = ssd.ultraface_priors((240, 320))
    assert priors.shape == (4420, 4)
    np.testing.assert_allclose(priors[0], [4 / 320, 4 / 240, 10 / 320, 10 / 240], rtol=1e-6)


def test_decode_fastestdet() -> None:
    values = np.zeros((1, 7, 4, 2), np.float32)
    values[0, :, 1, 1] = [0.5, np.arctanh(0.5), 0, 0, np.log(3), 0.25, 1]
    boxes, scores = fastestdet.head("y").decode({"y": values}, SIZE)
    # centre (1.5 / 2, 1 / 4), size 1/2 and 3/4 of the input, 32 wide and 64 high
    np.testing.assert_allclose(boxes[3], [24 - 8, 16 - 24, 24 + 8, 16 + 24], rtol=1e-6)
    np.testing.assert_allclose(scores[3], [0.5**0.6 * 0.25**0.4, 0.5**0.6], rtol=1e-6)


def test_decode_centernet_keeps_peaks() -> None:
    heat = np.zeros((1, 1, 4, 4), np.float32)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 0, 3, 3] = 0.9, 0.5, 0.4
    size, offset = np.full((1, 2, 4, 4), 2, np.float32), np.full((1, 2, 4, 4), 0.5, np.float32)
    boxes, scores = centernet.head("hm", "wh", "reg").decode({"hm": heat, "wh": size, "reg": offset}, (16, 16))
    assert np.flatnonzero(scores[:, 0]).tolist() == [5, 15]
    np.testing.assert_allclose(boxes[5], [6 - 4, 6 - 4, 6 + 4, 6 + 4])


def test_suppression_is_within_classes() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    scores = np.array([[0.8, 0.1], [0.9, 0.7], [0.5, 0.2]], np.float32)
    found = detect.suppress(boxes, scores, 0.3, 0.5)
    assert [(d.raw, d.label) for d in found] == [(1, 0), (1, 1), (2, 0)]
    assert [d.index for d in found] == [2, 3, 4]
    assert [d.raw for d in detect.suppress(boxes, scores, 0.3, 0.9)] == [1, 0, 1, 2]
    missed = detect.best(boxes, scores, 1)
    assert (missed.raw, missed.label, missed.score) == (1, 1, pytest.approx(0.7))


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest+crop"])
def test_boxes_return_to_the_photo(resize: Any) -> None:
    geometry = fit((200, 400), (100, 100), resize, 120, "center")
    found = geometry.to_photo((0, 0, 100, 100))
    expected = {
        "stretch": (0, 0, 400, 200),
        "letterbox": (0, 0, 400, 200),
        "shortest+crop": (116.67, 16.67, 283.33, 183.33),
    }
    np.testing.assert_allclose(found, expected[resize], atol=0.01)
    np.testing.assert_allclose(geometry.to_photo(geometry.to_input((150, 60, 250, 140))), (150, 60, 250, 140))


# -- heads in JSON -----------------------------------------------------------------------------------------------------


def test_described_head(tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    described = {
        "classes": {"tensor": "s", "layout": "columns", "start": 1},
        "boxes": {"tensor": "b"},
        "objectness": {"tensor": "s", "layout": "columns", "stop": 1},
        "form": "yxyx",
        "unit": "fraction",
        "logits": True,
        "threshold": 0.25,
        "preset": "unit",
    }
    path.write_text(json.dumps(described))
    head = detect.read_head(path)
    assert (head.family, head.preset, head.threshold) == ("described", "unit", 0.25)
    outputs = {"s": np.array([[[0], [np.log(3)]]]), "b": np.array([[[0.5, 0.25, 1, 0.5]]])}
    boxes, scores = head.decode(outputs, SIZE)
    np.testing.assert_allclose(boxes, [[8, 32, 16, 64]])
    np.testing.assert_allclose(scores, [[0.5 * 0.75]])
    assert detect.read_head({"family": "yolov8", "output": "y", "overlap": 0.6}).overlap == 0.6
    assert (
        detect.read_head({"family": "ssd", "scores": "s", "boxes": "b", "priors": [[0.5, 0.5, 1, 1]]}).family == "ssd"
    )


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"family": "yolo9000", "output": "y"}, "'yolo9000' is unknown: choose one of yolox, yolov5, yolov8, ssd"),
        ({"family": "yolov8"}, "does not say what the outputs mean"),
        ({"classes": {"tensor": "s"}}, "does not say what the outputs mean"),
        ({"classes": {"tensor": "s"}, "boxes": {"tensor": "b"}, "form": "corners"}, "form is one of xyxy"),
        ({"anchors": 3}, "unknown keys anchors"),
    ],
)
def test_bad_head(described: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        detect.read_head(described)


def test_bad_head_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read the head"):
        detect.read_head(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(OptionError, match="is not a JSON object"):
        detect.read_head(tmp_path / "list.json")
