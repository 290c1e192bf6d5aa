# SPDX-License-Identifier: Apache-2.0
"""Which nodes did not get the device that was asked for.

ONNX Runtime keeps the arithmetic of shapes on the host on purpose, which costs nothing; a node that computes with
floats there makes activations cross to the host and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from portable_cam.export.graph.operators import FLOATS
from portable_cam.runtime.session import Placed

# operators that the optimiser inserts between devices, and those that only ever make a shape or a constant
_NOT_COMPUTING = frozenset({"MemcpyToHost", "MemcpyFromHost", "Shape", "Size", "Constant", "ConstantOfShape", "Range"})


def elsewhere(model: ir.Model, placed: Iterable[Placed], wanted: str) -> list[Placed]:
    """The nodes that compute with floats and run on another execution provider than ``wanted``.

    Args:
        model: The model as it was given to the session.
        placed: Where each node of the optimised graph went.
        wanted: The provider.
    """
    others = [node for node in placed if node.provider != wanted and node.operator not in _NOT_COMPUTING]
    if not others:
        return []
    floats = {
        node.name: any(value.dtype is None or value.dtype in FLOATS for value in node.outputs)
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    }
    return [node for node in others if floats.get(node.name, True)]


def describe(nodes: Sequence[Placed], wanted: str, most: int = 5) -> str:
    """One sentence that names them."""
    names = ", ".join(f"{node.operator} '{node.name}' ({node.provider})" for node in nodes[:most])
    rest = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return f"{len(nodes)} of the graph's nodes do not run on {wanted}: {names}{rest}"
