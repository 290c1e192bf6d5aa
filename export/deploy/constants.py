# SPDX-License-Identifier: Apache-2.0
"""Constants computed when the file is written, for runtimes that want weights and matrices stored."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_LARGE, _SMALL = 1 << 28, 1 << 10  # elements


def fold_constants(model: ir.Model, *, weights: bool) -> None:
    """Compute what depends on no input, in place: sizes, where they are fixed, and with ``weights`` all the rest, the
    transposed weights among it, which the file then stores beside the weights. Weights in integers stay so, for the
    runtimes that have kernels for them."""
    limit = _LARGE if weights else _SMALL
    _lift(model)
    optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=limit,
        output_size_limit=limit,
        # by itself it leaves what fills a tensor, as ConstantOfShape
        should_fold=lambda node: False if node.op_type in _QUANTIZED else weights or None,
    )
    _lift(model)
    passes.RemoveUnusedNodesPass()(model)


def _lift(model: ir.Model) -> None:
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
