"""How scores are read: which axis holds classes, whose row is whose, where the logits are; derived, not guessed."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import portable_cam as pcam
from portable_cam.errors import InputError, TargetError
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.tasks.recognize import recognize
from portable_cam.tasks.segment import SegmentExplainer

RNG = np.random.default_rng(7)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
# a map of 5 channels, a vector of 5 numbers
MAP = "r = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, k) f = Relu(r) z = Conv<kernel_shape=[1, 1]>(f, one) "
VECTOR = MAP + "g = GlobalAveragePool(f) v = Flatten(g) l = MatMul(v, w) "
WEIGHTS = {
    "k": RNG.normal(size=(4, 3, 3, 3)),
    "one": RNG.normal(size=(5, 4, 1, 1)),
    "wide": RNG.normal(size=(40, 4, 1, 1)),
    "w": RNG.normal(size=(4, 5)),
    "slope": np.full(5, 0.1),
    "scales": np.linspace(1, 2, 5),
    "half": np.array(0.5),
    "third": np.array(0.3),
    "zero": np.array(0.0),
    "unit": np.array(1.0),
    "cell": RNG.normal(size=(1, 32, 4)),
    "hidden": RNG.normal(size=(1, 32, 8)),
    "many": RNG.normal(size=(8, 5)),
}
INTEGERS = {"three": [3], "axis0": [0], "axis1": [1], "last": [-1], "flat": [0, 5, 64], "rows": [-1, 5], "by": [-1, 4]}


def model(body: str, y: str, x: str = "float[N,3,8,8] x") -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> g ({x}) => ({y}) {{ {body} }}')
    used = {name for node in made.graph.node for name in node.input}
    constants = {n: v.astype(np.float32) for n, v in WEIGHTS.items()} | {n: np.array(v) for n, v in INTEGERS.items()}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if n in used)
    return made


def tensor(made: onnx.ModelProto, name: str, x: np.ndarray = X) -> Any:
    """What the model itself has there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    made = onnx.ModelProto.FromString(made.SerializeToString())
    made.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"x": x})[0]


# -- which axis is what ------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, tuple[str, str, str]] = {
    "more classes than rows": (MAP.replace("one", "wide"), "float[N,40,8,8] z", "images classes rows columns"),
    "classes last": (MAP + "y = Transpose<perm=[0, 2, 3, 1]>(z)", "float[N,8,8,5] y", "images rows columns classes"),
    "columns first": (MAP + "y = Transpose<perm=[0, 3, 2, 1]>(z)", "float[N,8,8,5] y", "images columns rows classes"),
    "rows of pixels": (
        MAP + "t = Transpose<perm=[0, 2, 3, 1]>(z) y = Reshape(t, rows)",
        "float[M,5] y",
        "mixed classes",
    ),
    "pixels in a row": (MAP + "y = Reshape(z, flat)", "float[N,5,64] y", "images classes steps"),
    "steps first": (
        MAP + "m = ReduceMean<keepdims=0>(z, axis2) y = Transpose<perm=[2, 0, 1]>(m)",
        "float[8,N,5] y",
        "columns images classes",
    ),
    "one for all": (VECTOR + "y = ReduceMean<keepdims=1>(l, axis0)", "float[1,5] y", "one classes"),
}
INTEGERS["axis2"] = [2]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_roles_of_axes(kind: str) -> None:
    body, y, roles = LAYOUTS[kind]
    graph = normalized(model(body, y)).graph
    assert list(score_axes(graph, graph.outputs[0]).roles or ()) == roles.split()


@pytest.mark.parametrize("kind", ["more classes than rows", "classes last"])
def test_classes_of_a_segmentation(kind: str) -> None:
    body, y, roles = LAYOUTS[kind]
    made = model(body, y)
    explainer = pcam.Explainer(made, ("gradient",), target=pcam.targets.Dense())
    logits = np.moveaxis(tensor(made, y.split()[-1]), roles.split().index("classes"), 1)
    assert explainer.classes == logits.shape[1]
    mine = logits.argmax(axis=1) == 3
    np.testing.assert_allclose(explainer(X, 3).scores[:, 0], np.where(mine, logits[:, 3], 0).sum((1, 2)), rtol=1e-4)


def test_a_class_axis_that_nothing_tells_is_asked_for() -> None:
    """Gathered by indices known only at run time, an axis of positions is no longer one."""
    body = MAP + "i = Shape(x) h = Mod(i, i) a = Gather<axis=2>(z, h) y = Gather<axis=3>(a, h)"
    with pytest.raises(TargetError, match=r"which axis holds the classes is not known.*channels='first' or 'last'"):
        pcam.Explainer(model(body, "float[N,5,4,4] y"), ("gradient",), target=pcam.targets.Dense())
    chosen = pcam.targets.Dense(channels="first")
    assert pcam.Explainer(model(body, "float[N,5,4,4] y"), ("gradient",), target=chosen).classes == 5


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("rows of pixels", "has 64 rows of scores for each image .*choose one with row=, 0 to 63"),
        ("pixels in a row", None),
        ("steps first", None),
    ],
)
def test_what_is_no_classifier(kind: str, why: str | None) -> None:
    body, y, _ = LAYOUTS[kind]
    with pytest.raises(TargetError, match=why or "none of the model's outputs is a vector of scores per image"):
        pcam.Explainer(model(body, y), ("gradient",))


def test_steps_before_images() -> None:
    made = model(*LAYOUTS["steps first"][:2])
    said = np.full((2, 1, 8), -1)
    said[:, :, 3] = 2
    result = pcam.Explainer(made, ("gradient",), target=pcam.targets.Tokens("logit"))(X, said=said)
    np.testing.assert_allclose(result.scores[:, 0], tensor(made, "y")[3, :, 2], rtol=1e-4)


# -- what is no scores of classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "y", "why"),
    [
        ("y = Relu(l)", "y", "ends in Relu"),
        ("y = PRelu(l, slope)", "y", "ends in PRelu"),
        ("y = Mul(l, scales)", "y", "scaled for each number apart"),
        ("n = ReduceL2<keepdims=1>(l, axis1) y = Div(l, n)", "y", "divided by its length"),
        ("y = LpNormalization<axis=1>(l)", "y", "ends in LpNormalization"),
        ("landmarks = Identity(l)", "landmarks", "is called landmarks"),
        ("face_embedding = Identity(l)", "face_embedding", "is called embedding"),
    ],
)
def test_features_are_not_taken_for_classes(end: str, y: str, why: str) -> None:
    made = model(VECTOR + end, f"float[N,5] {y}")
    with pytest.raises(TargetError, match=f"not recognised.*no scores of classes.*{why}"):
        recognize(made)
    assert recognize(made, "classify")[0] == "classify"  # who knows better says so


def test_an_image_made_lighter_is_no_segmentation() -> None:
    body = "c = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, k) t = Tanh(c) s = ReduceMean<keepdims=1>(t, axis1) "
    for end in ("y = Add(x, s)", "p = Mul(x, s) y = Sub(p, s)", "y = Div(x, s)"):
        with pytest.raises(TargetError, match="the image itself, changed"):
            recognize(model(body + end, "float[N,3,8,8] y"))


@pytest.mark.parametrize("end", ["y = Softmax(l)", "s = Div(l, half) y = Identity(s)", "y = Identity(l)"])
def test_classes_are(end: str) -> None:
    assert recognize(model(VECTOR + end, "float[N,5] y"))[0] == "classify"


def test_classes_that_nothing_proves_are_noted() -> None:
    sure = PhotoExplainer(model(VECTOR + "y = Softmax(l)", "float[N,5] y"))
    assert not any("assumed" in note for note in sure.notes)
    unsure = model(VECTOR + "y = Identity(l)", "float[N,5] y")
    assert any("these 5 numbers are scores of classes is assumed" in note for note in PhotoExplainer(unsure).notes)
    onnx.helper.set_model_props(unsure, {"labels": '["a", "b", "c", "d", "e"]'})
    named = PhotoExplainer(unsure)
    assert named.labels is not None
    assert named.labels.names == tuple("abcde")
    assert not any("assumed" in note for note in named.notes)


@pytest.mark.parametrize(
    ("key", "text", "known"),
    [("character", "a\nb\nc\nd\ne", True), ("id2label", '{"0": "a", "1": "b"}', False), ("classes", "a,b,c,d,e", True)],
)
def test_labels_in_the_metadata(key: str, text: str, known: bool) -> None:
    made = model(VECTOR + "y = Softmax(l)", "float[N,5] y")
    onnx.helper.set_model_props(made, {key: text})
    assert (PhotoExplainer(made).labels is not None) == known


# -- the logits --------------------------------------------------------------------------------------------------------

DECISIONS = {
    "best of a softmax": ("p = Softmax(l) y = ArgMax<axis=1, keepdims=0>(p)", "int64[N] y"),
    "values of the first three": ("p = Softmax(l) y, i = TopK(p, three)", "float[N,3] y"),
    "numbers of the first three": ("p = Softmax(l) best, y = TopK(p, three)", "int64[N,3] y"),
    "above a threshold": ("p = Sigmoid(l) m = Greater(p, half) y = Cast<to=1>(m)", "float[N,5] y"),
    "rounded": ("p = Sigmoid(l) y = Round(p)", "float[N,5] y"),
    "a mask by Where": ("p = Sigmoid(l) m = GreaterOrEqual(p, half) y = Where(m, unit, zero)", "float[N,5] y"),
}


@pytest.mark.parametrize("kind", DECISIONS)
def test_logits_behind_a_decision(kind: str) -> None:
    end, y = DECISIONS[kind]
    made = model(VECTOR + end, y)
    explainer = pcam.Explainer(made, ("gradient",))
    assert explainer.classes == 5
    np.testing.assert_allclose(explainer(X, 3).scores[:, 0], tensor(made, "l")[:, 3], rtol=1e-4)


def test_the_mask_of_what_is_not_is_left_alone() -> None:
    made = model(VECTOR + "p = Sigmoid(l) m = GreaterOrEqual(p, half) y = Where(m, zero, unit)", "float[N,5] y")
    with pytest.raises(pcam.Error):
        pcam.Explainer(made)(X, 3)


def test_a_probability_that_is_named() -> None:
    end = "y = Softmax(l) c = MatMul(v, w) q = Sigmoid(c)"
    made = model(VECTOR + end, "float[N,5] y, float[N,5] q")
    for name, logits in (("y", "l"), ("q", "c")):
        explainer = pcam.Explainer(made, ("gradient",), output=name)
        np.testing.assert_allclose(explainer(X, 1).scores[:, 0], tensor(made, logits)[:, 1], rtol=1e-4)
        assert any(f"the score is '{logits}', before" in note for note in explainer.notes)
        as_is = pcam.Explainer(made, ("gradient",), output=name, as_is=True)
        np.testing.assert_allclose(as_is(X, 1).scores[:, 0], tensor(made, name)[:, 1], rtol=1e-4)
        assert as_is.notes == (
            f"the score is a probability ('{name}'), not a logit: near 0 and 1 its gradient vanishes",
        )
    only = model(VECTOR + "y = Softmax(l)", "float[N,5] y")
    np.testing.assert_allclose(
        pcam.Explainer(only, ("gradient",), as_is=True)(X, 1).scores[:, 0], tensor(only, "y")[:, 1], rtol=1e-4
    )


def test_a_gate_that_is_named_is_no_answer() -> None:
    made = model(VECTOR + "s = Sigmoid(l) y = Mul(s, l)", "float[N,5] y")
    result = pcam.Explainer(made, ("gradient",), output="s")(X, 2)
    np.testing.assert_allclose(result.scores[:, 0], tensor(made, "s")[:, 2], rtol=1e-4)


# -- a sigmoid for each class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "threshold", "probability"),
    [
        ("y = Sigmoid(z)", None, 0.5),
        ("y = Sigmoid(z)", 0.7, 0.7),
        ("s = Sigmoid(z) m = Greater(s, third) y = Cast<to=1>(m)", None, 0.3),
        ("s = Sigmoid(z) y = Round(s)", None, 0.5),
    ],
)
def test_each_class_over_its_own_mask(end: str, threshold: float | None, probability: float) -> None:
    made = model(MAP + end, "float[N,5,8,8] y")
    logits = tensor(made, "z")
    own = 1 / (1 + np.exp(-logits)) > probability
    assert (own.sum(axis=1) > 1).any(), "classes overlap"
    explainer = pcam.Explainer(made, ("gradient",), target=pcam.targets.Dense(threshold=threshold))
    for k in range(5):
        expected = np.where(own[:, k], logits[:, k], 0).sum(axis=(1, 2))
        np.testing.assert_allclose(explainer(X, k).scores[:, 0], expected, rtol=1e-4, atol=1e-4)
    photo = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    task = SegmentExplainer(made, ("gradient",), threshold=threshold, preprocessing="unit")
    own = 1 / (1 + np.exp(-task.logits(task.preprocessing(photo)))) > probability
    shares = [float(mask.mean()) for mask in own if mask.mean() >= 0.005]
    assert [detail.share for detail in task(photo).details] == sorted(shares, reverse=True)


def test_pixels_of_no_class() -> None:
    """Nothing above the threshold is no class, not class 1."""
    made = model(MAP.replace("one", "single") + "s = Sub(z, far) y = Sigmoid(s)", "float[N,1,8,8] y")
    extra = {"single": np.ones((1, 4, 1, 1)), "far": np.array(1e3)}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in extra.items())
    task = SegmentExplainer(made, ("gradient",), preprocessing="unit")
    photo = RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    assert "no pixel there to a class" in task(photo, region=(0, 0, 8, 8)).nothing_found
    assert task(photo, 0, region=(0, 0, 8, 8)).labels == [["class 0"]]
    with pytest.raises(TargetError, match="class 1 is out of range"):
        task(photo, 1)


# -- images and rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        "y = ReduceMean<keepdims=1>(l, axis0)",
        "y = ReduceMax<keepdims=1>(l, axis0)",
        "a = Softmax<axis=0>(l) m = Mul(a, l) s = ReduceSum<keepdims=1>(m, axis0) y = Softmax<axis=1>(s)",
    ],
)
def test_one_score_for_all_images(end: str) -> None:
    """The map of each image shows what it adds; the gradient is that of the one score."""
    made = model(VECTOR + end, "float[1,5] y")
    explainer = pcam.Explainer(made, ("gradient", "gradcam"))
    result = explainer(X, 2)
    score = "s" if "Softmax<axis=1>" in end else "y"
    np.testing.assert_allclose(result.scores[:, 0], np.repeat(tensor(made, score)[:, 2], 2), rtol=1e-4)
    direction = RNG.normal(size=X.shape).astype(np.float32)
    step = 1e-2
    numeric = tensor(made, score, X + step * direction)[0, 2] - tensor(made, score, X - step * direction)[0, 2]
    assert (result["gradient"][:, 0] * direction).sum() == pytest.approx(numeric / (2 * step), rel=2e-2)
    assert any("one score for all images" in note for note in explainer.notes)
    assert explainer(X, [[1, 3], [1, 3]]).scores.shape == (2, 2)
    with pytest.raises(TargetError, match="ask for the same targets"):
        explainer(X, [1, 2])


@pytest.mark.parametrize(
    "end",
    [
        "m = ReduceMean<keepdims=1>(l, axis0) y = Sub(l, m)",
        "y = CumSum(l, start)",
        "u = Unsqueeze(v, axis1) h = LSTM<hidden_size=8>(u, cell, hidden) q = Squeeze(h, mid) y = MatMul(q, many)",
    ],
)
def test_images_that_mix_are_refused_together(end: str) -> None:
    made = model(VECTOR + end, "float[N,5] y")
    extra = {"start": np.array(0), "mid": np.array([1, 2])}
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in extra.items() if n in used)
    explainer = pcam.Explainer(made, ("gradient",))
    explainer(X[:1], 2)
    with pytest.raises(InputError, match=r"change each other's scores.*one image at a time"):
        explainer(X, 2)


def test_ranges_of_a_whole_batch_are_taken_image_by_image() -> None:
    """As ONNX Runtime's dynamic quantisation has them: a bright image would coarsen a dark one's steps."""
    body = "q, s, o = DynamicQuantizeLinear(x) d = DequantizeLinear(q, s, o) " + VECTOR.replace("(x, k)", "(d, k)")
    explainer = pcam.Explainer(model(body + "y = Identity(l)", "float[N,5] y"), ("gradient",))
    both = np.concatenate([X[:1] * 300, X[1:]])
    together = explainer(both, 2)
    alone = [explainer(both[i : i + 1], 2).scores[0, 0] for i in range(2)]
    np.testing.assert_allclose(together.scores[:, 0], alone, rtol=1e-6)
    assert any("one by one" in note for note in explainer.notes)


# -- rounding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_an_image_against_itself_is_flat(measure: Any) -> None:
    made = model(VECTOR + "y = Identity(l)", "float[N,5] y")
    target = pcam.targets.Similarity(measure)
    explainer = pcam.Explainer(made, target=target)
    own, other = tensor(made, "y")
    against_itself = explainer(X[:1], embedding=own)
    assert "flat" in against_itself.flags[0][0]
    assert not against_itself["gradcam"].any()
    with_another = explainer(X[:1], embedding=other)
    assert "flat" not in with_another.flags[0][0]
    assert with_another["gradcam"].max() == 1


def test_axes_of_scores_may_be_declared() -> None:
    body = MAP + "i = Shape(x) h = Mod(i, i) a = Gather<axis=2>(z, h) y = Gather<axis=3>(a, h)"
    for layout, classes in (("NCHW", 5), ("NHWC", 4)):
        explainer = pcam.Explainer(
            model(body, "float[N,5,4,4] y"), ("gradient",), target=pcam.targets.Dense(), axes={"y": layout}
        )
        assert explainer.classes == classes
    vector = VECTOR + "y = Identity(l)"
    assert pcam.Explainer(model(vector, "float[N,5] y"), axes={"y": "NC"}).classes == 5
    with pytest.raises(InputError, match="scores are NC, NHW or NTC"):
        pcam.Explainer(model(vector, "float[N,5] y"), axes={"y": "NW"})
