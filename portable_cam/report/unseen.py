"""What a centre crop left out of the photo: hatched and outside a frame, so that it is not taken for no evidence."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from portable_cam.image.geometry import Geometry, ImageArray

#: Left, top, right, bottom in whole pixels.
Frame = tuple[int, int, int, int]


def seen_frame(geometry: Geometry) -> Frame | None:
    """The part of the photo that the model sees, in the photo's pixels; None where that is all of it."""
    height, width = geometry.photo
    left, top, right, bottom = geometry.box
    frame = max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom))
    return None if frame == (0, 0, width, height) else frame


def hatch(pixels: ImageArray, frame: Frame | None = None) -> ImageArray:
    """The image with everything outside the frame hatched, which leaves its pixels in sight between the lines.

    Args:
        pixels: uint8 (H, W, 3).
        frame: Of :func:`seen_frame`, in pixels of this image; None: everything is outside.
    """
    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    thick = max(1, round(max(height, width) / 450))
    step = 11 * thick
    lines = image.copy()
    pen = ImageDraw.Draw(lines)
    for start in range(-height, width, step):
        for offset, ink in ((0, (255, 255, 255)), (thick, (40, 40, 40))):  # seen on light and on dark
            pen.line((start + offset, height, start + offset + height, 0), fill=ink, width=thick)
    outside = Image.new("L", image.size, 150)
    if frame is not None:
        outside.paste(0, frame)
    image.paste(lines, mask=outside)
    if frame is None:
        return np.asarray(image)
    pen = ImageDraw.Draw(image)
    x0, y0, x1, y1 = frame
    pen.rectangle((x0 - thick, y0 - thick, x1 - 1 + thick, y1 - 1 + thick), outline=(40, 40, 40), width=thick)
    pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(255, 255, 255), width=thick)
    return np.asarray(image)
