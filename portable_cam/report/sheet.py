# SPDX-License-Identifier: Apache-2.0
"""Side-by-side sheets: the photo, the top classes, and for each target a block with an image per method.

Drawing uses matplotlib's objects on an Agg canvas, never ``pyplot``: no global state, no display, safe in threads.
Lengths are inches, and (x, y) is counted from the sheet's top-left corner.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from portable_cam.errors import OptionError
from portable_cam.image.colormap import overlay
from portable_cam.image.geometry import ImageArray
from portable_cam.report.wording import number

_INK, _FAINT, _BAR, _BAR_HERE = "#1a1a1a", "#6b6b6b", "#c3c9d4", "#b5367a"
_TITLE: Mapping[str, Any] = {"fontsize": 11, "fontweight": "bold"}
_SIDE, _MARGIN, _GAP, _GUTTER = 2.3, 0.22, 0.1, 0.35  # of an image; around; between images; between blocks
_LEFT = 1.18 * _SIDE
_MOST_LINES = 4  # of a title
_MOST_COLUMNS = 4  # of images beside each other, unless one block has more


class Panel(NamedTuple):
    """One method's image: its title, uint8 (H, W, 3), and what a reader must know of it, written below."""

    title: str
    image: ImageArray
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """One target: what is explained, how much of it there is (a score with its name), and an image per method."""

    title: str
    note: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Block:
    """The position of a section: its corner, its title in lines, and how far below the corner its images begin."""

    section: Section
    x: float
    y: float
    lines: tuple[str, ...]
    strip: float


@dataclass(frozen=True)
class Arrangement:
    """A whole sheet: its size, where the body begins, the images' heights, and the blocks."""

    width: float
    height: float
    head: float
    tall: float
    photo_tall: float
    blocks: tuple[Block, ...]


def sheet_figure(
    image: ImageArray,
    sections: Sequence[Section],
    heading: str = "",
    top: Sequence[tuple[str, float]] = (),
    *,
    scale: str = "score",
    explained: Collection[str] = (),
) -> Figure:
    """Draw a sheet.

    Args:
        image: The photo, uint8 (H, W, 3).
        sections: One per target.
        heading: A line above everything.
        top: The top classes and their scores, best first.
        scale: What those scores are, ``probability`` or ``score``.
        explained: The classes of ``top`` that are set off; those that are the title of a section always are.

    Raises:
        OptionError: There is nothing to show.
    """
    layout = arrange(image, sections, bool(heading), len(top))
    width, height = layout.width, layout.height
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def write(x: float, y: float, text: str, room: float, **style: Any) -> None:
        style = {"color": _INK, **style}
        artist = figure.text(x / width, 1 - y / height, text, parse_math=False, va="baseline", **style)
        _fit(artist, room * figure.dpi)

    if heading:
        write(_MARGIN, 0.4, heading, width - 2 * _MARGIN, fontsize=13, fontweight="bold")
    y = layout.head + layout.blocks[0].strip
    write(_MARGIN, y - 0.1, "photo", _LEFT, fontsize=9)
    _show(place(_MARGIN, y, _LEFT, layout.photo_tall), image)
    y += layout.photo_tall
    if top:
        write(_MARGIN, y + 0.26, f"the model's top classes: {scale}", _LEFT, fontsize=9)
        named = {*explained, *(section.title for section in sections)}
        _bars(place(_MARGIN, y + 0.34, _LEFT, 0.24 * len(top)), top, named)
        y += _bars_room(len(top))
    write(_MARGIN, y + 0.26, "evidence, none to most, laid over mid-grey", _LEFT, fontsize=7.5)
    _key(place(_MARGIN, y + 0.34, _LEFT, 0.12))
    for block in layout.blocks:
        room = _block_width(len(block.section.panels))
        for i, line in enumerate(block.lines):
            write(block.x, block.y + 0.24 + 0.2 * i, line, room, **_TITLE)
        if block.section.note:
            write(block.x, block.y + block.strip - 0.28, block.section.note, room, fontsize=9.5)
        for c, panel in enumerate(block.section.panels):
            x, y = block.x + c * (_SIDE + _GAP), block.y + block.strip
            write(x, y - 0.08, panel.title, _SIDE, fontsize=9, color=_FAINT)
            _show(place(x, y, _SIDE, layout.tall), panel.image)
            if panel.remark:
                write(x, y + layout.tall + 0.16, panel.remark, _SIDE, fontsize=9, fontstyle="italic")
    return figure


def arrange(image: ImageArray, sections: Sequence[Section], heading: bool, top: int) -> Arrangement:
    """The position of everything: blocks beside each other as long as that makes the sheet smaller.

    Args:
        image: The photo, uint8 (H, W, 3).
        sections: One per target.
        heading: Whether the sheet has a heading.
        top: The number of top classes.

    Raises:
        OptionError: There is nothing to show.
    """
    if not sections or not all(section.panels for section in sections):
        raise OptionError("a sheet needs at least one target with at least one method")
    columns = max(len(section.panels) for section in sections)
    first = sections[0].panels[0].image
    tall = min(1.5, max(0.45, first.shape[0] / first.shape[1])) * _SIDE
    photo_tall = min(1.5, max(0.3, image.shape[0] / image.shape[1])) * _LEFT
    below = 0.24 if any(panel.remark for section in sections for panel in section.panels) else 0.0
    titles = [wrap(section.title, _block_width(len(section.panels)), **_TITLE) for section in sections]
    head, block = (0.62 if heading else 0.16), _block_width(columns)
    found: list[Arrangement] = []
    for beside in range(1, min(len(sections), max(1, _MOST_COLUMNS // columns)) + 1):
        y, blocks = head, []
        for start in range(0, len(sections), beside):
            line = range(start, min(start + beside, len(sections)))
            note = 0.22 if any(sections[i].note for i in line) else 0.0
            strip = 0.29 + 0.2 * max(len(titles[i]) for i in line) + note
            for i in line:
                x = _MARGIN + _LEFT + _GUTTER + (i - start) * (block + 2 * _GAP)
                blocks.append(Block(sections[i], x, y, titles[i], strip))
            y += strip + tall + below + _GAP
        width = blocks[beside - 1].x + block + _MARGIN
        left = head + blocks[0].strip + photo_tall + _bars_room(top) + 0.46
        found.append(Arrangement(width, max(y - _GAP, left) + _MARGIN, head, tall, photo_tall, tuple(blocks)))
    return min(found, key=lambda layout: layout.width * layout.height)


def wrap(text: str, room: float, **style: Any) -> tuple[str, ...]:
    """A text in lines no wider than ``room`` inches, at most :data:`_MOST_LINES`; more of it ends in an ellipsis."""
    figure = Figure(dpi=150)
    FigureCanvasAgg(figure)
    artist = figure.text(0, 0, "", parse_math=False, **style)

    def fits(line: str) -> bool:
        artist.set_text(line)
        return float(artist.get_window_extent().width) <= room * figure.dpi

    characters = max(len(text), 1)
    lines = [text]
    while characters > 1 and not all(map(fits, lines)):
        characters = min(characters, max(map(len, lines))) - 1
        lines = textwrap.wrap(text, characters, max_lines=_MOST_LINES, placeholder="…", break_on_hyphens=False) or [
            text
        ]
    return tuple(lines)


def color_key() -> ImageArray:
    """(1, 256, 3): the colours from none to most evidence as they look over a photo, here over mid-grey."""
    return overlay(np.full((1, 256, 3), 128, np.uint8), np.linspace(0, 1, 256)[None])


def _block_width(columns: int) -> float:
    return columns * _SIDE + (columns - 1) * _GAP


def _bars_room(top: int) -> float:
    return 0.24 * top + 0.4 if top else 0.0


def _show(axes: Axes, image: ImageArray) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.set_axis_off()
    axes.set_anchor("NW")


def _key(axes: Axes) -> None:
    axes.imshow(color_key(), aspect="auto", interpolation="nearest")
    axes.set_axis_off()


def _fit(artist: Text, pixels: float) -> None:
    """Cut a text's end off until it is no wider than this."""
    text = artist.get_text()
    keep = len(text)
    while keep > 1 and (wide := artist.get_window_extent().width) > pixels:
        keep = min(keep - 1, int(keep * pixels / wide))
        artist.set_text(f"{text[:keep].rstrip()}…")


def bar_lengths(scores: Sequence[float]) -> list[float]:
    """How far each bar reaches, 0 to 1: the score itself where all lie between 0 and 1, else relative to the best; none
    where a score is negative or not a number."""
    real = [score if np.isfinite(score) else 0.0 for score in scores]
    longest = 1.0 if all(0 <= score <= 1 for score in scores) else max(real)
    return [score / longest if score > 0 else 0.0 for score in real]


def _bars(axes: Axes, top: Sequence[tuple[str, float]], explained: set[str]) -> None:
    """The top classes as bars, the name on the bar's line, the score at the right."""
    for i, ((name, score), length) in enumerate(zip(top, bar_lengths([score for _, score in top]), strict=True)):
        here = name in explained
        axes.barh(i, length, height=0.82, color=_BAR_HERE if here else _BAR, alpha=0.38 if here else 0.6)
        label = axes.text(
            0.015,
            i,
            name,
            va="center",
            fontsize=8.5,
            color=_INK,
            fontweight="bold" if here else "normal",
            parse_math=False,
        )
        _fit(label, 0.78 * axes.get_window_extent().width)
        axes.text(1.0, i, number(score, 2), va="center", ha="right", fontsize=8.5, color=_INK if here else _FAINT)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(top) - 0.5, -0.5)
    axes.set_axis_off()
