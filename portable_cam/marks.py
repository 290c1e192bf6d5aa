"""What an explanation is about, drawn into pictures: boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from portable_cam.geometry import Box, Geometry
from portable_cam.report import Picture

#: Apart from everything in the colour map, and from each other in lightness too.
COLORS = ((0, 200, 255), (120, 255, 90), (255, 255, 255), (255, 120, 220), (255, 220, 60), (150, 160, 255))


@dataclass(frozen=True)
class Mark:
    """A box in pixels of the model's input, or a mask bool (H, W) of its size."""

    box: Box | None = None
    mask: NDArray[np.bool_] | None = None

    def on_photo(self, geometry: Geometry) -> Mark:
        """The same in pixels of the photo."""
        box = None if self.box is None else geometry.to_photo(self.box)
        mask = None if self.mask is None else geometry.on_photo(self.mask.astype(np.float32)) > 0.5
        return Mark(box, mask)


def draw(picture: Picture, marks: Sequence[Mark | None], labels: Sequence[str] = ()) -> Picture:
    """The picture with outlines of the marks, each in a colour of its own, and labels if given.

    Args:
        picture: uint8 (H, W, 3).
        marks: In pixels of this picture.
        labels: One per mark; only boxes show theirs.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    pen = ImageDraw.Draw(image)
    thick = max(1, round(min(image.size) / 160))
    font = ImageFont.load_default(size=max(10, round(min(image.size) / 22)))
    for i, mark in enumerate(marks):
        color = COLORS[i % len(COLORS)]
        if mark is None:
            continue
        if mark.mask is not None:
            image.paste(color, mask=Image.fromarray(_edge(mark.mask, thick)))
        if mark.box is not None:
            x0, y0, x1, y1 = mark.box
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=thick)
            if labels:
                _write(pen, labels[i], (x0 + thick, y0 + thick), color, font)
    return np.asarray(image)


def _write(
    pen: ImageDraw.ImageDraw, text: str, at: tuple[float, float], color: tuple[int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:  # fmt: skip
    pen.rectangle(pen.textbbox(at, text, font=font), fill=(0, 0, 0))
    pen.text(at, text, fill=color, font=font)


def _edge(mask: NDArray[np.bool_], thick: int) -> NDArray[np.uint8]:
    """The border of a mask, as opacity: what is in it and within ``thick`` pixels of what is not."""
    inner = np.pad(mask, thick, constant_values=False)
    for axis in (0, 1):
        for step in range(1, thick + 1):
            inner = inner & np.roll(inner, step, axis) & np.roll(inner, -step, axis)
    edge: NDArray[np.uint8] = np.where(mask & ~inner[thick:-thick, thick:-thick], 255, 0).astype(np.uint8)
    return edge
