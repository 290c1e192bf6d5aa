"""Classification: one class, the difference of two, a set of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.builder import Builder, known_dims
from portable_cam.export.targets.protocol import Target


@dataclass(frozen=True)
class Class(Target):
    """The score of one class per image: scores (N, M), or (N, M, 1, 1) as fully convolutional classifiers end.

    Each class stands for itself, so that heads of several labels (a sigmoid per class) are explained as those of one.
    """

    name = "class"

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        (value,) = scores
        dims = known_dims(value)
        if dims is None or len(dims) < 2 or any(d not in {1, None} for d in dims[2:]):
            raise TargetError(
                f"the scores '{value.name}' have shape {value.shape}: a class needs one score per class and image, "
                "(N, classes). Name another tensor with `output`"
            )
        return dims[1]

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        (value,) = scores
        dims = known_dims(value)
        if dims is not None and len(dims) == 2:
            return value
        flat = b.op("Flatten", value, axis=1)
        flat.shape = ir.Shape([None, self.count(scores)])
        return flat

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        return pick(b, self.ranking(b, scores), index)


def pick(b: Builder, rows: ir.Value, index: ir.Value) -> ir.Value:
    """The element ``index`` of each row: (N, M), int64 (N,) -> (N,)."""
    column = b.op("Unsqueeze", index, b.ints([1]))
    return b.op("Squeeze", b.op("GatherElements", rows, column, axis=1), b.ints([1]))
