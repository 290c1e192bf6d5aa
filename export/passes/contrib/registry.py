"""The table of decompositions: how one is registered, and the view of a node that it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.graph.attributes import NodeView
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.refusals import REFUSED
from portable_cam.export.graph.values import known_dims, optional_input

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Contrib(NodeView):
    """The view that a decomposition has of one node: its inputs, its attributes, and the builder ``b`` to write
    with."""

    b: Builder
    node: ir.Node

    def input(self, index: int) -> ir.Value:
        value = self.optional(index)
        if value is None:
            raise self.refused(f"its input {index} is missing")
        return value

    def optional(self, index: int) -> ir.Value | None:
        return optional_input(self.node, index)

    def uses(self, index: int) -> bool:
        """Whether anything reads output ``index``."""
        if index >= len(self.node.outputs):
            return False
        output = self.node.outputs[index]
        return bool(output.uses()) or output.is_graph_output()

    def rank(self, value: ir.Value) -> int:
        dims = known_dims(value)
        if dims is None:
            raise self.refused(f"the rank of '{value.name}' is not known")
        return len(dims)

    def refused(self, why: str) -> UnsupportedOperatorError:
        """An error with the reason; it is raised only if the node lies on the path from the image to the scores."""
        return UnsupportedOperatorError(why)


#: Writes standard nodes that compute the node's outputs; fewer values than outputs where the rest is not used.
Decomposition: TypeAlias = Callable[[Contrib], Sequence[ir.Value] | ir.Value]

#: The decompositions by operator, ``domain::name``. The first line of each function is its formula.
DECOMPOSITIONS: dict[str, Decomposition] = {}


def decomposes(*op_types: str, domain: str = DOMAIN) -> Callable[[Decomposition], Decomposition]:
    """Register a decomposition for one or several operators, as a decorator."""

    def add(function: Decomposition) -> Decomposition:
        for op_type in op_types:
            key = f"{domain}::{op_type}"
            if key in DECOMPOSITIONS or key in REFUSED:
                raise AssertionError(f"a decomposition of {key} is registered twice")
            DECOMPOSITIONS[key] = function
        return function

    return add
