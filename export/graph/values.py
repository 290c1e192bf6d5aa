"""What is known of values and nodes of a graph: shape, type, content, producer, readers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.errors import ModelError


def known_dims(value: ir.Value | None) -> list[int | None] | None:
    """The dimensions, None for each that is symbolic; None if not even the rank is known, or there is no value."""
    return None if value is None or value.shape is None else dims_of(value)


def static_shape(value: ir.Value) -> list[int] | None:
    """The dimensions if all of them are known, else None."""
    dims = known_dims(value)
    if dims is None or any(d is None for d in dims):
        return None
    return [d for d in dims if d is not None]


def static_dim(value: ir.Value, axis: int) -> int | None:
    """One dimension if it is known, else None."""
    dims = known_dims(value)
    return None if dims is None else dims[axis]


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The content of a constant value, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def dtype_of(value: ir.Value) -> ir.DataType:
    """The element type; :class:`~portable_cam.errors.ModelError` if it is unknown."""
    if value.dtype is None:
        raise ModelError(
            f"tensor '{value.name}' has no known type, even after shape inference: the inputs or attributes of the "
            "operator that makes it do not fit the ONNX standard"
        )
    return value.dtype


def shape_of(value: ir.Value) -> ir.Shape:
    """The shape; :class:`~portable_cam.errors.ModelError` if not even the rank is known."""
    if value.shape is None:
        raise ModelError(
            f"tensor '{value.name}' has no known rank, even after shape inference: give the model's inputs their "
            "shapes, or remove the operators whose output rank depends on data"
        )
    return value.shape


def dims_of(value: ir.Value) -> list[int | None]:
    """As :func:`known_dims`; :class:`~portable_cam.errors.ModelError` if not even the rank is known."""
    return [d if isinstance(d, int) else None for d in shape_of(value).dims]


def rank_of(value: ir.Value) -> int:
    """The rank; :class:`~portable_cam.errors.ModelError` if it is unknown."""
    return len(shape_of(value))


def producer_of(value: ir.Value) -> ir.Node:
    """The node that makes a tensor; :class:`~portable_cam.errors.ModelError` for an input or a constant."""
    node = value.producer()
    if node is None:
        raise ModelError(f"tensor '{value.name}' is an input or a constant: no node of the model makes it")
    return node


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node, None if it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator requires; :class:`~portable_cam.errors.ModelError` if the node lacks it."""
    value = optional_input(node, index)
    if value is None:
        raise ModelError(f"{node.op_type} node '{node.name}' has no input {index}, which its operator requires")
    return value


def graph_of(node: ir.Node) -> ir.Graph | ir.Function:
    """The graph that holds a node; :class:`~portable_cam.errors.ModelError` if none does."""
    if node.graph is None:
        raise ModelError(f"{node.op_type} node '{node.name}' belongs to no graph")
    return node.graph


def described(value: ir.Value) -> str:
    """Type and shape, for messages: ``FLOAT[N,3,224,224]``, ``FLOAT[?]`` where not even the rank is known."""
    return f"{value.dtype}{value.shape if value.shape is not None else '[?]'}"


def element_count(dims: Sequence[int | None]) -> int | None:
    """How many elements, if all dimensions are known, else None."""
    return None if any(d is None for d in dims) else math.prod(d for d in dims if d is not None)


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads: its inputs, and those that its subgraphs read."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            yield from (value for value in inner.inputs if value is not None)
        yield from graph.outputs


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes, as the body of a Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
