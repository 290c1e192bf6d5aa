"""Embeddings: how near an image is to a vector, or to another image through its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims, static_dim
from portable_cam.export.targets.protocol import Extra, Target, vector_size

_TINY = 1e-12  # keeps the norm of a zero vector from dividing by zero


@dataclass(frozen=True)
class Similarity(Target):
    """The similarity of the image's embedding (N, D), or (N, D, 1, 1), to ``embedding`` float32 (N, K, D).

    There is one index, 0. ``measure`` is ``cosine`` (-1 to 1), ``dot``, or ``euclidean`` (minus the distance squared).
    """

    measure: Literal["cosine", "dot", "euclidean"] = "cosine"

    name = "similarity"

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        width = static_dim(scores[0], 1)
        what = "the vector to compare with, as the model gives it for another image"
        return (Extra("embedding", ir.DataType.FLOAT, ("D" if width is None else width,), what),)

    def count(self, scores: Sequence[ir.Value]) -> int:
        (value,) = scores
        vector_size(value, "an embedding is a vector per image, (N, D)")
        if self.measure not in {"cosine", "dot", "euclidean"}:
            raise TargetError(f"embeddings compare by cosine, dot or euclidean, not {self.measure!r}")
        return 1

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        ours, theirs = scores[0], extra["embedding"]
        if len(known_dims(ours) or []) != 2:
            width = static_dim(ours, 1)
            ours = b.op("Flatten", ours, axis=1)
            ours.shape = ir.Shape([None, width])
        if ours.dtype != ir.DataType.FLOAT:
            ours = b.op("Cast", ours, to=int(ir.DataType.FLOAT))
        last = b.ints([1])
        if self.measure == "euclidean":
            return b.op("Neg", b.op("ReduceSumSquare", b.op("Sub", ours, theirs), last, keepdims=0))
        dot = b.op("ReduceSum", b.op("Mul", ours, theirs), last, keepdims=0)
        if self.measure == "dot":
            return dot
        norms = [b.op("ReduceL2", vector, last, keepdims=0) for vector in (ours, theirs)]
        return b.op("Div", dot, b.op("Max", b.op("Mul", *norms), _TINY))
