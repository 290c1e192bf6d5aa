"""K targets per image over one forward pass.

The nodes that depend on which target is asked for (seed, backward pass, weights) become the body of a Scan over the
targets; everything else (forward pass, masks, transposed weights) stays outside and runs once. A further target thus
costs a backward pass and never a forward one, for any operator and any K, and no rule has to know of K. Why a Scan and
not a batch of K * N gradients: ``docs/adr/0002-targets-as-a-scan.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import reads


def scan_targets(
    graph: ir.Graph, given: Sequence[tuple[ir.Value, ir.Value]], results: Sequence[ir.Value]
) -> list[ir.Value]:
    """Move all nodes that depend on the target into a Scan over the targets.

    Args:
        graph: The graph, whose newest nodes compute ``results`` for one target per image.
        given: What says the target, for all targets (N, K, ...), and the placeholder that the nodes were written with,
            (N, ...); the placeholders become the body's inputs.
        results: What to collect, each (N, ...).

    Returns:
        The results for all targets, each (N, K, ...).
    """
    dependent = {each for _, each in given}
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
    body_outputs = []
    for value in results:
        # a result that does not depend on the target is still one of the body's outputs
        node = ir.node("Identity", [value], name=f"{value.name}/each")
        node.outputs[0].name, node.outputs[0].type = f"{value.name}/each", value.type
        kept.insert(0, node)
        body_outputs.append(node.outputs[0])
    body = ir.Graph(
        [each for _, each in given],
        body_outputs,
        nodes=list(reversed(kept)),
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


def single_target(builder: Builder, results: Sequence[ir.Value]) -> list[ir.Value]:
    """The same for exactly one target per image, without a Scan: (N, ...) -> (N, 1, ...)."""
    return [builder.op("Unsqueeze", value, builder.ints([1])) for value in results]
