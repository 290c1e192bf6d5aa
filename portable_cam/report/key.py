# SPDX-License-Identifier: Apache-2.0
"""What the colours of a picture mean, drawn as the picture itself is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portable_cam.image.colormap import NOT_A_NUMBER, overlay, signed_image
from portable_cam.image.geometry import ImageArray
from portable_cam.image.look import Look
from portable_cam.report.contours import draw_contours
from portable_cam.report.maps import ShownMaps
from portable_cam.report.style import UNSEEN
from portable_cam.report.unseen import hatch

_SHAPE = (24, 256)
_SAMPLE = (27, 54, 3)
_MID_GRAY = 128


@dataclass(frozen=True)
class Key:
    """A scale or a sample.

    Attributes:
        caption: What it is of.
        pixels: uint8 (H, W, 3).
        ticks: Where on the scale, 0 to 1, and what stands there; none for a sample.
        of_overlay: Whether it is the scale of overlays, which changes with their opacity.
    """

    caption: str
    pixels: ImageArray
    ticks: tuple[tuple[float, str], ...] = ()
    of_overlay: bool = False


def keys_of(shown: Sequence[ShownMaps], look: Look, *, unseen: bool) -> list[Key]:
    """The keys that a picture of these maps needs.

    Args:
        shown: What it shows.
        look: How.
        unseen: Whether it shows more of the photo than the model saw.
    """
    signs = {maps.sign for maps in shown if not maps.signed}
    found = []
    if signs:
        said = "for or against it, as titled" if len(signs) > 1 else "for it" if "positive" in signs else "against it"
        found.append(_scale(f"evidence {said}, relative to the most of each map", look))
    if any(maps.signed for maps in shown):
        found.append(_signed())
    if any(maps.holds_nan for maps in shown if not maps.signed):
        found.append(Key("not a number", np.full(_SAMPLE, NOT_A_NUMBER, np.uint8)))
    if unseen:
        found.append(Key(UNSEEN, hatch(np.full(_SAMPLE, _MID_GRAY, np.uint8))))
    return found


def _scale(caption: str, look: Look) -> Key:
    """A map's colours from none to most evidence as they look over a photo, here over mid-grey."""
    values = np.tile(np.linspace(0, 1, _SHAPE[1]), (_SHAPE[0], 1))
    drawn = overlay(np.full((*_SHAPE, 3), _MID_GRAY, np.uint8), values, look)
    ticks = [(0.0, "none"), *((level, f"{level:g}") for level in look.contours), (1.0, "most")]
    return Key(caption, draw_contours(drawn, values, look.contours), tuple(ticks), of_overlay=True)


def _signed() -> Key:
    """From what lowers the score to what raises it, zero marked."""
    pixels = signed_image(np.tile(np.linspace(-1, 1, _SHAPE[1]), (1, _SHAPE[0], 1)), "nchw").copy()
    middle = _SHAPE[1] // 2
    pixels[:, middle - 1 : middle + 1] = 0
    ticks = ((0.0, "lowers the score"), (0.5, "0"), (1.0, "raises it"))
    return Key("gradient of each colour channel, relative to the most", pixels, ticks)
