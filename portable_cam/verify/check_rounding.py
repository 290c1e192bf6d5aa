# SPDX-License-Identifier: Apache-2.0
"""A quantised model without its steps: what its gradient is the derivative of.

A quantised model is a staircase, whose differences say nothing of a gradient that passes rounding unchanged (the
straight-through estimator, Bengio et al. 2013, arXiv 1308.3432). But that gradient has a definition: it is the
derivative of the model in which the error of each rounding is held at what it is at this image, and so is what a
range, a ReLU, a Clip or a pooling chose: rounded values often stand at the very kink, at zero or equal to their
neighbours, where differences show the mean of both sides. That model is written here, from the forward pass alone. At
the image it has the scores of the quantised model, and along a direction it is smooth. What is tested is that the
gradient is carried through all that lies between; that roundings are passed straight through is a definition, and no
difference shows whether it is a good one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.backward import Saturation
from portable_cam.export.autodiff.quantized_ranges import clip_bounds, dropped_activations, gradient_ends
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, dtype_of, optional_input
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
        feeds: Those of its inputs that what is rounded depends on.
        saturation: What the gradient does where a range cuts off.

    Raises:
        ModelError: Something in it has no such form.
    """
    graph = model.graph
    nodes = [node for node in graph if rounds(node)]
    choices = [node for node in graph if node.op_type in _HOLD and constant_of(node.inputs[0]) is None]
    values = _as_run(model, nodes, choices, feeds)
    activations, moved = dropped_activations(list(graph)), set[ir.Value]()
    # before anything is changed: what a range cuts off is read from the nodes before it
    ends: dict[ir.Node, tuple[float | None, float | None]] = dict.fromkeys(nodes, (None, None))
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            ends[node] = gradient_ends(node, saturation, activations.get(node))
    for node in nodes:
        quantized = node.outputs[0]
        smooth = _smooth(graph, node, values, ends[node])
        ir.convenience.replace_all_uses_with(quantized, smooth, replace_graph_outputs=True)
        moved.add(smooth)
        for made in node.outputs[1:]:  # scale and zero point that the image makes are held, too
            held = Builder(graph, f"steps/{made.name}").constant(values[str(made.name)], dtype_of(made))
            ir.convenience.replace_all_uses_with(made, held, replace_graph_outputs=True)
    for node in choices:
        _HOLD[node.op_type](graph, node, values)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and constant_of(node.inputs[0]) is not None:
            _unpack(graph, node)
        elif any(value in moved for value in node.inputs):
            moved |= _in_floats(graph, node, moved)
    return model


def _as_run(
    model: ir.Model, nodes: list[ir.Node], choices: list[ir.Node], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What goes into each rounding and each choice and comes out; of a pooling, which element it chose."""
    wanted = {v for node in nodes for v in (node.inputs[0], *node.outputs) if v is not None and v.name}
    wanted |= {v for node in nodes for v in node.inputs[1:] if v is not None and constant_of(v) is None}
    pools = [node for node in choices if node.op_type == "MaxPool"]
    wanted |= {v for node in choices if node not in pools for v in (*node.inputs[:1], *node.outputs) if v is not None}
    copy = ir.Model(model.graph.clone(), ir_version=model.ir_version)
    own = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    indices = []
    for node in pools:
        pool = own[str(node.outputs[0].name)].producer()
        if pool is not None and len(pool.outputs) == 1:
            pool.resize_outputs(2)
            pool.outputs[1].name = _indices_of(node)
            pool.outputs[1].type = ir.TensorType(ir.DataType.INT64)
            indices.append(pool.outputs[1])
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(own[str(value.name)] for value in wanted if not own[str(value.name)].is_graph_input())
    copy.graph.outputs.extend(indices)
    passes.RemoveUnusedNodesPass()(copy)
    for value in list(copy.graph.inputs):
        if value.name not in feeds:
            copy.graph.inputs.remove(value)
    return {**feeds, **Session(copy, as_written=True).run(feeds)}


def _indices_of(pool: ir.Node) -> str:
    return f"{pool.outputs[0].name}/chosen"


def _hold_bounds(graph: ir.Graph, node: ir.Node, values: Mapping[str, NDArray[Any]]) -> None:
    """A ReLU or Clip that goes on to cut what it cuts at this image."""
    x, y = node.inputs[0], node.outputs[0]
    bounds = (0.0, np.inf) if node.op_type == "Relu" else clip_bounds(node)
    if x is None or bounds is None:
        return
    at, cut = (values[str(v.name)].astype(np.float64) for v in (x, y))
    inside = ((at > bounds[0]) & (at < bounds[1])).astype(np.float64)
    _put_in_place(graph, node, _line(graph, node, x, inside, cut - inside * at))


def _hold_maxima(graph: ir.Graph, node: ir.Node, values: Mapping[str, NDArray[Any]]) -> None:
    """A pooling that goes on to choose what it chooses at this image, the first of equals."""
    if _indices_of(node) not in values:
        return
    b = Builder(graph, f"steps/{node.outputs[0].name}")
    flat = ir.node("Reshape", [node.inputs[0], b.ints([-1])], name=f"{node.name}/flat")
    chosen = values[_indices_of(node)]
    gather = ir.node("Gather", [flat.outputs[0], b.constant(chosen, ir.DataType.INT64)], name=f"{node.name}/chosen")
    for made in (flat, gather):
        made.outputs[0].name, made.outputs[0].type = f"{made.name}/made", node.outputs[0].type
    graph.insert_after(node, [flat, gather])
    _put_in_place(graph, node, gather.outputs[0])


_HOLD: Mapping[str, Callable[[ir.Graph, ir.Node, Mapping[str, NDArray[Any]]], None]] = {
    "Clip": _hold_bounds,
    "MaxPool": _hold_maxima,
    "Relu": _hold_bounds,
}


def _line(
    graph: ir.Graph, after: ir.Node, x: ir.Value, slope: NDArray[np.float64], offset: NDArray[np.float64]
) -> ir.Value:
    """slope * x + offset."""
    b, name = Builder(graph, f"steps/{after.outputs[0].name}"), str(after.outputs[0].name)
    slopes, offsets = (b.constant(array.astype(np.float32), ir.DataType.FLOAT) for array in (slope, offset))
    product = ir.node("Mul", [x, slopes], name=f"{name}/slope")
    line = ir.node("Add", [product.outputs[0], offsets], name=f"{name}/line")
    for made in (product, line):
        made.outputs[0].name, made.outputs[0].dtype = f"{made.name}/made", ir.DataType.FLOAT
        made.outputs[0].shape = after.outputs[0].shape
    graph.insert_after(after, [product, line])
    return line.outputs[0]


def _put_in_place(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """A value in place of a node's first result, under its name."""
    old = node.outputs[0]
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    value.shape = old.shape
    name, old.name = old.name, f"{old.name}/as_it_was"
    value.name = name


def _smooth(
    graph: ir.Graph, node: ir.Node, values: Mapping[str, NDArray[Any]], ends: tuple[float | None, float | None]
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
        scale, zero = known(node.outputs[1]), known(node.outputs[2])
    else:
        axis = node.attributes.get_int("axis", 1)
        scale, zero = (_along(known(v), at.ndim, axis) for v in (node.inputs[1], optional_input(node, 2)))
    low, high = ends
    value = (rounded - zero) * scale
    moves = np.ones_like(at)
    if low is not None:
        moves *= value > low
    if high is not None:
        moves *= value < high
    slope = moves / scale
    return _line(graph, node, x, slope, rounded - slope * at)


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
        value.type = ir.TensorType(ir.DataType.FLOAT)  # of its own: a copy of the model shares the old one
    return made


def _unpack(graph: ir.Graph, node: ir.Node) -> None:
    """Weights as floats: before those that are still quantised ONNX Runtime would round to integers."""
    packed, scale, zero = (constant_of(optional_input(node, i)) for i in range(3))
    out = node.outputs[0]
    if packed is None or scale is None or "block_size" in node.attributes or out.is_graph_output():
        return
    axis = node.attributes.get_int("axis", 1)
    offset = np.zeros(()) if zero is None else zero
    steps, offsets = (_along(v.astype(np.float64), packed.ndim, axis) for v in (scale, offset))
    array = ((packed.astype(np.float64) - offsets) * steps).astype(scale.dtype)
    ir.convenience.replace_all_uses_with(out, Builder(graph, f"steps/{out.name}").constant(array, _FLOATS[scale.dtype]))


_FLOATS = {np.dtype(np.float32): ir.DataType.FLOAT, np.dtype(np.float16): ir.DataType.FLOAT16}


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
    graph.insert_after(node, made)
    _put_in_place(graph, node, result)
    return result
