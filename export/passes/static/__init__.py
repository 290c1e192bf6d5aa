"""Replaces what is known before running: loops of a known number of steps are unrolled, and what is read from sequences
and optionals of known content is the tensor that was put in. Tensors alone are left, wherever that can be."""

from portable_cam.export.passes.static.loops import unroll_loops
from portable_cam.export.passes.static.sequences import (
    RESOLVED,
    forget_sequence_types,
    refuse_unresolved,
    resolve_sequences,
)

__all__ = ["RESOLVED", "forget_sequence_types", "refuse_unresolved", "resolve_sequences", "unroll_loops"]
