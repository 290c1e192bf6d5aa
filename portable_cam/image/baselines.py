# SPDX-License-Identifier: Apache-2.0
"""What stands in for the part of an image that is taken away.

Everything is in the model's own numbers, (N, C, H, W) or (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError

Array = NDArray[Any]

#: The standard deviation of the blur, in parts of the shorter side.
BLUR = 20


def spatial_axes(channel_axis: int) -> tuple[int, int]:
    """The axes of rows and columns of an image batch."""
    return (2, 3) if channel_axis == 1 else (1, 2)


def gaussian_blur(x: Array, sigma: float, axes: tuple[int, int]) -> NDArray[np.float64]:
    """Convolved with a Gaussian cut off at three standard deviations, the edges mirrored."""
    reach = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    found = np.asarray(x, np.float64)
    for axis in axes:
        lines = np.moveaxis(found, axis, -1)
        wide = np.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(reach, reach)], mode="symmetric")
        out = np.zeros_like(lines)
        for i, tap in enumerate(taps):
            out += tap * wide[..., i : i + lines.shape[-1]]
        found = np.moveaxis(out, -1, axis)
    return np.asarray(found, np.float64)


def _blur(x: Array, axis: int, _: float) -> Array:
    axes = spatial_axes(axis)
    return gaussian_blur(x, min(x.shape[a] for a in axes) / BLUR, axes)


def _mean(x: Array, axis: int, _: float) -> Array:
    return np.broadcast_to(np.asarray(x, np.float64).mean(axis=spatial_axes(axis), keepdims=True), x.shape)


def _zero(x: Array, _: int, zero: float) -> Array:
    return np.full(x.shape, zero)


BASELINES: Mapping[str, Callable[[Array, int, float], Array]] = {"blur": _blur, "mean": _mean, "zero": _zero}
#: What each is, for reports.
MEANING: Mapping[str, str] = {
    "blur": f"the image blurred by a Gaussian of a standard deviation of 1/{BLUR} of its shorter side",
    "mean": "the mean colour of the image",
    "zero": "zero in the model's own numbers, which is the mean colour of the training images for many models",
}


def check_baseline(name: str) -> str:
    """The name of a baseline.

    Raises:
        OptionError: There is no such baseline.
    """
    if name not in BASELINES:
        raise OptionError(f"baseline '{name}' does not exist; the baselines are {', '.join(BASELINES)}")
    return name


def baseline(name: str, x: Array, channel_axis: int = 1, zero: float = 0) -> Array:
    """The baseline of a batch, in its shape and type.

    Args:
        name: ``blur``, ``mean`` or ``zero``.
        x: (N, C, H, W) or (N, H, W, C).
        channel_axis: Which of the two.
        zero: What stands for zero: the zero point of a quantised input.

    Raises:
        OptionError: There is no such baseline.
    """
    return as_input(BASELINES[check_baseline(name)](x, channel_axis, zero), x.dtype)


def as_input(values: Array, dtype: np.dtype[Any]) -> Array:
    """Values as an input of this type: integers rounded and held in their range."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def mix(x: Array, other: Array, keep: Array, channel_axis: int = 1) -> Array:
    """``x`` where a mask is 1, ``other`` where it is 0, between the two in proportion.

    Args:
        x: (1, C, H, W) or (1, H, W, C).
        other: What stands in, of the same shape.
        keep: (S, H, W), 0 to 1 or bool.
        channel_axis: Of ``x``.

    Returns:
        (S, ...) in the type of ``x``.
    """
    wide = np.expand_dims(keep, channel_axis if channel_axis == 1 else 3)
    if keep.dtype == bool:
        return np.where(wide, x, other)
    mixed = wide * x.astype(np.float64) + (1 - wide) * other.astype(np.float64)
    return as_input(mixed, x.dtype)
