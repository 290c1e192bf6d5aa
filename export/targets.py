"""What is explained: small ONNX subgraphs that reduce the scores tensor to one number per image.

A target is asked once per graph. It gets the tensor that holds the scores and, per image, an index; it appends nodes
that compute the score, and everything downstream (gradients, heads, self-check) starts from that number. To add a
target, write a class with ``count`` and ``score``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.builder import Builder, known_dims


class Target(Protocol):
    """How a target is asked."""

    @property
    def name(self) -> str: ...

    def count(self, scores: ir.Value) -> int | None:
        """How many indices there are (the number of classes), None if known only at run time.

        Raises:
            TargetError: The scores tensor does not fit this target.
        """

    def score(self, b: Builder, scores: ir.Value, index: ir.Value) -> ir.Value:
        """The score explained, (N,), for ``index`` int64 (N,)."""

    def ranking(self, b: Builder, scores: ir.Value) -> ir.Value:
        """(N, M): the tensor whose order says which index is the top one."""


@dataclass(frozen=True)
class Class:
    """The score of one class per image: scores (N, M), or (N, M, 1, 1) as fully convolutional classifiers end."""

    @property
    def name(self) -> str:
        return "class"

    def count(self, scores: ir.Value) -> int | None:
        dims = known_dims(scores)
        if dims is None or len(dims) < 2 or any(d not in {1, None} for d in dims[2:]):
            raise TargetError(
                f"the scores '{scores.name}' have shape {scores.shape}: a class needs one score per class and image, "
                "(N, classes). Name another tensor with `output`"
            )
        return dims[1]

    def ranking(self, b: Builder, scores: ir.Value) -> ir.Value:
        dims = known_dims(scores)
        return scores if dims is not None and len(dims) == 2 else b.op("Flatten", scores, axis=1)

    def score(self, b: Builder, scores: ir.Value, index: ir.Value) -> ir.Value:
        flat = self.ranking(b, scores)
        flat.shape = ir.Shape([None, self.count(scores)]) if flat.shape is None else flat.shape
        column = b.op("Unsqueeze", index, b.ints([1]))
        chosen = b.op("GatherElements", flat, column, axis=1)
        return b.op("Squeeze", chosen, b.ints([1]))
