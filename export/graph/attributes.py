# SPDX-License-Identifier: Apache-2.0
"""How rules and decompositions read the attributes of their node."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


class NodeView:
    """A view of a node that reads its attributes: each method takes a name, and the default where it is not given."""

    node: ir.Node

    def int_attr(self, name: str, default: int) -> int:
        return int(self.node.attributes.get_int(name, default))

    def float_attr(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def str_attr(self, name: str, default: str) -> str:
        return str(self.node.attributes.get_string(name, default))

    def ints_attr(self, name: str, default: Sequence[int] = ()) -> list[int]:
        return [int(number) for number in self.node.attributes.get_ints(name, default)]

    def floats_attr(self, name: str, default: Sequence[float] = ()) -> list[float]:
        return [float(number) for number in self.node.attributes.get_floats(name, default)]
