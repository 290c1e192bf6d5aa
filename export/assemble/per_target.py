"""K targets per image over one forward pass.

The nodes of one target are written once, and depend on a placeholder for its index. For any number of targets those
that depend on which target is asked for (seed, backward pass, weights) become the body of a Scan over the targets; for
a fixed number they are copied. Everything else (forward pass, masks, transposed weights) is there once. A further
target thus costs a backward pass and never a forward one, for any operator and any K, and no rule has to know of K.
Why not a batch of K * N gradients: ``docs/adr/0002-targets-as-a-scan.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.subgraph import copy_nodes
from portable_cam.export.graph.values import reads


def one_target(
    b: Builder, given: Sequence[ir.Value], names: Sequence[str], targets_per_image: int | None
) -> list[ir.Value]:
    """What says one target, (N, ...), of what says all of them, each (N, K, ...): to write the nodes of one with."""
    if targets_per_image == 1:
        return [b.op("Squeeze", value, b.ints([1])) for value in given]
    return [ir.Value(name=name, type=value.type) for name, value in zip(names, given, strict=True)]


def all_targets(
    b: Builder, given: Sequence[tuple[ir.Value, ir.Value]], results: Sequence[ir.Value], targets_per_image: int | None
) -> list[ir.Value]:
    """The results for all targets, each (N, K, ...).

    Args:
        b: Of the graph, whose newest nodes compute ``results`` for one target per image.
        given: What says the target, for all targets (N, K, ...), and what :func:`one_target` gave for it.
        results: What to collect, each (N, ...).
        targets_per_image: K; None for any number.
    """
    if targets_per_image == 1:
        return [b.op("Unsqueeze", value, b.ints([1])) for value in results]
    nodes = _cut_out(b.graph, [each for _, each in given], results)
    if targets_per_image is None:
        return _scan(b.graph, given, results, nodes)
    return _unroll(b, given, results, nodes, targets_per_image)


def _cut_out(graph: ir.Graph, each: Sequence[ir.Value], results: Sequence[ir.Value]) -> list[ir.Node]:
    """Take all nodes that depend on the target out of the graph; those that a result needs, in their order."""
    dependent = set(each)
    moved: list[ir.Node] = []
    for node in graph:
        if any(value in dependent for value in reads(node)):
            moved.append(node)
            dependent.update(node.outputs)
    needed = set(results)
    kept: list[ir.Node] = []
    for node in reversed(moved):
        if any(output in needed for output in node.outputs):
            kept.append(node)
            needed.update(reads(node))
    graph.remove(moved)
    return list(reversed(kept))


def _unroll(
    b: Builder,
    given: Sequence[tuple[ir.Value, ir.Value]],
    results: Sequence[ir.Value],
    nodes: Sequence[ir.Node],
    count: int,
) -> list[ir.Value]:
    """A copy of the nodes for each target."""
    copies: list[list[ir.Value]] = []
    for k in range(count):
        values = {each: b.op("Gather", every, b.ints(k), axis=1) for every, each in given}
        for each, now in values.items():
            now.shape = each.shape
        copy_nodes(b, nodes, values)
        copies.append([b.op("Unsqueeze", values.get(value, value), b.ints([1])) for value in results])
    return [b.op("Concat", *parts, axis=1) for parts in zip(*copies, strict=True)]


def _scan(
    graph: ir.Graph, given: Sequence[tuple[ir.Value, ir.Value]], results: Sequence[ir.Value], nodes: Sequence[ir.Node]
) -> list[ir.Value]:
    """A Scan over the targets, with the nodes as its body; the placeholders become the body's inputs."""
    body_nodes, body_outputs = list(nodes), []
    for value in results:
        # a result that does not depend on the target is still one of the body's outputs
        node = ir.node("Identity", [value], name=f"{value.name}/each")
        node.outputs[0].name, node.outputs[0].type = f"{value.name}/each", value.type
        body_nodes.append(node)
        body_outputs.append(node.outputs[0])
    body = ir.Graph(
        [each for _, each in given],
        body_outputs,
        nodes=body_nodes,
        opset_imports=graph.opset_imports.copy(),
        name="each_target",
    )
    scan = ir.node(
        "Scan",
        [every for every, _ in given],
        attributes={
            "body": body,
            "num_scan_inputs": len(given),
            "scan_input_axes": [1] * len(given),
            "scan_output_axes": [1] * len(results),
        },
        num_outputs=len(results),
        name="each_target",
    )
    graph.append(scan)
    for value, output in zip(results, scan.outputs, strict=True):
        output.name, output.type = f"{value.name}/all", value.type
        if value.shape is not None:
            output.shape = ir.Shape([value.shape[0], "K", *value.shape.dims[1:]])
    return list(scan.outputs)
