"""Any ONNX model to the one form that rules, targets and methods are written for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx_ir.passes import PassResult

from portable_cam.errors import ModelError
from portable_cam.export.graph.operators import OPSET
from portable_cam.export.passes.claims import Claims
from portable_cam.export.passes.contrib import adopt_contrib, decompose_contrib
from portable_cam.export.passes.convert import convert_opset, inline_functions
from portable_cam.export.passes.fold import fold
from portable_cam.export.passes.known_sizes import fold_known_sizes
from portable_cam.export.passes.precision import widen_bfloat16
from portable_cam.export.passes.quantized.qoperator import rewrite_qoperators
from portable_cam.export.passes.quantized.unsigned import make_unsigned
from portable_cam.export.passes.recurrent_layout import make_time_major
from portable_cam.export.passes.static import refuse_unresolved, resolve_sequences, unroll_loops
from portable_cam.export.read.load import ModelLike, load
from portable_cam.export.read.untrusted import check_functions, check_loops, check_sizes

#: A pass of this project or of onnx-ir: it changes the model in place or returns another, and tells whether it did.
Pass: TypeAlias = Callable[[ir.Model], PassResult]

_IR_VERSION = 10  # the one that came with opset 21
_ROUNDS = 16  # of loops in loops, sequences in them, and what is constant behind those


def normalize(model: ModelLike) -> ir.Model:
    """One operator set, functions inlined, constants folded, shapes inferred, initialisers out of the inputs.

    The outputs are unchanged up to float32 rounding, the names of inputs, outputs and the tensors between them are
    kept where the tensor still exists, and a symbolic batch stays symbolic. A model in bfloat16 is computed in
    float32, inputs and outputs included.

    Raises:
        ModelError: The model cannot be read, or cannot be converted to opset 21.
    """
    normal = load(model)
    try:
        for step in _passes():
            normal = step(normal).model
    except ModelError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the model cannot be brought to ONNX opset {OPSET}: {first}") from error
    return normal


def _passes() -> tuple[Pass, ...]:
    """The passes in their order, each with the reason for its place."""
    claims = Claims()
    return (
        open_negative_dims,  # PaddlePaddle writes -1 for an open batch; ONNX knows no such size
        set_ir_version,  # an older one takes no initialiser that is not an input
        passes.RemoveInitializersFromInputsPass(),  # a weight that could be an input is not constant
        _check(check_functions),  # inlining would never end on functions that call each other
        inline_functions,
        widen_bfloat16,  # convolution and pooling of this opset take none, and CPU providers take it nowhere
        adopt_contrib,  # the converter stops at a domain that is not imported
        claims.drop,  # the converter and all that comes later go by shapes
        convert_opset,  # everything from here on knows one opset
        _check(check_loops),  # folding would run a loop without end
        rewrite_qoperators,  # rules and folding know QuantizeLinear and DequantizeLinear
        make_time_major,  # rules know recurrent layers with the steps first
        decompose_contrib,  # rules know the standard's operators
        fold,
        _fold_sizes,
        _fold_branches,
        _resolve,  # sequences and loops, as far as folding made their lengths known
        refuse_unresolved,
        complete_initializers,  # what was lifted or folded
        claims.complete,
        make_unsigned,  # last: it looks for QuantizeLinear and DequantizeLinear with constant scales
        set_ir_version,  # conversion and folding make models of their own
        _check(check_sizes),
    )


def set_ir_version(model: ir.Model) -> PassResult:
    """Give the model the IR version that came with the opset."""
    changed = model.ir_version != _IR_VERSION
    model.ir_version = _IR_VERSION
    return PassResult(model, changed)


def open_negative_dims(model: ir.Model) -> PassResult:
    """Make each dimension below zero an open one, in place."""
    graph, changed = model.graph, False
    for value in (*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)):
        if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape.dims):
            value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape.dims])
            changed = True
    return PassResult(model, changed)


def complete_initializers(model: ir.Model) -> PassResult:
    """Give each initialiser the shape and type of its content, in place."""
    changed = False
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.shape is None:
            value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
            changed = True
    return PassResult(model, changed)


def _fold_sizes(model: ir.Model) -> PassResult:
    """Fold once more where known sizes were among open ones, until nothing follows from them any more."""
    changed = False
    for _ in range(_ROUNDS):
        if not fold_known_sizes(model).modified:
            break
        fold(model)
        changed = True
    return PassResult(model, changed)


def _fold_branches(model: ir.Model) -> PassResult:
    """Fold once more where branches are left: a condition on a size, as torch's older exporter writes for squeeze, is
    constant only once sizes are inferred."""
    return fold(model) if any(node.op_type == "If" for node in model.graph) else PassResult(model, False)


def _resolve(model: ir.Model) -> PassResult:
    """Unroll loops and resolve sequences, and fold what became constant, until nothing changes."""
    changed = False
    for _ in range(_ROUNDS):
        found = [step(model).modified for step in (unroll_loops, resolve_sequences)]
        if not any(found):
            break
        fold(model)
        changed = True
    return PassResult(model, changed)


def _check(check: Callable[[ir.Model], None]) -> Pass:
    """A check as a pass that changes nothing."""

    def run(model: ir.Model) -> PassResult:
        check(model)
        return PassResult(model, False)

    return run
