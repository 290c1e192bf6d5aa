"""The graphs inside If, Loop and Scan nodes: the values they read from outside, and how they are copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, graph_of, rank_of, subgraphs


def captures(node: ir.Node) -> list[ir.Value]:
    """The values that a node's subgraphs read and do not make, each once, in the order of their first use."""
    read: dict[ir.Value, None] = {}
    for graph in subgraphs(node):
        made = {*graph.inputs, *graph.initializers.values(), *(v for inner in graph for v in inner.outputs)}
        wanted = (v for inner in graph for v in (*inner.inputs, *captures(inner)) if v is not None)
        read.update(dict.fromkeys(value for value in (*wanted, *graph.outputs) if value not in made))
    return list(read)


def copy_nodes(
    b: Builder, nodes: Iterable[ir.Node], values: dict[ir.Value, ir.Value], suffix: str = ""
) -> dict[ir.Node, ir.Node]:
    """Append copies of nodes to the builder's graph.

    Args:
        b: Where they are appended.
        nodes: In topological order.
        values: The replacement of a value of the original, if it has one. The outputs of the copies are added.
        suffix: Ends the names of the copies' outputs; without one they get new names.

    Returns:
        The copies with their originals.
    """
    copies: dict[ir.Node, ir.Node] = {}
    for node in nodes:
        attributes = [_copy_attribute(b, attribute, values, suffix) for attribute in node.attributes.values()]
        inputs = [None if value is None else values.get(value, value) for value in node.inputs]
        name = f"{node.name}{suffix}" if suffix else b.fresh(node.op_type)
        copy = ir.node(
            node.op_type,
            inputs,
            {a.name: a for a in attributes},
            domain=node.domain,
            num_outputs=len(node.outputs),
            name=name,
        )
        for original, output in zip(node.outputs, copy.outputs, strict=True):
            if original.name:
                output.name = f"{original.name}{suffix}" if suffix else b.fresh(node.op_type)
            else:
                output.name = ""
            output.type, output.shape, output.const_value = original.type, original.shape, original.const_value
            values[original] = output
        copy.meta.update(node.meta)
        b.graph.append(copy)
        copies[copy] = node
    return copies


def _copy_attribute(b: Builder, attribute: ir.Attr, values: dict[ir.Value, ir.Value], suffix: str) -> ir.Attr:
    if attribute.type == ir.AttributeType.GRAPH:
        return ir.AttrGraph(attribute.name, copy_graph(b, attribute.as_graph(), values, suffix))
    if attribute.type == ir.AttributeType.GRAPHS:
        graphs = [copy_graph(b, graph, values, suffix) for graph in attribute.as_graphs()]
        return ir.AttrGraphs(attribute.name, graphs)
    return attribute


def copy_graph(b: Builder, graph: ir.Graph, values: dict[ir.Value, ir.Value], suffix: str = "") -> ir.Graph:
    """A copy of a subgraph, its inputs copied too; arguments as in :func:`copy_nodes`."""
    inner = b.nested([like(b, value, f"{value.name}{suffix}" if suffix else None) for value in graph.inputs])
    values.update(zip(graph.inputs, inner.graph.inputs, strict=True))
    copy_nodes(inner, graph, values, suffix)
    inner.graph.outputs.extend(values.get(value, value) for value in graph.outputs)
    return inner.graph


def like(b: Builder, value: ir.Value, name: str | None = None) -> ir.Value:
    """A new value of the same type and shape, for an input of a subgraph."""
    return ir.Value(name=name or b.fresh("input"), type=value.type, shape=value.shape)


def give_shape(value: ir.Value, source: ir.Value, *, fixed: bool, without: Sequence[int] = ()) -> None:
    """Give a subgraph's input whose shape is not known the shape of the value passed to it, without the axes in
    ``without``; only the rank, unless the shape is ``fixed`` from step to step."""
    if value.shape is not None or source.shape is None:
        return
    rank = rank_of(source)
    dims = [d for axis, d in enumerate(source.shape.dims) if axis not in {a % rank for a in without}]
    value.shape = ir.Shape(dims if fixed else [None] * len(dims))


def never_ends(body: ir.Graph) -> bool:
    """Whether the condition of a Loop stays true: a step passes on the one that it got, or gives a constant true."""
    condition = body.outputs[0]
    while (node := condition.producer()) is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        condition = node.inputs[0]
    if len(body.inputs) > 1 and condition is body.inputs[1]:
        return True
    content = constant_of(condition)
    return content is not None and content.size > 0 and bool(content.all())


def summed_seeds(
    b: Builder, ends: Sequence[ir.Value], gradients: Sequence[ir.Value | None]
) -> dict[ir.Value, ir.Value]:
    """The seeds of the walk through a subgraph: the gradient of each of its outputs, summed where two are one value."""
    seeds: dict[ir.Value, ir.Value] = {}
    for value, gradient in zip(ends, gradients, strict=False):
        if gradient is not None:
            seeds[value] = gradient if value not in seeds else b.op("Add", seeds[value], gradient)
    return seeds


def replace_node(inner: Builder, node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Replace a node by the nodes of ``inner``; ``values`` take over the names, types, shapes and readers of the first
    of its outputs."""
    graph = graph_of(node)
    made = {value for new in inner.graph for value in new.outputs}
    values = [value if value in made else inner.op("Identity", value) for value in values]
    nodes = list(inner.graph)
    inner.graph.remove(nodes)
    # an output without a name is absent; its value would lose its own name
    named = [(output, value) for output, value in zip(node.outputs, values, strict=False) if output.name]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [o for o, _ in named], [v for _, v in named])
    for inner_graph in subgraphs(node):  # else its nodes would still count as readers of values outside
        for reader in ir.traversal.RecursiveGraphIterator(inner_graph):
            reader.resize_inputs(0)
