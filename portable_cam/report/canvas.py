# SPDX-License-Identifier: Apache-2.0
"""A figure that is drawn in inches from its top-left corner.

Drawing uses matplotlib's objects on an Agg canvas, never ``pyplot``: no global state, no display, safe in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from portable_cam.image.geometry import ImageArray
from portable_cam.report.fonts import drawable, families
from portable_cam.report.key import Key
from portable_cam.report.letters import fold
from portable_cam.report.style import DPI, FAINT, INK, TINY

_BAR = 0.12  # the height of a key's scale
_SAMPLE = 0.36  # the width of a key's sample


class Canvas:
    """A white sheet of a size in inches; (x, y) is counted from its top-left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def place(self, x: float, y: float, w: float, h: float) -> Axes:
        """Axes with their top-left corner at (x, y)."""
        return self.figure.add_axes((x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height))

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """A line of text that stands on y."""
        text = drawable(text)
        how = {"color": INK, "va": "baseline", "fontfamily": families(text), **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **how)

    def show(self, x: float, y: float, w: float, h: float, image: ImageArray) -> None:
        """An image as large as fits, in its own proportions, in the top-left corner."""
        axes = self.place(x, y, w, h)
        axes.imshow(image, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_anchor("NW")

    def keys(self, x: float, y: float, room: float, keys: Sequence[Key]) -> None:
        """Keys below each other, as :func:`keys_height` measures them."""
        for key in keys:
            lines = wrap(key.caption, room if key.ticks else room - _SAMPLE - 0.08, fontsize=TINY)
            if not key.ticks:
                self.show(x, y, _SAMPLE, _SAMPLE, key.pixels)
            for i, line in enumerate(lines):
                self.write(x + (0 if key.ticks else _SAMPLE + 0.08), y + 0.13 * (i + 1), line, fontsize=TINY)
            if key.ticks:
                below = y + 0.13 * len(lines) + 0.05
                axes = self.place(x, below, room, _BAR)
                axes.imshow(key.pixels, aspect="auto", interpolation="nearest")
                axes.set_axis_off()
                for at, text in key.ticks:
                    side = "left" if at == 0 else "right" if at == 1 else "center"
                    self.write(x + at * room, below + _BAR + 0.13, text, fontsize=TINY, color=FAINT, ha=side)
            y += _key_height(key, room)


def keys_height(keys: Sequence[Key], room: float) -> float:
    """How much :meth:`Canvas.keys` needs."""
    return sum(_key_height(key, room) for key in keys)


def _key_height(key: Key, room: float) -> float:
    lines = len(wrap(key.caption, room if key.ticks else room - _SAMPLE - 0.08, fontsize=TINY))
    return 0.13 * lines + (0.05 + _BAR + 0.13 if key.ticks else 0.0) + 0.12


def wrap(text: str, room: float, **style: Any) -> tuple[str, ...]:
    """A text in lines no wider than ``room`` inches; a word without end is broken."""
    return tuple(fold(drawable(text), lambda line: width_of(line, **style) <= room))


def width_of(line: str, fontsize: float = TINY, **style: Any) -> float:
    """The inches that a line takes."""
    wide, _, _ = _paths().get_text_width_height_descent(
        line, FontProperties(family=families(line), size=fontsize, weight=style.get("fontweight")), False
    )
    return float(wide) / 72


@cache
def _paths() -> TextToPath:
    return TextToPath()
