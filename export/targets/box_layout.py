"""Where the numbers of boxes lie in a detector's tensors, and what they say, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BoxLayout = Literal["rows", "columns", "grid", "cells"]
Form = Literal["xyxy", "yxyx", "cxcywh", "cxcywh_log", "ltrb", "gfl"]
BoxPart = Literal["product", "class", "objectness", "left", "top", "right", "bottom"]

#: The axis of a tensor on which the numbers of one box lie, for each layout.
AXES: Mapping[BoxLayout, int] = {"rows": 2, "columns": 1, "grid": 1, "cells": 4}
#: How many axes a tensor of each layout has.
RANKS: Mapping[BoxLayout, int] = {"rows": 3, "columns": 3, "grid": 4, "cells": 5}
_NO_IMAGES = 2  # axes of rows or columns without one of images
#: The parts of a score that are positions.
SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Columns:
    """A tensor that holds numbers of all boxes, which of its numbers per box they are, and its layout.

    ``rows`` (N, boxes, numbers), ``columns`` (N, numbers, boxes), ``grid`` (N, numbers, h, w) with a box per cell,
    ``cells`` (N, anchors, h, w, numbers). Of rows and columns the axis N may be missing, where a model takes one image.
    """

    tensor: str
    start: int = 0
    stop: int | None = None
    layout: BoxLayout = "rows"

    def axis(self, rank: int) -> int:
        """The axis of the numbers of a box, in a tensor of so many axes: one less where there is none of images."""
        return AXES[self.layout] - (rank == _NO_IMAGES)

    def fits(self, rank: int) -> bool:
        """Whether a tensor of so many axes may have this layout."""
        return rank == RANKS[self.layout] or (rank == _NO_IMAGES and self.layout in {"rows", "columns"})

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """(boxes, numbers) of one image's tensor."""
        chosen = np.moveaxis(values, self.axis(values.ndim), -1)[..., self.start : self.stop]
        return chosen.reshape(-1, chosen.shape[-1])


def numbers_of(values: Mapping[str, NDArray[Any]], where: Sequence[Columns]) -> NDArray[np.float64]:
    """(boxes, numbers) over all scales."""
    return np.concatenate([columns.of(values[columns.tensor].astype(np.float64)) for columns in where])


def side_of(numbers: NDArray[np.float64], form: Form, part: BoxPart) -> float:
    """The position of one side of a box, up to a constant that does not depend on the image.

    Args:
        numbers: Of the box.
        form: What they are.
        part: Which side.
    """
    i = SIDES.index(part)
    axis, sign = i % 2, -1 if i < 2 else 1
    if form in {"xyxy", "yxyx"}:
        return float(numbers[i if form == "xyxy" else (1, 0, 3, 2)[i]])
    if form in {"cxcywh", "cxcywh_log"}:
        size = np.exp(numbers[2 + axis]) if form == "cxcywh_log" else numbers[2 + axis]
        return float(numbers[axis] + sign / 2 * size)
    if form == "gfl":
        bins = numbers.reshape(4, -1)[i]
        spread = np.exp(bins - bins.max())
        return float(sign * (spread * np.arange(len(bins))).sum() / spread.sum())
    return float(sign * numbers[i])
