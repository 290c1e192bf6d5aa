# SPDX-License-Identifier: Apache-2.0
"""Which numbers of a box are its classes: by the operators that make them, and by what the file says of itself."""

from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from detectors import CELLS, IMAGE, SIZE, dense, joined
from PIL import Image

from portable_cam.errors import LabelError, TargetError
from portable_cam.export.layers.columns import is_integer, is_probability, makers_of, runs
from portable_cam.export.passes.normalize import normalize
from portable_cam.tasks.detect import find_head
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.detect.families import head_from
from portable_cam.tasks.recognize import recognize
from portable_cam.ultralytics import Ultralytics, read_ultralytics

PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 32, 3), dtype=np.uint8))
#: The nodes behind ``dense`` or ``joined``, by what the numbers behind the box are.
TAILS = {
    "classes": "k = Concat<axis = 2>(xy, wh, p) ",
    "angle": "a = Sigmoid(e) a1 = Sub(a, half) k = Concat<axis = 2>(xy, wh, p, a1) ",
    "coefficients": "k = Concat<axis = 2>(xy, wh, p, e) ",
    "points": """
        u, v = Split<axis = 2>(e, by) u1 = Add(u, places) u2 = Mul(u1, strides) v1 = Sigmoid(v)
        k = Concat<axis = 2>(xy, wh, p, u2, v1) """,
}


def v8(make_model: Any, tail: str, classes: int, extras: int, y: str = "", **weights: np.ndarray) -> onnx.ModelProto:
    """YOLOv8's layout."""
    body, own = dense(classes, TAILS[tail] + "y = Transpose<perm = [0, 2, 1]>(k)" + y, extras)
    numbers = 4 + classes + (extras if tail != "classes" else 0)
    outputs = f"float[1,{numbers},{CELLS}] y" + (", float[1,5,8,4] m" if y else "")
    return make_model(body, own | weights, IMAGE, outputs)


def with_metadata(model: onnx.ModelProto, **metadata: str) -> onnx.ModelProto:
    onnx.helper.set_model_props(model, metadata)
    return model


def classes_of(model: onnx.ModelProto, file: Ultralytics | None = None, classes: int | None = None) -> tuple[Any, ...]:
    """The first number of a box that is a class, the one behind the last, whether there is an objectness."""
    head = find_head(model, SIZE, file, classes)
    (columns,) = head.target.classes
    return columns.start, columns.stop, bool(head.target.objectness)


@pytest.mark.parametrize(
    ("tail", "classes", "extras"),
    [("classes", 3, 0), ("classes", 1, 0), ("angle", 3, 1), ("coefficients", 2, 7), ("points", 1, 3), ("points", 4, 3)],
)
def test_classes_are_what_one_sigmoid_makes(make_model: Any, tail: str, classes: int, extras: int) -> None:
    model = v8(make_model, tail, classes, extras, by=np.array([2, 1], np.int64))
    assert classes_of(model) == (4, 4 + classes, False)


@pytest.mark.parametrize(("extras", "classes"), [(0, 3), (5, 3), (5, 1)])
def test_rows_of_anchors_have_an_objectness(make_model: Any, extras: int, classes: int) -> None:
    """As YOLOv5 writes them: one sigmoid over all, then the box decoded; coefficients of masks are left raw."""
    numbers = 5 + classes
    last = f"""r = Reshape(z, rows) s, e = Split<axis = 2>(r, cut) a = Sigmoid(s) b, p = Split<axis = 2>(a, parts)
        m = Mul(b, two) y = Concat<axis = 2>(m, p{", e" if extras else ""})"""
    body, weights = joined(3 * (numbers + max(extras, 1)), last)
    weights |= {
        "rows": np.array([1, 3 * CELLS, numbers + max(extras, 1)], np.int64),
        "cut": np.array([numbers, max(extras, 1)], np.int64),
        "parts": np.array([4, 1 + classes], np.int64),
        "two": np.float32(2),
    }
    model = make_model(body, weights, IMAGE, f"float[1,{3 * CELLS},{numbers + extras}] y")
    assert classes_of(model) == (5, numbers, True)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("y = Concat<axis = 2>(xy, wh, p)", (4, 7, False)),  # YOLOv8 the other way round
        ("y = Concat<axis = 2>(xy, wh, ones, p)", (5, 8, True)),  # YOLOv6
        ("o = Sigmoid(e) y = Concat<axis = 2>(xy, wh, o, p)", (5, 8, True)),  # YOLOX, decoded
        ("o = Sigmoid(e) k = Mul(o, p) y = Concat<axis = 2>(xy, wh, o, k)", (5, 8, False)),  # multiplied already
    ],
)
def test_rows_of_cells(make_model: Any, tail: str, expected: tuple[Any, ...]) -> None:
    body, weights = dense(3, tail)
    weights["ones"] = np.ones((1, CELLS, 1), np.float32)
    numbers = expected[1]
    assert classes_of(make_model(body, weights, IMAGE, f"float[1,{CELLS},{numbers}] y")) == expected


@pytest.mark.parametrize(
    ("tail", "shape", "expected"),
    [
        ("k = Concat<axis = 2>(xy, wh, o, p) y = Squeeze(k, zero)", f"{CELLS},8", (5, 8, True)),
        (
            TAILS["coefficients"] + "t2 = Transpose<perm = [0, 2, 1]>(k) y = Squeeze(t2, zero)",
            f"8,{CELLS}",
            (4, 7, False),
        ),
    ],
)
def test_outputs_without_an_axis_of_images(make_model: Any, tail: str, shape: str, expected: tuple[Any, ...]) -> None:
    """A photo is explained on them as on others."""
    body, weights = dense(3, "o = Sigmoid(e) " + tail)
    model = make_model(body, weights | {"zero": np.array([0])}, IMAGE, f"float[{shape}] y")
    assert classes_of(model) == expected
    assert recognize(model)[0] == "detect"
    explained = DetectExplainer(model, threshold=0.01, check=True)(PICTURE)
    assert np.abs(explained["layercam"]).max() > 0
    assert {c["name"]: c["passed"] for c in explained.checks}["score"] is True


def test_two_readings_are_asked_for(make_model: Any) -> None:
    """Two sigmoids behind the box: the first may be an objectness."""
    tail = "o = Sigmoid(e) k = Concat<axis = 2>(xy, wh, o, p) y = Transpose<perm = [0, 2, 1]>(k)"
    body, weights = dense(3, tail)
    model = make_model(body, weights, IMAGE, f"float[1,8,{CELLS}] y")
    with pytest.raises(TargetError, match=r"'y' has boxes of 8 numbers.*two sigmoids.*head="):
        classes_of(model)
    assert classes_of(model, classes=3) == (5, 8, True)
    assert classes_of(model, Ultralytics(names=("a", "b", "c"))) == (5, 8, True)
    assert classes_of(model, classes=4) == (4, 8, False)
    with pytest.raises(TargetError, match="two sigmoids"):
        classes_of(model, classes=9)


def test_logits_are_no_scores(make_model: Any) -> None:
    body, weights = dense(3, "k = Concat<axis = 2>(xy, wh, q) y = Transpose<perm = [0, 2, 1]>(k)")
    with pytest.raises(TargetError, match="not made by a sigmoid or softmax"):
        classes_of(make_model(body, weights, IMAGE, f"float[1,7,{CELLS}] y"))


def test_prototypes_of_masks_are_no_segmentation(make_model: Any) -> None:
    model = v8(make_model, "coefficients", 2, 5, " m = Conv<strides = [8, 8]>(x, wm)", wm=np.ones((5, 3, 8, 8), "f"))
    assert recognize(model)[0] == "detect"
    assert classes_of(model) == (4, 6, False)


def test_a_family_named_in_json_is_fitted(make_model: Any) -> None:
    model = v8(make_model, "points", 2, 3, by=np.array([2, 1], np.int64))
    (columns,) = head_from({"family": "yolov8", "output": "y", "threshold": 0.2}, model, SIZE).target.classes
    assert (columns.start, columns.stop) == (4, 6)
    with pytest.raises(TargetError, match="not made by a sigmoid"):
        head_from({"family": "yolov5", "output": "y"}, model, SIZE)


# -- what the file says ------------------------------------------------------------------------------------------------


def test_the_files_names_and_size(make_model: Any) -> None:
    """Names become labels, and an open size is the one that the model was trained at."""
    body, weights = dense(2, TAILS["classes"] + "y = Transpose<perm = [0, 2, 1]>(k)")
    model = make_model(body, weights, "float[1,3,H,W] x", f"float[1,6,{CELLS}] y")
    names = "{0: 'ship, boat', 1: 'buoy'}"
    with_metadata(model, task="detect", names=names, imgsz="[64, 32]", description="Ultralytics YOLO11n model")
    explainer = DetectExplainer(model, threshold=0.01)
    assert explainer.labels is not None
    assert explainer.labels.names == ("ship, boat", "buoy")
    assert (explainer.preprocessing.size, explainer.preprocessing.resize) == (SIZE, "letterbox")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 50, 3), dtype=np.uint8))
    assert set(explainer(picture).labels[0]) <= {"ship", "buoy"}
    with pytest.raises(LabelError, match="names 2 classes, but the model has 1"):
        DetectExplainer(v8(make_model, "classes", 1, 0), labels=explainer.labels)


def test_names_that_the_graph_contradicts(make_model: Any) -> None:
    model = with_metadata(v8(make_model, "classes", 2, 0), task="detect", names="['a', 'b', 'c']")
    with pytest.raises(LabelError, match="the model's metadata names 3 classes, but the model has 2"):
        DetectExplainer(model)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"task": "pose", "names": "{0: 'person'}", "kpt_shape": "[17, 3]"}, ("pose", ("person",), None, 51)),
        ({"names": "['a', 'b']", "imgsz": "[320, 640]"}, (None, ("a", "b"), (320, 640), None)),
        ({"task": "detect", "names": "__import__('os').getcwd()", "imgsz": "[1e9, 2]"}, ("detect", None, None, None)),
        ({"task": "detect", "names": "[" * 9000, "kpt_shape": "[-1, 3]"}, ("detect", None, None, None)),
        ({"task": "detect", "names": "{0: 'a', 2: 'b'}"}, ("detect", None, None, None)),
    ],
)
def test_metadata_are_literals(metadata: dict[str, str], expected: tuple[Any, ...]) -> None:
    found = read_ultralytics(metadata)
    assert found is not None
    assert (found.task, found.names, found.size, found.key_points) == expected


def test_other_metadata() -> None:
    assert read_ultralytics({"task": "sing", "names": "7"}) is None


# -- numbers that are no scores or pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"classes": {"tensor": "q"}, "boxes": {"tensor": "xyxy"}}, "lie between .* but scores are 0 to 1"),
        ({"classes": {"tensor": "p"}, "boxes": {"tensor": "fraction"}}, 'lie within 2 pixels.*"unit": "fraction"'),
    ],
)
def test_what_a_head_cannot_mean(make_model: Any, head: dict[str, Any], message: str) -> None:
    tail = "xyxy = Concat<axis = 2>(lt, rb) fraction = Div(xyxy, size) y = Concat<axis = 2>(xyxy, fraction, p)"
    body, weights = dense(2, tail)
    model = make_model(body, weights | {"size": np.float32(6400)}, IMAGE, f"float[1,{CELLS},10] y")
    with pytest.raises(TargetError, match=message):
        DetectExplainer(model, head=head, preprocessing="unit")(PICTURE)


def test_a_head_on_no_boxes(make_model: Any) -> None:
    """Described on what a threshold let through, of which nothing may be left."""
    tail = "g = Greater(p, most) n = NonZero(g) i = Slice(n, one, two, zero) j = Squeeze(i, zero) "
    tail += "xyxy = Concat<axis = 2>(lt, rb) yb = Gather<axis = 1>(xyxy, j) yp = Gather<axis = 1>(p, j)"
    body, weights = dense(1, tail)
    weights |= {"most": np.float32(2), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    model = make_model(body, weights, IMAGE, "float[1,M,4] yb, float[1,M,1] yp")
    head = {"classes": {"tensor": "yp"}, "boxes": {"tensor": "yb"}}
    found = DetectExplainer(model, head=head, preprocessing="unit")(PICTURE)
    assert (found.found, found.nothing_found) == (False, "the model gives no boxes at all")


# -- makers ------------------------------------------------------------------------------------------------------------

MOVES = {
    "Slice": "a = Slice(s, one, three, one) y = Concat<axis = 1>(a, l)",
    "Gather": "a = Gather<axis = 1>(s, places) y = Concat<axis = 1>(a, l)",
    "Split": "a, b = Split<axis = 1>(s, sizes) y = Concat<axis = 1>(a, l)",
    "Reshape": """a = Reshape(s, shape) b = Transpose<perm = [0, 2, 1, 3]>(a) c = Reshape(b, back)
        y = Concat<axis = 1>(c, l)""",
    "Mul": "a = Concat<axis = 1>(s, l) b = Mul(a, scale) y = Identity(b)",
    "ScatterND": "y = ScatterND(l, where, part)",
}


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ("Slice", "ssllll"),
        ("Gather", "ssllll"),
        ("Split", "ssllll"),
        ("Reshape", "ssssllll"),
        ("Mul", "ssssyyyy"),
        ("ScatterND", "llls"),
    ],
)
def test_who_makes_each_column(make_model: Any, move: str, expected: str) -> None:
    weights = {
        "w": np.ones((4, 3, 1, 1), "f"),
        "one": np.array([1]),
        "three": np.array([3]),
        "places": np.array([3, 0]),
        "sizes": np.array([2, 2]),
        "shape": np.array([1, 2, 2, 16]),
        "back": np.array([1, 4, 4, 4]),
        "scale": np.array([1, 1, 1, 1, 2, 2, 2, 2], "f").reshape(1, 8, 1, 1),
        "where": np.array([[0, 3]]),
    }
    body = "r = Conv(x, w) l = Relu(r) s = Sigmoid(l) n = Slice(s, zero, one, one) part = Squeeze(n, one) "
    weights["zero"] = np.array([0])
    used = {name: value for name, value in weights.items() if name in body + MOVES[move]}
    channels = len(expected)
    model = normalize(make_model(body + MOVES[move], used, "float[1,3,4,4] x", f"float[1,{channels},4,4] y"))
    makers = makers_of(model.graph.outputs[0])
    assert makers is not None
    columns = makers.along(1)
    assert "".join(sorted(v.name for v in c)[0][0] for c in columns) == expected
    probable = [all(map(is_probability, column)) for column in columns]
    assert probable == [letter == "s" for letter in expected]
    assert runs(columns)[0][0] == 0
    assert not any(is_integer(value) for column in columns for value in column)


@pytest.mark.parametrize("layout", slow_but(["columns"], ["rows", "columns"]))
@pytest.mark.parametrize("form", slow_but(["xyxy"], ["xyxy", "cxcywh"]))
def test_boxes_and_scores_apart(make_model: Any, layout: str, form: str) -> None:
    """As YOLO-NAS and PP-YOLOE put them out: which numbers of a box are what shows where the boxes lie."""
    scores = "s = Identity(p)" if layout == "rows" else "s = Transpose<perm = [0, 2, 1]>(p)"
    box = "b = Concat<axis = 2>(left, top, right, bottom)" if form == "xyxy" else "b = Concat<axis = 2>(xy, wh)"
    body, weights = dense(3, f"{box} {scores}")
    shape = f"{CELLS},3" if layout == "rows" else f"3,{CELLS}"
    model = make_model(body, weights, IMAGE, f"float[1,{CELLS},4] b, float[1,{shape}] s")
    head = find_head(model, SIZE)
    assert (head.family, head.target.form, head.target.classes[0].layout) == ("apart", form, layout)
    explainer = DetectExplainer(model, threshold=0.01, check=True)
    assert explainer.explainer.cut == "Sigmoid"
    explained = explainer(PICTURE)
    outputs = {name: value[0] for name, value in explained.outputs.items()}
    probabilities = outputs["s"] if layout == "rows" else outputs["s"].T
    raw, label = divmod(int(explained.targets[0, 0]), 3)
    p = probabilities[raw, label]
    np.testing.assert_allclose(explained.scores[0, 0], np.log(p / (1 - p)), rtol=1e-3)
    x, y, w, h = outputs["b"][raw]
    corners = (x, y, w, h) if form == "xyxy" else (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    np.testing.assert_allclose(
        explainer.detect(explainer.preprocessing(np.asarray(PICTURE)))[0][raw], corners, rtol=1e-4
    )
    assert {c["name"]: c["passed"] for c in explained.checks}["score"] is True
