"""Lines along which a map has one value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from portable_cam.image.geometry import ImageArray


def draw_contours(pixels: ImageArray, map01: NDArray[np.floating], levels: Sequence[float]) -> ImageArray:
    """The image with a white line, dark at both sides, at each level: seen on any photo and any colour map.

    Args:
        pixels: uint8 (H, W, 3).
        map01: (H, W) of 0 to 1; no line passes where it is not a number.
        levels: Between 0 and 1.
    """
    if not levels:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    pen = ImageDraw.Draw(image)
    thick = max(1, round(max(image.size) / 450))
    generator = contour_generator(z=np.ma.masked_invalid(map01))
    paths = [np.asarray(path) for level in levels for path in generator.lines(float(level))]
    for grow, ink in ((2 * thick, (25, 25, 25)), (0, (255, 255, 255))):
        for path in paths:
            pen.line([(float(x), float(y)) for x, y in path], fill=ink, width=thick + grow, joint="curve")
    return np.asarray(image)
