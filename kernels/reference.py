"""The slow, obvious numpy twin of each kernel, in float64.

N images, K targets, C channels, (h, w) the layer's size, (H, W) the image's.
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


def upsample_nearest(maps: NDArray[Any], size: tuple[int, int]) -> Array:
    """(..., h, w) -> (..., H, W), pixel floor(x w / W), as torch's nearest."""
    rows = np.arange(size[0]) * maps.shape[-2] // size[0]
    columns = np.arange(size[1]) * maps.shape[-1] // size[1]
    return maps.astype(np.float64)[..., rows[:, None], columns]


def minmax(maps: NDArray[Any]) -> Array:
    """(x - min) / (max - min) over the last two axes; a flat map becomes zeros, one with NaN in it NaN."""
    maps = maps.astype(np.float64)
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    result: Array = (maps - low) / np.where(high == low, 1, high - low)
    return result


def pgc_scale(maps: NDArray[Any]) -> Array:
    """pytorch-grad-cam's (x - min) / (1e-7 + max of that) over the last two axes."""
    shifted = maps.astype(np.float64) - maps.min(axis=(-2, -1), keepdims=True)
    result: Array = shifted / (1e-7 + shifted.max(axis=(-2, -1), keepdims=True))
    return result


def guided_product(gradient: NDArray[Any], maps: NDArray[Any]) -> Array:
    """The input gradient times the upsampled map: (N, K, C, H, W), (N, K, h, w) -> (N, K, C, H, W)."""
    wide = upsample_bilinear(maps, (gradient.shape[3], gradient.shape[4]))
    return gradient.astype(np.float64) * wide[:, :, None]


def method_map(method: str, activation: NDArray[Any], gradient: NDArray[Any]) -> Array:
    """The map before the ReLU of one of the kernel's methods: A (N, C, h, w), g (N, K, C, h, w) -> (N, K, h, w)."""
    a, g = activation.astype(np.float64)[:, None], gradient.astype(np.float64)
    space = (3, 4)
    if method == "gradcam":
        products = g.mean(axis=space, keepdims=True) * a
    elif method == "gradcam_plus_plus":
        total = a.sum(axis=space, keepdims=True)
        alpha = np.where(g != 0, g**2 / (2 * g**2 + total * g**3 + 1e-6), 0)
        products = (np.maximum(g, 0) * alpha).sum(axis=space, keepdims=True) * a
    elif method == "xgradcam":
        products = (g * a).sum(axis=space, keepdims=True) / (a.sum(axis=space, keepdims=True) + 1e-7) * a
    elif method == "hirescam":
        products = g * a
    elif method == "elementwise_gradcam":
        products = np.maximum(g * a, 0)
    else:
        products = {"layercam": np.maximum(g, 0) * a}[method]
    maps: Array = products.sum(axis=2)
    return maps


def overlay(
    maps: NDArray[Any], palette: NDArray[np.uint8], opacities: NDArray[Any], photos: NDArray[np.uint8], *, gray: bool
) -> NDArray[Any]:
    """(N, K, H, W) of 0 to 1, (257, 3), (257,), (N, H, W, 3) -> uint8 (N, K, H, W, 3); entry 256 is that of NaN."""
    steps = np.rint(np.clip(np.nan_to_num(maps, nan=0, posinf=1, neginf=0), 0, 1) * 255).astype(int)
    steps = np.where(np.isnan(maps), 256, steps)
    weights = opacities.astype(np.float64)[steps][..., None]
    luma = (photos.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    below = luma[..., None] if gray else photos
    return np.rint((1 - weights) * below[:, None] + weights * palette[steps]).astype(np.uint8)


def row_statistics(rows: NDArray[Any], correction: int = 0) -> Array:
    """(R, L) -> (R, 4): mean, variance, least, greatest."""
    x = rows.astype(np.float64)
    return np.stack([x.mean(1), x.var(1, ddof=correction), x.min(1), x.max(1)], axis=1)


def sample_moments(samples: NDArray[Any], correction: int = 0) -> tuple[Array, Array]:
    """(S, L) -> (L,), (L,): mean and variance over samples."""
    x = samples.astype(np.float64)
    mean: Array = x.mean(0)
    variance: Array = x.var(0, ddof=correction)
    return mean, variance
