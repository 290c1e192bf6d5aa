# SPDX-License-Identifier: Apache-2.0
"""Names of inputs and outputs that are identifiers, for programs in which a dot or a slash means something."""

from __future__ import annotations

import re

import onnx_ir as ir


def give_plain_names(graph: ir.Graph) -> dict[str, str]:
    """Rename inputs and outputs in place: letters, digits and underscores, ``heatmap.gradcam`` to ``heatmap_gradcam``.

    Returns:
        The old names by the new ones, of those that changed.
    """
    values = [*graph.inputs, *graph.outputs]
    taken = {str(value.name) for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs}
    taken |= {str(value.name) for value in (*values, *graph.initializers.values())}
    renamed = {}
    for value in values:
        old = str(value.name)
        new = re.sub(r"\W", "_", old, flags=re.ASCII)
        new = f"_{new}" if new[:1].isdigit() else new
        if new == old:
            continue
        while new in taken:
            new += "_"
        taken.add(new)
        renamed[new] = old
        if value.name in graph.initializers:
            del graph.initializers[str(value.name)]
            value.name = new
            graph.initializers[new] = value
        else:
            value.name = new
    return renamed
