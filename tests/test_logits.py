# SPDX-License-Identifier: Apache-2.0
"""The logit is explained where probabilities are put together with other numbers; a note says where it is not."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checking import run_checks
from costs import slow_but
from detectors import CELLS, IMAGE, dense

import portable_cam as pcam
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets.logits import probabilities_in
from portable_cam.targets import Boxes, Class, Columns, Contrast

RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
STEM = "c = Conv(x, k) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) a = MatMul(f, wa) b = MatMul(f, wb) "
WEIGHTS = {"k": RNG.normal(size=(4, 3, 3, 3)), "wa": RNG.normal(size=(4, 3)), "wb": RNG.normal(size=(4, 5))}
INTEGERS = {"one": [1], "two": [2], "four": [4], "parts": [2, 3], "back": [4, 3, 2, 1, 0]}
#: Nodes behind two linear layers a (N, 3) and b (N, 5); which columns of the output hold which logits.
PUT_TOGETHER: dict[str, tuple[str, str]] = {
    "two softmax heads": ("p = Softmax(a) q = Softmax(b) y = Concat<axis = 1>(p, q)", "ab"),
    "a sigmoid head and a softmax head": ("p = Sigmoid(a) q = Softmax(b) y = Concat<axis = 1>(p, q)", "ab"),
    "logits beside probabilities": ("p = Sigmoid(a) y = Concat<axis = 1>(p, b)", "ab"),
    "without the background": ("p = Softmax(b) y = Slice(p, one, four, one)", "b1:4"),
    "in two parts": ("p = Softmax(b) u, v = Split<axis = 1>(p, parts) y = Concat<axis = 1>(v, u)", "b2:5,b0:2"),
    "in another order": ("p = Sigmoid(b) y = Gather<axis = 1>(p, back)", "b4:,b3:4,b2:3,b1:2,b0:1"),
    "behind the best": ("p = Softmax(a) q = Softmax(b) t = Concat<axis = 1>(p, q) y = ArgMax<axis = 1>(t)", "ab"),
    "behind the first three": (
        "p = Sigmoid(a) q = Sigmoid(b) t = Concat<axis = 1>(p, q) n = Identity(two) y, i = TopK(t, n)",
        "ab",
    ),
    "behind a threshold": ("p = Sigmoid(a) q = Sigmoid(b) t = Concat<axis = 1>(p, q) y = Greater(t, half)", "ab"),
    "quantised": (
        "p = Softmax(b) pq = QuantizeLinear(p, scale, zero) s = Slice(pq, one, four, one) "
        "y = DequantizeLinear(s, scale, zero)",
        "b1:4",
    ),
}
#: Whose output says what the logit has to be, or the difference to another.
COMPARED = {"without the background", "in two parts", "in another order", "quantised"}
TYPES = {
    "behind the best": "int64[N,1] y",
    "behind the first three": "float[N,2] y",
    "behind a threshold": "bool[N,8] y",
    "without the background": "float[N,3] y",
    "quantised": "float[N,3] y",
    "in two parts": "float[N,5] y",
    "in another order": "float[N,5] y",
}


def made(make_model: Any, tail: str, y: str = "float[N,8] y") -> onnx.ModelProto:
    integers = {n: np.array(v) for n, v in INTEGERS.items()}
    rest = {"half": np.float32(0.5), "scale": np.float32(1 / 255), "zero": np.uint8(0)}
    weights = {n: v.astype(np.float32) for n, v in WEIGHTS.items()} | integers | rest
    return make_model(STEM + tail, {n: v for n, v in weights.items() if n in STEM + tail}, y=y)


def logits_by_torch(x: torch.Tensor, where: str) -> torch.Tensor:
    """The same network, and its logits in the order of the output's columns."""
    k, wa, wb = (torch.tensor(WEIGHTS[n].astype(np.float32)) for n in ("k", "wa", "wb"))
    features = torch.nn.functional.conv2d(x, k).relu().mean((2, 3))
    heads = {"a": features @ wa, "b": features @ wb}
    if where == "ab":
        return torch.cat([heads["a"], heads["b"]], 1)
    parts = []
    for part in where.split(","):
        start, _, stop = part[1:].partition(":")
        parts.append(heads[part[0]][:, int(start) : int(stop) if stop else None])
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", slow_but(["two softmax heads", "in two parts", "behind the best"], PUT_TOGETHER))
def test_the_logit_behind_what_is_put_together(make_model: Any, kind: str) -> None:
    """By autograd on the logit, for a class of each head."""
    tail, where = PUT_TOGETHER[kind]
    explainer = pcam.Explainer(made(make_model, tail, TYPES.get(kind, "float[N,8] y")), ("gradient",))
    result = explainer(X, [[0, 2]] * 2)
    x = torch.tensor(X, requires_grad=True)
    logits = logits_by_torch(x, where)
    assert explainer.classes == logits.shape[1]
    np.testing.assert_allclose(result.scores, logits[:, [0, 2]].detach().numpy(), rtol=1e-4, atol=1e-5)
    for k, target in enumerate((0, 2)):
        (expected,) = torch.autograd.grad(logits[:, target].sum(), x, retain_graph=True)
        np.testing.assert_allclose(result["gradient"][:, k], expected.numpy(), atol=1e-5)
    assert any("before the final" in note for note in result.notes)
    assert not any("is a probability" in note for note in result.notes)
    check = {c.name: c for c in explainer.check(X, [[0, 2]] * 2)}["score"]
    assert check.passed is (True if kind in COMPARED else None), check.detail


@pytest.mark.parametrize(
    ("tail", "y"),
    [
        ("p = Sigmoid(a) m = ReduceMax<axes = [1], keepdims = 1>(p) q = Softmax(b) y = Mul(q, m)", "float[N,5] y"),
        ("p = Softmax<axis = 0>(a) q = Softmax(b) y = Concat<axis = 1>(p, q)", "float[N,8] y"),
    ],
)
def test_a_product_is_explained_as_it_is(make_model: Any, tail: str, y: str) -> None:
    """No one logit makes it; a softmax over the images is none of classes. A note says that it is a probability."""
    model = made(make_model, tail, y)
    explainer = pcam.Explainer(model, ("gradient",), output="y")
    assert explainer.cut is None
    assert "the score is a probability ('y'), not a logit: near 0 and 1 its gradient vanishes" in explainer.notes


TAIL = """
    o = Sigmoid(e) k = Concat<axis = 2>(xy, wh, p) y = Transpose<perm = [0, 2, 1]>(k)
    ko = Concat<axis = 2>(xy, wh, o, p) both = Sigmoid(qe) kb = Concat<axis = 2>(xy, wh, both) m = Mul(o, p)
    km = Concat<axis = 2>(xy, wh, m)
"""
#: The tensor, its head, and which of the raw numbers of a box is its logit.
HEADS = {
    "classes behind the box": Boxes((Columns("y", 4, 7, "columns"),)),
    "rows": Boxes((Columns("k", 4, 7),)),
    "class of a pair": Boxes((Columns("ko", 5, 8),), (Columns("ko", 4, 5),), part="class"),
    "objectness of a pair": Boxes((Columns("ko", 5, 8),), (Columns("ko", 4, 5),), part="objectness"),
    "class of one sigmoid": Boxes((Columns("kb", 5, 8),), (Columns("kb", 4, 5),), part="class"),
}


@pytest.fixture
def detector(make_model: Any) -> onnx.ModelProto:
    body, weights = dense(3, "qe = Concat<axis = 2>(e, q) " + TAIL)
    ends = ", ".join(
        f"float[1,{d}] {n}"
        for n, d in {
            "y": f"7,{CELLS}",
            "k": f"{CELLS},7",
            "ko": f"{CELLS},8",
            "kb": f"{CELLS},8",
            "km": f"{CELLS},7",
            "q": f"{CELLS},3",
            "e": f"{CELLS},1",
        }.items()
    )
    return make_model(body, weights, IMAGE, ends)


@pytest.mark.parametrize("head", slow_but(["classes behind the box", "class of one sigmoid"], HEADS))
def test_the_logit_of_a_box(detector: onnx.ModelProto, head: str) -> None:
    """Beside the numbers of the box, one tensor of all: against the raw head, named as such."""
    target, x = HEADS[head], np.random.default_rng(3).random((1, 3, 64, 32), dtype=np.float32)
    box, label = 7, 2
    explainer = pcam.Explainer(detector, ("gradient",), target=target)
    result = explainer(x, box * 3 + label)
    raw = "e" if target.part == "objectness" else "q"
    column = Columns(raw, 0, 1) if raw == "e" else Columns(raw)
    index = box if raw == "e" else box * 3 + label
    expected = pcam.Explainer(detector, ("gradient",), target=Boxes((column,)))(x, index)
    assert explainer.cut == "Sigmoid"
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(result["gradient"], expected["gradient"], rtol=1e-4, atol=1e-7)
    best = int(explainer(x).targets[0, 0])
    outputs = result.outputs["q"][0] if target.part != "objectness" else result.outputs["e"][0]
    assert (best if target.part != "objectness" else best // 3) == outputs.argmax()
    as_is = pcam.Explainer(detector, ("gradient",), target=target, as_is=True)
    np.testing.assert_allclose(as_is(x, box * 3 + label).scores, 1 / (1 + np.exp(-expected.scores)), rtol=1e-4)
    assert any("is a probability" in note for note in as_is.notes)


@pytest.mark.parametrize(
    ("target", "note"),
    [
        (Boxes((Columns("ko", 5, 8),), (Columns("ko", 4, 5),)), "the score is the product of two probabilities"),
        (Boxes((Columns("km", 4, 7),)), r"the score is a probability \('km'\), not a logit"),
        (Boxes((Columns("q"),), (Columns("e"),), logits=True), "the score is the product of two probabilities"),
        (Boxes((Columns("q"),)), None),
        (Boxes((Columns("ko", 5, 8),), (), (Columns("ko", 0, 4),), "cxcywh", part="left"), None),
    ],
)
def test_a_probability_of_a_box_is_said(detector: onnx.ModelProto, target: Boxes, note: str | None) -> None:
    notes = pcam.Explainer(detector, ("gradient",), target=target).notes
    assert notes == () if note is None else any(re.match(note, n) for n in notes)


@pytest.mark.parametrize("same_box", [True, False])
def test_contrast_of_boxes_is_checked(
    detector: onnx.ModelProto, same_box: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference of two log-odds, of one box or of two."""
    x, head = np.random.default_rng(3).random((1, 3, 64, 32), dtype=np.float32), HEADS["classes behind the box"]
    other = np.array([[21 + 2 if same_box else 30]])
    arguments: dict[str, Any] = {"targets": (21,), "x": x, "extra": {"rather_than": other}, "methods": ("gradcam",)}
    right = run_checks(detector, target=Contrast(head), **arguments)["score"]
    assert right.verdict == "passed", right.detail
    score = Boxes.score

    def next_box(self: Boxes, b: Any, scores: Any, index: Any, extra: Any) -> Any:
        return score(self, b, scores, b.op("Mul", index, b.ints(2)), extra)

    monkeypatch.setattr(Boxes, "score", next_box)
    assert run_checks(detector, target=Contrast(head), **arguments)["score"].verdict == "FAILED"


def test_which_probabilities_a_tensor_is_put_together_from(make_model: Any) -> None:
    graph = normalized(made(make_model, PUT_TOGETHER["two softmax heads"][0])).graph
    (y,) = graph.outputs
    assert [value.name for value in probabilities_in(y, 1)] == ["p", "q"]
    assert [value.name for value in probabilities_in(y, 1, 0, 3)] == ["p"]
    assert probabilities_in(y, 0) == ()
    assert Class().tensors(graph, None)[0].cut == "Softmax of each head"
