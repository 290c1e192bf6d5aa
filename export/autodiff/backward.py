"""Reverse-mode differentiation of an ONNX graph into the same graph.

The walk goes backwards from the tensors whose gradient is given, the seeds, over the nodes that lie on a path from a
tensor to differentiate for.
Each node's rule turns the gradients of its outputs into gradients of its inputs; gradients of one tensor that arrive
from several consumers are summed. What every rule would repeat is done here: broadcasting is undone, the number of
gradients is checked, and an operator without a rule is an error that names the node and its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, TypeAlias, get_args

import onnx_ir as ir

from portable_cam.errors import ModelError, OptionError, UnsupportedOperatorError
from portable_cam.export.autodiff.residuals import Residuals
from portable_cam.export.autodiff.rules import (
    Entry,
    Gradient,
    Vjp,
    differentiable_inputs,
    differentiable_outputs,
    has_rule,
    rule_for,
)
from portable_cam.export.autodiff.rules.relu import OWN_RELU_RULES
from portable_cam.export.autodiff.singular import is_singular
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.refusals import refusal
from portable_cam.export.graph.subgraph import captures
from portable_cam.export.graph.values import reads
from portable_cam.spelling import command, option

ReluRule: TypeAlias = Literal["standard", "guided", "deconvnet"]
Saturation: TypeAlias = Literal["mask", "pass"]


def check_saturation(saturation: str) -> None:
    """Check an option.

    Raises:
        OptionError: It is neither ``"pass"`` nor ``"mask"``.
    """
    if saturation not in get_args(Saturation):
        raise OptionError(f"saturation is {' or '.join(map(repr, get_args(Saturation)))}, not {saturation!r}")


def backward(
    graph: ir.Graph,
    builder: Builder,
    seeds: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    relu_rule: ReluRule = "standard",
    guided: Iterable[ir.Node] = (),
    saturation: Saturation = "pass",
) -> list[ir.Value]:
    """Append the vector-Jacobian product to ``graph``.

    Args:
        graph: A normalised graph; its nodes are left as they are (a loop also gets the states of its steps as outputs),
            new ones are appended.
        builder: Writes into ``graph``.
        seeds: For each tensor that the walk starts from, the gradient of the score with respect to it, in its shape.
        wrt: The tensors to differentiate for.
        relu_rule: The rule for the nodes in ``guided``; every other node has its derivative.
        guided: The ReLU-like nodes that ``relu_rule`` applies to.
        saturation: The gradient where the range of a QuantizeLinear clips a value: ``"pass"`` lets it through,
            ``"mask"`` makes it zero. It is zero in any case at an end of a range that is a ReLU or ReLU6.

    Returns:
        A gradient for each of ``wrt``, in its shape and type.

    Raises:
        UnsupportedOperatorError: An operator on the path has no rule.
        ModelError: The tensors of ``seeds`` do not depend on one of ``wrt`` in a differentiable way.
    """
    results = _walk(list(graph), builder, seeds, wrt, _Rules(relu_rule, set(guided), saturation))
    for value, gradient in zip(wrt, results, strict=True):
        if gradient is None:
            raise ModelError(_not_reached(value, seeds))
    return [gradient for gradient in results if gradient is not None]


@dataclass(frozen=True)
class _Rules:
    """The options of a walk, passed on to the walks through subgraphs."""

    relu_rule: ReluRule
    guided: set[ir.Node]
    saturation: Saturation


def _walk(
    nodes: Sequence[ir.Node],
    builder: Builder,
    seeds: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    rules: _Rules,
    *,
    singular: bool = False,
) -> list[Gradient]:
    """As :func:`backward` for the nodes of one graph or subgraph; None for what is not reached. ``singular``: the seeds
    may be infinite."""
    affected = depends_on(nodes, wrt)
    residuals = Residuals(builder, nodes, affected)
    arrived: dict[ir.Value, list[ir.Value]] = {value: [seed] for value, seed in seeds.items()}
    finished: dict[ir.Value, ir.Value] = {}
    infinite = set(seeds) if singular else set[ir.Value]()  # tensors whose gradient may be infinite or NaN

    def total(value: ir.Value) -> ir.Value | None:
        if value not in finished and value in arrived:
            # two by two: ONNX Runtime fuses an Add, but not a Sum, into the convolution before it and keeps its
            # blocked layout, if both parts are in it (see Builder.enter_blocked_layout)
            out = reduce(lambda left, right: builder.op("Add", left, right), arrived[value])
            if out.shape is None:
                out.shape = value.shape
            finished[value] = out
        return finished.get(value)

    for node in reversed(nodes):
        grads = [total(output) if output in affected else None for output in node.outputs]
        if all(g is None for g in grads):
            continue
        through = differentiable_inputs(node)
        # values that a node's subgraphs read from outside count as further inputs
        outer = [value for value in captures(node) if value in affected]
        needs = [value is not None and value in affected and value in through for value in node.inputs]
        needs += [True] * len(outer)
        if not any(needs) or not differentiable_outputs(node, affected):
            continue
        rule = "standard" if node not in rules.guided else rules.relu_rule
        if rule != "standard" and node.op_type not in OWN_RELU_RULES:
            # a smooth relative of ReLU, one node or the last of several: the arriving gradient is rectified and the
            # node keeps its derivative
            grads = [None if g is None else builder.op("Relu", g) for g in grads]
        arrives_infinite = any(output in infinite for output in node.outputs)
        if arrives_infinite or is_singular(node):
            infinite.update(
                v for v, needed in zip((*node.inputs, *outer), needs, strict=True) if v is not None and needed
            )

        def inside(
            copies: Mapping[ir.Node, ir.Node],
            inner: Builder,
            ends: Mapping[ir.Value, ir.Value],
            sources: Sequence[ir.Value],
            singular: bool = arrives_infinite or is_singular(node),  # a loop's own steps come before one another
        ) -> list[Gradient]:
            guided_copies = {copy for copy, original in copies.items() if original in rules.guided}
            chosen = replace(rules, guided=rules.guided | guided_copies)
            return _walk(list(copies), inner, ends, sources, chosen, singular=singular)

        v = Vjp(builder, node, grads, needs, residuals, rule, rules.saturation, arrives_infinite, outer, inside)
        for value, gradient, needed in zip((*node.inputs, *outer), _apply(v, nodes, wrt), needs, strict=True):
            if gradient is not None and needed and value is not None:
                arrived.setdefault(value, []).append(gradient)

    return [total(value) for value in wrt]


def _apply(v: Vjp, nodes: Sequence[ir.Node], wrt: Sequence[ir.Value]) -> list[ir.Value | None]:
    """A gradient or None for each input of the node, in the input's shape."""
    node = v.node
    entry = rule_for(node)
    given = [output for output, gradient in zip(node.outputs, v.grads, strict=True) if gradient is not None]
    if entry is None or not has_rule(node, given):
        raise UnsupportedOperatorError(_without_rule(node, nodes, wrt))
    for value in (*(i for i, needed in zip(node.inputs, v.needs, strict=False) if needed), *node.outputs[:1]):
        if value is not None and value.dtype is None:
            source = _source_of_unknown(value, node)
            if rule_for(source) is not None:
                raise ModelError(
                    f"what {source.op_type} node '{source.name}' computes has no type: its inputs and attributes do "
                    "not fit its operator"
                )
            raise UnsupportedOperatorError(_without_rule(source, nodes, wrt))
    try:
        return _gradients(v, entry)
    except (IndexError, KeyError, ValueError, ZeroDivisionError) as error:
        # rules trust the shapes of a graph, and a file may declare some that no operator could have
        raise ModelError(
            f"shapes and attributes of {node.op_type} node '{node.name}' contradict each other ({error}): no gradient "
            "can be written"
        ) from error


def _gradients(v: Vjp, entry: Entry) -> list[ir.Value | None]:
    node, result = v.node, entry.rule(v)
    gradients: list[ir.Value | None] = [result] if isinstance(result, ir.Value) else list(result)
    operands = [*node.inputs, *v.outer]
    if len(gradients) > len(operands):
        if any(a is not None for a in gradients[len(operands) :]):
            raise AssertionError(f"the rule for {node.op_type} gives more gradients than node '{node.name}' has inputs")
        gradients = gradients[: len(operands)]
    gradients += [None] * (len(operands) - len(gradients))
    for i, (value, gradient) in enumerate(zip(operands, gradients, strict=True)):
        if value is None or not v.needs[i]:
            continue
        if gradient is None:
            if value.dtype in FLOATS and node.outputs[0].dtype in FLOATS:
                raise v.unsupported(f"its rule has no gradient for input {i} ('{value.name}')")
            continue
        if entry.broadcasts:
            gradients[i] = v.b.unbroadcast(gradient, value, node.outputs[0])
    return gradients


def depends_on(nodes: Iterable[ir.Node], sources: Iterable[ir.Value]) -> set[ir.Value]:
    """The tensors that vary smoothly with one of ``sources``, these included."""
    reached = set(sources)
    for node in nodes:
        reached.update(differentiable_outputs(node, reached))
    return reached


def _without_rule(node: ir.Node, nodes: Sequence[ir.Node], wrt: Sequence[ir.Value]) -> str:
    domain = node.domain or "ai.onnx"
    graph = node.graph
    opset = graph.opset_imports.get(node.domain) if isinstance(graph, ir.Graph) else None
    if (reason := refusal(node)) is not None:
        return (
            f"operator {domain}::{node.op_type}, node '{node.name}', on the path "
            f"{' -> '.join(path_to(node, nodes, wrt))}, has no gradient: {reason}"
        )
    on = f" on quantised integers ({node.outputs[0].dtype})" if rule_for(node) is not None else ""
    return (
        f"no gradient rule for operator {domain}::{node.op_type} (opset {opset}){on}, node '{node.name}', on the path "
        f"{' -> '.join(path_to(node, nodes, wrt))}. Explain a layer behind this node, choose a tensor before it with "
        f"{option('output')}, or export the model without it; `{command('doctor')}` lists every such node"
    )


def _source_of_unknown(value: ir.Value, node: ir.Node) -> ir.Node:
    """The node from which on types are unknown: it does not fit its schema, or has none."""
    current: ir.Value | None = value
    while current is not None and (producer := current.producer()) is not None:
        node = producer
        current = next((i for i in node.inputs if i is not None and i.dtype is None), None)
    return node


def path_to(node: ir.Node, nodes: Sequence[ir.Node], wrt: Sequence[ir.Value]) -> list[str]:
    """A shortest chain from one of ``wrt`` to ``node``: the tensor, then the operators, the middle left out if long."""
    came_from: dict[ir.Value, tuple[ir.Value, ir.Node] | None] = dict.fromkeys(wrt)
    for current in nodes:
        source = next((value for value in reads(current) if value in came_from), None)
        if source is None:
            continue
        if current is node:
            chain = [node.op_type]
            step = came_from[source]
            while step is not None:
                chain.append(step[1].op_type)
                source, step = step[0], came_from[step[0]]
            chain = [f"'{source.name}'", *reversed(chain)]
            return chain if len(chain) <= 9 else [*chain[:4], "...", *chain[-4:]]
        for output in current.outputs:
            came_from.setdefault(output, (source, current))
    return [node.op_type]


def _not_reached(value: ir.Value, seeds: Mapping[ir.Value, ir.Value]) -> str:
    scores = ", ".join(f"'{seed.name}'" for seed in seeds)
    return (
        f"the score {scores} does not depend on '{value.name}' in a differentiable way: no path leads from one to the "
        "other, or every path passes an operator whose gradient is zero by definition (ArgMax, Round, Cast to an "
        f"integer, ...). Choose another layer, or a tensor before that operator with {option('output')}"
    )
