"""Which nodes count as a ReLU for guided backpropagation and the deconvnet.

==============  ====================================================================================
``relu``        Relu nodes only: what every other library does
``relu+clip``   also Clip with a minimum of 0, as ReLU6 (but not a hard sigmoid written as Clip(x + 3, 0, 6))
``all``         also LeakyRelu, PRelu, ThresholdedRelu, Elu, Celu, Selu, Gelu, HardSwish, SiLU (Swish), Mish, whether
                one node or the few nodes that exporters write for it: the arriving gradient is rectified
==============  ====================================================================================

In quantised models a ReLU or ReLU6 that a quantiser dropped for the range of a QuantizeLinear counts as what it was:
the former under ``relu``, the latter under ``relu+clip``
(:func:`portable_cam.export.autodiff.quantized_ranges.dropped_activations`).
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export.autodiff.quantized_ranges import clip_bounds, dropped_activations
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of
from portable_cam.spelling import option

ReluPolicy: TypeAlias = Literal["relu", "relu+clip", "all"]
_SMOOTH = frozenset({"LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Mish"})
_GATES = frozenset({"Sigmoid", "HardSigmoid", "Tanh", "Erf"})
_ELEMENTWISE = _GATES | {"Add", "Mul", "Div", "Pow", "Softplus", "Exp", "Log", "Clip", "Neg", "Sub", "Where", "Greater"}


def guided_nodes(graph: ir.Graph, policy: ReluPolicy) -> list[ir.Node]:
    """The ReLU-like nodes of the graph and of its subgraphs, in its order."""
    if policy not in get_args(ReluPolicy):
        raise OptionError(f"{option('relu_policy')} is one of {', '.join(get_args(ReluPolicy))}, not {policy!r}")
    dropped = dropped_activations(graph)
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return [node for node in nodes if _counts(node, dropped.get(node, node.op_type), policy)]


def _counts(node: ir.Node, kind: str, policy: ReluPolicy) -> bool:
    if node.domain not in ONNX_DOMAINS:
        return False
    if kind == "Relu":
        return True
    if policy == "relu":
        return False
    if kind != node.op_type:
        return True  # a ReLU6 that was dropped for the range of a QuantizeLinear
    if node.op_type == "Clip":
        bounds = clip_bounds(node)
        return bounds is not None and bounds[0] == 0 and bounds[1] > 0 and not _is_hard_sigmoid(node, bounds[1])
    return policy == "all" and (node.op_type in _SMOOTH or _is_self_gated(node))


def _is_self_gated(node: ir.Node) -> bool:
    """x, or x times a constant, times a function of x alone that passes a Sigmoid, HardSigmoid, Tanh, Erf or bounded
    Clip: SiLU, HardSwish, GELU and Mish as exporters decompose them. An attention map that depends on anything else,
    such as the mean of x, does not count. A constant factor after the product does not change the gradient's sign."""
    if node.op_type != "Mul":
        return False
    left, right = node.inputs
    return any(
        _function_of(gate, x, depth=9) == _GATED
        for gate, factor in ((left, right), (right, left))
        for x in (factor, _unscaled(factor))
        if x is not None and gate is not None and not _is_constant(x)
    )


_CONSTANT, _SMOOTH_OF_X, _GATED = 0, 1, 2


def _function_of(value: ir.Value, x: ir.Value, depth: int) -> int | None:
    """Whether ``value`` is a constant, an elementwise function of ``x`` alone, or one that passes a gate; None if it
    depends on anything else."""
    if value is x:
        return _SMOOTH_OF_X
    if _is_constant(value):
        return _CONSTANT
    node = value.producer()
    if node is None or depth == 0 or node.op_type not in _ELEMENTWISE:
        return None
    parts = [_function_of(source, x, depth - 1) for source in node.inputs if source is not None]
    if any(part is None for part in parts):
        return None
    most = max(part for part in parts if part is not None)
    is_gate = node.op_type in _GATES or (node.op_type == "Clip" and _bounded(node))
    return _GATED if most == _SMOOTH_OF_X and is_gate else most


def _bounded(clip: ir.Node) -> bool:
    bounds = clip_bounds(clip)
    return bounds is not None and math.isfinite(bounds[0]) and math.isfinite(bounds[1])


def _unscaled(value: ir.Value | None) -> ir.Value | None:
    """The tensor that ``value`` is a constant multiple of, as the x/2 of GELU."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in {"Mul", "Div"}:
        return None
    first, second = node.inputs
    if second is not None and _is_constant(second):
        return first
    return second if node.op_type == "Mul" and first is not None and _is_constant(first) else None


def _is_hard_sigmoid(clip: ir.Node, upper: float) -> bool:
    """Clip(x + 3, 0, 6) and Clip(x / 6 + 1/2, 0, 1): a decomposed gate, not a ReLU with a ceiling."""
    source = clip.inputs[0].producer() if clip.inputs[0] is not None else None
    if source is None or source.op_type != "Add":
        return False
    shifts = [constant_of(value) for value in source.inputs]
    return any(s is not None and s.size == 1 and math.isclose(float(s.reshape(-1)[0]), upper / 2) for s in shifts)


def _is_constant(value: ir.Value) -> bool:
    return ir.convenience.get_const_tensor(value) is not None
