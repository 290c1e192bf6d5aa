# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the table is read down its columns
"""Quantised operators, each against the float graph that it stands for.

The gradient of an integer graph cannot be had by finite differences: it is a staircase. What it should be is the
gradient of the float operators between the roundings, with the roundings as the identity (straight-through) and no
gradient where a range cuts off. Torch computes that in float64 from the same integers, scales and zero points; the
cutting off is checked by finite differences of the clipped float function as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from costs import slow_but
from onnx import helper
from processor import needs_exact_bytes

import portable_cam as pcam
from portable_cam.errors import OptionError
from portable_cam.export import doctor
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.autodiff.quantized_ranges import dropped_activations
from portable_cam.export.autodiff.relu_policy import guided_nodes
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import node_model

torch = pytest.importorskip("torch", reason="compared with torch autograd")
F = torch.nn.functional
MS = "com.microsoft"

# -- a table of operators ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A quantised tensor: ``x`` comes from a float input by QuantizeLinear, ``w`` is a constant, ``b`` an int32 bias
    in steps of the product of the scales, ``y`` the scale of the output, ``c`` any other constant, ``-`` nothing.
    ``axis``: a scale for each slice along it. ``shift`` moves the values, to one side of a range, say."""

    role: str
    shape: tuple[int, ...] = ()
    scale: float = 0.05
    zero: int = 120
    dtype: Any = np.uint8
    axis: int | None = None
    value: Any = None
    alone: bool = False
    shift: float = 0.0

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        if self.axis is None:
            return np.float32(self.scale), np.asarray(self.zero, self.dtype)
        n = self.shape[self.axis]
        return (self.scale * np.linspace(0.5, 1.5, n)).astype(np.float32), np.full(n, self.zero, self.dtype)


def x(*shape: int, **kw: Any) -> Part:
    return Part("x", shape, **kw)


def w(*shape: int, **kw: Any) -> Part:
    return Part("w", shape, **{"zero": 0, "dtype": np.int8, "scale": 0.02, **kw})


def y(scale: float = 0.1, zero: int = 110, dtype: Any = np.uint8) -> Part:
    return Part("y", (), scale, zero, dtype)


def bias(n: int, scale: Any = 0.001) -> Part:
    return Part("b", (n,), scale=scale)


def const(value: Any) -> Part:
    return Part("c", value=value)


@dataclass(frozen=True)
class Operator:
    """``op`` with its domain; ``inputs`` in the operator's order; ``torch`` takes the dequantised tensors in the same
    order. Only what no CPU kernel of ONNX Runtime can run has ``runs=False``. ``exact=False``: the normalised graph
    may round what lies half-way between two steps to the other one. ``slope_of_output``: the slope is a function of
    the output, and read from the rounded one."""

    op: str
    inputs: Sequence[Part]
    torch: Callable[..., Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    runs: bool = True
    exact: bool = True
    slope_of_output: bool = False
    note: str = ""

    def __str__(self) -> str:
        kinds = "".join({np.uint8: "u", np.int8: "s"}.get(p.dtype, "") for p in self.inputs if p.role in "xwy")
        return "-".join(part for part in (self.op.removeprefix(f"{MS}::"), kinds, self.note) if part)


S8 = {"dtype": np.int8, "zero": -7}
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
OPERATORS = [
    Operator("QLinearConv", [x(1, 3, 6, 6), w(4, 3, 3, 3), y()], F.conv2d),
    Operator("QLinearConv", [x(1, 3, 6, 6), w(4, 3, 3, 3, axis=0), y(), bias(4)], lambda t, k, b: F.conv2d(t, k, b, 2, 1), {"strides": [2, 2], "pads": [1] * 4}, note="channels"),
    Operator("QLinearConv", [x(1, 4, 6, 6), w(4, 1, 3, 3, axis=0), y()], lambda t, k: F.conv2d(t, k, groups=4), {"group": 4}, note="depthwise"),
    Operator("QLinearConv", [x(1, 3, 6, 6, **S8), w(4, 3, 3, 3), y(0.1, -10, np.int8), bias(4)], F.conv2d),
    Operator(f"{MS}::QLinearConv", [x(1, 6, 6, 3), w(4, 3, 3, 3), y()], lambda t, k: F.conv2d(t.permute(0, 3, 1, 2), k).permute(0, 2, 3, 1), {"channels_last": 1}),
    Operator("QLinearMatMul", [x(2, 5), w(5, 3), y()], torch.matmul),
    Operator("QLinearMatMul", [x(2, 5), w(5, 3, axis=1), y()], torch.matmul, note="columns"),
    Operator("QLinearMatMul", [x(2, 2, 5), x(2, 5, 3, scale=0.03), y()], torch.matmul, note="two"),
    Operator(f"{MS}::QLinearAdd", [x(2, 3, 4), x(2, 3, 4, scale=0.03), y()], torch.add),
    Operator(f"{MS}::QLinearAdd", [x(2, 3, 4, **S8), x(4, scale=0.03, **S8), y(0.1, 3, np.int8)], torch.add, exact=False, note="broadcast"),
    Operator(f"{MS}::QLinearMul", [x(2, 3, 4), x(3, 1, scale=0.03), y()], torch.mul),
    Operator(f"{MS}::QLinearSigmoid", [x(2, 3), y(1 / 256, 0)], torch.sigmoid, slope_of_output=True),
    Operator(f"{MS}::QLinearLeakyRelu", [x(2, 3), y()], lambda t: F.leaky_relu(t, 0.2), {"alpha": 0.2}),
    Operator(f"{MS}::QLinearSoftmax", [x(2, 5), y(1 / 256, 0)], lambda t: t.softmax(-1), {"axis": -1, "opset": 13}, slope_of_output=True),
    Operator(f"{MS}::QLinearSoftmax", [x(2, 3, 2), y(1 / 256, 0)], lambda t: t.flatten(1).softmax(-1).reshape(2, 3, 2), {"axis": 1, "opset": 12}, slope_of_output=True, note="flat"),
    Operator(f"{MS}::QLinearGlobalAveragePool", [x(2, 3, 4, 5), y(0.05, 120)], lambda t: t.mean((2, 3), keepdim=True)),
    Operator(f"{MS}::QLinearGlobalAveragePool", [x(2, 4, 5, 3), y(0.05, 120)], lambda t: t.mean((1, 2), keepdim=True), {"channels_last": 1}, note="last"),
    Operator(f"{MS}::QLinearAveragePool", [x(2, 3, 4, 6), y(0.05, 120)], lambda t: F.avg_pool2d(t, 2), POOL),
    Operator(f"{MS}::QLinearConcat", [y(), x(2, 3), x(2, 2, scale=0.08)], lambda a, b: torch.cat([a, b], 1), {"axis": 1}),
    Operator(f"{MS}::QLinearWhere", [const(np.array([[True, False, True]])), x(2, 3), x(2, 3, scale=0.08), y()], lambda a, b: torch.where(torch.tensor([[True, False, True]]), a, b)),
    Operator(f"{MS}::QLinearReduceMean", [x(2, 3, 4), y(0.05, 120)], lambda t: t.mean(-1), {"axes": [-1], "keepdims": 0}, runs=False),
    Operator(f"{MS}::QGemm", [x(2, 5), w(3, 5), bias(3), y()], lambda a, b, c: a @ b.T + c, {"transB": 1}),
    Operator(f"{MS}::QGemm", [x(2, 5), w(5, 3, axis=1), Part("-"), y()], torch.matmul, note="columns"),
    Operator(f"{MS}::QGemm", [x(2, 5), w(5, 3), bias(3)], lambda a, b, c: a @ b + c, note="floats out"),
    Operator(f"{MS}::NhwcMaxPool", [x(1, 4, 6, 3, alone=True)], lambda t: F.max_pool2d(t.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1), POOL),
    # operators of the standard on integers between the quantised ones
    *[Operator(op, [x(*shape, alone=True), *more], function, attributes) for op, shape, more, function, attributes in [
        ("MaxPool", (1, 2, 4, 6), (), lambda t: F.max_pool2d(t, 2), POOL),         ("Transpose", (2, 3, 4), (), lambda t: t.permute(2, 0, 1), {"perm": [2, 0, 1]}), ("Reshape", (2, 6), [const(np.array([3, 4]))], lambda t: t.reshape(3, 4), {}),
        ("Flatten", (2, 3, 2), (), lambda t: t.flatten(1), {}), ("Squeeze", (2, 1, 3), [const(np.array([1]))], lambda t: t.squeeze(1), {}),
        ("Unsqueeze", (2, 3), [const(np.array([1]))], lambda t: t.unsqueeze(1), {}), ("Slice", (2, 6), [const(np.array([v])) for v in (1, 5, 1, 2)], lambda t: t[:, 1:5:2], {}),
        ("Gather", (2, 4), [const(np.array([3, 0, 0]))], lambda t: t[:, [3, 0, 0]], {"axis": 1}), ("Expand", (2, 1), [const(np.array([2, 3]))], lambda t: t.expand(2, 3), {}),
        ("Tile", (2, 3), [const(np.array([1, 2]))], lambda t: t.repeat(1, 2), {}), ("SpaceToDepth", (1, 1, 4, 4), (), lambda t: F.pixel_unshuffle(t, 2), {"blocksize": 2}),
        ("DepthToSpace", (1, 4, 2, 2), (), lambda t: F.pixel_shuffle(t, 2), {"blocksize": 2, "mode": "CRD"}),
        ("Resize", (1, 2, 3, 3), [Part("-"), const(np.array([1, 1, 2, 2], np.float32))], lambda t: F.interpolate(t, scale_factor=2, mode="nearest"), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Pad", (2, 3), [const(np.array([0, 1, 0, 0])), const(np.asarray(120, np.uint8))], lambda t: F.pad(t, [1, 0]), {}),
        ("Clip", (2, 3), [const(np.asarray(110, np.uint8)), const(np.asarray(130, np.uint8))], lambda t: t.clamp(-0.5, 0.5), {}),
        ("Concat", (2, 3), [x(2, 2, alone=True)], lambda a, b: torch.cat([a, b], 1), {"axis": 1}),
        ("Max", (2, 3), [x(2, 3, alone=True)], torch.maximum, {}),
    ]],
    Operator("Relu", [x(2, 9, alone=True, **S8)], lambda t: t.clamp(min=0.35), note="zero point not 0"),
    Operator("Relu", [x(2, 9, alone=True, dtype=np.int8, zero=0)], F.relu),
]  # fmt: skip


@dataclass
class Prepared:
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]


def prepare(case: Operator, seed: int = 0) -> Prepared:
    """Float inputs, QuantizeLinear, the operator, DequantizeLinear if its result is quantised."""
    rng = np.random.default_rng(seed)
    nodes, names, feeds, constants = [], [], {}, {}
    last: Part | None = None
    for i, part in enumerate(case.inputs):
        if part.role in "-c":
            names.append("" if part.role == "-" else f"c{i}")
            constants |= {} if part.role == "-" else {f"c{i}": np.asarray(part.value)}
            continue
        if part.role == "b":
            constants[f"b{i}"] = rng.integers(-500, 500, part.shape).astype(np.int32)
            names.append(f"b{i}")
            continue
        scale, zero = part.scales()
        constants |= {f"s{i}": scale, f"z{i}": zero}
        if part.role == "x":
            feeds[f"x{i}"] = (rng.standard_normal(part.shape) + part.shift).astype(np.float32)
            nodes.append(helper.make_node("QuantizeLinear", [f"x{i}", f"s{i}", f"z{i}"], [f"q{i}"]))
            names.append(f"q{i}")
        elif part.role == "w":
            constants[f"q{i}"] = rng.integers(-127, 127, part.shape).astype(part.dtype)
            names.append(f"q{i}")
        last = part if part.role == "y" or part.alone else last
        if not part.alone:
            names += [f"s{i}", f"z{i}"]
    domain, _, op = case.op.rpartition("::")
    out = "r" if last is not None else "y"
    nodes.append(helper.make_node(op, names, [out], "node", domain=domain, **case.attributes))
    if last is not None:
        i = case.inputs.index(last)
        nodes.append(helper.make_node("DequantizeLinear", ["r", f"s{i}", f"z{i}"], ["y"]))
    model = node_model(nodes, feeds, ["y"], constants, domains=[MS])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return Prepared(model, feeds, constants)


def fake_quantized(t: Any, scale: Any, zero: Any, dtype: Any) -> Any:
    """Rounded and clipped; the gradient straight through, none at the ends of the range."""
    limits = np.iinfo(dtype)
    scale, zero = float(scale), float(zero)
    q = torch.clamp(torch.round(t / scale) + zero, limits.min, limits.max)
    inside = (q > limits.min) & (q < limits.max)
    return torch.where(inside, t, t.detach()) + ((q - zero) * scale - t).detach()


def in_torch(case: Operator, p: Prepared) -> tuple[Any, dict[str, Any]]:
    """The same in float64: y, and the leaves by name."""
    leaves, arguments, product, output = {}, [], 1.0, None
    for i, part in enumerate(case.inputs):
        if part.role in "-c":
            continue
        if part.role == "y":
            output = part
            continue
        if part.role == "b":
            step = product if np.ndim(product) else float(product)
            arguments.append(torch.tensor(p.constants[f"b{i}"].astype(np.float64) * np.asarray(step)))
            continue
        scale, zero = (np.asarray(v, np.float64) for v in part.scales())
        product = product * scale
        if part.role == "x":
            leaves[f"x{i}"] = torch.tensor(p.feeds[f"x{i}"].astype(np.float64), requires_grad=True)
            arguments.append(fake_quantized(leaves[f"x{i}"], scale, zero, part.dtype))
        else:
            column = [1] * len(part.shape)
            if part.axis is not None:
                column[part.axis] = -1
            values = (
                p.constants[f"q{i}"].astype(np.float64) - zero.reshape(column if part.axis is not None else ())
            ) * (scale.reshape(column) if part.axis is not None else scale)
            arguments.append(torch.tensor(values))
    result = case.torch(*arguments)
    if output is not None:
        result = fake_quantized(result, output.scale, output.zero, output.dtype)
    return result, leaves


def is_dense_convolution(case: Operator) -> bool:
    return case.op.endswith("QLinearConv") and "group" not in case.attributes


@pytest.mark.parametrize("case", OPERATORS, ids=str)
def test_gradient_of_what_it_stands_for(case: Operator) -> None:
    if is_dense_convolution(case):
        needs_exact_bytes()
    p = prepare(case)
    result, leaves = in_torch(case, p)
    session = Session(differentiate(p.model, "y", list(p.feeds), saturation="mask"))
    dy = np.random.default_rng(1).standard_normal(tuple(result.shape)).astype(np.float32)
    values = session.run({**p.feeds, "seed": dy})
    step = next((part.scale for part in case.inputs if part.role == "y"), 1e-4)
    assert np.abs(values["y"] - result.detach().numpy()).max() <= 1.01 * step
    gradients = torch.autograd.grad(result, list(leaves.values()), torch.tensor(dy.astype(np.float64)))
    assert any(bool(g.abs().max() > 0) for g in gradients)
    for name, expected in zip(leaves, gradients, strict=True):
        atol = step * np.abs(dy).max() if case.slope_of_output else 2e-5
        np.testing.assert_allclose(values[f"gradient.{name}"], expected.numpy(), rtol=2e-4, atol=atol)


@pytest.mark.parametrize("case", [case for case in OPERATORS if case.runs], ids=str)
def test_normalised_graph_gives_the_same_bits(case: Operator) -> None:
    if is_dense_convolution(case):
        needs_exact_bytes()
    p = prepare(case)
    normal = ir.to_proto(normalize(p.model))
    assert {node.domain for node in normal.graph.node} <= {""}
    before, after = (Session(model).run(p.feeds)["y"] for model in (p.model, normal))
    step = next((part.scale for part in case.inputs if part.role == "y"), 0.0)
    np.testing.assert_allclose(after, before, rtol=0, atol=0 if case.exact else step * 1.001)


# -- rounding and range --------------------------------------------------------------------------------------------

TYPES = [np.uint8, np.int8, np.uint16, np.int16, ml_dtypes.uint4, ml_dtypes.int4]
FLOAT8 = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def round_trip(dtype: Any, scale: Any, zero: Any, **attributes: Any) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear of -x float32 (2, 4, 6), then Exp."""
    nodes = [
        helper.make_node("Neg", ["x"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "s", "z"], ["q"], "quantize", **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], **attributes),
        helper.make_node("Exp", ["d"], ["y"]),
    ]
    feeds = {"x": np.zeros((2, 4, 6), np.float32)}
    return node_model(nodes, feeds, ["y"], {"s": np.asarray(scale, np.float32), "z": np.asarray(zero).astype(dtype)})


@pytest.mark.parametrize("dtype", [*TYPES, *FLOAT8], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("kind", ["tensor", "axis", "blocks"])
def test_straight_through(dtype: Any, kind: str) -> None:
    shape, attributes = {
        "tensor": ((), {}),
        "axis": ((4,), {"axis": 1}),
        "blocks": ((2, 4, 2), {"axis": 2, "block_size": 3}),
    }[kind]
    model = round_trip(dtype, np.full(shape, 0.3), np.zeros(shape), **attributes)
    x = -np.random.default_rng(0).uniform(0.3, 1.3, (2, 4, 6)).astype(np.float32)
    values = Session(differentiate(model, "y", ["x"], saturation="pass")).run({"x": x, "seed": np.ones_like(x)})
    np.testing.assert_allclose(values["gradient.x"], -values["y"], rtol=1e-5)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: np.dtype(d).name)
def test_mask_is_the_slope_of_the_clipped_function(dtype: Any) -> None:
    """Finite differences of x -> clip(-x, low, high), at places more than a step from the ends."""
    limits = ml_dtypes.iinfo(dtype)
    zero = limits.min + (limits.max - limits.min) // 4
    scale = 2.0 / (limits.max - zero)
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    places = [np.linspace(low - 1, low - 0.1, 16), np.linspace(low + 1.5 * scale, high - 1.5 * scale, 16)]
    x = -np.concatenate([*places, np.linspace(high + 0.1, 4, 16)]).reshape(2, 4, 6)
    feeds = {"x": x.astype(np.float32), "seed": np.ones((2, 4, 6), np.float32)}
    values = Session(differentiate(round_trip(dtype, scale, zero), "d", ["x"], saturation="mask")).run(feeds)
    numeric = (np.clip(-x - 1e-6, low, high) - np.clip(-x + 1e-6, low, high)) / 2e-6
    assert (numeric == 0).any()
    np.testing.assert_allclose(values["gradient.x"], numeric, rtol=1e-4, atol=1e-6)


def test_low_end_is_masked_too() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = np.array([-9.0, -1.0, 1.0, 9.0], np.float32)
    model = node_model(nodes, {"x": x}, ["y"], {"s": np.float32(0.05), "z": np.int8(10)})  # -6.9 to 5.85
    for saturation, expected in (("mask", [0, -1, -1, 0]), ("pass", [-1, -1, -1, -1])):
        session = Session(differentiate(model, "y", ["x"], saturation=saturation))
        assert session.run({"x": x, "seed": np.ones_like(x)})["gradient.x"].tolist() == expected
    with pytest.raises(OptionError, match="saturation= takes 'mask', 'pass', not 'cut'"):
        differentiate(model, "y", ["x"], saturation="cut")  # type: ignore[arg-type]


# -- the rules themselves ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A rule, in a graph of few nodes from x to y that is ``torch`` but for the rounding."""

    op: str
    nodes: Sequence[onnx.NodeProto]
    shape: tuple[int, ...]
    torch: Callable[..., Any]
    of: str = ""

    def __str__(self) -> str:
        return self.of or self.op


def product(op: str) -> list[onnx.NodeProto]:
    """DynamicQuantizeLinear, an integer product, its scales: as ONNX Runtime's dynamic quantisation writes it."""
    if op == "DynamicQuantizeMatMul":
        return [helper.make_node(op, ["x", "w", "ws", "wz", "bias"], ["y"], domain=MS)]
    first = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    if op == "MatMulIntegerToFloat":
        return [first, helper.make_node(op, ["q", "w", "s", "ws", "z", "wz", "bias"], ["y"], domain=MS)]
    return [
        first,
        helper.make_node(op, ["q", "w" if op == "MatMulInteger" else "k", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["ss"]),
        helper.make_node("Mul", ["f", "ss"], ["y"]),
    ]


W = np.random.default_rng(0).integers(0, 255, (6, 4)).astype(np.uint8)
K = np.random.default_rng(1).integers(0, 255, (4, 3, 3, 3)).astype(np.uint8)
CONSTANTS = {
    "w": W, "k": K, "ws": np.float32(0.01), "wz": np.uint8(128), "bias": np.arange(4, dtype=np.float32),
    "s1": np.float32(0.05), "s2": np.float32(0.15), "z1": np.uint8(100), "rows": np.array([0.05, 0.1], np.float32), "zeros": np.array([100, 120], np.uint8),
}  # fmt: skip


def real(weight: np.ndarray) -> Any:
    return torch.tensor((weight.astype(np.float64) - 128) * 0.01)


def quantize(*scale: str, **attributes: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", *scale[:2]], ["q"], **attributes),
        helper.make_node("Slice", ["q", "begin", "end", "axes"], ["part"]),
        helper.make_node("DequantizeLinear", ["part", *scale[2:]], ["y"], **attributes),
    ]


PLACES = {"begin": np.array([1]), "end": np.array([3]), "axes": np.array([2])}
CASES = [
    Case("QuantizeLinear", quantize("s1", "z1", "s1", "z1"), (1, 2, 4), lambda t: t[:, :, 1:3]),
    Case("QuantizeLinear", quantize("rows", "zeros", "rows", "zeros", axis=1), (1, 2, 4), lambda t: t[:, :, 1:3], "rows"),
    Case("DequantizeLinear", quantize("s1", "z1", "s2", "z1"), (1, 2, 4), lambda t: 3 * t[:, :, 1:3]),
    Case("DynamicQuantizeLinear", [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "d"]), helper.make_node("DequantizeLinear", ["q", "s", "d"], ["y"])], (2, 3), lambda t: t.clone()),
    Case("MatMulInteger", product("MatMulInteger"), (2, 3, 6), lambda t: t @ real(W)),
    Case("ConvInteger", product("ConvInteger"), (2, 3, 5, 5), lambda t: F.conv2d(t, real(K))),
    Case("MatMulInteger", product("MatMulIntegerToFloat"), (2, 3, 6), lambda t: t @ real(W), "MatMulIntegerToFloat"),
    Case("MatMulInteger", product("DynamicQuantizeMatMul"), (2, 3, 6), lambda t: t @ real(W), "DynamicQuantizeMatMul"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule(case: Case) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal(case.shape).astype(np.float32)}
    used = {name for node in case.nodes for name in node.input}
    constants = {name: value for name, value in (CONSTANTS | PLACES).items() if name in used}
    model = node_model(case.nodes, feeds, ["y"], constants, domains=[MS])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    leaf = torch.tensor(feeds["x"].astype(np.float64), requires_grad=True)
    result = case.torch(leaf)
    dy = np.random.default_rng(1).standard_normal(tuple(result.shape)).astype(np.float32)
    (expected,) = torch.autograd.grad(result, leaf, torch.tensor(dy.astype(np.float64)))
    values = Session(differentiate(model, "y", ["x"])).run({**feeds, "seed": dy})
    np.testing.assert_allclose(values["gradient.x"], expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["y"], Session(model).run(feeds)["y"], rtol=1e-5, atol=1e-5)


def test_product_of_two_tensors_quantised_at_run_time() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["a"], ["qa", "sa", "za"]),
        helper.make_node("DynamicQuantizeLinear", ["b"], ["qb", "sb", "zb"]),
        helper.make_node("MatMulInteger", ["qa", "qb", "za", "zb"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["sa", "sb"], ["s"]),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    feeds = {
        "a": rng.standard_normal((2, 3, 5)).astype(np.float32),
        "b": rng.standard_normal((5, 4)).astype(np.float32),
    }
    dy = rng.standard_normal((2, 3, 4)).astype(np.float32)
    values = Session(differentiate(node_model(nodes, feeds, ["y"]), "y", ["a", "b"])).run({**feeds, "seed": dy})
    np.testing.assert_allclose(values["gradient.a"], dy @ feeds["b"].T, atol=0.05)
    np.testing.assert_allclose(values["gradient.b"], np.einsum("bik,bij->kj", feeds["a"], dy), atol=0.05)


# -- activations that vanished into a range ------------------------------------------------------------------------


def network(activation: str, high: float = 9.0, second: float | None = None) -> onnx.ModelProto:
    """Two convolutions and a pool. ``activation``: ``Relu`` or ``Clip`` behind each as a node, or ``range``: a
    QuantizeLinear of 16 bits from 0 to ``high`` (behind the other convolution: to ``second``)."""
    rng = np.random.default_rng(4)
    # weights are integers in any case: ONNX Runtime would round those of the network with ranges to 8 bits by itself
    constants: dict[str, Any] = {
        "w1": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "w2": rng.integers(-127, 127, (5, 4, 3, 3)).astype(np.int8),
    }
    constants |= {"zero": np.float32(0), "six": np.float32(6), "z": np.uint16(0), "ws": np.float32(0.01)}
    nodes, source = [], "x"
    for i, top in ((1, high), (2, second or high)):
        nodes.append(helper.make_node("DequantizeLinear", [f"w{i}", "ws"], [f"k{i}"]))
        nodes.append(helper.make_node("Conv", [source, f"k{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        if activation == "range":
            constants[f"s{i}"] = np.float32(top / 65535)
            nodes.append(helper.make_node("QuantizeLinear", [f"c{i}", f"s{i}", "z"], [f"q{i}"], f"quantize{i}"))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", "z"], [f"r{i}"]))
        else:
            bounds = ["zero", "six"] if activation == "Clip" else []
            nodes.append(helper.make_node(activation, [f"c{i}", *bounds], [f"r{i}"], f"act{i}"))
        source = f"r{i}"
    nodes += [helper.make_node("GlobalAveragePool", ["r2"], ["g"]), helper.make_node("Flatten", ["g"], ["y"])]
    used = {name for node in nodes for name in node.input}
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    return node_model(nodes, feeds, ["y"], {name: value for name, value in constants.items() if name in used})


METHODS = ("gradcam", "gradient", "guided_backprop", "deconvnet", "guided_gradcam")


@pytest.mark.parametrize(("kind", "high"), [("Relu", 60.0), ("Clip", 6.0)])
@pytest.mark.parametrize("policy", slow_but(["relu+clip"], ["relu", "relu+clip", "all"]))
def test_an_activation_that_vanished_is_explained_as_if_it_stood_there(kind: str, high: float, policy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    as_node = pcam.Explainer(network(kind), METHODS, relu_policy="relu+clip")
    assert len(as_node.guided_nodes) == 2
    with pytest.warns(UserWarning, match="no node counts") if (kind, policy) == ("Clip", "relu") else nullcontext():
        as_range = pcam.Explainer(network("range", high), METHODS, relu_policy=policy)
    if (kind, policy) == ("Clip", "relu"):
        assert as_range.guided_nodes == []
        return
    assert as_range.guided_nodes == ["quantize1", "quantize2"]
    found = as_range(x, [2])
    expected = as_node(x, [2])
    for method in METHODS:
        assert np.abs(found[method]).max() > 0
        np.testing.assert_allclose(found[method], expected[method], atol=2e-3 * np.abs(expected[method]).max())


def test_what_tells_a_relu6_from_a_relu() -> None:
    def kinds(*tops: float) -> set[str]:
        return set(dropped_activations(list(normalize(network("range", *tops)).graph)).values())

    assert kinds(6.0, 4.2) == {"Clip"}  # a calibration that did not reach the 6
    assert kinds(6.0, 9.0) == {"Relu"}  # one that happens to end at 6
    assert kinds(3.0, 4.2) == {"Relu"}


def test_doctor_counts_what_vanished() -> None:
    assert doctor(network("range", 60.0)).guided == {"relu": 2, "relu+clip": 2, "all": 2}
    report = doctor(network("range", 6.0))
    assert report.guided == {"relu": 0, "relu+clip": 2, "all": 2}
    assert report.quantized == {"tensors": 2, "Clip": 2}
    assert doctor(network("Relu")).quantized == {}


def test_a_range_behind_an_activation_is_not_another_one() -> None:
    """Relu -> QuantizeLinear: one ReLU, not two; nothing is below 0 any more."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = node_model(nodes, {"x": np.zeros((2, 3), np.float32)}, ["y"], {"s": np.float32(0.1), "z": np.uint8(0)})
    graph = normalize(model).graph
    assert [node.name for node in guided_nodes(graph, "all")] == ["relu"]
    assert dropped_activations(list(graph)) == {}


def test_an_int8_picture_has_the_gradient_of_what_it_stands_for() -> None:
    floats = network("Relu")
    model = onnx.ModelProto.FromString(floats.SerializeToString())
    helper_nodes = [
        helper.make_node("Transpose", ["picture"], ["moved"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["moved", "ps", "pz"], ["x"]),
    ]
    for i, node in enumerate(helper_nodes):
        model.graph.node.insert(i, node)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("picture", onnx.TensorProto.INT8, [1, 8, 8, 3]))
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(np.float32(0.02), "ps"), onnx.numpy_helper.from_array(np.int8(-5), "pz")]
    )
    picture = np.random.default_rng(0).integers(-128, 127, (1, 8, 8, 3)).astype(np.int8)
    real_picture = ((picture.astype(np.float32) + 5) * np.float32(0.02)).transpose(0, 3, 1, 2)
    found, expected = pcam.Explainer(model, METHODS)(picture), pcam.Explainer(floats, METHODS)(real_picture)
    for method in METHODS[1:]:
        assert found[method].shape == (1, 1, 8, 8, 3)
        np.testing.assert_allclose(found[method], expected[method].transpose(0, 1, 3, 4, 2), rtol=1e-4, atol=1e-6)
    assert pcam.Explainer(model).input_quantization == (pytest.approx(0.02), -5)


@pytest.mark.parametrize("blocks", [False, True])
def test_weights_of_four_bits(blocks: bool) -> None:
    rng = np.random.default_rng(0)
    weight, scale = (
        rng.integers(-8, 7, (6, 4)).astype(ml_dtypes.int4),
        np.full((2, 4) if blocks else (), 0.1, np.float32),
    )
    attributes = {"axis": 0, "block_size": 3} if blocks else {}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], **attributes),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    x, dy = rng.standard_normal((2, 6)).astype(np.float32), rng.standard_normal((2, 4)).astype(np.float32)
    model = node_model(nodes, {"x": x}, ["y"], {"w": weight, "s": scale})
    values = Session(differentiate(model, "y", ["x"])).run({"x": x, "seed": dy})
    np.testing.assert_allclose(values["gradient.x"], dy @ (weight.astype(np.float32) * 0.1).T, rtol=1e-4, atol=1e-5)


def test_contrib_twins_of_the_standard() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=MS),
        helper.make_node("Transpose", ["q"], ["t"]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["y"], domain=MS),
    ]
    x = np.array([[-1.0, 0.5]], np.float32)
    model = node_model(nodes, {"x": x}, ["y"], {"s": np.float32(0.1), "z": np.uint8(100)}, domains=[MS])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 1]))
    proto = differentiate(model, "y", ["x"])
    assert {node.domain for node in proto.graph.node} <= {""}
    values = Session(proto).run({"x": x, "seed": np.array([[2], [3]], np.float32)})
    assert values["gradient.x"].tolist() == [[2, 3]]
    np.testing.assert_allclose(values["y"], x.T, atol=1e-6)
