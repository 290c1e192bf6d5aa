"""The reasons why some nodes have no gradient. They are part of an error only if the node lies on the path from the
image to the scores."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS

_REASON = "portable_cam.refused"
_WRITTEN_BEFORE = "explain the model as it was exported, before ONNX Runtime optimised it"

#: Operators of the optimiser's and of its layouts that are refused, with the reason and a way out.
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("com.microsoft.nchwc::Conv", "com.microsoft.nchwc::MaxPool", "com.microsoft.nchwc::AveragePool",
         "com.microsoft.nchwc::GlobalMaxPool", "com.microsoft.nchwc::GlobalAveragePool",
         "com.microsoft.nchwc::Upsample", "com.microsoft.nchwc::ReorderInput", "com.microsoft.nchwc::ReorderOutput"),
        "its tensors are laid out in blocks for one kind of processor; save the optimised model at the level "
        f"'extended' instead of 'all', or {_WRITTEN_BEFORE}",
    ),
    **dict.fromkeys(
        ("com.microsoft::PackedAttention", "com.microsoft::PackedMultiHeadAttention", "com.microsoft::RemovePadding",
         "com.microsoft::RestorePadding"),
        f"sequences are packed without their padding; {_WRITTEN_BEFORE}",
    ),
    **dict.fromkeys(
        ("com.microsoft::BeamSearch", "com.microsoft::GreedySearch", "com.microsoft::Sampling",
         "com.microsoft::WhisperBeamSearch"),
        "it is a whole search loop in one node; explain one step of the decoder instead",
    ),
    **dict.fromkeys(
        ("com.microsoft::Rfft", "com.microsoft::Irfft", "com.microsoft::ComplexMul", "com.microsoft::ComplexMulConj"),
        "complex numbers have no standard form in this operator; export the Fourier transform as DFT",
    ),
    "com.microsoft::Inverse": "the standard has no inverse of a matrix to write its gradient with",
    **dict.fromkeys(
        ("com.microsoft::GroupQueryAttention", "com.microsoft::PagedAttention", "com.microsoft::SparseAttention",
         "com.microsoft::DecoderMaskedMultiHeadAttention", "com.microsoft::DecoderMaskedSelfAttention",
         "com.microsoft::DecoderAttention", "com.microsoft::LongformerAttention"),
        f"it is attention over a cache of former steps; {_WRITTEN_BEFORE}",
    ),
    **dict.fromkeys(
        ("com.microsoft::MatMulNBits", "com.microsoft::MatMulBnb4", "com.microsoft::MatMulFpQ4"),
        "its weights are packed in four bits; export the model with plain or eight-bit weights",
    ),
}  # fmt: skip


def refuse(node: ir.Node, why: str) -> None:
    """Remember the reason; the node stays as it is."""
    node.meta[_REASON] = why


def refusal(node: ir.Node) -> str | None:
    """The reason, if one is known."""
    known = None if node.domain in ONNX_DOMAINS else REFUSED.get(f"{node.domain}::{node.op_type}")
    reason = node.meta.get(_REASON, known)
    return None if reason is None else str(reason)
