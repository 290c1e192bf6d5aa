"""Boxes, masks and points drawn into images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from portable_cam.image.geometry import Box, ImageArray
from portable_cam.image.marks import Mark
from portable_cam.report.letters import extent, wrap, write
from portable_cam.report.style import MARKS, RGB

_PAD = 2  # pixels between a label and the rim of its ground


def draw(pixels: ImageArray, marks: Sequence[Mark | None], labels: Sequence[str] = ()) -> ImageArray:
    """The image with outlines of the marks, each in a colour of its own, and labels if given.

    Args:
        pixels: uint8 (H, W, 3).
        marks: In pixels of this image.
        labels: One per mark; boxes and points show theirs, masks do not.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    pen = ImageDraw.Draw(image)
    thick = max(1, round(min(image.size) / 160))
    letter = max(10, round(min(image.size) / 18))
    texts: list[tuple[list[str], RGB]] = []
    anchors: list[Box] = []
    rings: list[Box] = []
    for i, mark in enumerate(marks):
        color = MARKS[i % len(MARKS)]
        if mark is None:
            continue
        at = None
        if mark.mask is not None:
            image.paste(color, mask=Image.fromarray(_edge(mark.mask, thick)))
        if mark.box is not None:
            x0, y0, x1, y1 = mark.box
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=thick)
            at = x0 + thick, y0 + thick
        if mark.point is not None:
            radius = _ring(pen, mark.point, min(image.size), color)
            (x, y), at = mark.point, (mark.point[0] + radius, mark.point[1] + radius + 2)
            rings.append((x - radius, y - radius, x + radius, y + radius))
        if labels and at is not None:
            lines = wrap(labels[i], image.width - 2 * _PAD - 2, letter)
            texts.append((lines, color))
            wide, tall = (side + 2 * _PAD for side in extent(lines, letter))
            if mark.box is not None and (at[0] + wide > mark.box[2] or at[1] + tall > mark.box[3]):
                at = mark.box[0], mark.box[3] + 2  # below a box that it would cover
            anchors.append((*at, at[0] + wide, at[1] + tall))
    for (lines, color), (x0, y0, x1, y1) in zip(texts, place_labels(anchors, image.size, rings), strict=True):
        pen.rectangle((x0, y0, x1, y1), fill=(0, 0, 0))
        write(pen, (x0 + _PAD, y0 + _PAD), lines, letter, color)
    return np.asarray(image)


def place_labels(wanted: Sequence[Box], size: tuple[int, int], taken: Sequence[Box] = ()) -> list[Box]:
    """Positions of labels inside an image of (width, height) that overlap neither each other nor what is ``taken``,
    as near as possible to those wanted.

    Each is moved only up or down; one that finds no room that way is not moved.
    """
    placed = list(taken)
    for x0, y0, x1, y1 in wanted:
        wide, tall = x1 - x0, y1 - y0
        x = max(0.0, min(x0, size[0] - 1 - wide))
        y = max(0.0, min(y0, size[1] - 1 - tall))
        edges = [y, *(other[3] + 1 for other in placed), *(other[1] - 1 - tall for other in placed)]
        free = [
            edge
            for edge in edges
            if 0 <= edge <= size[1] - 1 - tall and not any(_meet((x, edge, x + wide, edge + tall), o) for o in placed)
        ]
        y = min(free, key=lambda edge: abs(edge - y0)) if free else y
        placed.append((x, y, x + wide, y + tall))
    return placed[len(taken) :]


def _meet(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _ring(pen: ImageDraw.ImageDraw, at: tuple[float, float], size: int, color: RGB) -> int:
    """A ring around a point, with a black rim so that it shows on any colour; its radius."""
    radius, thick = max(6, round(size / 24)), max(1, round(size / 160))
    x, y = at
    for grow, ink in ((thick, (0, 0, 0)), (0, color)):
        reach = radius + grow
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=ink, width=thick + 2 * grow)
    return radius


def _edge(mask: NDArray[np.bool_], thick: int) -> NDArray[np.uint8]:
    """The border of a mask, as opacity: what is in it and within ``thick`` pixels of what is not."""
    inner = np.pad(mask, thick, constant_values=False)
    for axis in (0, 1):
        for step in range(1, thick + 1):
            inner = inner & np.roll(inner, step, axis) & np.roll(inner, -step, axis)
    edge: NDArray[np.uint8] = np.where(mask & ~inner[thick:-thick, thick:-thick], 255, 0).astype(np.uint8)
    return edge
