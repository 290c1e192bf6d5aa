"""Computes what is constant, and infers types and shapes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx_ir.passes import PassResult
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule

from portable_cam.export.graph.shapes import complete_shapes
from portable_cam.export.passes.static import forget_sequence_types
from portable_cam.export.read.untrusted import may_fold


def fold(model: ir.Model) -> PassResult:
    """Fold constants into initialisers of the main graph, drop what nothing reads, and infer types and shapes."""
    modified = False
    for step in _steps():
        modified |= bool(step(model).modified)
    return PassResult(model, modified)


def infer_model_shapes(model: ir.Model) -> PassResult:
    """Infer types and shapes, in place. Where a node's inputs do not fit, only what comes behind it stays open; the
    strict inference would leave the whole model without shapes, and say nothing."""
    return passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _fold_constants(model: ir.Model) -> PassResult:
    splits = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.op_type == "SplitToSequence"]
    for node in splits:  # the folding stops at one whose sizes are not known
        node.domain = "kept"
    result = optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=may_fold)
    for node in splits:
        node.domain = ""
    return PassResult(model, result.modified)


def _complete_shapes(model: ir.Model) -> PassResult:
    return PassResult(model, complete_shapes(model.graph))


def _steps() -> tuple[Callable[[ir.Model], PassResult], ...]:
    return (
        _lift_constants,  # what is folded is read from initialisers
        _fold_constants,
        _lift_constants,  # what was folded is a Constant node
        passes.LiftSubgraphInitializersToMainGraphPass(),
        RewritePass([fuse_pad_into_conv_rule]),  # the adjoint of a Pad of its own would cost a Slice
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
        infer_model_shapes,
        _complete_shapes,  # for which ONNX has no inference
        forget_sequence_types,  # which the inference takes for tensors
    )


def _lift_constants(model: ir.Model) -> PassResult:
    return passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
