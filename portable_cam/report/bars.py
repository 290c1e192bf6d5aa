# SPDX-License-Identifier: Apache-2.0
"""Bars: the model's classes, and what each word adds to a score."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from portable_cam.report.canvas import Canvas, wrap
from portable_cam.report.style import AGAINST, BAR, BAR_HERE, FAINT, FOR, INK, SMALL, TINY
from portable_cam.report.wording import number

_LINE, _BAR, _AFTER = 0.17, 0.075, 0.1  # of a class: a line of its name, its bar, the room to the next
_NUMBER = 0.62  # the room of a class's number
_WORD, _AXIS = 0.24, 0.42  # the height of a word, of the axis with its numbers and its name
_NAMES = 0.95  # the room of the words


def class_bars(
    canvas: Canvas, x: float, y: float, room: float, top: Sequence[tuple[str, float]], explained: Collection[str]
) -> None:
    """The top classes: name and number on a line, the bar below it, so that neither covers the other."""
    lengths = bar_lengths([score for _, score in top])
    for (name, score), length in zip(top, lengths, strict=True):
        here = name in explained
        style = {"fontsize": SMALL, "fontweight": "bold" if here else "normal"}
        lines = wrap(name, room - _NUMBER, **style)
        for i, line in enumerate(lines):
            canvas.write(x, y + _LINE * (i + 0.75), line, **style)
        canvas.write(
            x + room, y + _LINE * 0.75, number(score, 2), fontsize=SMALL, ha="right", color=INK if here else FAINT
        )
        y += _LINE * len(lines)
        axes = canvas.place(x, y, room, _BAR)
        axes.barh(0, 1, height=1, color=BAR, alpha=0.3)
        axes.barh(0, length, height=1, color=BAR_HERE if here else BAR)
        axes.set(xlim=(0, 1), ylim=(-0.5, 0.5))
        axes.set_axis_off()
        y += _BAR + _AFTER


def class_bars_height(top: Sequence[tuple[str, float]], room: float) -> float:
    """How much :func:`class_bars` needs."""
    lines = sum(len(wrap(name, room - _NUMBER, fontsize=SMALL, fontweight="bold")) for name, _ in top)
    return lines * _LINE + len(top) * (_BAR + _AFTER)


def bar_lengths(scores: Sequence[float]) -> list[float]:
    """How far each bar reaches, 0 to 1: the score itself where all lie between 0 and 1, else relative to the best; none
    where a score is negative or not a number."""
    real = [score if np.isfinite(score) else 0.0 for score in scores]
    longest = 1.0 if all(0 <= score <= 1 for score in scores) else max(real)
    return [score / longest if score > 0 else 0.0 for score in real]


def word_bars(
    canvas: Canvas, x: float, y: float, room: float, words: Sequence[tuple[str, float]], reach: float
) -> None:
    """What each word adds to a score, on an axis from ``-reach`` to ``reach``, the same for every row of a sheet."""
    tall = _WORD * len(words)
    axes = canvas.place(x + _NAMES, y, room - _NAMES, tall)
    values = [value if np.isfinite(value) else 0.0 for _, value in words]
    axes.barh(range(len(words)), values, height=0.6, color=[FOR if value > 0 else AGAINST for value in values])
    axes.set(xlim=(-1.05 * reach, 1.05 * reach), ylim=(len(words) - 0.5, -0.5), yticks=[])
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes.tick_params(labelsize=TINY, labelcolor=FAINT, color=FAINT, length=2, pad=2)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    middle = x + _NAMES + (room - _NAMES) / 2
    canvas.write(middle, y + tall + 0.36, "adds to the score", fontsize=TINY, color=FAINT, ha="center")
    for i, (word, _) in enumerate(words):
        fits = wrap(word, _NAMES - 0.08, fontsize=SMALL)
        size = SMALL if len(fits) == 1 else SMALL * 0.6
        canvas.write(x + _NAMES - 0.08, y + _WORD * (i + 0.5) + 0.05, word, fontsize=size, ha="right")


def word_bars_height(words: Sequence[tuple[str, float]]) -> float:
    """How much :func:`word_bars` needs."""
    return _WORD * len(words) + _AXIS if words else 0.0


def words_reach(rows: Sequence[Sequence[tuple[str, float]]]) -> float:
    """The largest number of all rows: the scale that they share."""
    sizes = [abs(value) for row in rows for _, value in row if np.isfinite(value)]
    return max(sizes, default=0.0) or 1.0
