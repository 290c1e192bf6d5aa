# SPDX-License-Identifier: Apache-2.0
"""The walk from the score back: where gradients meet, end, or cannot go on; and the judge of all gradients, judged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from rule_cases.case import Case, const, prepare, x
from rule_cases.resize import resize

from portable_cam.errors import LayerError, ModelError, TargetError, UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.autodiff.rules import RULES
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp, node_model, widen

F = torch.nn.functional
node = onnx.helper.make_node
POINT = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)


def test_a_tensor_consumed_twice() -> None:
    nodes = [
        node("Sin", ["x"], ["a"]),
        node("Mul", ["a", "a"], ["b"]),
        node("Exp", ["a"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("Mul", ["d", "x"], ["y"]),
    ]
    check_vjp(node_model(nodes, {"x": POINT}, ["y"]), {"x": POINT})


def test_inner_tensors_and_weights() -> None:
    w = np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32)
    model = node_model(
        [node("Sin", ["x"], ["a"]), node("MatMul", ["a", "w"], ["z"]), node("Exp", ["z"], ["y"])],
        {"x": POINT},
        ["y"],
        {"w": w},
    )
    check_vjp(model, {"x": POINT}, of="z", wrt=["x", "w"])
    out = Session(differentiate(model, "y", ["a", "z"])).run({"x": POINT, "seed": np.ones((2, 3, 5), np.float32)})
    np.testing.assert_allclose(out["gradient.z"], out["y"], rtol=1e-6)
    np.testing.assert_allclose(out["gradient.a"], out["y"] @ w.T, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_split_with_an_unused_output(dynamic: bool) -> None:
    nodes = [node("Split", ["x", "s"], ["a", "b", "c"], axis=-1), node("Mul", ["a", "c"], ["y"])]
    dims = {"x": ["n", None, 4]} if dynamic else None
    model = node_model(nodes, {"x": POINT}, ["y"], {"s": np.array([1, 2, 1])}, dims=dims)
    gradient = check_vjp(model, {"x": POINT}).gradients["x"]
    assert not gradient[:, :, 1:3].any()
    assert gradient[:, :, [0, 3]].all()


def test_a_secondary_output_is_an_error_not_a_silent_part() -> None:
    nodes = [
        node("BatchNormalization", ["x", "s", "s", "s", "s"], ["a", "mean", "variance"], training_mode=1),
        node("Mul", ["a", "mean"], ["y"]),
    ]
    model = node_model(nodes, {"x": POINT[:, 0]}, ["y"], {"s": np.ones(4, np.float32)})
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        differentiate(model, "y", ["x"])


def test_an_operator_without_a_rule_is_named_with_its_path() -> None:
    nodes = [
        node("Sin", ["x"], ["a"]),
        node("MaxRoiPool", ["a", "r"], ["d"], name="the-pooling", pooled_shape=[1, 1]),
        node("Exp", ["d"], ["y"]),
    ]
    square = np.ones((2, 3, 3, 3), np.float32)
    model = node_model(nodes, {"x": square}, ["y"], {"r": np.zeros((1, 5), np.float32)})
    with pytest.raises(UnsupportedOperatorError) as caught:
        differentiate(model, "y", ["x"])
    for part in ("ai.onnx::MaxRoiPool", "opset 21", "'the-pooling'", "'x' -> Sin -> MaxRoiPool"):
        assert part in str(caught.value)
    differentiate(model, "y", ["d"])  # behind it, it is of no concern


@pytest.mark.parametrize(
    "blocked",
    [
        [node("ArgMax", ["x"], ["i"], axis=-1), node("Cast", ["i"], ["y"], to=1)],
        [node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], ["y"], to=1)],
        [node("Round", ["x"], ["r"]), node("Exp", ["r"], ["y"])],
        [node("Shape", ["x"], ["i"]), node("Cast", ["i"], ["y"], to=1)],
        [node("Exp", ["other"], ["y"])],
    ],
    ids=["ArgMax", "Cast", "Round", "Shape", "unrelated"],
)
def test_no_differentiable_path_is_an_error_not_zeros(blocked: list[onnx.NodeProto]) -> None:
    feeds = {"x": POINT, "other": POINT}
    with pytest.raises(ModelError, match="does not depend on 'x' in a differentiable way"):
        differentiate(node_model(blocked, feeds, ["y"]), "y", ["x"])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_mean_over_what_was_scaled_by_channel(dynamic: bool) -> None:
    """The gradient is the same all over a channel and is spread late; batch normalisation may not lose the space."""
    image = np.random.default_rng(6).standard_normal((2, 3, 5, 4)).astype(np.float32)
    constants = {name: np.linspace(0.5, 2, 4).astype(np.float32) for name in "sbmv"}
    constants["w"] = np.random.default_rng(7).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *"sbmv"], ["n"]),
        node("GlobalAveragePool", ["n"], ["y"]),
    ]
    dims = {"x": ["n", 3, "h", "w"]} if dynamic else None
    check_vjp(node_model(nodes, {"x": image}, ["y"], constants, dims=dims), {"x": image})


def test_boxes_are_places_and_carry_no_gradient() -> None:
    """A box that is computed from the image, as a detector does: the gradient is that of what is read, not of where."""
    image = np.random.default_rng(3).standard_normal((1, 2, 8, 8)).astype(np.float32)
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Mul", ["m", "unit"], ["boxes"]),
        node("RoiAlign", ["x", "boxes", "zero"], ["y"], output_height=2, output_width=2, sampling_ratio=2),
    ]
    constants = {"unit": np.array([[1, 1, 2, 2.5]], np.float32), "zero": np.zeros(1, np.int64)}
    computed = node_model(nodes, {"x": image}, ["y"], constants)
    boxes = constants["unit"] * image.max()
    given = node_model(nodes[2:], {"x": image, "boxes": boxes}, ["y"], {"zero": constants["zero"]})
    dy = np.ones((1, 2, 2, 2), np.float32)
    gradients = [
        Session(differentiate(model, "y", ["x"]), threads=1).run({**feeds, "seed": dy})["gradient.x"]
        for model, feeds in ((computed, {"x": image}), (given, {"x": image, "boxes": boxes}))
    ]
    np.testing.assert_array_equal(*gradients)
    with pytest.raises(ModelError, match="does not depend on 'boxes' in a differentiable way"):
        differentiate(given, "y", ["boxes"])


def test_the_score_path_through_non_maximum_suppression() -> None:
    """The scores that are kept are read by index: each has its gradient, the choice has none."""
    rng = np.random.default_rng(4)
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1.1, 1], [2, 2, 3, 3], [5, 5, 6, 6]]], np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["raw"]),
        node("Sigmoid", ["raw"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
        node("GatherND", ["scores", "kept_scores"], ["y"]),
        node("Gather", ["kept", "columns"], ["kept_scores"], axis=1),
    ]
    nodes = [*nodes[:3], nodes[4], nodes[3]]
    constants = {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "boxes": boxes,
        "most": np.array([2]),
        "overlap": np.array([0.5], np.float32),
        "columns": np.array([0, 1, 2]),
    }
    x = rng.standard_normal((1, 1, 3)).astype(np.float32)
    check = check_vjp(node_model(nodes, {"x": x}, ["y"], constants), {"x": x})
    assert check.gradients["x"].any()


@pytest.mark.parametrize("corners", [0, 1])
def test_a_spatial_transformer(corners: int) -> None:
    """AffineGrid and GridSample: the gradient reaches the transformation."""
    rng = np.random.default_rng(5)
    feeds = {"x": rng.standard_normal((2, 3, 6, 5)), "theta": np.array([[[0.7, 0.2, 0.1], [-0.3, 0.6, 0.05]]] * 2)}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    nodes = [
        node("AffineGrid", ["theta", "size"], ["grid"], align_corners=corners),
        node("GridSample", ["x", "grid"], ["y"], align_corners=corners, mode="cubic"),
    ]
    model = node_model(nodes, feeds, ["y"], {"size": np.array([2, 3, 4, 3])})
    gradients = check_vjp(model, feeds).gradients
    theta = torch.tensor(feeds["theta"].astype(np.float64), requires_grad=True)
    grid = F.affine_grid(theta, (2, 3, 4, 3), align_corners=bool(corners))
    y = F.grid_sample(torch.tensor(feeds["x"].astype(np.float64)), grid, mode="bicubic", align_corners=bool(corners))
    session = Session(differentiate(model, "y", ["theta"]), threads=1)
    dy = rng.standard_normal((2, 3, 4, 3)).astype(np.float32)
    got = session.run({**feeds, "seed": dy})["gradient.theta"]
    (want,) = torch.autograd.grad(y, [theta], torch.tensor(dy.astype(np.float64)))
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4 * want.abs().max().item())
    assert gradients["x"].shape == (2, 3, 6, 5)


def test_tensors_that_are_not_there() -> None:
    model = node_model([node("Exp", ["x"], ["exponential"])], {"x": POINT}, ["exponential"])
    with pytest.raises(TargetError, match="near it: exponential"):
        differentiate(model, "exponentia", ["x"])
    with pytest.raises(LayerError, match="'z' is no tensor"):
        differentiate(model, "exponential", ["z"])


@pytest.mark.parametrize("dynamic", [False, True])
def test_same_padding_under_a_wide_stride_is_refused(dynamic: bool) -> None:
    """ONNX Runtime begins at the second element there: a gradient by the book would be silently wrong."""
    feeds = {"x": np.ones((1, 1, 8), np.float32)}
    dims = {"x": [1, 1, "length"]} if dynamic else None
    conv = node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[4], kernel_shape=[1])
    model = node_model([conv], feeds, ["y"], {"w": np.ones((1, 1, 1), np.float32)}, dims=dims)
    with pytest.raises(UnsupportedOperatorError, match="explicit pads"):
        differentiate(model, "y", ["x"])


def test_dropout_in_training_mode_is_refused() -> None:
    p = prepare(Case("Dropout", [x(2, 3), const(0.5, np.float32), const(True, np.bool_)]), "inputs")
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        differentiate(p.model, p.of, ["i0"])


def test_check_vjp_sees_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is itself judged: a rule off by a factor, and one of the wrong shape."""
    from portable_cam.export.autodiff.registry import Entry

    model = node_model([node("Sin", ["x"], ["y"])], {"x": POINT}, ["y"])
    check_vjp(model, {"x": POINT})
    monkeypatch.setitem(RULES, "Sin", Entry(lambda v: v.b.op("Mul", v.g, 1.001)))
    with pytest.raises(AssertionError, match=r"the gradient graph gives .* central differences in float"):
        check_vjp(model, {"x": POINT})
    monkeypatch.setitem(RULES, "Sin", Entry(lambda v: v.b.op("Transpose", v.g, perm=[1, 0, 2])))
    with pytest.raises(AssertionError, match="the tensor float32"):
        check_vjp(model, {"x": POINT})


def test_widen_leaves_the_scales_of_resize() -> None:
    p = prepare(resize((1, 1, 2, 2), [1, 1, 2, 2], by="scales", mode="linear"), "inputs")
    wide = widen(p.model)
    assert wide.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    assert wide.graph.initializer[0].data_type == onnx.TensorProto.FLOAT
