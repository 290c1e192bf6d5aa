"""Scan and Loop: the gradient of a loop is a loop from its last step to its first.

A step's gradient is written as that of any subgraph (:mod:`portable_cam.export.autodiff.rules.control`). It needs the
state that the step starts from, so the states of all steps become further outputs of the forward loop. The gradient of
a value that the steps read from outside is summed over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.subgraph import copy_nodes, give_shape, like, summed_seeds
from portable_cam.export.graph.values import reads

_RESULTS = "portable_cam.results"  # how many results a loop had before its states became outputs


@dataclass(frozen=True)
class _Body:
    """The parts of a loop's body: states, rows of the scanned inputs, rows of the results.

    ``carried`` are the indices of the states that have a gradient, ``used`` those of the results that the score uses,
    ``wanted`` those of the rows whose gradient is needed.
    """

    graph: ir.Graph
    states: Sequence[ir.Value]
    rows: Sequence[ir.Value]
    next_states: Sequence[ir.Value]
    results: Sequence[ir.Value]
    carried: Sequence[int]
    used: Sequence[int]
    wanted: Sequence[int]


@register("Scan")
def scan(v: Vjp) -> Sequence[Gradient]:
    """A Scan of the step's gradient; rows and results keep their axes, and are read in the other direction."""
    b, node, graph = v.b, v.node, v.node.attributes["body"].as_graph()
    given = v.int_attr("num_scan_inputs", 0)
    count = len(node.inputs) - given
    results = node.meta.get(_RESULTS, len(node.outputs) - count)
    axes, turned = (v.ints_attr(f"scan_input_{kind}", [0] * given) for kind in ("axes", "directions"))
    out_axes, out_turned = (v.ints_attr(f"scan_output_{kind}", [0] * results) for kind in ("axes", "directions"))
    for i, inner in enumerate(graph.inputs):
        give_shape(inner, v.input(i), fixed=True, without=() if i < count else (axes[i - count],))
    body = _body(v, graph.inputs[:count], graph.inputs[count:], graph.outputs[: count + results], count)
    starts = _collect_states(v, body.states, results)

    gradients, sums, states, rows, seeds = _holders(v, body)
    inner_b = b.nested([*gradients, *sums, *states, *rows, *seeds])
    new_states, new_sums, new_rows = _step_back(v, inner_b, body, gradients, sums, states, rows, seeds)
    inner_b.graph.outputs.extend(inner_b.op("Identity", value) for value in (*new_states, *new_sums, *new_rows))
    # the values read in each step, along which axis, and whether the forward loop read them backwards
    reading = [
        *((value, 0, 0) for value in starts),
        *((v.input(count + i), axes[i], turned[i]) for i in range(given)),
        *((v.grads[count + i], out_axes[i], out_turned[i]) for i in body.used),
    ]
    name = b.fresh("Scan")
    attributes = {
        "scan_input_axes": [axis for _, axis, _ in reading],
        "scan_input_directions": [1 - way for _, _, way in reading],
        "scan_output_axes": [axes[i] for i in body.wanted],
        "scan_output_directions": [1 - turned[i] for i in body.wanted],
    }
    back = ir.node(
        "Scan",
        [*_last_gradients(v, body, 0), *(b.zeros_like(value) for value in v.outer), *(r[0] for r in reading)],
        {
            "body": inner_b.graph,
            "num_scan_inputs": len(reading),
            **{key: ir.AttrInt64s(key, numbers) for key, numbers in attributes.items()},
        },
        num_outputs=len(inner_b.graph.outputs),
        name=name,
    )
    outputs = _append(b, back, inner_b.graph.outputs)
    to_inputs: list[Gradient] = [None] * len(node.inputs)
    for i, output in zip(body.carried, outputs, strict=False):
        to_inputs[i] = output
    rest = outputs[len(body.carried) :]
    for i, output in zip(body.wanted, rest[len(v.outer) :], strict=True):
        to_inputs[count + i] = output
    return [*to_inputs, *rest[: len(v.outer)]]


@register("Loop")
def loop(v: Vjp) -> Sequence[Gradient]:
    """A Loop of the step's gradient, as often as the loop ran, which may be known only at run time, or not at all."""
    b, node, graph = v.b, v.node, v.node.attributes["body"].as_graph()
    count = len(node.inputs) - 2
    results = node.meta.get(_RESULTS, len(node.outputs) - count)
    for value in (*graph.inputs, *graph.outputs):
        if not isinstance(value.type, ir.TensorType | None):
            raise v.unsupported(
                f"'{value.name}' in its body is a {type(value.type).__name__}, not a tensor, and its steps cannot be "
                "unrolled: their number is not a constant, or too large"
            )
    number, going, *states = graph.inputs
    number.type = number.type or ir.TensorType(ir.DataType.INT64)
    for i, inner in enumerate(states):
        inner.type = inner.type or v.input(2 + i).type
        give_shape(inner, v.input(2 + i), fixed=False)
    body = _body(v, states, [number], graph.outputs[1 : 1 + count + results], count)
    numbers, *starts = _collect_states(v, [number, *states], results)

    gradients, sums, *_ = _holders(v, body)
    counter = ir.Value(name=b.fresh("step"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    on = ir.Value(name=b.fresh("on"), type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    inner_b = b.nested([counter, on, *gradients, *sums])
    steps = b.op("Squeeze", b.op("Shape", numbers, end=1), b.ints([0]))
    position = inner_b.op("Sub", inner_b.op("Sub", steps, counter), 1)

    def at_this_step(every: ir.Value, row: ir.Value) -> ir.Value:
        value = inner_b.op("Gather", every, position, axis=0)
        value.type, value.shape = row.type, row.shape
        return value

    new_states, new_sums, _ = _step_back(
        v,
        inner_b,
        body,
        gradients,
        sums,
        [at_this_step(every, row) for every, row in zip(starts, body.states, strict=True)],
        [at_this_step(numbers, number)],
        [at_this_step(gradient, body.results[i]) for i in body.used if (gradient := v.grads[count + i]) is not None],
        {going: b.constant(True, ir.DataType.BOOL)},
    )
    inner_b.graph.outputs.extend(inner_b.op("Identity", value) for value in (on, *new_states, *new_sums))
    back = ir.node(
        "Loop",
        [steps, None, *_last_gradients(v, body, 2), *(b.zeros_like(value) for value in v.outer)],
        {"body": inner_b.graph},
        num_outputs=len(inner_b.graph.outputs) - 1,
        name=b.fresh("Loop"),
    )
    outputs = _append(b, back, inner_b.graph.outputs[1:])
    to_inputs: list[Gradient] = [None] * len(node.inputs)
    for i, output in zip(body.carried, outputs, strict=False):
        to_inputs[2 + i] = output
    return [*to_inputs, *outputs[len(body.carried) :]]


def _body(
    v: Vjp, states: Sequence[ir.Value], rows: Sequence[ir.Value], outputs: Sequence[ir.Value], count: int
) -> _Body:
    first = len(v.node.inputs) - count - (len(rows) if v.node.op_type == "Scan" else 0)
    is_loop = v.node.op_type == "Loop"
    return _Body(
        v.node.attributes["body"].as_graph(),
        states,
        rows,
        outputs[:count],
        outputs[count:],
        carried=[i for i, value in enumerate(states) if value.dtype in FLOATS],
        used=[i for i in range(len(outputs) - count) if v.grads[count + i] is not None],
        wanted=[]
        if is_loop
        else [i for i, row in enumerate(rows) if row.dtype in FLOATS and v.needed(first + count + i)],
    )


def _collect_states(v: Vjp, inputs: Sequence[ir.Value], results: int) -> Sequence[ir.Value]:
    """Make these inputs of a loop's body outputs of the loop, (T, ...) each; only once for all gradients of the
    loop."""
    node, graph = v.node, v.node.attributes["body"].as_graph()
    if _RESULTS not in node.meta:
        node.meta[_RESULTS] = results
        first = len(node.outputs)
        node.resize_outputs(first + len(inputs))
        for value, output in zip(inputs, node.outputs[first:], strict=True):
            name = v.b.fresh("Identity")
            identity = ir.node("Identity", [value], name=name)
            graph.append(identity)
            graph.outputs.append(identity.outputs[0])
            identity.outputs[0].name, identity.outputs[0].type, identity.outputs[0].shape = (
                name,
                value.type,
                value.shape,
            )
            output.name, output.type = v.b.fresh("states"), value.type
            output.shape = None if value.shape is None else ir.Shape([None, *value.shape.dims])
        for key in ("scan_output_axes", "scan_output_directions"):
            if key in node.attributes:
                node.attributes[key] = ir.AttrInt64s(key, [*node.attributes[key].as_ints(), *[0] * len(inputs)])
    return node.outputs[len(node.outputs) - len(inputs) :]


def _holders(v: Vjp, body: _Body) -> tuple[list[ir.Value], ...]:
    """New inputs for a step of the gradient: gradients of the states, sums for what is outside, states, rows, and
    gradients of the results."""
    groups = (
        [body.states[i] for i in body.carried],
        v.outer,
        body.states,
        body.rows,
        [body.results[i] for i in body.used],
    )
    return tuple([like(v.b, value) for value in group] for group in groups)


def _step_back(
    v: Vjp,
    b: Builder,
    body: _Body,
    gradients: Sequence[ir.Value],
    sums: Sequence[ir.Value],
    states: Sequence[ir.Value],
    rows: Sequence[ir.Value],
    results: Sequence[ir.Value],
    known: Mapping[ir.Value, ir.Value] | None = None,
) -> tuple[list[ir.Value], list[ir.Value], list[ir.Value]]:
    """Write one step's gradient: the new gradients of the states, the new sums, the gradients of the wanted rows."""
    values = dict(zip((*body.states, *body.rows), (*states, *rows), strict=True)) | dict(known or {})
    copies = copy_nodes(b, _making(body.graph, {*body.next_states, *body.results}), values)
    infer_shapes(list(copies))
    ends = [*(body.next_states[i] for i in body.carried), *(body.results[i] for i in body.used)]
    seeds = summed_seeds(b, [values.get(end, end) for end in ends], [*gradients, *results])
    sources = [*(states[i] for i in body.carried), *(rows[i] for i in body.wanted)]
    found = v.inside(copies, b, seeds, [*sources, *v.outer])
    own = [gradient or b.zeros_like(value) for value, gradient in zip(sources, found, strict=False)]
    added = [
        total if gradient is None else b.op("Add", total, gradient)
        for total, gradient in zip(sums, found[len(sources) :], strict=True)
    ]
    return own[: len(body.carried)], added, own[len(body.carried) :]


def _making(graph: ir.Graph, outputs: set[ir.Value]) -> list[ir.Node]:
    """The nodes of a graph that make these values, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(list(graph)):
        if any(output in wanted for output in node.outputs):
            wanted.update(reads(node))
            kept.append(node)
    return list(reversed(kept))


def _last_gradients(v: Vjp, body: _Body, first: int) -> list[ir.Value]:
    """The gradients of the states after the last step."""
    return [v.grads[i] or v.b.zeros_like(v.input(first + i)) for i in body.carried]


def _append(b: Builder, node: ir.Node, inner: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """Append a loop; its outputs have the types of those of its body."""
    for i, (output, value) in enumerate(zip(node.outputs, inner, strict=True)):
        output.name, output.type = f"{node.name}_{i}", value.type
    b.graph.append(node)
    return node.outputs
