# SPDX-License-Identifier: Apache-2.0
"""Models that choose their boxes themselves: what from, in which order the numbers of a box stand, which classes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from detectors import CELLS, IMAGE, dense
from PIL import Image

import portable_cam as pcam
from portable_cam.errors import HeadError, OptionError, TargetError
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.recognize import recognize

PICTURE = Image.fromarray(np.random.default_rng(2).integers(0, 255, (64, 32, 3), dtype=np.uint8))
LIMITS = {
    "most": np.array([50]),
    "iou": np.array([0.3], np.float32),
    "least": np.array([0.55], np.float32),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "axes": np.array([0, 1]),
    "third": np.int64(2),
    "limit": np.float32(0.55),
}

#: The four numbers of a box, by their order.
ORDERS = {
    "x first": "box = Concat<axis = 2>(left, top, right, bottom)",
    "y first": "box = Concat<axis = 2>(top, left, bottom, right)",
    "centre": "box = Concat<axis = 2>(xy, wh)",
    "fractions": "pixels = Concat<axis = 2>(left, top, right, bottom) box = Div(pixels, size)",
    "matrix": "numbers = Concat<axis = 2>(xy, wh) box = MatMul(numbers, matrix)",
}
READS = {  # what the model's own rows are, in pixels as left, top, right, bottom
    "x first": lambda b: b,
    "y first": lambda b: b[:, [1, 0, 3, 2]],
    "centre": lambda b: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1),
    "fractions": lambda b: b * [32, 64, 32, 64],
    "matrix": lambda b: b,
}

# what chooses, behind `box` and `p`: (boxes, 4), (boxes,) and (boxes,) of the chosen in yb, ys, yl
PER_CLASS = """
    s = Transpose<perm = [0, 2, 1]>(p) y = NonMaxSuppression<center_point_box = {center}>(box, s, most, iou, least)
    ci = Gather<axis = 1>(y, one0) bi = Gather<axis = 1>(y, third)
    boxes = Squeeze(box, zero) yb = Gather<axis = 0>(boxes, bi) yl = Cast<to = 1>(ci)
    rows = Squeeze(p, zero) at = Slice(y, one, three, one) turned = Gather<axis = 1>(at, back)
    ys = GatherND(rows, turned)
"""
BEST = """
    v = ReduceMax<axes = [2], keepdims = 0>(p) l = ArgMax<axis = 2, keepdims = 0>(p)
    v1 = Squeeze(v, zero) l1 = Squeeze(l, zero) b1 = Squeeze(box, zero)
    g = Greater(v1, limit) n = NonZero(g) i = Squeeze(n, zero)
    v2 = Gather<axis = 0>(v1, i) l2 = Gather<axis = 0>(l1, i) b2 = Gather<axis = 0>(b1, i)
    f = Cast<to = 1>(l2) far = Mul(f, apart) shift = Unsqueeze(far, one) b3 = Add(b2, shift) b4 = Unsqueeze(b3, zero)
    v3 = Unsqueeze(v2, axes) y = NonMaxSuppression<center_point_box = {center}>(b4, v3, most, iou, least)
    bi = Gather<axis = 1>(y, third)
    yb = Gather<axis = 0>(b2, bi) ys = Gather<axis = 0>(v2, bi) yl = Gather<axis = 0>(f, bi)
"""
# TopK over boxes and classes at once, as heads write it that need no suppression
TOP = """
    every = Reshape(p, line) v, k = TopK<axis = 1>(every, six) q1 = Div(k, classes) r = Mod(k, classes)
    q2 = Unsqueeze(q1, two) q3 = Expand(q2, wide) b1 = GatherElements<axis = 1>(box, q3)
    v1 = Unsqueeze(v, two) r1 = Unsqueeze(r, two) r2 = Cast<to = 1>(r1) y = Concat<axis = 2>(b1, v1, r2)
"""
# TopK of the boxes by their best class first, then of what is left
TOP_TWICE = """
    best = ReduceMax<axes = [2], keepdims = 0>(p) v0, k0 = TopK<axis = 1>(best, six) k1 = Unsqueeze(k0, two)
    k2 = Expand(k1, wide) k3 = Expand(k1, wide_p) box0 = GatherElements<axis = 1>(box, k2)
    p0 = GatherElements<axis = 1>(p, k3)
""" + TOP.replace("(p,", "(p0,").replace("(box,", "(box0,")
# the classes first, so that a place counts boxes within a class
TOP_TURNED = """
    pt = Transpose<perm = [0, 2, 1]>(p) every = Reshape(pt, line) v, k = TopK<axis = 1>(every, six)
    q1 = Mod(k, cells) r = Div(k, cells) q2 = Unsqueeze(q1, two) q3 = Expand(q2, wide)
    yb = GatherElements<axis = 1>(box, q3) ys = Identity(v) yl = Identity(r)
"""
# every class above the threshold is a box of its own
SEVERAL = """
    r0 = Squeeze(p, zero) g = Greater(r0, limit) n = NonZero(g) nt = Transpose(n) v = GatherND(r0, nt)
    bi = Gather<axis = 0>(n, row) ci = Gather<axis = 0>(n, one0) b1 = Squeeze(box, zero) b2 = Gather<axis = 0>(b1, bi)
    f = Cast<to = 1>(ci) far = Mul(f, apart) shift = Unsqueeze(far, one) b3 = Add(shift, b2) b4 = Unsqueeze(b3, zero)
    v3 = Unsqueeze(v, axes) y = NonMaxSuppression<center_point_box = {center}>(b4, v3, most, iou, least)
    k = Gather<axis = 1>(y, third)
    yb = Gather<axis = 0>(b2, k) ys = Gather<axis = 0>(v, k) yl = Gather<axis = 0>(f, k)
"""
CHOICES = {
    "per class": PER_CLASS,
    "best class": BEST,
    "several classes": SEVERAL,
    "top": TOP,
    "top twice": TOP_TWICE,
    "top, turned": TOP_TURNED,
}


def model(make_model: Any, order: str, chooses: str, classes: int = 3, **changed: np.ndarray) -> onnx.ModelProto:
    center = int(order == "centre")
    body, weights = dense(classes, f"{ORDERS[order]} {chooses.format(center=center)}")
    half = np.float32([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
    weights |= LIMITS | {
        "size": np.float32([32, 64, 32, 64]),
        "matrix": half,
        "one0": np.int64(1),
        "three": np.array([3]),
        "back": np.array([1, 0]),
        "apart": np.float32(1000),
        "line": np.array([1, -1]),
        "six": np.array([6]),
        "classes": np.int64(classes),
        "cells": np.int64(CELLS),
        "row": np.int64(0),
        "wide": np.array([1, 6, 4]),
        "wide_p": np.array([1, 6, classes]),
    }
    weights |= changed
    ends = "float[1,6,6] y" if "TopK" in chooses else "float[M,4] yb, float[M] ys, float[M] yl"
    if "TopK" in chooses and "yb" in chooses:
        ends = "int64[1,6] yl, float[1,6,4] yb, float[1,6] ys"
    words = set(re.findall(r"\w+", body))
    return make_model(body, {name: value for name, value in weights.items() if name in words}, IMAGE, ends)


def own_rows(model: onnx.ModelProto, explainer: DetectExplainer, order: str) -> np.ndarray:
    """What the model itself gives: left, top, right, bottom, score, class, best first."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": explainer.preprocessing(np.asarray(PICTURE))})
    if len(found) == 1:
        rows = found[0][0]
    else:
        names = [output.name for output in model.graph.output]
        boxes, scores, labels = (np.squeeze(found[names.index(name)]) for name in ("yb", "ys", "yl"))
        rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1)
    rows = np.concatenate([READS[order](rows[:, :4]), rows[:, 4:]], axis=1)
    return rows[np.argsort(-rows[:, 4], kind="stable")]


QUICK = {
    ("per class", "y first"),
    ("best class", "x first"),
    ("several classes", "fractions"),
    ("top twice", "centre"),
    ("top, turned", "x first"),
}


@pytest.mark.parametrize(
    ("chooses", "order"),
    [
        pytest.param(chooses, order, marks=[] if (chooses, order) in QUICK else pytest.mark.slow)
        for chooses in CHOICES
        for order in ORDERS
        if order != "centre" or chooses not in {"best class", "several classes"}  # a shift of a width is none
    ],
)
def test_the_models_own_boxes(make_model: Any, chooses: str, order: str) -> None:
    """Box, score and class of every row are those that the model itself gives, whatever the order of the numbers."""
    made = model(make_model, order, CHOICES[chooses])
    explainer = DetectExplainer(made, preprocessing="unit", threshold=0.55)
    assert explainer.head.family == ("end_to_end" if "top" in chooses else "inner_nms")
    expected = own_rows(made, explainer, order)
    expected = expected[expected[:, 4] >= 0.55]
    assert len(expected) >= 2
    assert len(set(expected[:, 5])) > 1
    explained = explainer(PICTURE)
    count = min(len(expected), 6)
    assert len(explained.details) >= count
    boxes = np.clip(expected[:count, :4], 0, [32, 64, 32, 64])
    np.testing.assert_allclose([d.box for d in explained.details[:count]], boxes, atol=0.06)
    np.testing.assert_allclose([d.detection for d in explained.details[:count]], expected[:count, 4], rtol=1e-4)
    assert [d.class_number for d in explained.details[:count]] == expected[:count, 5].tolist()
    scores = expected[:count, 4]
    if explainer.explainer.notes:  # the scores stand directly behind their sigmoid
        scores = np.log(scores / (1 - scores))
    np.testing.assert_allclose(explained.result.scores[0, :count], scores, rtol=1e-3)


def test_overlapping_boxes_of_two_classes(make_model: Any) -> None:
    """Without a shift by class the model drops the weaker of two whichever their classes are, and so do we."""
    counts = []
    for chooses in (BEST.replace("b3 = Add(b2, shift)", "b3 = Identity(b2)"), BEST):
        made = model(make_model, "x first", chooses)
        explainer = DetectExplainer(made, preprocessing="unit", most=50)
        counts.append(len(explainer(PICTURE).details))
        assert counts[-1] == len(own_rows(made, explainer, "x first"))
    assert counts[0] < counts[1]


def test_nothing_is_found(make_model: Any) -> None:
    made = model(make_model, "x first", BEST, limit=np.float32(0.999), least=np.array([0.999], np.float32))
    explainer = DetectExplainer(made, preprocessing="unit")
    nothing = explainer(PICTURE)
    assert nothing.labels == [[]]
    assert "no box scores 0.999 or more" in nothing.nothing_found
    missed = explainer(PICTURE, [1])
    assert missed.details[0].found is False


def test_a_single_class(make_model: Any) -> None:
    made = model(make_model, "y first", PER_CLASS, classes=1)
    explainer = DetectExplainer(made, preprocessing="unit")
    expected = own_rows(made, explainer, "y first")
    boxes = np.clip(expected[:3, :4], 0, [32, 64, 32, 64])
    np.testing.assert_allclose([d.box for d in explainer(PICTURE).details][:3], boxes, atol=0.06)


# -- what cannot be told -----------------------------------------------------------------------------------------------

QUERIES = """
    f = Conv<strides = [8, 8]>(x, wf) g = GlobalAveragePool(f) h = Reshape(g, rows)
    i = MatMul(h, wu) u = Add(i, bu)
    q = MatMul(h, wq)
    b = Sigmoid(u) p = Sigmoid(q)
"""


def queries(make_model: Any, last: str, ends: str) -> onnx.ModelProto:
    """A head of queries, 6 of them with 3 classes: its boxes lie nowhere by themselves."""
    weights = LIMITS | {
        "wf": np.random.default_rng(0).standard_normal((42, 3, 8, 8)).astype(np.float32) / 8,
        "rows": np.array([1, 6, 7]),
        "wu": np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32),
        "bu": np.zeros(4, np.float32),
        "wq": np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32),
        "line": np.array([1, -1]),
        "six": np.array([6]),
        "classes": np.int64(3),
        "wide": np.array([1, 6, 4]),
        "two": np.array([2]),
    }
    words = set(re.findall(r"\w+", QUERIES + last))
    weights = {name: value for name, value in weights.items() if name in words}
    return make_model(QUERIES + last, weights, IMAGE, ends)


def test_queries_are_asked_about(make_model: Any, tmp_path: Path) -> None:
    made = queries(make_model, TOP.replace("(box,", "(b,"), "float[1,6,6] y")
    with pytest.raises(TargetError, match=r'is not told by where.*"family": "end_to_end", "form": "xyxy"'):
        DetectExplainer(made)
    head = {"family": "end_to_end", "form": "cxcywh", "unit": "fraction", "preset": "unit", "threshold": 0.2}
    explainer = DetectExplainer(made, head=head)
    assert explainer.head.threshold == 0.2
    rows = own_rows(made, explainer, "centre")
    box = explainer(PICTURE).details[0].box
    np.testing.assert_allclose(box, np.clip(rows[0, :4], 0, 1) * [32, 64, 32, 64], atol=0.06)
    with pytest.raises(HeadError, match="is not told by where"):
        recognize(made)  # and is no classifier of six classes
    assert pcam.explain(made, PICTURE, head=head).task == "detect"
    onnx.save(made, tmp_path / "queries.onnx")
    (tmp_path / "queries.explain.json").write_text(json.dumps({"version": 1, "task": "detect", "head": head}))
    assert DetectExplainer(tmp_path / "queries.onnx").head.family == "end_to_end"
    with pytest.raises(OptionError, match="form is one of"):
        DetectExplainer(made, head=head | {"form": "corners"})
    with pytest.raises(TargetError, match="does not choose boxes that way"):
        DetectExplainer(made, head=head | {"family": "inner_nms"})


def test_chosen_rows_are_no_classes(make_model: Any) -> None:
    """Rows of a box, a score and a class have the shape of a classifier's scores."""
    last = """
        s = Transpose<perm = [0, 2, 1]>(p) n = NonMaxSuppression(b, s, most, iou, least) k = Gather<axis = 1>(n, third)
        b0 = Squeeze(b, zero) p0 = Squeeze(p, zero) m = ReduceMax<axes = [1]>(p0) l = ArgMax<axis = 1>(p0)
        r = Cast<to = 1>(l) every = Concat<axis = 1>(b0, m, r) y = Gather<axis = 0>(every, k)"""
    with pytest.raises(HeadError, match=r'"family": "inner_nms"'):
        recognize(queries(make_model, last, "float[M,6] y"))


def test_class_numbers_that_are_renamed(make_model: Any) -> None:
    """As a table from 80 to 91 numbers does: class 3 of the scores would not be class 3 of the model."""
    last = TOP.replace("r2 = Cast<to = 1>(r1)", "r3 = Gather(table, r1) r2 = Cast<to = 1>(r3)")
    made = model(make_model, "x first", last, table=np.array([1, 4, 9]))
    with pytest.raises(TargetError, match=r"class numbers pass a table \(Gather\)"):
        DetectExplainer(made)


@pytest.mark.parametrize(
    ("last", "ends", "message"),
    [
        ("y = Concat<axis = 2>(b, p)", "float[1,6,7] y", r'"classes": \{"tensor": "y", "start": 4\}'),
        ("y = Identity(b) s = Identity(q)", "float[1,6,4] y, float[1,6,3] s", r'"tensor": "s", "stop": 2\}.*"softmax"'),
    ],
)
def test_detr_is_asked_about(make_model: Any, last: str, ends: str, message: str) -> None:
    with pytest.raises(TargetError, match=r"look like those of a DETR.*" + message):
        DetectExplainer(queries(make_model, last, ends))


def test_rtdetr_by_what_its_file_says(make_model: Any) -> None:
    made = queries(make_model, "y = Concat<axis = 2>(b, p)", "float[1,6,7] y")
    names = "{0: 'a', 1: 'b', 2: 'c'}"
    onnx.helper.set_model_props(made, {"task": "detect", "names": names, "description": "Ultralytics RT-DETR-l model"})
    explainer = DetectExplainer(made, threshold=0.1)
    assert explainer.head.family == "rtdetr"
    assert set(explainer(PICTURE).labels[0]) <= {"a", "b", "c"}


def test_a_softmax_over_classes_and_no_object(make_model: Any) -> None:
    made = queries(make_model, "y = Identity(b) s = Identity(q)", "float[1,6,4] y, float[1,6,3] s")
    head = {"classes": {"tensor": "s", "stop": 2}, "boxes": {"tensor": "y"}, "form": "cxcywh", "unit": "fraction"}
    head |= {"logits": "softmax", "preset": "unit", "threshold": 0.01}
    explainer = DetectExplainer(made, head=head, check=True)
    explained = explainer(PICTURE)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    _, logits = session.run(None, {"x": explainer.preprocessing(np.asarray(PICTURE))})
    spread = np.exp(logits[0])
    expected = (spread / spread.sum(axis=1, keepdims=True))[:, :2]
    assert explained.details[0].detection == pytest.approx(expected.max(), rel=1e-4)
    box, label = np.unravel_index(expected.argmax(), expected.shape)
    assert explained.details[0].class_number == label
    np.testing.assert_allclose(explained.result.scores[0, 0], logits[0, box, label], rtol=1e-4)
