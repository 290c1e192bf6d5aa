"""What is known before running is written out: loops of a known number of steps, sequences and optionals of known
content. Behind it there are tensors only, wherever that can be."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.passes.static.loops import unroll
from portable_cam.export.passes.static.sequences import RESOLVED, forget_types, resolve_sequences, say_what_is_left

__all__ = ["RESOLVED", "forget_types", "resolve", "say_what_is_left"]


def resolve(model: ir.Model) -> bool:
    """One round, in place; returns whether anything changed, so that constants may be folded and more may be known."""
    unrolled = unroll(model)
    return resolve_sequences(model) or unrolled
