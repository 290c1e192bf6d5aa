# SPDX-License-Identifier: Apache-2.0
"""What happens to quantised integers between a quantiser and its dequantiser: every operator there has a rule or is
refused by name, none counts as zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import portable_cam as pcam
from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export import doctor
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.runtime.session import Session
from portable_cam.testing import node_model

torch = pytest.importorskip("torch", reason="compared with torch autograd")

RNG = np.random.default_rng(3)
MATRIX = RNG.integers(0, 255, (6, 4)).astype(np.uint8)
KERNEL = RNG.integers(0, 255, (3, 3, 3, 3)).astype(np.uint8)
POINT = RNG.integers(0, 255, (6, 3, 1, 1)).astype(np.uint8)
SCALE, ZERO = np.float32(0.01), np.uint8(128)


def real(weight: np.ndarray) -> Any:
    return torch.tensor((weight.astype(np.float64) - 128) * 0.01)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), f"{op}_{outputs.split()[0]}", **attributes)


def with_bias(op: str, *middle: onnx.NodeProto, source: str = "x", to: str = "y") -> list[onnx.NodeProto]:
    """Dynamic quantisation as older quantisers write it: the bias is divided by the scale of the product, rounded to
    int32 and added to the integer product. ``middle``: what stands between ``i``, the product, and ``o``."""
    return [
        node("DynamicQuantizeLinear", source, "q s z"),
        node("Mul", "s ws", "ss"),
        node("Div", "bias ss", "steps"),
        node("Floor", "steps", "whole"),
        node("Cast", "whole", "flat", to=onnx.TensorProto.INT32),
        node("Reshape", "flat column", "added"),
        node(op, "q w z wz", "i"),
        *middle,
        node("Cast", "o", "f", to=onnx.TensorProto.FLOAT),
        node("Mul", "f ss", to),
    ]


def gradient(nodes: Sequence[onnx.NodeProto], x: np.ndarray, dy: np.ndarray, **constants: Any) -> np.ndarray:
    used = {name for each in nodes for name in each.input}
    everything = {"ws": SCALE, "wz": ZERO, "zero": np.int32(0), "two": np.int32(2), **constants}
    model = node_model(nodes, {"x": x}, ["y"], {name: value for name, value in everything.items() if name in used})
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return Session(differentiate(model, "y", ["x"])).run({"x": x, "seed": dy})["gradient.x"]


def expected(function: Any, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    leaf = torch.tensor(x.astype(np.float64), requires_grad=True)
    (found,) = torch.autograd.grad(function(leaf), leaf, torch.tensor(dy.astype(np.float64)))
    return np.asarray(found)


def conv(weight: np.ndarray, t: Any, **given: Any) -> Any:
    return torch.nn.functional.conv2d(t, real(weight), **given)


ADD = node("Add", "i added", "n")
#: The nodes between product and Cast, the weight, the input's shape, and the float function.
BIASED: dict[str, tuple[list[onnx.NodeProto], np.ndarray, tuple[int, ...], Any]] = {
    "Conv": ([node("Add", "i added", "o")], KERNEL, (1, 3, 6, 6), lambda t: conv(KERNEL, t)),
    "Conv 1x1, bias first": ([node("Add", "added i", "o")], POINT, (2, 3, 4, 5), lambda t: conv(POINT, t)),
    "MatMul": ([node("Add", "i added", "o")], MATRIX, (2, 3, 6), lambda t: t @ real(MATRIX)),
    "subtracted": ([node("Sub", "added i", "o")], MATRIX, (3, 6), lambda t: -(t @ real(MATRIX))),
    "negated": ([ADD, node("Neg", "n", "o")], MATRIX, (3, 6), lambda t: -(t @ real(MATRIX))),
    "wider": ([ADD, node("Cast", "n", "o", to=onnx.TensorProto.INT64)], MATRIX, (3, 6), lambda t: t @ real(MATRIX)),
    "twice": ([ADD, node("Add", "n i", "o")], MATRIX, (3, 6), lambda t: 2 * (t @ real(MATRIX))),
}


@pytest.mark.parametrize("name", BIASED)
def test_int32_bias_behind_an_integer_product(name: str) -> None:
    middle, weight, shape, function = BIASED[name]
    x = RNG.standard_normal(shape).astype(np.float32)
    out = function(torch.tensor(x.astype(np.float64)))
    dy = RNG.standard_normal(tuple(out.shape)).astype(np.float32)
    of_conv = weight.ndim > 2
    bias = np.full(weight.shape[0 if of_conv else 1], 0.3, np.float32)
    nodes = with_bias("ConvInteger" if of_conv else "MatMulInteger", *middle)
    got = gradient(nodes, x, dy, w=weight, bias=bias, column=np.array([1, -1, 1, 1] if of_conv else [-1]))
    np.testing.assert_allclose(got, expected(function, x, dy), rtol=1e-4, atol=1e-5)


def test_a_skip_round_the_bias_does_not_hide_it() -> None:
    """Both ways count: the convolution's and the skip's."""
    pads = {"pads": [1, 1, 1, 1]}
    nodes = with_bias("ConvInteger", node("Add", "i added", "o"), to="branch")
    nodes[6] = node("ConvInteger", "q w z wz", "i", **pads)
    nodes.append(node("Add", "x branch", "y"))
    x, dy = (RNG.standard_normal((1, 3, 5, 5)).astype(np.float32) for _ in range(2))
    got = gradient(nodes, x, dy, w=KERNEL, bias=np.ones(3, np.float32), column=np.array([1, -1, 1, 1]))
    want = expected(lambda t: t + torch.nn.functional.conv2d(t, real(KERNEL), padding=1), x, dy)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


UNSIGNED = node("Cast", "i", "u", to=onnx.TensorProto.UINT32)
UNKNOWN = {
    "Mul": [node("Mul", "i two", "o")],
    "Div": [node("Div", "i two", "o")],
    "Max": [node("Max", "i zero", "o")],
    "Relu": [node("Relu", "i", "o")],
    "MatMul": [node("MatMul", "i square", "o")],
    "ReduceSum": [node("ReduceSum", "i", "o", keepdims=1)],
    "BitShift": [UNSIGNED, node("BitShift", "u places", "o", direction="RIGHT")],
    "BitwiseAnd": [node("BitwiseAnd", "i two", "o")],
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("skip", [False, True])
def test_an_integer_operator_without_a_rule_is_refused_by_name(name: str, skip: bool) -> None:
    nodes = with_bias("MatMulInteger", *UNKNOWN[name], to="branch")
    nodes = [n for n in nodes if not {"steps", "whole", "flat", "added"} & {*n.output}]
    nodes.append(node("Add", "branch x", "y") if skip else node("Identity", "branch", "y"))
    x, square = RNG.standard_normal((3, 4)).astype(np.float32), np.eye(4, dtype=np.int32)
    with pytest.raises(UnsupportedOperatorError, match=rf"no gradient rule for operator ai.onnx::{name} .*'{name}_o'"):
        gradient(nodes, x, x, w=MATRIX[:4], square=square, places=np.uint32(1))


def test_an_unknown_operator_on_integers_is_refused_by_name() -> None:
    nodes = [
        node("QuantizeLinear", "x ws wz", "q"),
        node("Polish", "q", "p", domain="acme"),
        node("DequantizeLinear", "p ws wz", "d"),
        node("Add", "d x", "y"),
    ]
    x = np.zeros((2, 3), np.float32)
    model = node_model(nodes, {"x": x}, ["y"], {"ws": SCALE, "wz": ZERO}, domains=["acme"])
    with pytest.raises(UnsupportedOperatorError, match="acme::Polish"):
        differentiate(model, "y", ["x"])


def test_indices_and_sizes_of_integers_stay_constant() -> None:
    """A Shape, an ArgMax or a comparison of quantised integers is no value of theirs."""
    nodes = [
        node("QuantizeLinear", "x ws wz", "q"),
        node("Shape", "q", "shape"),
        node("ReduceMax", "shape", "largest", keepdims=0),
        node("Cast", "largest", "size", to=onnx.TensorProto.FLOAT),
        node("DequantizeLinear", "q ws wz", "d"),
        node("Mul", "d size", "y"),
    ]
    x, dy = RNG.standard_normal((2, 3)).astype(np.float32), np.ones((2, 3), np.float32)
    np.testing.assert_allclose(gradient(nodes, x, dy), 3 * dy)


def residual_network(op: str) -> onnx.ModelProto:
    """A quantised block with a skip, its product followed by ``op`` on integers; pooled to scores."""
    nodes = with_bias("ConvInteger", node(op, "i added", "o"), to="branch")
    nodes[6] = node("ConvInteger", "q w z wz", "i", pads=[1, 1, 1, 1])
    nodes += [node("Add", "x branch", "sum"), node("GlobalAveragePool", "sum", "g"), node("Flatten", "g", "y")]
    constants = {
        "w": KERNEL,
        "ws": SCALE,
        "wz": ZERO,
        "bias": np.ones(3, np.float32),
        "column": np.array([1, -1, 1, 1]),
    }
    return node_model(nodes, {"x": np.zeros((1, 3, 8, 8), np.float32)}, ["y"], constants)


def test_doctor_names_it() -> None:
    assert not doctor(residual_network("Add")).obstacles
    report = doctor(residual_network("Mul"))
    assert [o.operator for o in report.obstacles] == ["ai.onnx::Mul"]
    with pytest.raises(UnsupportedOperatorError, match="Mul_o"):
        pcam.Explainer(residual_network("Mul"), ("gradient",))
