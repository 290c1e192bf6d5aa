# SPDX-License-Identifier: Apache-2.0
"""Every target: its score in numpy, and its gradient by finite differences of its score."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam import targets
from portable_cam.errors import InputError, TargetError
from portable_cam.targets import Boxes, Columns

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((2, 3, 8, 8))

# smooth throughout, so that a finite difference meets no kink; ONNX Runtime convolves no doubles, but multiplies them
TRUNK = """
h1 = Transpose<perm = [0, 2, 3, 1]>(x)
h2 = MatMul(h1, w1)
c1 = Transpose<perm = [0, 3, 1, 2]>(h2)
t1 = Tanh(c1)
"""
CLASSES = TRUNK + "p = ReduceMean<axes = [2, 3], keepdims = 0>(t1) y = MatMul(p, w2)"
LAST = TRUNK + "l = Transpose<perm = [0, 2, 3, 1]>(t1) y = MatMul(l, w3)"
PICTURE = LAST.replace("y =", "z =") + " y = Transpose<perm = [0, 3, 1, 2]>(z)"
STEPS = TRUNK + "m = ReduceMean<axes = [2], keepdims = 0>(t1) l = Transpose<perm = [0, 2, 1]>(m) y = MatMul(l, w3)"
STEPS_FIRST = STEPS.replace("y =", "z =") + " y = Transpose<perm = [1, 0, 2]>(z)"
STEPS_PROBABILITIES = STEPS.replace("y =", "z =") + " y = Softmax<axis = -1>(z)"
# sixteen numbers for each of 64 boxes: a box in 0 to 3, an objectness in 4, classes from 5, distributions from 4
HEAD = TRUNK + "l = Transpose<perm = [0, 2, 3, 1]>(t1) z = MatMul(l, w4) "
ROWS = HEAD + "y = Reshape(z, rows)"
SHAPES = {"w1": (3, 6), "w2": (6, 5), "w3": (6, 4), "w4": (6, 16)}
WEIGHTS = {name: RANDOM.standard_normal(shape) for name, shape in SHAPES.items()}
WEIGHTS["rows"] = np.array([0, 64, 16])
VECTORS = RANDOM.standard_normal((2, 3, 5)).astype(np.float32)
MASKS = RANDOM.uniform(0, 1, (2, 3, 8, 8)).astype(np.float32)
# a word, a phrase, all steps
SAID = np.full((2, 3, 8), -1)
SAID[0, 0, 2], SAID[1, 0, 7] = 3, 0
SAID[:, 1, 2:5], SAID[:, 2] = [[1, 3, 2], [0, 0, 1]], np.arange(8) % 4


@dataclass
class Case:
    """``expected(y, n, k)`` is the score of image n and target k from the model's output of that image."""

    name: str
    body: str
    output: str
    target: targets.Target
    indices: list[list[int]]
    expected: Callable[[np.ndarray, int, int], float]
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def over_prediction(y: np.ndarray, c: int) -> float:
    return float(y[c][y.argmax(0) == c].sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def said(rows: np.ndarray, n: int, k: int) -> float:
    """The sum of what was said in ``rows`` (steps, tokens)."""
    return float(sum(row[token] for row, token in zip(rows, SAID[n, k], strict=True) if token >= 0))


def log_softmax(y: np.ndarray) -> np.ndarray:
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


OTHER = np.array([[1, 1, 2], [3, 3, 3]])
SETS = ((0, 2), (1, 3, 4))
INDICES = [[0, 4, 1], [2, 2, 1]]
RAW = [[5 * 3 + 2, 63 * 3], [0, 30 * 3 + 1]]  # box * 3 + class
BOX, CLASS, OBJECT = (Columns("y", 0, 4),), (Columns("y", 5, 8),), (Columns("y", 4, 5),)


def box_of(y: np.ndarray, n: int, k: int) -> tuple[np.ndarray, float]:
    """The sixteen numbers of the box, and the score of the class."""
    row = y[RAW[n][k] // 3]
    return row, row[5 + RAW[n][k] % 3]


def squash(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def mean_of(bins: np.ndarray) -> float:
    return float(np.exp(bins) @ np.arange(len(bins)) / np.exp(bins).sum())


def box_case(name: str, expected: Callable[[np.ndarray, float], float], **fields: Any) -> Case:
    """Rows of numbers; ``expected`` of those of one box and the score of the class."""
    target = Boxes(CLASS, OBJECT, **({"sides": BOX} | fields))
    return Case(name, ROWS, "double[N,64,16] y", target, RAW, lambda y, n, k: expected(*box_of(y, n, k)))


def layout_case(layout: str, nodes: str, output: str, order: tuple[int, ...]) -> Case:
    """The same numbers in another order of axes; ``order`` brings them back to rows."""
    target = Boxes((Columns("y", 5, 8, layout),), (Columns("y", 4, 5, layout),))  # type: ignore[arg-type]

    def expected(y: np.ndarray, n: int, k: int) -> float:
        row, score = box_of(y.transpose(order).reshape(64, 16), n, k)
        return float(row[4] * score)

    return Case(layout, HEAD + nodes, output, target, RAW, expected)


MAP, MAP_LAST, VECTOR = "double[N,4,8,8] y", "double[N,8,8,4] y", "double[N,5] y"
SEQUENCE = "double[N,8,4] y"
CASES = [
    Case("class", CLASSES, VECTOR, targets.Class(), INDICES, lambda y, n, k: y[INDICES[n][k]]),
    Case("contrast", CLASSES, VECTOR, targets.Contrast(), INDICES, lambda y, n, k: y[INDICES[n][k]] - y[OTHER[n, k]],
         {"rather_than": OTHER}),
    Case("sum", CLASSES, VECTOR, targets.ClassSet(SETS), [[0, 1], [1, 0]],
         lambda y, n, k: y[list(SETS[(n + k) % 2])].sum()),
    Case("mean", CLASSES, VECTOR, targets.ClassSet(SETS, "mean"), [[0, 1], [1, 0]],
         lambda y, n, k: y[list(SETS[(n + k) % 2])].mean()),
    Case("logsumexp", CLASSES, VECTOR, targets.ClassSet(SETS, "logsumexp"), [[0, 1], [1, 0]],
         lambda y, n, k: np.log(np.exp(y[list(SETS[(n + k) % 2])]).sum())),
    Case("contrast of sets", CLASSES, VECTOR, targets.Contrast(targets.ClassSet(SETS)), [[0], [1]],
         lambda y, n, k: y[list(SETS[n])].sum() - y[list(SETS[1 - n])].sum(), {"rather_than": np.array([[1], [0]])}),
    Case("predicted", PICTURE, MAP, targets.Dense(), [[0, 1, 2], [3, 2, 1]],
         lambda y, n, k: over_prediction(y, [[0, 1, 2], [3, 2, 1]][n][k])),
    Case("mask", PICTURE, MAP, targets.Dense("mask"), [[0, 1, 2], [3, 2, 1]],
         lambda y, n, k: (y[[[0, 1, 2], [3, 2, 1]][n][k]] * MASKS[n, k]).sum(), {"mask": MASKS}),
    Case("channels last", LAST, MAP_LAST, targets.Dense(), [[0, 1], [3, 2]],
         lambda y, n, k: over_prediction(y.transpose(2, 0, 1), [[0, 1], [3, 2]][n][k])),
    box_case("product", lambda row, score: row[4] * score),
    box_case("product of logits", lambda row, score: squash(row[4]) * squash(score), logits=True),
    box_case("class of a box", lambda row, score: score, part="class"),
    box_case("objectness", lambda row, score: row[4], part="objectness"),
    box_case("left, xyxy", lambda row, score: row[0], part="left"),
    box_case("left, yxyx", lambda row, score: row[1], part="left", form="yxyx"),
    box_case("top, cxcywh", lambda row, score: row[1] - row[3] / 2, part="top", form="cxcywh"),
    box_case("right, cxcywh_log", lambda row, score: row[0] + np.exp(row[2]) / 2, part="right", form="cxcywh_log"),
    box_case("top, ltrb", lambda row, score: -row[1], part="top", form="ltrb"),
    box_case("bottom, gfl", lambda row, score: mean_of(row[13:16]), part="bottom", form="gfl",
             sides=(Columns("y", 4, 16),)),
    layout_case("columns", "r = Reshape(z, rows) y = Transpose<perm = [0, 2, 1]>(r)", "double[N,16,64] y", (1, 0)),
    layout_case("grid", "y = Transpose<perm = [0, 3, 1, 2]>(z)", "double[N,16,8,8] y", (1, 2, 0)),
    layout_case("cells", "one = Constant<value_ints = [1]>() y = Unsqueeze(z, one)", "double[N,1,8,8,16] y",
                (0, 1, 2, 3)),
    Case("cosine", CLASSES, VECTOR, targets.Similarity(), [[0] * 3] * 2, lambda y, n, k: cosine(y, VECTORS[n, k]),
         {"embedding": VECTORS}),
    Case("dot", CLASSES, VECTOR, targets.Similarity("dot"), [[0] * 3] * 2, lambda y, n, k: y @ VECTORS[n, k],
         {"embedding": VECTORS}),
    Case("euclidean", CLASSES, VECTOR, targets.Similarity("euclidean"), [[0] * 3] * 2,
         lambda y, n, k: -((y - VECTORS[n, k]) ** 2).sum(), {"embedding": VECTORS}),
    Case("words", STEPS, SEQUENCE, targets.Tokens(), [[0] * 3] * 2, lambda y, n, k: said(log_softmax(y), n, k),
         {"said": SAID}),
    Case("words before softmax", STEPS_PROBABILITIES, SEQUENCE, targets.Tokens(), [[0] * 3] * 2,
         lambda y, n, k: said(np.log(y), n, k), {"said": SAID}),
    Case("logits of steps", STEPS, SEQUENCE, targets.Tokens("logit"), [[0] * 3] * 2, said, {"said": SAID}),
]  # fmt: skip


NAMES = [case.name for case in CASES]


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def model_of(case: Case, make_model: Any) -> onnx.ModelProto:
    weights = {name: value for name, value in WEIGHTS.items() if name in case.body}
    return make_model(case.body, weights, "double[N,3,8,8] x", case.output)


@pytest.fixture(scope="module")
def explainer(case: Case, make_model: Any) -> pcam.Explainer:
    return pcam.Explainer(model_of(case, make_model), ("gradient",), target=case.target)


def test_score(case: Case, explainer: pcam.Explainer) -> None:
    result = explainer(X, case.indices, **case.extra)
    (y,) = result.outputs.values()
    for n, k in np.ndindex(result.scores.shape):
        np.testing.assert_allclose(result.scores[n, k], case.expected(y[n], n, k), rtol=1e-5, atol=1e-6)


def test_gradient_is_the_finite_difference(case: Case, explainer: pcam.Explainer) -> None:
    direction, step = RANDOM.standard_normal(X.shape), 1e-4

    def exact(x: np.ndarray) -> np.ndarray:
        """The scores in float64, of the model's own output."""
        (y,) = explainer(x, case.indices, **case.extra).outputs.values()
        return np.array([[case.expected(y[n], n, k) for k in range(len(row))] for n, row in enumerate(case.indices)])

    numeric = (exact(X + step * direction) - exact(X - step * direction)) / (2 * step)
    gradient = explainer(X, case.indices, **case.extra)["gradient"]
    analytic = (gradient * direction[:, None]).sum(axis=(2, 3, 4))
    assert np.abs(numeric).max() > 1e-3
    np.testing.assert_allclose(analytic, numeric, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_target_without_a_scan_is_the_same(case: Case, make_model: Any) -> None:
    explainer = pcam.Explainer(model_of(case, make_model), ("gradcam", "gradient"), target=case.target)
    together = explainer(X, case.indices, **case.extra)
    first = explainer(X, [row[:1] for row in case.indices], **{k: v[:, :1] for k, v in case.extra.items()})
    np.testing.assert_allclose(first["gradient"][:, 0], together["gradient"][:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first["gradcam"][:, 0], together["gradcam"][:, 0], rtol=1e-4, atol=1e-5)


def test_top_of_a_picture_is_the_largest_class(make_model: Any) -> None:
    explainer = pcam.Explainer(model_of(CASES[NAMES.index("predicted")], make_model), target=targets.Dense())
    result = explainer.top(X, 4)
    (y,) = result.outputs.values()
    for n in range(2):
        area = np.bincount(y[n].argmax(0).ravel(), minlength=4)
        assert (area[result.targets[n]] == np.sort(area)[::-1]).all()


def test_argmax_output_and_single_channel(make_model: Any) -> None:
    body = PICTURE.replace("y =", "v =") + " y = ArgMax<axis = 1, keepdims = 0>(v)"
    weights = {name: WEIGHTS[name] for name in ("w1", "w3")}
    model = make_model(body, weights, "double[N,3,8,8] x", "int64[N,8,8] y")
    result = pcam.Explainer(model, ("gradient",), target=targets.Dense())(X, [1, 1])
    logits = pcam.Explainer(
        model_of(CASES[NAMES.index("predicted")], make_model), ("gradient",), target=targets.Dense()
    )(X, [1, 1])
    np.testing.assert_allclose(result.scores, logits.scores, rtol=1e-6)
    np.testing.assert_allclose(result["gradient"], logits["gradient"], rtol=1e-6)
    weights["w3"] = weights["w3"][:, :1]
    single = make_model(PICTURE + " s = Sigmoid(y)", weights, "double[N,3,8,8] x", "double[N,1,8,8] s")
    result = pcam.Explainer(single, ("gradient",), target=targets.Dense())(X, [0, 0])
    (s,) = result.outputs.values()
    logit = np.log(s) - np.log1p(-s)
    np.testing.assert_allclose(result.scores[:, 0], [y[y > 0].sum() for y in logit], rtol=1e-5)


def test_a_yes_or_no_is_the_logit_of_its_one_class(make_model: Any) -> None:
    body = CLASSES.replace("y =", "z =") + " y = Sigmoid(z)"
    model = make_model(body, {"w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"][:, :1]}, "double[N,3,8,8] x", "double[N,1] y")
    result = pcam.Explainer(model, ("gradient",))(X)
    (y,) = result.outputs.values()
    np.testing.assert_allclose(result.scores, np.log(y) - np.log1p(-y), rtol=1e-5)
    np.testing.assert_array_equal(result.targets, [[0], [0]])


def test_several_labels_each_for_itself(make_model: Any) -> None:
    body = CLASSES.replace("y =", "z =") + " y = Sigmoid(z)"
    model = make_model(body, {"w1": WEIGHTS["w1"], "w2": WEIGHTS["w2"]}, "double[N,3,8,8] x", VECTOR)
    result = pcam.Explainer(model, ("gradient",))(X, INDICES)
    plain = pcam.Explainer(model_of(CASES[0], make_model), ("gradient",))(X, INDICES)
    np.testing.assert_allclose(result.scores, plain.scores, rtol=1e-6)
    np.testing.assert_allclose(result["gradient"], plain["gradient"], rtol=1e-6)


def test_a_further_input_broadcasts(make_model: Any) -> None:
    explainer = pcam.Explainer(model_of(CASES[NAMES.index("mask")], make_model), target=targets.Dense("mask"))
    one = explainer(X, [[0, 1], [0, 1]], mask=MASKS[0, 0])
    full = explainer(X, [[0, 1], [0, 1]], mask=np.broadcast_to(MASKS[0, 0], (2, 2, 8, 8)))
    np.testing.assert_array_equal(one.scores, full.scores)
    assert explainer.inputs == {"mask": "the weight of each pixel, at the size of the model's logits"}


def test_bad_targets(make_model: Any) -> None:
    vector, picture = (
        model_of(CASES[NAMES.index("class")], make_model),
        model_of(CASES[NAMES.index("predicted")], make_model),
    )
    with pytest.raises(TargetError, match="none of the model's outputs holds a score per class and pixel"):
        pcam.Explainer(vector, target=targets.Dense())
    with pytest.raises(TargetError, match="none of the model's outputs is a vector"):
        pcam.Explainer(picture)
    with pytest.raises(TargetError, match="class 7 of a set is out of range: the model has 5 classes"):
        pcam.Explainer(vector, target=targets.ClassSet(((0, 7),)))
    with pytest.raises(TargetError, match="names each of at least one class once"):
        pcam.Explainer(vector, target=targets.ClassSet(((),)))
    with pytest.raises(TargetError, match="predicted or mask, not 'all'"):
        pcam.Explainer(picture, target=targets.Dense("all"))  # type: ignore[arg-type]
    rows = model_of(CASES[NAMES.index("product")], make_model)
    with pytest.raises(TargetError, match="has no objectness"):
        pcam.Explainer(rows, target=Boxes(CLASS, part="objectness"))
    with pytest.raises(TargetError, match="its sides cannot be explained"):
        pcam.Explainer(rows, target=Boxes(CLASS, part="left"))
    with pytest.raises(TargetError, match=r"\[N,64,16\], but the layout grid has 4 dimensions"):
        pcam.Explainer(rows, target=Boxes((Columns("y", layout="grid"),)))
    with pytest.raises(TargetError, match="has no numbers 20 to None for each box"):
        pcam.Explainer(rows, target=Boxes((Columns("y", 20),)))
    with pytest.raises(TargetError, match="is explained by one of product, class"):
        pcam.Explainer(rows, target=Boxes(CLASS, part="size"))  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="'scores' is no tensor of the model"):
        pcam.Explainer(rows, target=Boxes((Columns("scores"),)))
    with pytest.raises(TargetError, match="cosine, dot or euclidean, not 'l1'"):
        pcam.Explainer(vector, target=targets.Similarity("l1"))  # type: ignore[arg-type]


def test_time_first_is_the_same(make_model: Any) -> None:
    weights = {name: WEIGHTS[name] for name in ("w1", "w3")}
    first = make_model(STEPS_FIRST, weights, "double[N,3,8,8] x", "double[8,N,4] y")
    usual = make_model(STEPS, weights, "double[N,3,8,8] x", SEQUENCE)
    got = pcam.Explainer(first, ("gradient",), target=targets.Tokens(time_axis=0))(X, said=SAID)
    expected = pcam.Explainer(usual, ("gradient",), target=targets.Tokens())(X, said=SAID)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
    np.testing.assert_allclose(got["gradient"], expected["gradient"], rtol=1e-5, atol=1e-8)


def test_bad_sequences(make_model: Any) -> None:
    vector = model_of(CASES[NAMES.index("class")], make_model)
    with pytest.raises(TargetError, match=r"no output holds scores \(N, steps, tokens\): 'y' DOUBLE\[N,5\]"):
        pcam.Explainer(vector, target=targets.Tokens())
    with pytest.raises(TargetError, match="a sequence needs"):
        pcam.Explainer(vector, target=targets.Tokens(), output="y")
    with pytest.raises(TargetError, match="log_probability or logit, not 'odds'"):
        pcam.Explainer(vector, target=targets.Tokens("odds"))  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="time_axis is 0 or 1, not 2"):
        pcam.Explainer(vector, target=targets.Tokens(time_axis=2))
    weights = {name: WEIGHTS[name] for name in ("w1", "w3")}
    turned = STEPS.replace("y =", "z =") + " p = Softmax<axis = -1>(z) y = Transpose<perm = [1, 0, 2]>(p)"
    model = make_model(turned, weights, "double[N,3,8,8] x", "double[8,N,4] y")
    with pytest.raises(TargetError, match="output 'y' holds probabilities, and between them and the logits 'z'"):
        pcam.Explainer(model, target=targets.Tokens(time_axis=0))
    result = pcam.Explainer(model, target=targets.Tokens(), output="z")(X, said=SAID)
    assert result.scores.shape == (2, 3)


def test_bad_further_inputs(make_model: Any) -> None:
    masked = pcam.Explainer(model_of(CASES[NAMES.index("mask")], make_model), target=targets.Dense("mask"))
    with pytest.raises(InputError, match="'mask' is missing: the weight of each pixel"):
        masked(X, [0, 0])
    with pytest.raises(InputError, match="the target takes no 'msk'; it takes mask"):
        masked(X, [0, 0], msk=MASKS)
    with pytest.raises(InputError, match="'mask' must have shape"):
        masked(X, [0, 0], mask=np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match=r"for 2 images with 1 targets each give \(2, 1, ...\)"):
        masked(X, [0, 0], mask=MASKS)
    with pytest.raises(InputError, match="'mask' holds NaN"):
        masked(X, [0, 0], mask=np.full((8, 8), np.nan))
    contrast = pcam.Explainer(model_of(CASES[NAMES.index("contrast")], make_model), target=targets.Contrast())
    with pytest.raises(TargetError, match="rather_than 5 is out of range: the model has 5 classes, 0 to 4"):
        contrast(X, [0, 0], rather_than=5)
