# SPDX-License-Identifier: Apache-2.0
"""Runs again where a gradient left the range of half precision: see :mod:`portable_cam.export.autodiff.loss_scale`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.autodiff.loss_scale import DEFAULT_SCALE
from portable_cam.export.format import depends_on_loss_scale

Values: TypeAlias = dict[str, NDArray[Any]]
_DOWN = 2.0**-6  # per round; four rounds reach 2^-14, the smallest normal number of float16
_ROUNDS = 4
_UP = 2.0**15  # the largest power of two of float16


def with_loss_scale(run: Callable[[NDArray[np.float32]], Values], count: int) -> Values:
    """Run with the default scale, then again with a smaller one for images whose gradient overflowed, and once with the
    greatest one for images whose gradient is zero everywhere.

    Args:
        run: Runs the graph with a scale per image, float32 (N,).
        count: N.

    Returns:
        The values of the last run. What no scale helps stays as it is, and is flagged as any flat or infinite map.
    """
    scale = np.full(count, DEFAULT_SCALE, np.float32)
    values = run(scale)
    for round_ in range(_ROUNDS):
        overflowed, vanished = _judged(values, count)
        again = np.where(overflowed, np.where(scale > DEFAULT_SCALE, np.float32(DEFAULT_SCALE), scale * _DOWN), scale)
        if round_ == 0:
            again = np.where(vanished & ~overflowed, np.float32(_UP), again)
        if (again == scale).all():
            break
        scale = again.astype(np.float32)
        values = run(scale)
    return values


def _judged(values: Mapping[str, NDArray[Any]], count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each image, whether a gradient is infinite though the score is not, and whether one is zero everywhere."""
    overflowed, vanished = np.zeros(count, bool), np.zeros(count, bool)
    for name, value in values.items():
        if depends_on_loss_scale(name):
            space = tuple(range(2, value.ndim))
            overflowed |= ~np.isfinite(value).all(axis=(1, *space))
            vanished |= (value == 0).all(axis=space).any(axis=1)
    overflowed &= np.isfinite(values["scores"]).all(axis=1)
    return overflowed, vanished
