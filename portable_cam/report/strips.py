# SPDX-License-Identifier: Apache-2.0
"""Strips with an image under each word, and answers beside the words of their question."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import OptionError
from portable_cam.image.geometry import ImageArray

_INK, _FAINT, _FOR, _AGAINST = "#1a1a1a", "#6b6b6b", "#b5367a", "#4c72b0"
_MARGIN, _GAP = 0.2, 0.12  # inches, as everything here
_WIDE = 2.2  # images more than so many times as wide as high are lines of text


@dataclass(frozen=True)
class Cell:
    """A word or an answer, the note below it (its probability, say), and its image; None where only words are
    explained."""

    word: str
    note: str
    image: ImageArray | None


def strip_figure(photo: ImageArray, cells: Sequence[Cell], heading: str = "") -> Figure:
    """The photo, then an image under each word.

    Args:
        photo: uint8 (H, W, 3).
        cells: In reading order.
        heading: A line above, as the whole caption.

    Raises:
        OptionError: There is no word.
    """
    if not cells:
        raise OptionError("a strip needs at least one word")
    aspect = photo.shape[1] / photo.shape[0]
    side = 3.2 if aspect > _WIDE else 1.35
    tall = side / aspect
    columns = min(len(cells) + 1, 3 if aspect > _WIDE else 8)
    rows = -(-(len(cells) + 1) // columns)
    head, line = (0.42 if heading else 0.0), 0.44
    width = 2 * _MARGIN + columns * side + (columns - 1) * _GAP
    height = 2 * _MARGIN + head + rows * (line + tall) + (rows - 1) * _GAP
    figure, place = _canvas(width, height)
    if heading:
        _write(figure, width, height, _MARGIN, _MARGIN + 0.2, heading, fontsize=12, fontweight="bold")
    for i, cell in enumerate([Cell("", "", photo), *cells]):
        x = _MARGIN + (i % columns) * (side + _GAP)
        y = _MARGIN + head + (i // columns) * (line + tall + _GAP)
        _write(figure, width, height, x, y + 0.18, cell.word, fontsize=11)
        _write(figure, width, height, x, y + 0.34, cell.note, fontsize=7.5, color=_FAINT)
        if cell.image is not None:
            _show(place(x, y + line, side, tall), cell.image)
    return figure


def answers_figure(
    photo: ImageArray,
    cells: Sequence[Cell],
    heading: str = "",
    words: Sequence[str] = (),
    word_scores: NDArray[np.floating] | None = None,
) -> Figure:
    """The photo, then for each answer a row: its image, and what each word of the question adds to its score.

    Args:
        photo: uint8 (H, W, 3).
        cells: One per answer.
        heading: The question.
        words: The question's words.
        word_scores: (answers, words); None to leave them out.

    Raises:
        OptionError: There is no answer.
    """
    if not cells:
        raise OptionError("a sheet needs at least one answer")
    side, bars, head, line = 2.0, (2.4 if word_scores is not None else 0.0), 0.42, 0.3
    width = 2 * _MARGIN + 2 * side + _GAP + (_GAP + bars if bars else 0.0)
    tall = side * photo.shape[0] / photo.shape[1]
    height = 2 * _MARGIN + head + len(cells) * (line + tall)
    figure, place = _canvas(width, height)
    _write(figure, width, height, _MARGIN, _MARGIN + 0.2, heading, fontsize=12, fontweight="bold")
    _show(place(_MARGIN, _MARGIN + head + line, side, tall), photo)
    for k, cell in enumerate(cells):
        x, y = _MARGIN + side + _GAP, _MARGIN + head + k * (line + tall)
        _write(figure, width, height, x, y + 0.2, f"{cell.word}   {cell.note}", fontsize=10)
        if cell.image is not None:
            _show(place(x, y + line, side, tall), cell.image)
        if word_scores is not None:
            scale = float(np.abs(word_scores[k]).max()) or 1.0
            step = tall / max(len(words), 1)
            axes = place(x + side + _GAP + 0.9, y + line, bars - 0.9, tall)
            axes.barh(
                range(len(words)),
                word_scores[k] / scale,
                height=0.6,
                color=[_FOR if s > 0 else _AGAINST for s in word_scores[k]],
            )
            axes.set(xlim=(-1, 1), ylim=(len(words) - 0.5, -0.5))
            axes.axvline(0, color=_FAINT, linewidth=0.6)
            axes.set_axis_off()
            for i, word in enumerate(words):
                _write(figure, width, height, x + side + _GAP, y + line + (i + 0.5) * step + 0.05, word, fontsize=8)
    return figure


def stacked(figures: Sequence[Figure]) -> Figure:
    """Figures of :func:`strip_figure` or :func:`answers_figure` below each other, as one."""
    drawn = []
    for figure in figures:
        file = io.BytesIO()
        figure.savefig(file, format="png")
        drawn.append(np.asarray(Image.open(file).convert("RGB")))
    width = max(image.shape[1] for image in drawn)
    padded = [np.pad(i, [(0, 0), (0, width - i.shape[1]), (0, 0)], constant_values=255) for i in drawn]
    whole = np.concatenate(padded)
    dpi = figures[0].dpi
    figure, place = _canvas(width / dpi, whole.shape[0] / dpi)
    _show(place(0, 0, width / dpi, whole.shape[0] / dpi), whole)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes with their top-left corner at (x, y) inches from the sheet's."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    return figure, place


def _write(figure: Figure, width: float, height: float, x: float, y: float, text: str, **style: Any) -> None:
    figure.text(x / width, 1 - y / height, text, va="baseline", parse_math=False, **{"color": _INK, **style})


def _show(axes: Axes, image: ImageArray) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.set_axis_off()
    axes.set_anchor("NW")
