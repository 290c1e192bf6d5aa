"""Warnings about maps: flat, all negative, not finite, not put back, of another target than asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.format import CLAMPED, RANGE, RAW, SCORES, VIEWS

#: Of a score: its last digits in float32, after sums of a few hundred terms.
_ROUNDING = 16 * float(np.finfo(np.float32).eps)


def find_flags(values: Mapping[str, NDArray[Any]], maps: Mapping[str, NDArray[Any]]) -> list[list[tuple[str, ...]]]:
    """For each image and target the flags that :class:`~portable_cam.result.Result` describes.

    Args:
        values: ``scores`` (N, K) and each ``range.<method>`` (N, K, 2), by the names of an explanation file.
        maps: The methods' maps, (N, K, ...), or of each its extremes.
    """
    count, width = values[SCORES].shape
    found: list[list[list[str]]] = [[[] for _ in range(width)] for _ in range(count)]

    def mark(flag: str, where: NDArray[np.bool_]) -> None:
        for n, k in np.argwhere(where):
            if flag not in found[n][k]:
                found[n][k].append(flag)

    if CLAMPED in values:
        mark("clamped", values[CLAMPED])
    for value in maps.values():
        space = tuple(range(2, value.ndim))
        mark("flat", value.min(axis=space) == value.max(axis=space))
    for name, value in values.items():
        if name.startswith(RANGE):
            low, high = value[..., 0], value[..., 1]
            mark("flat", (low == high) | at_rounding(values, name.removeprefix(RANGE)))
            mark("all_negative", (high <= 0) & (low < 0))
            mark("nan", ~np.isfinite(value).all(axis=-1))
        if name.startswith(VIEWS):
            lost = np.isnan(value).any(axis=tuple(range(1, value.ndim)))
            of_images = lost if value.ndim == 4 else np.repeat(lost.any(), count)  # whose a view is, is not said here
            mark("unplaced", np.repeat(of_images[:, None], width, axis=1))
    for value in [*maps.values(), values[SCORES]]:
        mark("nan", ~np.isfinite(value).all(axis=tuple(range(2, value.ndim))))
    return [[tuple(flags) for flags in row] for row in found]


def at_rounding(values: Mapping[str, NDArray[Any]], method: str) -> NDArray[np.bool_]:
    """Whether a method's map is nothing but rounding: (N, K).

    A map's sum is about what the layer adds to the score, to first order. Where all of it is below the last digits of
    the score, as for the similarity of an image to itself, there is nothing to show.
    """
    score, extremes, raw = np.abs(values[SCORES]), values.get(RANGE + method), values.get(RAW + method)
    if extremes is None or raw is None:
        return np.zeros(score.shape, bool)
    cells = raw.shape[-2] * raw.shape[-1]
    found: NDArray[np.bool_] = np.abs(extremes).max(axis=-1) * cells <= _ROUNDING * score
    return found
