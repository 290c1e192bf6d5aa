"""Writes a recurrence over time: a Scan, or only the step itself where there is a single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of, static_dim

Tensors: TypeAlias = Sequence[ir.Value]
#: (builder, states, inputs of this step) -> (next states, values to collect); the builder writes into the body.
Step: TypeAlias = Callable[[Builder, Tensors, Tensors], tuple[Tensors, Tensors]]


def write_recurrence(
    b: Builder, step: Step, states: Tensors, inputs: Tensors, *, reverse: bool = False
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Apply ``step`` along the first axis of ``inputs``.

    Args:
        b: The builder of the graph that gets it.
        step: Writes one step; it may read any value of the outer graph.
        states: Their first values.
        inputs: Each (T, ...); at least one.
        reverse: From the last to the first; a collected value has the index of its inputs.

    Returns:
        The last states, and the collected values, each (T, ...).
    """
    if static_dim(inputs[0], 0) == 1 if inputs[0].shape is not None else False:
        final, collected = step(b, states, [b.op("Squeeze", x, b.ints([0])) for x in inputs])
        return list(final), [b.op("Unsqueeze", y, b.ints([0])) for y in collected]
    holders = [_holder(b, value, "state") for value in states] + [_holder(b, value, "step") for value in inputs]
    inner = b.nested(holders)
    final, collected = step(inner, holders[: len(states)], holders[len(states) :])
    # a Scan's body may not give its inputs or values from outside as its outputs
    inner.graph.outputs.extend(inner.op("Identity", value) for value in (*final, *collected))
    return write_scan(b, inner.graph, states, inputs, len(collected), reverse=reverse)


def write_scan(
    b: Builder, body: ir.Graph, states: Tensors, inputs: Tensors, collected: int, *, reverse: bool = False
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Append the Scan node for a finished body; arguments and results as in :func:`write_recurrence`."""
    attributes: dict[str, object] = {"body": body, "num_scan_inputs": len(inputs)}
    if reverse:
        attributes |= {"scan_input_directions": [1] * len(inputs), "scan_output_directions": [1] * collected}
    name = b.fresh("Scan")
    node = ir.node("Scan", [*states, *inputs], attributes, num_outputs=len(states) + collected, name=name)  # type: ignore[arg-type]
    for i, (output, inner) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        output.name, output.type = f"{name}_{i}", inner.type
    b.graph.append(node)
    return list(node.outputs[: len(states)]), list(node.outputs[len(states) :])


def _holder(b: Builder, value: ir.Value, name: str) -> ir.Value:
    """The body's input for a state or for one step of a scanned input; its shape is left to the runtime."""
    return ir.Value(name=b.fresh(name), type=ir.TensorType(dtype_of(value)))
