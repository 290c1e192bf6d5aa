"""Which nodes count as a ReLU for guided backpropagation and the deconvnet.

==============  ====================================================================================
``relu``        Relu nodes only: what every other library does
``relu+clip``   also Clip with a minimum of 0, as ReLU6
``all``         also LeakyRelu, PRelu, ThresholdedRelu, Elu, Celu, Selu, Gelu, HardSwish, SiLU (Swish), Mish, whether
                one node or the few nodes that exporters write for it: the arriving gradient is rectified
==============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export.rules.relu import clip_bounds

ReluPolicy: TypeAlias = Literal["relu", "relu+clip", "all"]
_SMOOTH = frozenset({"LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Mish"})
_GATES = frozenset({"Sigmoid", "HardSigmoid", "Tanh", "Erf"})


def guided_nodes(graph: ir.Graph, policy: ReluPolicy) -> list[ir.Node]:
    """The ReLU-like nodes of the graph, in its order."""
    if policy not in get_args(ReluPolicy):
        raise OptionError(f"relu_policy is one of {', '.join(get_args(ReluPolicy))}, not {policy!r}")
    return [node for node in graph if _counts(node, policy)]


def _counts(node: ir.Node, policy: ReluPolicy) -> bool:
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type == "Relu":
        return True
    if policy == "relu":
        return False
    if node.op_type == "Clip":
        bounds = clip_bounds(node)
        return bounds is not None and bounds[0] == 0 and bounds[1] > 0
    return policy == "all" and (node.op_type in _SMOOTH or _is_self_gated(node))


def _is_self_gated(node: ir.Node) -> bool:
    """x times a function of x that ends in a Sigmoid, HardSigmoid, Tanh or Erf: SiLU, HardSwish, GELU and Mish as
    exporters write them out. A constant factor after the product does not change the arriving gradient's sign."""
    if node.op_type != "Mul":
        return False
    operands = [value for value in node.inputs if value is not None and value.producer() is not None]
    for gate in operands:
        for source, through_gate in _elementwise_sources(gate, depth=9):
            if not through_gate:
                continue
            if any(o is not None and o is not gate and (o is source or _is_scaled(o, source)) for o in node.inputs):
                return True
    return False


def _elementwise_sources(value: ir.Value, depth: int, gated: bool = False) -> Iterator[tuple[ir.Value, bool]]:
    """The tensors that a value is an elementwise function of, and whether a gate lies between."""
    node = value.producer()
    if node is None or depth == 0:
        return
    gated = gated or node.op_type in _GATES
    if node.op_type not in _GATES | {"Add", "Mul", "Div", "Pow", "Softplus", "Exp", "Log", "Clip", "Neg", "Sub"}:
        return
    for source in node.inputs:
        if source is not None and ir.convenience.get_const_tensor(source) is None:
            yield source, gated
            yield from _elementwise_sources(source, depth - 1, gated)


def _is_scaled(value: ir.Value, source: ir.Value) -> bool:
    """Whether ``value`` is ``source`` times a constant, as the x/2 of GELU."""
    node = value.producer()
    if node is None or node.op_type not in {"Mul", "Div"}:
        return False
    return node.inputs[0] is source and ir.convenience.get_const_tensor(node.inputs[1]) is not None  # type: ignore[arg-type]
