"""Walks a graph forwards and applies the rule of each node."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from portable_cam.export.graph.operators import key_of
from portable_cam.export.graph.values import reads
from portable_cam.export.layers.axes import Known
from portable_cam.export.layers.axis_rules.at import AXIS_RULES, At, AxesOf, Lost, fitted

#: Operators for which an input of unknown rank does not matter.
_OF_SIZES = frozenset({"Shape", "Size", "ConstantOfShape"})


def follow(nodes: Iterable[ir.Node], known: AxesOf) -> AxesOf:
    """Add to ``known`` what is known of the outputs of nodes in topological order."""
    for node in nodes:
        if not any(value in known for value in reads(node)):
            continue
        for output, found in zip(node.outputs, _outputs(node, known), strict=True):
            if found is not None:
                known[output] = fitted(output, found)
    return known


def _outputs(node: ir.Node, known: AxesOf) -> list[Known | None]:
    at = At(node, known)
    rule = AXIS_RULES.get(key_of(node.domain, node.op_type))
    if rule is None:
        return [at.all_lost(i, "an operator without a rule") for i in range(len(node.outputs))]
    blind = [v for v in node.inputs if v is not None and v in known and known[v].axes is None]
    if blind and node.op_type not in _OF_SIZES:
        return [at.all_lost(i, f"the rank of '{blind[0].name}' is not known") for i in range(len(node.outputs))]
    try:
        found = rule(at)
    except Lost as why:
        return [at.all_lost(i, str(why)) for i in range(len(node.outputs))]
    except (IndexError, KeyError, ValueError, ZeroDivisionError):  # rules trust that attributes fit the inputs
        return [at.all_lost(i, "whose attributes do not fit its inputs") for i in range(len(node.outputs))]
    if found is None or isinstance(found, Known):
        return [found, *([None] * (len(node.outputs) - 1))]
    return [*found, *([None] * (len(node.outputs) - len(found)))]
