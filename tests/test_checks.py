"""Each check passes on what is right, and fails on the fault that it is there for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checking import X, run_checks
from costs import slow_but
from detectors import CELLS, IMAGE, dense

import portable_cam as pcam
from portable_cam.export import build_explanation
from portable_cam.export.autodiff.registry import RULES
from portable_cam.export.options import Options
from portable_cam.targets import Boxes, Class, ClassSet, Columns, Contrast
from portable_cam.verify.check import Check, describe
from portable_cam.verify.selfcheck import self_check

Run = Callable[..., dict[str, Check]]


@pytest.fixture
def run() -> Run:
    """The checks by name, of an explanation of one image."""
    return run_checks


def verdicts(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.verdict for name, check in checks.items() if name != "occlusion"}


ALL = dict.fromkeys(("outputs", "score", "layer", "input", "maps", "images"), "passed")


@pytest.mark.parametrize("methods", [("gradcam",), ("layercam", "guided_gradcam"), ("cam", "xgradcam")])
@pytest.mark.parametrize("targets", [(1,), (0, 4)])
@pytest.mark.parametrize("sign", slow_but(["positive"], ["positive", "negative"]))
def test_what_is_right_passes(
    run: Run, small_cnn: onnx.ModelProto, methods: tuple[str, ...], targets: tuple[int, ...], sign: str
) -> None:
    assert verdicts(run(small_cnn, targets, methods=methods, sign=sign)) == ALL


@pytest.mark.parametrize(
    ("tail", "cut"),
    slow_but(["Softmax"], [("Softmax", "Softmax"), ("Sigmoid", "Sigmoid"), ("LogSoftmax", "LogSoftmax")]),
)
def test_the_score_behind_a_cut(run: Run, small_cnn: onnx.ModelProto, tail: str, cut: str) -> None:
    """The logit is held against the probability that the original gives."""
    model = onnx.ModelProto()
    model.CopyFrom(small_cnn)
    model.graph.node.append(onnx.helper.make_node(tail, ["y"], ["q"], "tail"))
    model.graph.output[0].name = "q"
    checks = run(model, x=X / 20)  # a probability that float32 can hold
    assert verdicts(checks) == ALL
    spoiled = run(model, x=X / 20, spoil=lambda values: values.update(scores=values["scores"] * 1.1 + 0.1))
    assert spoiled["score"].verdict == "FAILED"


BOX_TAIL = """
    o = Sigmoid(e) k = Concat<axis = 2>(xy, wh, o, p) y = Transpose<perm = [0, 2, 1]>(k)
    l = Transpose<perm = [0, 2, 1]>(q) s = Softmax<axis = 2>(q)
"""
BOX_HEADS = {
    "product": Boxes((Columns("y", 5, 8, "columns"),), (Columns("y", 4, 5, "columns"),)),
    "product of logits": Boxes((Columns("q"),), (Columns("e"),), logits=True),
    "class before a sigmoid": Boxes((Columns("p"),)),
    "class before a softmax": Boxes((Columns("s", 1),)),
    "objectness": Boxes((Columns("p"),), (Columns("o"),), part="objectness"),
    "logit": Boxes((Columns("l", layout="columns"),)),
    "left": Boxes((Columns("p"),), (), (Columns("y", 0, 4, "columns"),), "cxcywh", part="left"),
    "bottom": Boxes((Columns("p"),), (), (Columns("y", 0, 4, "columns"),), "cxcywh_log", part="bottom"),
    "right": Boxes((Columns("p"),), (), (Columns("y", layout="columns"),), "gfl", part="right"),
}


@pytest.fixture
def dense_detector(make_model: Any) -> onnx.ModelProto:
    body, weights = dense(3, BOX_TAIL)
    ends = f"float[1,8,{CELLS}] y, float[1,{CELLS},3] s, float[1,3,{CELLS}] l"
    return make_model(body, weights, IMAGE, ends)


@pytest.mark.parametrize("head", slow_but(["product", "class before a softmax"], BOX_HEADS))
def test_the_score_of_a_box(
    run: Run, dense_detector: onnx.ModelProto, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model's own file, whatever part of the score is explained; and what of another class or box fails."""
    target = BOX_HEADS[head]
    x = np.random.default_rng(3).random((1, 3, 64, 32), dtype=np.float32)
    right = run(dense_detector, (21,), x=x, methods=("gradcam",), target=target)
    assert right["score"].verdict == "passed", right["score"].detail
    score, step = Boxes.score, 1 if target.part in {"product", "class"} else 3

    def another(self: Boxes, b: Any, scores: Any, index: Any, extra: Any) -> Any:
        return score(self, b, scores, b.op("Add", index, b.ints(step)), extra)

    monkeypatch.setattr(Boxes, "score", another)
    assert run(dense_detector, (21,), x=x, methods=("gradcam",), target=target)["score"].verdict == "FAILED"


@pytest.mark.parametrize("combine", ["sum", "mean", "logsumexp"])
def test_the_score_of_a_set_of_classes(run: Run, small_cnn: onnx.ModelProto, combine: Any) -> None:
    target = ClassSet(((0, 1), (2, 4)), combine)
    assert run(small_cnn, methods=("gradcam",), target=target)["score"].verdict == "passed"
    spoiled = run(small_cnn, methods=("gradcam",), target=target, spoil=lambda v: v.update(scores=v["scores"] + 0.5))
    assert spoiled["score"].verdict == "FAILED"


def test_a_score_that_says_nothing_of_itself(run: Run, small_cnn: onnx.ModelProto) -> None:
    model = onnx.ModelProto.FromString(small_cnn.SerializeToString())
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["q"], "tail"))
    model.graph.output[0].name = "q"
    check = run(model, x=X / 20, methods=("gradcam",), target=ClassSet(((0, 1), (2,))))["score"]
    assert (check.verdict, "no class's score is determined alone" in check.detail) == ("not tested", True)


def test_a_wrong_forward_pass(run: Run, small_cnn: onnx.ModelProto) -> None:
    checks = run(small_cnn, spoil=lambda values: values.update(y=values["y"] * 1.01))
    assert verdicts(checks) == {**ALL, "outputs": "FAILED"}
    shape = run(small_cnn, spoil=lambda values: values.update(y=values["y"][0]))
    assert "shape (5,), the original's (1, 5)" in shape["outputs"].detail


def test_a_wrong_score(run: Run, small_cnn: onnx.ModelProto) -> None:
    checks = run(small_cnn, spoil=lambda values: values.update(scores=values["scores"] + 1))
    assert verdicts(checks) == {**ALL, "score": "FAILED"}


@pytest.mark.parametrize(("operator", "at_layer"), [("Relu", "passed"), ("Gemm", "FAILED")])
def test_a_wrong_gradient(
    run: Run, small_cnn: onnx.ModelProto, operator: str, at_layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that is a third too large, before the layer and behind it."""
    entry = RULES[operator]

    def wrong(v: Any) -> Any:
        found = entry.rule(v)
        found = list(found) if not hasattr(found, "name") else [found]
        return [None if g is None else v.b.op("Mul", g, 1.3) for g in found]

    monkeypatch.setitem(RULES, operator, replace(entry, rule=wrong))
    checks = run(small_cnn)
    assert checks["layer"].verdict == at_layer
    assert checks["input"].verdict == "FAILED"
    assert "by central differences" in checks["input"].detail


def test_a_gradient_that_points_elsewhere(
    run: Run, small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the right length, its rows the other way up."""
    entry = RULES["Conv"]

    def wrong(v: Any) -> Any:
        found = list(entry.rule(v))
        g = found[0]
        reverse = v.b.op("Slice", g, v.b.ints([-1]), v.b.ints([-(2**62)]), v.b.ints([2]), v.b.ints([-1]))
        reverse.shape = g.shape
        return [reverse, *found[1:]]

    monkeypatch.setitem(RULES, "Conv", replace(entry, rule=wrong))
    assert run(small_cnn)["input"].verdict == "FAILED"


def test_images_that_mix(run: Run, make_model: Any) -> None:
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": random.standard_normal((4, 5)).astype(np.float32),
        "zero": np.array([0], np.int64),
    }
    body = """
        c = Conv<pads = [1, 1, 1, 1]>(x, w) m = ReduceMean<axes = [0]>(c) d = Sub(c, m)
        r = Relu(c) s = Add(r, d) p = GlobalAveragePool(s) f = Flatten(p) y = MatMul(f, v)
    """
    assert run(make_model(body, weights))["images"].verdict == "FAILED"
    apart = body.replace("ReduceMean<axes = [0]>(c)", "ReduceMean<axes = [1]>(c)")
    assert run(make_model(apart, weights))["images"].verdict == "passed"


def test_zero_on_both_sides_is_not_passed(run: Run, small_cnn: onnx.ModelProto) -> None:
    """Behind dead ReLUs nothing changes: the derivative is zero, and nothing was tested."""
    model = onnx.ModelProto()
    model.CopyFrom(small_cnn)
    for tensor in model.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(4, -1e3, np.float32), "b1"))
    checks = run(model)
    assert checks["input"].verdict == "not tested"
    assert "zero on both sides" in checks["input"].detail
    assert checks["occlusion"].verdict == "not tested"


def test_occlusion_that_disagrees(run: Run, small_cnn: onnx.ModelProto) -> None:
    """The map upside down: what it shows as brightest does not matter."""
    x = np.zeros((1, 3, 8, 8), np.float32)
    x[:, :, 1:4, 1:4] = 3
    right = run(small_cnn, x=x)["occlusion"]
    flipped = run(small_cnn, x=x, spoil=lambda v: v.update({"heatmap.gradcam": 1 - v["heatmap.gradcam"]}))["occlusion"]
    assert {right.passed, flipped.passed} == {True, False}
    assert "disagrees" in {right.verdict, flipped.verdict}


def test_what_cannot_be_tested_is_said(run: Run, small_cnn: onnx.ModelProto) -> None:
    checks = run(small_cnn, methods=("gradient",))
    assert checks["layer"].verdict == "not tested"
    assert checks["occlusion"].verdict == "not tested"
    line = describe(list(checks.values()))
    assert line.startswith("outputs, score, input, maps, images passed; layer, occlusion not tested")
    assert checks["layer"].to_dict()["passed"] == "not tested"
    assert checks["input"].to_dict()["passed"] is True


def test_an_explainer_checks_what_it_explained_first(
    small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", str(tmp_path))
    assert pcam.Explainer(small_cnn)(X).checks == ()
    explainer = pcam.Explainer(small_cnn, check=True)
    x = np.concatenate([X, -X])
    checks = explainer(x, [[1, 2], [0, 3]]).checks
    assert verdicts({check.name: check for check in checks}) == ALL
    assert explainer(x).checks is checks  # and no other
    assert [c.verdict for c in explainer.check(x, [[1, 2], [0, 3]])] == [c.verdict for c in checks]


def test_checks_are_kept_by_model_and_options(
    small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", str(tmp_path))
    made = pcam.Explainer(small_cnn, check=True)(X).checks
    calls: list[int] = []

    def counted(*_: Any) -> list[Check]:
        calls.append(1)
        return [Check("outputs", True, "counted")]

    monkeypatch.setattr("portable_cam.explainer.check_explanation", counted)
    assert pcam.Explainer(small_cnn, check=True)(X).checks == made
    assert not calls
    pcam.Explainer(small_cnn, check=True, sign="negative")(X)
    pcam.Explainer(small_cnn, check=True, layer="r1")(X)
    assert len(calls) == 2
    for kept in (tmp_path / "checks").iterdir():  # what is damaged is made again
        kept.write_text("{")
    pcam.Explainer(small_cnn, check=True)(X)
    assert len(calls) == 3
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    pcam.Explainer(small_cnn, check=True)(X)
    assert len(calls) == 4


def _in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with every float in float16."""
    half = onnx.ModelProto.FromString(model.SerializeToString())
    for weight in half.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return half


def test_half_precision_is_held_against_differences_in_float32(
    run: Run, small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = _in_half(small_cnn), X.astype(np.float16)
    assert verdicts(run(model, x=x)) == ALL
    entry = RULES["Gemm"]

    def wrong(v: Any) -> Any:
        return [None if g is None else v.b.op("Mul", g, 1.3) for g in entry.rule(v)]

    monkeypatch.setitem(RULES, "Gemm", replace(entry, rule=wrong))
    spoiled = verdicts(run(model, x=x))
    assert spoiled["input"] == spoiled["layer"] == "FAILED"


def _pixels(end: str, x: str = "float[N,3,8,8]") -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> g ({x} x) => (float[N,4,8,8] y) '
        f"{{ r = Conv<kernel_shape=[1, 1]>(x, k) a = Relu(r) z = Conv<kernel_shape=[1, 1]>(a, w) {end} }}"
    )
    random = np.random.default_rng(3)
    weights = {"k": random.normal(size=(5, 3, 1, 1)), "w": random.normal(size=(4, 5, 1, 1))}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items())
    return made


@pytest.mark.parametrize(
    "end", ["y = Identity(z)", "y = Sigmoid(z)", "y = Softmax<axis=1>(z)", "y = LogSoftmax<axis=1>(z)"]
)
def test_scores_of_pixels_are_held_against_the_output(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    mask = np.zeros((8, 8), np.float32)
    mask[2:5, 1:7] = 1
    explainer = pcam.Explainer(_pixels(end), ("gradcam",), target=pcam.targets.Dense("mask"))
    checks = {check.name: check for check in explainer.check(X / 4, [1], mask=mask)}
    assert checks["score"].verdict == "passed", checks["score"]
    original = pcam.targets.Dense.score
    monkeypatch.setattr(
        pcam.targets.Dense, "score", lambda self, b, s, index, extra: original(self, b, s, b.op("Sub", 3, index), extra)
    )
    spoiled = pcam.Explainer(_pixels(end), ("gradcam",), target=pcam.targets.Dense("mask"))
    assert {c.name: c.verdict for c in spoiled.check(X / 4, [1], mask=mask)}["score"] == "FAILED"


@pytest.mark.parametrize("perm", slow_but(["[2, 0, 1]"], [[0, 2, 1], [2, 0, 1]]))
@pytest.mark.parametrize("end", ["y = Identity(t)", "y = Softmax(t)"])
def test_scores_of_steps_are_held_against_the_output(
    perm: list[int], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    body = f"m = ReduceMean<keepdims=0>(z, rows) t = Transpose<perm={perm}>(m) {end}"
    made = _pixels(body)
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, [None, None, 4]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "rows"))
    said = np.full((1, 1, 8), -1)
    said[0, 0, [2, 5]] = (1, 3)
    explainer = pcam.Explainer(made, ("gradcam",), target=pcam.targets.Tokens())
    checks = {check.name: check.verdict for check in explainer.check(X, said=said)}
    assert checks["score"] == checks["images"] == checks["outputs"] == "passed"


def test_one_score_of_all_images_is_checked_of_one(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    body = "c = Conv<kernel_shape=[1, 1]>(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) "
    body += "y = ReduceMean<axes = [0], keepdims = 1>(f)"
    model = make_model(
        body, {"w": np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)}, y="float[1,4] y"
    )
    checks = {c.name: c.verdict for c in pcam.Explainer(model).check(np.concatenate([X, -X]), [1, 1])}
    assert checks["outputs"] == checks["score"] == checks["layer"] == checks["input"] == "passed"
    assert checks["images"] == "not tested"


def test_a_file_whose_target_takes_more_proves_itself(small_cnn: onnx.ModelProto) -> None:
    """A rival class, of which random numbers know none."""
    target = Contrast(Class())
    built = build_explanation(small_cnn, ("gradcam",), target=target)
    proof = self_check(small_cnn, built, Options(("gradcam",), target=target))
    assert proof.passed, proof.describe()
    assert proof["score"].passed
