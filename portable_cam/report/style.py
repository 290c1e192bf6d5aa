"""Colours, sizes and words of every picture and page, in one place."""

from __future__ import annotations

from typing import TypeAlias

RGB: TypeAlias = tuple[int, int, int]

#: Text, and text that stands back.
INK, FAINT = "#1a1a1a", "#5f6368"
#: Bars of the model's classes, and of those that are explained.
BAR, BAR_HERE = "#c3c9d4", "#b5367a"
#: Bars of words that raise a score, and that lower it: apart in lightness, too.
FOR, AGAINST = "#b5367a", "#4c72b0"
#: Outlines of boxes, masks and points: apart from everything in the colour map, and from each other in lightness too.
MARKS: tuple[RGB, ...] = (
    (0, 200, 255),
    (120, 255, 90),
    (255, 255, 255),
    (255, 120, 220),
    (255, 220, 60),
    (150, 160, 255),
)

#: Points of matplotlib.
HEADING, TITLE, BODY, SMALL, TINY = 13.0, 11.0, 9.0, 8.5, 7.5
DPI = 150
#: Inches: around a sheet, between images, between the photo and the targets.
MARGIN, GAP, GUTTER = 0.22, 0.1, 0.35

UNSEEN = "not seen by the model"
