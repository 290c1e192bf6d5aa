# SPDX-License-Identifier: Apache-2.0
"""The images that explanations are measured on, as the model takes them, where their objects are, and their maps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError, OptionError
from portable_cam.image.decode import read_image
from portable_cam.image.find import find_images
from portable_cam.image.geometry import Box, Geometry, Size
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.unit_range import to_unit_range

#: Where an object is: left, top, right, bottom in the photo, or a mask bool (H, W) of its size; None where unknown.
Region: TypeAlias = Sequence[float] | NDArray[Any] | None


@dataclass
class Picture:
    """One image as the model takes it, (1, ...); ``geometry`` is None where it came so."""

    name: str
    x: NDArray[Any]
    geometry: Geometry | None


def pictures_of(images: Any, prepare: Preprocessing) -> list[Picture]:
    """Images decoded and prepared, each under a name of its own.

    Args:
        images: A folder, a list of what :func:`~portable_cam.image.decode.read_image` takes, or an array of inputs.
        prepare: Makes an input of a photo.

    Raises:
        ImageError, InputError: One cannot be decoded, or there are none.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [Picture(str(i), images[i : i + 1], None) for i in range(len(images))]
    if isinstance(images, str | os.PathLike):
        images = [path for path, _ in find_images([images]).photos]
    elif not isinstance(images, Iterable) or isinstance(images, bytes | np.ndarray):
        images = [images]
    found = []
    for i, image in enumerate(images):
        decoded = read_image(image)
        name = Path(image).name if isinstance(image, str | os.PathLike) else str(i)
        found.append(Picture(name, prepare(decoded), prepare.geometry((decoded.shape[0], decoded.shape[1]))))
    if not found:
        raise InputError("there are no images to evaluate on")
    names = [picture.name for picture in found]
    for i, picture in enumerate(found):  # of the same name in several folders
        picture.name = picture.name if names.count(picture.name) == 1 else f"{i}:{picture.name}"
    return found


def mask_of(region: Region, picture: Picture, size: Size) -> NDArray[np.bool_] | None:
    """A region in the pixels of the model's input.

    Raises:
        InputError: It is neither a box nor a mask of the photo's size, or nothing of it is in the model's view.
    """
    if region is None:
        return None
    array, geometry = np.asarray(region), picture.geometry
    if array.ndim == 1 and array.size == 4:
        box: Box = tuple(float(v) for v in array)  # type: ignore[assignment]
        left, top, right, bottom = box if geometry is None else geometry.to_input(box)
        rows, columns = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
        found = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    elif array.ndim == 2 and geometry is not None and array.shape == geometry.photo:
        shown = np.repeat(((array != 0) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
        found = geometry.apply(shown, "nearest", 0)[:, :, 0] > 127
    elif array.ndim == 2 and geometry is None and array.shape == size:
        found = array != 0
    else:
        raise InputError(
            f"a region is left, top, right, bottom, or a mask of the photo's size, not of shape {array.shape}"
        )
    if not found.any():
        raise InputError(f"nothing of the region of {picture.name} is in what the model sees of it")
    return found


def scaled(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least to greatest as 0 to 1; one that is the same everywhere is left, held between 0 and 1."""
    if heat.min() == heat.max():
        return np.clip(heat, 0, 1)
    return to_unit_range(heat)


def as_map(values: NDArray[Any], channel_axis: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A method's result for one image and target as a map (H, W) from 0 to 1.

    Raises:
        OptionError: The map is of the layer's size, as the profile captum leaves it, or holds NaN.
    """
    if values.ndim == 3:
        values = np.abs(values).sum(axis=channel_axis - 1)
    size = shape[2:] if channel_axis == 1 else shape[1:3]
    if values.shape != tuple(size):
        raise OptionError("maps are measured at the input's size: choose the profile paper or pytorch_grad_cam")
    if not np.isfinite(values).all():
        raise OptionError("a map holds NaN or infinity and cannot be measured: look at the explanation's flags")
    return scaled(values.astype(np.float64))
