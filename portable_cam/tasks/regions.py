# SPDX-License-Identifier: Apache-2.0
"""What a user marks in a photo: a region, a pixel or a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import OptionError, RegionError, TargetError
from portable_cam.image.decode import read_image
from portable_cam.image.geometry import Box, Geometry, Size
from portable_cam.spelling import option


def check_region(region: Sequence[float], geometry: Geometry) -> Box:
    """A box, clipped to the photo.

    Raises:
        RegionError: It lies outside the photo.
        TargetError: It is empty.
    """
    x0, y0, x1, y1 = region = _numbers("region", region, 4)
    height, width = geometry.photo
    if not (x0 < x1 and y0 < y1):
        raise TargetError(f"the region {region} is empty: give left, top, right, bottom in pixels of the photo")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise RegionError(f"the region {region} lies outside the photo of {width} x {height} pixels")
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def given_weights(geometry: Geometry, size: Size, marked: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """What a user marks in a photo as the weight of each pixel of the logits (h, w); None if nothing is marked.

    Args:
        geometry: Between photo and input.
        size: (h, w) of the logits.
        marked: At most one of: ``mask``, an image's path or an array (H, W) at the photo's size, where what is not zero
            counts; ``region``, left, top, right, bottom in pixels of the photo; ``pixel``, column and row.

    Raises:
        OptionError: More than one is given.
        RegionError: It lies outside the photo or outside what the model sees, or has another size.
        TargetError: It is empty.
    """
    if len(marked) > 1:
        raise OptionError(f"mark a mask, a region or a pixel, one of them, not {', '.join(marked)}")
    if not marked:
        return None
    if "pixel" in marked:
        weights = _weights_of_pixel(marked["pixel"], geometry, size)
    else:
        mask = _of_region(marked["region"], geometry) if "region" in marked else _of_mask(marked["mask"], geometry)
        white = np.repeat(mask.astype(np.uint8)[:, :, None] * 255, 3, axis=2)
        weights = resized(geometry.apply(white, "box", 0)[:, :, 0].astype(np.float32) / np.float32(255), size)
    if not weights.any():
        raise RegionError("what is marked lies outside the part of the photo that the model sees")
    return weights


def marked_share(geometry: Geometry, marked: Mapping[str, Any]) -> tuple[str, float | None]:
    """What a user marked, ``mask``, ``region`` or ``pixel``, and which share of the photo that is; None for a pixel."""
    ((kind, value),) = marked.items()
    if kind == "pixel":
        return kind, None
    mask = _of_region(value, geometry) if kind == "region" else _of_mask(value, geometry)
    return kind, float(mask.mean())


def resized(values: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Weights (h, w) at another size, averaged over the area of each pixel."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX), np.float32)


def _weights_of_pixel(pixel: Sequence[float], geometry: Geometry, size: Size) -> NDArray[np.float32]:
    (column, row), (height, width) = _numbers("pixel", pixel, 2), geometry.photo
    if not (0 <= column < width and 0 <= row < height):
        raise RegionError(f"the pixel ({column}, {row}) lies outside the photo of {width} x {height} pixels")
    x, y, *_ = geometry.to_input((column + 0.5, row + 0.5, column + 1, row + 1))
    weights = np.zeros(size, np.float32)
    i, j = int(y * size[0] // geometry.size[0]), int(x * size[1] // geometry.size[1])
    if 0 <= i < size[0] and 0 <= j < size[1]:
        weights[i, j] = 1
    return weights


def _numbers(name: str, given: Any, count: int) -> tuple[float, ...]:
    """So many numbers: :class:`TargetError` if it is something else."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise TargetError(f"{option(name)} is {count} numbers in pixels of the photo, not {given!r}")
    return tuple(int(value) if value == round(value) else value for value in values.tolist())


def _of_region(region: Sequence[float], geometry: Geometry) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = check_region(region, geometry)
    mask = np.zeros(geometry.photo, bool)
    mask[int(y0) : max(int(np.ceil(y1)), int(y0) + 1), int(x0) : max(int(np.ceil(x1)), int(x0) + 1)] = True
    return mask


def _of_mask(given: Any, geometry: Geometry) -> NDArray[np.bool_]:
    if isinstance(given, np.ndarray):
        if given.ndim != 2:
            raise TargetError(f"a mask has shape (H, W), not {given.shape}")
        mask: NDArray[np.bool_] = given != 0
    else:
        mask = read_image(given).max(axis=2) > 0
    height, width = geometry.photo
    if mask.shape != (height, width):
        raise RegionError(f"the mask is {mask.shape[1]} x {mask.shape[0]}, the photo {width} x {height}")
    if not mask.any():
        raise TargetError("the mask is empty: mark at least one pixel with a value other than 0")
    return mask
