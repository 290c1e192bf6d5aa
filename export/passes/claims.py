# SPDX-License-Identifier: Apache-2.0
"""What a file states of the shapes inside it is a claim: an exporter writes down the sizes of its example, and whoever
opens the batch of a file afterwards leaves them. ONNX Runtime goes by what it computes; so does everything here."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.operators import ONNX_DOMAINS, key_of
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import subgraphs
from portable_cam.export.passes.contrib.registry import DECOMPOSITIONS
from portable_cam.export.passes.quantized.qoperator import REWRITES


class Claims:
    """The shapes that a file states of its outputs and of tensors inside."""

    def __init__(self) -> None:
        self._ranks: dict[str | None, int] = {}

    def drop(self, model: ir.Model) -> PassResult:
        """Remove them, in place; all shapes are inferred from the inputs and weights, and what cannot be is open.

        Those behind an operator that nobody else knows (of a custom library, or without a decomposition here) are
        kept as the file has them: there is no other word on them. So are those of pooling by ceil_mode, which are
        inferred one too large.
        """
        for value in _inferable(model):
            if value.shape is not None:
                self._ranks[value.name] = len(value.shape)
            value.shape = None
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.initializers.values():
                if (tensor := value.const_value) is not None:
                    value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        return PassResult(model, bool(self._ranks))

    def complete(self, model: ir.Model) -> PassResult:
        """Where inference found nothing at all, as behind a custom operator, take the number of dimensions that the
        file states, their sizes open; in place."""
        changed = False
        for node in model.graph:
            if all(value.shape is not None or not value.name for value in node.outputs):
                continue
            if changed:
                infer_shapes([node])  # perhaps it follows from what was taken before
            for value in node.outputs:
                # sequences and optionals have no shape
                if value.shape is None and value.name in self._ranks and isinstance(value.type, ir.TensorType):
                    value.shape = ir.Shape([None] * self._ranks[value.name])
                    changed = True
        return PassResult(model, changed)


def _inferable(model: ir.Model) -> Iterator[ir.Value]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.attributes.get_int("ceil_mode", 0):
            continue  # onnx counts a last window that starts behind the input, which ONNX Runtime leaves out
        known = key_of(node.domain, node.op_type) in DECOMPOSITIONS or (node.domain, node.op_type) in REWRITES
        if node.domain in ONNX_DOMAINS or known:
            yield from node.outputs
            for body in subgraphs(node):  # ONNX Runtime wants the number and condition of a Loop stated: no images
                yield from body.inputs[2 if node.op_type == "Loop" else 0 :]
