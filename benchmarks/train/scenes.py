# SPDX-License-Identifier: Apache-2.0
"""Scenes of two coloured shapes with a caption, and the place of what each word of it names.

The larger shape is named first: "a red circle left of a blue square". The two differ in colour, shape or both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 64
COLOURS = {
    "red": (215, 45, 45), "green": (50, 160, 60), "blue": (50, 80, 220), "yellow": (235, 205, 40),
    "purple": (150, 60, 180), "teal": (40, 180, 180),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
PAD, START, END = "<pad>", "<start>", "<end>"
VOCABULARY = (PAD, START, END, "a", *COLOURS, *SHAPES, "left", "right", "of", "above", "below")
#: The longest caption with its <start> and <end>.
LONGEST = 10

_LARGE, _SMALL = (13.0, 16.0), (8.5, 10.5)
_MARGIN = 5.0  # pixels by which one axis has to separate the two, so that the relation is no matter of taste
_GRID = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, indexing="xy"))


@dataclass(frozen=True)
class Scene:
    """``pixels`` uint8 (64, 64, 3), the caption's words, ``masks`` bool (2, 64, 64) of the two shapes, and for each
    word which of the two it names, or None."""

    pixels: NDArray[np.uint8]
    words: tuple[str, ...]
    masks: NDArray[np.bool_]
    named: tuple[int | None, ...]


def draw_scene(random: np.random.Generator) -> Scene:
    """A scene drawn at random."""
    colours, shapes = list(COLOURS), SHAPES
    while True:
        kinds = [(colours[random.integers(len(colours))], shapes[random.integers(len(shapes))]) for _ in range(2)]
        sizes = [random.uniform(*_LARGE), random.uniform(*_SMALL)]
        centres = [random.uniform(r + 1, SIDE - r - 1, 2) for r in sizes]
        step = centres[0] - centres[1]
        apart = np.hypot(*step) > 1.2 * sum(sizes) + 2  # 1.2: corners reach further than the radius
        if kinds[0] != kinds[1] and apart and abs(abs(step[0]) - abs(step[1])) > _MARGIN:
            break
    pixels = np.full((SIDE, SIDE, 3), random.uniform(190, 245)) + random.normal(0, 4, (SIDE, SIDE, 3))
    masks = []
    for (colour, shape), radius, centre in zip(kinds, sizes, centres, strict=True):
        inside = np.clip(0.5 - _distance(shape, radius, centre), 0, 1)
        paint = np.asarray(COLOURS[colour]) + random.normal(0, 12, 3) + random.normal(0, 4, (SIDE, SIDE, 3))
        pixels = pixels * (1 - inside[..., None]) + paint * inside[..., None]
        masks.append(inside > 0.5)
    across = abs(step[0]) > abs(step[1])
    relation = (("left" if step[0] < 0 else "right"), "of") if across else ("above" if step[1] < 0 else "below",)
    words = ("a", *kinds[0], *relation, "a", *kinds[1])
    named = (None, 0, 0, *(None for _ in relation), None, 1, 1)
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), words, np.stack(masks), named)


def token_ids(scene: Scene) -> list[int]:
    """<start>, the words, <end>, and padding up to the longest caption."""
    words = [START, *scene.words, END]
    return [VOCABULARY.index(w) for w in words + [PAD] * (LONGEST - len(words))]


def _distance(shape: str, radius: float, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """The signed distance to the shape's edge in pixels, roughly, negative inside; (64, 64)."""
    x, y = _GRID - centre[:, None, None]
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.9 * radius
    if shape == "triangle":
        return np.maximum(0.87 * abs(x) - 0.5 * y, y) - 0.55 * radius
    arm, width = np.maximum(abs(x), abs(y)) - radius, np.minimum(abs(x), abs(y)) - 0.4 * radius
    return np.maximum(arm, width)
