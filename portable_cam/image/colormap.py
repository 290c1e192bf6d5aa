# SPDX-License-Identifier: Apache-2.0
"""Colours: heat maps and signed gradients as RGB images."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import InputError
from portable_cam.image.geometry import ImageArray
from portable_cam.image.look import COLORMAP, DEFAULT, Look

#: Neither end of the colour map: a value that is not a number must not look like an unimportant one.
NOT_A_NUMBER = (0, 170, 190)

# beyond this percentile gradients are outliers: a few pixels that would leave all others grey
_ROBUST = 99.5


def colorize(map01: NDArray[np.floating], colormap: str = COLORMAP) -> ImageArray:
    """A map (H, W) of 0 to 1 as uint8 (H, W, 3) RGB; values outside are clipped, NaN shows in a colour of its own.

    Raises:
        InputError: The map is not (H, W).
    """
    _check_map(map01)
    colours: ImageArray = palette(colormap)[_steps(map01)]
    return colours


def overlay(image: ImageArray, map01: NDArray[np.floating], look: Look = DEFAULT) -> ImageArray:
    """A map over the photo: ``(1 - a) * photo + a * colour``, the opacity ``a`` and the photo's grey by the look.

    Contour lines are not drawn here: see :func:`portable_cam.report.contours.draw_contours`.

    Args:
        image: uint8 (H, W, 3), RGB.
        map01: Float (H, W) of 0 to 1, of the same size.
        look: Its colour map, opacity, and whether the photo is grey.

    Raises:
        InputError: The sizes differ.
    """
    _check_map(map01)
    if image.shape != (*map01.shape, 3):
        raise InputError(f"the map is {map01.shape}, the photo {image.shape}: bring both to one size first")
    steps = _steps(map01)
    weight = opacities(look)[steps][:, :, None]
    below = luma(image)[:, :, None] if look.gray else image
    # float32 holds every product of 8 bits, at half the memory
    mixed = palette(look.colormap)[steps] * weight
    mixed += below * (np.float32(1) - weight)
    blended: ImageArray = np.rint(mixed, out=mixed).astype(np.uint8)
    return blended


def luma(image: ImageArray) -> NDArray[np.uint8]:
    """(H, W): ITU-R 601 luma, with the weights and the rounding of Pillow's ``convert("L")``."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))


def palette(colormap: str) -> ImageArray:
    """uint8 (257, 3): the colours of 0, 1/255, ... 1, and that of NaN."""
    return _palette(colormap)


def opacities(look: Look) -> NDArray[np.float32]:
    """float32 (257,): how opaque the colours of :func:`palette` are."""
    rising = np.linspace(0, 1, 256) if look.rising else np.ones(256)
    # NaN must be seen, whatever the map's opacity
    return np.append(look.opacity * rising, max(look.opacity, 0.5)).astype(np.float32)


def signed_image(
    gradients: NDArray[np.floating], layout: Literal["nchw", "nhwc"] | None = None, color: str = "rgb"
) -> ImageArray:
    """Signed values per channel as an image: grey is 0, brighter is positive, darker negative.

    The scale is one robust percentile of the magnitudes for all channels, so that hues keep their meaning and a few
    outliers do not leave everything else grey. An image without any gradient is grey; so are NaNs in it.

    Args:
        gradients: Float (C, H, W) or (H, W, C), with 1 or 3 channels.
        layout: Which of the two; None: by where the channels are, first axis first.
        color: ``bgr`` if the channels are in this order; the image is RGB.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: There is no axis of 1 or 3 channels.
    """
    shape = gradients.shape
    if layout is None and gradients.ndim == 3:
        layout = "nchw" if shape[0] in (1, 3) else "nhwc"
    if gradients.ndim != 3 or shape[0 if layout == "nchw" else 2] not in (1, 3):
        raise InputError(f"gradients of one image are (C, H, W) or (H, W, C) with 1 or 3 channels, not {shape}")
    values = np.nan_to_num(gradients.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = values.transpose(1, 2, 0) if layout == "nchw" else values
    magnitude = np.abs(values)
    # a sparse gradient may be zero at that percentile: then its maximum is the scale
    scale = float(np.percentile(magnitude, _ROBUST)) or float(magnitude.max(initial=0.0))
    signed = np.clip(values / scale, -1, 1) if scale > 0 else values
    shades = np.rint(127.5 + 127.5 * signed).astype(np.uint8)
    if color == "bgr":
        shades = shades[:, :, ::-1]
    return np.ascontiguousarray(np.broadcast_to(shades, (*shades.shape[:2], 3)))


@cache
def _palette(colormap: str) -> ImageArray:
    colours: NDArray[np.float64] = matplotlib.colormaps[colormap](np.linspace(0, 1, 256))[:, :3]
    table: ImageArray = np.vstack([np.rint(colours * 255), NOT_A_NUMBER]).astype(np.uint8)
    table.flags.writeable = False
    return table


def _steps(map01: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Where each value's colour is in the palette."""
    # one array of float32 at a time: a photo's map is as large as the photo
    steps = np.nan_to_num(map01.astype(np.float32), copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    np.clip(steps, 0, 1, out=steps)
    steps *= np.float32(255)
    found = np.rint(steps, out=steps).astype(np.uint16)
    found[np.isnan(map01)] = 256
    return found


def _check_map(map01: NDArray[Any]) -> None:
    if map01.ndim != 2:
        raise InputError(f"a map has shape (H, W), not {map01.shape}")
