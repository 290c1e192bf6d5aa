"""Text in pixel images, in lines that fit, whatever fonts its characters need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import ImageDraw

from portable_cam.report.fonts import drawable, runs
from portable_cam.report.style import RGB

_LINE = 1.3  # of a line's height, in sizes of its letters


def fold(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text in as few lines as fit, broken between words, and within a word where it has no end."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and not fits(word):
            keep = next((n for n in range(len(word) - 1, 1, -1) if fits(word[:n])), 1)
            lines.append(word[:keep])
            word = word[keep:]
        lines.append(word)
    return lines or [""]


def wrap(text: str, room: float, size: float) -> list[str]:
    """A text in lines no wider than ``room`` pixels."""
    return fold(drawable(text), lambda line: width_of(line, size) <= room)


def width_of(line: str, size: float) -> float:
    """Pixels from the start of a line to its end."""
    return sum(font.getlength(part) for part, font in runs(line, size))


def extent(lines: Sequence[str], size: float) -> tuple[float, float]:
    """Width and height of a block of lines."""
    return max(width_of(line, size) for line in lines), _LINE * size * len(lines)


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], lines: Sequence[str], size: float, ink: RGB | str) -> None:
    """Write lines of :func:`wrap`, the corner of the first one's top left at ``at``."""
    x, y = at
    for i, line in enumerate(lines):
        across = x
        for part, font in runs(line, size):
            # fonts differ in height: all stand on one line
            pen.text((across, y + (i + 0.78) * _LINE * size), part, fill=ink, font=font, anchor="ls")
            across += font.getlength(part)
