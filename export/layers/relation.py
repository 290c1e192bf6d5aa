"""Where the entries of an axis look at, along an axis of the input image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

#: A size: a number, the name of an open one, or None.
Size: TypeAlias = int | str | None


class Frame:
    """What a relation may count in, in place of the image's pixels: :mod:`portable_cam.export.layers.frames`."""


@dataclass(frozen=True)
class Relation:
    """Where the entries of an axis look at: index i at the interval of ``span`` pixels centred at ``step`` i +
    ``offset``, the centre of the first pixel being 0. The step is negative where the axis is mirrored. Pixels are the
    image's where ``frame`` is None, else the entries of that frame."""

    step: float
    offset: float
    span: float
    frame: Frame | None = None

    def through(self, step: float, offset: float = 0, extra: float = 0) -> Relation:
        """Of an axis whose entry j reads the entries of this one around ``step`` j + ``offset``, ``extra`` more than
        one of them."""
        return replace(
            self,
            step=self.step * step,
            offset=self.offset + self.step * offset,
            span=self.span + abs(self.step) * extra,
        )

    def hull(self, other: Relation, size: Size = None) -> Relation | None:
        """Of an axis of ``size`` entries made of both: intervals that hold both, as a convolution sees its shifted
        inputs, centred where the one of the smaller span is.

        None if more than half of one lies outside the other, if their steps differ and they drift apart by more than
        two, as corners that are aligned after a resizing do by one, or if they count in different frames.
        """
        if self.frame != other.frame:
            return None
        count = size if isinstance(size, int) else 1
        same = math.isclose(self.step, other.step, rel_tol=1e-9)
        if not same and (not isinstance(size, int) or self.step * other.step < 0):
            return None
        step = (self.step + other.step) / 2
        most = abs(step) * (max(1, count / 2) if same else 2)
        ends = [0, count - 1]
        if any(abs(self.at(i) - other.at(i)) > most + 1e-6 for i in ends):
            return None
        sharp, other = sorted((self, other), key=lambda r: r.span)
        if math.isclose(sharp.span, other.span, rel_tol=1e-9):
            middle = [(sharp.at(i) + other.at(i)) / 2 for i in ends]
        else:  # what sees less says where: a skip, not the context that comes to it
            middle = [sharp.at(i) for i in ends]
        reach = [r.span / 2 + abs(r.at(i) - m) for r in (sharp, other) for i, m in zip(ends, middle, strict=True)]
        if count > 1 and not same:
            step = (middle[1] - middle[0]) / (count - 1)
        return Relation(step, middle[0], 2 * max(reach), self.frame)

    def at(self, index: float) -> float:
        """The centre of an entry, in pixels."""
        return self.step * index + self.offset
