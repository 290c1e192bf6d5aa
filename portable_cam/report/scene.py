"""The photo at the size it is drawn at, and where the model's input lies in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from portable_cam.explanation import Explanation
from portable_cam.image.geometry import Geometry, ImageArray
from portable_cam.report.unseen import Frame, seen_frame


@dataclass(frozen=True)
class Scene:
    """A photo to draw on: uint8 (H, W, 3), the geometry from it to the model's input, and
    whether what the model does not see is hatched."""

    pixels: ImageArray
    geometry: Geometry
    hatched: bool = True

    @property
    def frame(self) -> Frame | None:
        """The part that the model sees, None where that is all."""
        return seen_frame(self.geometry)


def scene_of(explanation: Explanation, longest: int, least: int = 1) -> Scene:
    """The photo with its longer side scaled down to at most so many pixels (0: as it is), or up to at least so many, by
    whole numbers, which leaves its pixels square."""
    pixels = explanation.image
    height, width = pixels.shape[:2]
    side = max(height, width)
    if 0 < longest < side:
        size = max(1, round(width * longest / side)), max(1, round(height * longest / side))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
    elif side < least:
        times = -(-least // side)
        pixels = pixels.repeat(times, 0).repeat(times, 1)
    return Scene(pixels, replace(explanation.geometry, photo=(pixels.shape[0], pixels.shape[1])))
