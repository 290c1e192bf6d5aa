# SPDX-License-Identifier: Apache-2.0
"""Sheets: the photo, the top classes and the keys, and for each target a block with an image for each method.

Where everything lies is settled before anything is drawn; lengths are inches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from portable_cam.errors import OptionError
from portable_cam.image.geometry import ImageArray
from portable_cam.report.bars import class_bars, class_bars_height, word_bars, word_bars_height, words_reach
from portable_cam.report.canvas import Canvas, keys_height, wrap
from portable_cam.report.key import Key
from portable_cam.report.style import BODY, FAINT, GAP, GUTTER, HEADING, MARGIN, TINY, TITLE

_HEADING: Mapping[str, Any] = {"fontsize": HEADING, "fontweight": "bold"}
_TITLE: Mapping[str, Any] = {"fontsize": TITLE, "fontweight": "bold"}
_SIDE = 2.3  # the width of an image; of many small targets, and of lines of text
_SMALL_SIDE, _WIDE_SIDE = 1.5, 3.2
_WIDE = 2.2  # images more than so many times as wide as high are lines of text
_LEFT = 2.7  # the column of the photo
_BODY = 10.5  # the width that blocks beside each other may take, unless one has more
_WORDS = 2.6  # bars of words
_ROW, _NOTE, _METHOD = 0.2, 0.2, 0.2  # a line of a title, the note, the name of a method


class Panel(NamedTuple):
    """One method's image: its title, uint8 (H, W, 3), and what a reader must know of it, written below."""

    title: str
    image: ImageArray
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """One target: what is explained, how much of it there is (a score with its name), an image per method, and what
    each word adds to its score."""

    title: str
    note: str
    panels: Sequence[Panel]
    words: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Block:
    """The position of a section: its corner, its title and notes in lines, and how far below the corner its images
    begin."""

    section: Section
    x: float
    y: float
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    strip: float


@dataclass(frozen=True)
class Arrangement:
    """A whole sheet: its size, its heading in lines, where the body begins, the images' size, the photo's height, and
    the blocks."""

    width: float
    height: float
    heading: tuple[str, ...]
    head: float
    side: float
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
    keys: Sequence[Key] = (),
    facts: str = "",
    small: bool = False,
) -> Figure:
    """Draw a sheet.

    Args:
        image: The photo, uint8 (H, W, 3).
        sections: One per target.
        heading: A line above everything.
        top: The top classes and their scores, best first.
        scale: What those scores are, as ``probability`` or ``score``.
        explained: The classes of ``top`` that are set off; those that are the title of a section always are.
        keys: What the colours mean.
        facts: How it was made, in small letters below the keys.
        small: Many targets, of a word each: their images are smaller.

    Raises:
        OptionError: There is nothing to show.
    """
    layout = arrange(image, sections, heading, top, keys=keys, facts=facts, small=small)
    canvas = Canvas(layout.width, layout.height)
    for i, line in enumerate(layout.heading):
        canvas.write(MARGIN, 0.4 + 0.25 * i, line, **_HEADING)
    _draw_left(canvas, layout, image, top, scale, {*explained, *(s.title for s in sections)}, keys, facts)
    reach = words_reach([section.words for section in sections])
    for block in layout.blocks:
        _draw_block(canvas, layout, block, reach)
    return canvas.figure


def _draw_left(
    canvas: Canvas,
    layout: Arrangement,
    image: ImageArray,
    top: Sequence[tuple[str, float]],
    scale: str,
    named: set[str],
    keys: Sequence[Key],
    facts: str,
) -> None:
    y = layout.head + layout.blocks[0].strip
    canvas.write(MARGIN, y - 0.08, "photo", fontsize=BODY, color=FAINT)
    canvas.show(MARGIN, y, _LEFT, layout.photo_tall, image)
    y += layout.photo_tall + 0.12
    if top:
        for line in _top_title(scale):
            canvas.write(MARGIN, y + 0.14, line, fontsize=BODY)
            y += 0.17
        y += 0.06
        class_bars(canvas, MARGIN, y, _LEFT, top, named)
        y += class_bars_height(top, _LEFT) + 0.08
    canvas.keys(MARGIN, y, _LEFT, keys)
    y += keys_height(keys, _LEFT)
    for i, line in enumerate(_facts_lines(facts)):
        canvas.write(MARGIN, y + 0.13 * (i + 1), line, fontsize=TINY, color=FAINT)


def _draw_block(canvas: Canvas, layout: Arrangement, block: Block, reach: float) -> None:
    for i, line in enumerate(block.lines):
        canvas.write(block.x, block.y + 0.22 + _ROW * i, line, **_TITLE)
    y = block.y + block.strip
    above = y - (_METHOD if block.section.panels else 0.0) - _NOTE * len(block.notes)
    for i, line in enumerate(block.notes):
        canvas.write(block.x, above + _NOTE * i + 0.12, line, fontsize=BODY)
    for c, panel in enumerate(block.section.panels):
        x = block.x + c * (layout.side + GAP)
        canvas.write(x, y - 0.08, panel.title, fontsize=BODY, color=FAINT)
        canvas.show(x, y, layout.side, layout.tall, panel.image)
        for i, line in enumerate(wrap(panel.remark, layout.side, fontsize=BODY) if panel.remark else ()):
            canvas.write(x, y + layout.tall + 0.16 + 0.16 * i, line, fontsize=BODY, fontstyle="italic")
    if block.section.words:
        count = len(block.section.panels)
        x = block.x + _width_of(count, layout.side) + (GAP if count else 0.0)
        word_bars(canvas, x, y, _WORDS, block.section.words, reach)


def arrange(
    image: ImageArray,
    sections: Sequence[Section],
    heading: str = "",
    top: Sequence[tuple[str, float]] = (),
    *,
    keys: Sequence[Key] = (),
    facts: str = "",
    small: bool = False,
) -> Arrangement:
    """The position of everything: blocks beside each other as long as that makes the sheet smaller, and no block alone
    on the last line where others stand beside each other.

    Args:
        image: The photo, uint8 (H, W, 3); the others are those of :func:`sheet_figure`.

    Raises:
        OptionError: There is nothing to show.
    """
    if not sections:
        raise OptionError("a sheet needs at least one target")
    aspect = image.shape[1] / image.shape[0]
    side = _WIDE_SIDE if aspect > _WIDE else _SMALL_SIDE if small else _SIDE
    columns = max(len(section.panels) for section in sections)
    bars = max(word_bars_height(section.words) for section in sections)
    block = _width_of(columns, side) + (_WORDS + (GAP if columns else 0.0) if bars else 0.0) or _SIDE
    tall = min(1.5, 1 / aspect) * side if columns else 0.0
    remarks = [len(wrap(p.remark, side, fontsize=BODY)) for s in sections for p in s.panels if p.remark]
    body = max(tall + (0.08 + 0.16 * max(remarks) if remarks else 0.0), bars)
    left = min(1.5, 1 / aspect) * _LEFT + 0.12 + keys_height(keys, _LEFT) + 0.13 * len(_facts_lines(facts))
    left += class_bars_height(top, _LEFT) + 0.48 if top else 0.0
    titles = [wrap(section.title, block, **_TITLE) for section in sections]
    notes = [wrap(section.note, block, fontsize=BODY) if section.note else () for section in sections]
    found = []
    for lines in _rows(len(sections), max(1, int((_BODY + 2 * GAP) // (block + 2 * GAP)))):
        width = 2 * MARGIN + _LEFT + GUTTER + max(map(len, lines)) * (block + 2 * GAP) - 2 * GAP
        head_lines = wrap(heading, width - 2 * MARGIN, **_HEADING) if heading else ()
        head = 0.37 + 0.25 * len(head_lines) if heading else 0.16
        y, blocks = head, []
        for line in lines:
            strip = 0.09 + _ROW * max(len(titles[i]) for i in line) + _NOTE * max(len(notes[i]) for i in line)
            strip += _METHOD if columns else 0.08
            for c, i in enumerate(line):
                x = MARGIN + _LEFT + GUTTER + c * (block + 2 * GAP)
                blocks.append(Block(sections[i], x, y, titles[i], notes[i], strip))
            y += strip + body + GAP
        height = max(y - GAP, head + blocks[0].strip + left) + MARGIN
        photo_tall = min(1.5, 1 / aspect) * _LEFT
        found.append(Arrangement(width, height, head_lines, head, side, tall, photo_tall, tuple(blocks)))
    return min(found, key=lambda layout: layout.width * layout.height)


def _rows(count: int, most: int) -> list[list[range]]:
    """The ways to divide blocks into lines of at most ``most``, of nearly the same length each."""
    found = []
    for beside in range(1, min(count, most) + 1):
        lines = -(-count // beside)
        edges = [-(-count * i // lines) for i in range(lines + 1)]  # the longer lines first
        rows = [range(a, b) for a, b in pairwise(edges)]
        if min(map(len, rows)) > 1 or max(map(len, rows)) == 1 or lines == 1:
            found.append(rows)
    return found


def _width_of(columns: int, side: float) -> float:
    return columns * side + max(columns - 1, 0) * GAP


def _top_title(scale: str) -> tuple[str, ...]:
    return wrap(f"the model's top classes: {scale}", _LEFT, fontsize=BODY)


def _facts_lines(facts: str) -> tuple[str, ...]:
    return wrap(facts, _LEFT, fontsize=TINY) if facts else ()
