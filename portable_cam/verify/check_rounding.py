# SPDX-License-Identifier: Apache-2.0
"""A quantised model without its steps: what its gradient is the derivative of.

A quantised model is a staircase, whose differences say nothing of a gradient that passes rounding unchanged (the
straight-through estimator, Bengio et al. 2013, arXiv 1308.3432). But that gradient has a definition: it is the
derivative of the model in which the error of each rounding is held at what it is at this image, and a value that a
range cut off, where the cut stands for a ReLU, does not move. That model is written here, from the forward pass alone.
At the image it has the scores of the quantised model, and along a direction its differences are smooth. What is tested
is that the gradient is carried through all that lies between the roundings; that roundings are passed straight through
is a definition, and no difference shows whether it is a good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.backward import Saturation
from portable_cam.export.autodiff.quantized_ranges import dropped_activations, gradient_ends
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, optional_input
from portable_cam.runtime.session import Session

_ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_NARROW = frozenset(
    {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT4, ir.DataType.UINT4}
)
_WHOLE = _NARROW | {ir.DataType.INT32}
_OF_INTEGERS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def rounds(node: ir.Node) -> bool:
    """Whether a node rounds a tensor that depends on the image."""
    return node.op_type in _ROUNDING and constant_of(node.inputs[0]) is None


def without_steps(model: ir.Model, feeds: Mapping[str, NDArray[Any]], saturation: Saturation) -> ir.Model:
    """The model with each rounding's error held at what it is for these inputs, in place.

    Args:
        model: A normalised model.
        feeds: Its inputs.
        saturation: What the gradient does where a range cuts off.

    Raises:
        ModelError: Something in it has no such form.
    """
    graph = model.graph
    nodes = [node for node in graph if rounds(node)]
    values = _as_run(model, nodes, feeds)
    activations, moved = dropped_activations(list(graph)), set[ir.Value]()
    for node in nodes:
        quantized, activation = node.outputs[0], activations.get(node)
        smooth = _smooth(graph, node, values, saturation, activation)
        ir.convenience.replace_all_uses_with(quantized, smooth)
        moved.add(smooth)
    for node in list(graph):
        if any(value in moved for value in node.inputs):
            moved |= _in_floats(graph, node, moved)
    return model


def _as_run(
    model: ir.Model, nodes: list[ir.Node], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What goes into each rounding and comes out."""
    wanted = {v for node in nodes for v in (node.inputs[0], *node.outputs) if v is not None and v.name}
    wanted |= {v for node in nodes for v in node.inputs[1:] if v is not None and constant_of(v) is None}
    copy = ir.Model(model.graph.clone(), ir_version=model.ir_version)
    own = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(own[str(value.name)] for value in wanted if not own[str(value.name)].is_graph_input())
    session = Session(copy)
    given = {name: value for name, value in feeds.items() if name in session.inputs}
    return {**given, **session.run(given)}


def _smooth(
    graph: ir.Graph,
    node: ir.Node,
    values: Mapping[str, NDArray[Any]],
    saturation: Saturation,
    activation: str | None,
) -> ir.Value:
    """x / scale plus what rounding added, in place of a rounding of x: integers that are no longer whole."""
    x, q = node.inputs[0], node.outputs[0]
    if x is None or "block_size" in node.attributes:
        raise ModelError(f"node '{node.name}' quantises by blocks")

    def known(value: ir.Value | None) -> NDArray[np.float64]:
        if value is None:
            return np.zeros(())
        constant = constant_of(value)
        return (values[str(value.name)] if constant is None else constant).astype(np.float64)

    at, rounded = known(x), known(q)
    if node.op_type == "DynamicQuantizeLinear":
        scale, zero, low, high = known(node.outputs[1]), known(node.outputs[2]), None, None
    else:
        axis = node.attributes.get_int("axis", 1)
        scale, zero = (_along(known(v), at.ndim, axis) for v in (node.inputs[1], optional_input(node, 2)))
        low, high = gradient_ends(node, saturation, activation)
    value = (rounded - zero) * scale
    moves = np.ones_like(at)
    if low is not None:
        moves *= value > low
    if high is not None:
        moves *= value < high
    slope = moves / scale
    b = Builder(graph, f"steps/{q.name}")
    kind = ir.DataType.FLOAT
    product = ir.node("Mul", [x, b.constant(slope.astype(np.float32), kind)], name=f"{q.name}/slope")
    smooth = ir.node(
        "Add", [product.outputs[0], b.constant((rounded - slope * at).astype(np.float32), kind)], name=f"{q.name}/smooth"
    )
    for made in (product, smooth):
        made.outputs[0].name, made.outputs[0].dtype, made.outputs[0].shape = f"{made.name}d", kind, q.shape
    graph.insert_after(node, [product, smooth])
    return smooth.outputs[0]


def _along(numbers: NDArray[np.float64], rank: int, axis: int) -> NDArray[np.float64]:
    """A number for each entry of an axis, to be broadcast."""
    if numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return numbers.reshape(shape)


def _in_floats(graph: ir.Graph, node: ir.Node, moved: set[ir.Value]) -> set[ir.Value]:
    """Let a node read integers that are floats now: those of its results that are such integers, too."""
    if node.op_type == "DequantizeLinear":
        _replace(graph, node, "dequantise")
        return set()
    if node.op_type in _OF_INTEGERS:
        return {_replace(graph, node, _OF_INTEGERS[node.op_type])}
    for i, value in enumerate(node.inputs):
        if value is not None and value not in moved and value.dtype in _WHOLE:
            node.replace_input_with(i, _cast(graph, node, value))
    made = {value for value in node.outputs if value.dtype in _WHOLE}
    for value in made:
        value.dtype = ir.DataType.FLOAT
    return made


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{before.name}/{value.name}/float")
    cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = cast.name, ir.DataType.FLOAT, value.shape
    graph.insert_before(before, cast)
    return cast.outputs[0]


def _replace(graph: ir.Graph, node: ir.Node, kind: str) -> ir.Value:
    """A node on integers by the same on floats, its result under its own name."""
    made: list[ir.Node] = []

    def op(name: str, *inputs: ir.Value, attributes: Mapping[str, ir.Attr] | None = None) -> ir.Value:
        new = ir.node(name, list(inputs), dict(attributes or {}), name=f"{node.name}/{name}{len(made)}")
        new.outputs[0].name, new.outputs[0].dtype = f"{new.name}/made", ir.DataType.FLOAT
        made.append(new)
        return new.outputs[0]

    def as_float(value: ir.Value | None, like: ir.Value | None = None, axis: int = 0) -> ir.Value | None:
        if value is None:
            return None
        if value.dtype in _WHOLE:
            value = op("Cast", value, attributes={"to": ir.AttrInt64("to", int(ir.DataType.FLOAT))})
        rank = None if like is None or like.shape is None else len(like.shape)
        size = value.shape
        if rank and size is not None and len(size) == 1 and size[0] != 1:
            shape = [1] * rank
            shape[axis] = -1
            value = op("Reshape", value, Builder(graph, f"{node.name}/shape").ints(shape))
        return value

    first = node.inputs[0]
    if kind == "dequantise":
        axis = node.attributes.get_int("axis", 1)
        scale, zero = (as_float(optional_input(node, i), first, axis) for i in (1, 2))
        shifted = first if zero is None else op("Sub", first, zero)  # type: ignore[arg-type]
        result = op("Mul", shifted, scale)  # type: ignore[arg-type]
    else:
        sides = []
        for i, axis in ((0, -2), (1, 0 if kind == "Conv" else -1)):
            value = as_float(node.inputs[i])
            zero = as_float(optional_input(node, i + 2), node.inputs[i], axis)
            sides.append(value if zero is None else op("Sub", value, zero))  # type: ignore[arg-type]
        result = op(kind, *sides, attributes=dict(node.attributes))  # type: ignore[arg-type]
    old = node.outputs[0]
    graph.insert_after(node, made)
    ir.convenience.replace_all_uses_with(old, result)
    result.shape = old.shape
    name, old.name = old.name, f"{old.name}/quantised"
    result.name = name
    return result
