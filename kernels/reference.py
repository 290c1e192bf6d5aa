"""The slow, obvious numpy twin of each kernel, in float64.

N images, K targets, C channels, (h, w) the layer's size, (H, W) the picture's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def channel_weights(gradient: NDArray[Any]) -> Array:
    """The mean gradient over space: (N, K, C, h, w) -> (N, K, C); Selvaraju et al. 2017, equation 1."""
    weights: Array = gradient.astype(np.float64).mean(axis=(3, 4))
    return weights


def weighted_sum(weights: NDArray[Any], activation: NDArray[Any], *, relu: bool = True) -> Array:
    """sum_c w[n, k, c] A[n, c], then a ReLU: (N, K, C), (N, C, h, w) -> (N, K, h, w); equation 2."""
    n, k, _ = weights.shape
    maps = np.zeros((n, k, *activation.shape[2:]))
    for i in range(n):
        for j in range(k):
            for channel, weight in enumerate(weights[i, j].astype(np.float64)):
                maps[i, j] += weight * activation[i, channel].astype(np.float64)
    return np.maximum(maps, 0) if relu else maps


def upsample_bilinear(maps: NDArray[Any], size: tuple[int, int]) -> Array:
    """(..., h, w) -> (..., H, W) with half-pixel centres and the border repeated, as cv2's INTER_LINEAR."""

    def along(values: Array, length: int) -> Array:
        """The last axis resized."""
        source = values.shape[-1]
        at = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
        left = np.floor(at).astype(int)
        right = np.minimum(left + 1, source - 1)
        out: Array = values[..., left] * (1 - (at - left)) + values[..., right] * (at - left)
        return out

    wide = along(maps.astype(np.float64), size[1])
    return along(wide.swapaxes(-1, -2), size[0]).swapaxes(-1, -2)


def minmax(maps: NDArray[Any]) -> Array:
    """(x - min) / (max - min) over the last two axes; a flat map becomes zeros."""
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    span = (high - low).astype(np.float64)
    return np.where(span > 0, (maps - low) / np.where(span > 0, span, 1), 0)


def guided_product(gradient: NDArray[Any], maps: NDArray[Any]) -> Array:
    """The input gradient times the upsampled map: (N, K, C, H, W), (N, K, h, w) -> (N, K, C, H, W)."""
    wide = upsample_bilinear(maps, (gradient.shape[3], gradient.shape[4]))
    return gradient.astype(np.float64) * wide[:, :, None]
