# SPDX-License-Identifier: Apache-2.0
"""Heat maps at another size, and scaled to 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.image.geometry import Size


def upsample_bilinear(values: NDArray[Any], size: Size) -> NDArray[np.float64]:
    """(h, w) -> (H, W), bilinear with half-pixel centres and the border repeated, as the graph's Resize does it.

    Args:
        values: A map (h, w).
        size: (H, W).
    """
    wide = _along_columns(values.astype(np.float64), size[1])
    return _along_columns(wide.T, size[0]).T


def to_unit_range(values: NDArray[Any]) -> NDArray[np.float64]:
    """(x - min) / (max - min); a flat map becomes zeros, one that holds NaN all NaN."""
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    scaled: NDArray[np.float64] = (wide - low) / (1 if high == low else high - low)
    return scaled


def _along_columns(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """(h, w) -> (h, length)."""
    source = values.shape[1]
    at = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
    left = np.floor(at).astype(int)
    right = np.minimum(left + 1, source - 1)
    resized: NDArray[np.float64] = values[:, left] * (1 - (at - left)) + values[:, right] * (at - left)
    return resized
