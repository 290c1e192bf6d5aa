# SPDX-License-Identifier: Apache-2.0
"""A score for each word that goes in: gradient times embedding."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import known_dims

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})


def embeddings(graph: ir.Graph) -> dict[str, ir.Value]:
    """For each input of token ids (N, T) that a Gather looks up in a table of vectors, what it finds: (N, T, D).

    Raises:
        OptionError: There is none.
    """
    found = {}
    for given in graph.inputs:
        dims = known_dims(given)
        if given.dtype not in _INTEGERS or dims is None or len(dims) != 2:
            continue
        pending = [given]
        while pending:
            value = pending.pop()
            for node, place in value.uses():
                if node.op_type in {"Cast", "Identity"}:
                    pending.append(node.outputs[0])
                elif node.op_type == "Gather" and place == 1 and _is_table(node):
                    found[str(given.name)] = node.outputs[0]
    if not found:
        listing = ", ".join(f"'{v.name}' {v.dtype}{v.shape if v.shape is not None else '[?]'}" for v in graph.inputs)
        raise OptionError(
            f"words cannot be scored: no input holds token ids (N, T) that a Gather embeds; the inputs are {listing}"
        )
    return found


def token_attribution(b: Builder, gradient: ir.Value, embedding: ir.Value) -> ir.Value:
    """Gradient times embedding, summed over the embedding: (N, T, D) -> (N, T). To first order, what the score would
    lose if the word's embedding were zero (Shrikumar et al. 2016, arXiv 1605.01713)."""
    return b.op("ReduceSum", b.op("Mul", gradient, embedding), b.ints([2]), keepdims=0)


def _is_table(node: ir.Node) -> bool:
    table = node.inputs[0]
    if table is None or table.dtype not in FLOATS:
        return False
    return node.attributes.get_int("axis", 0) == 0 and len(known_dims(table) or []) == 2
