# SPDX-License-Identifier: Apache-2.0
"""Colours: heat maps and signed gradients as RGB images."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError, OptionError
from portable_cam.image.geometry import ImageArray

#: Perceptually uniform, like magma and viridis: equal steps of the map look equally large, and lightness only rises (it
#: survives grey print and colour blindness), where jet and turbo draw edges that are not in the data. Of these, inferno
#: has the widest range of lightness, and its dark end leaves the unimportant part of a photo its own colours.
COLORMAP = "inferno"

#: Neither end of the colour map: a value that is not a number must not look like an unimportant one.
NOT_A_NUMBER = (0, 170, 190)

# beyond this percentile gradients are outliers: a few pixels that would leave all others grey
_ROBUST = 99.5


def colorize(map01: NDArray[np.floating]) -> ImageArray:
    """A map (H, W) of 0 to 1 as uint8 (H, W, 3) RGB; values outside are clipped, NaN shows in a colour of its own.

    Raises:
        InputError: The map is not (H, W).
    """
    _check_map(map01)
    values = np.nan_to_num(map01, nan=0.0, posinf=1.0, neginf=0.0)
    colours: ImageArray = palette()[np.rint(np.clip(values, 0, 1) * 255).astype(np.intp)]
    colours[np.isnan(map01)] = NOT_A_NUMBER
    return colours


def overlay(image: ImageArray, map01: NDArray[np.floating], alpha: float = 0.5) -> ImageArray:
    """A map over the photo: ``(1 - alpha) * photo + alpha * colour``.

    Args:
        image: uint8 (H, W, 3), RGB.
        map01: Float (H, W) of 0 to 1, of the same size.
        alpha: How opaque the map is, 0 to 1.

    Raises:
        InputError: The sizes differ.
        OptionError: ``alpha`` is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha {alpha} is not between 0 and 1")
    _check_map(map01)
    if image.shape != (*map01.shape, 3):
        raise InputError(f"the map is {map01.shape}, the photo {image.shape}: bring both to one size first")
    # float32: a photo of 12 megapixels takes 150 MB so, a third of the time, and no value of 0 to 255 needs more
    mixed = image * np.float32(1 - alpha)
    mixed += colorize(map01) * np.float32(alpha)
    blended: ImageArray = np.rint(mixed, out=mixed).astype(np.uint8)
    return blended


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
def palette() -> ImageArray:
    """The colours of 0 to 1, uint8 (256, 3)."""
    colours: NDArray[np.float64] = matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)


def _check_map(map01: NDArray[Any]) -> None:
    if map01.ndim != 2:
        raise InputError(f"a map has shape (H, W), not {map01.shape}")
