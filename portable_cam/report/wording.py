# SPDX-License-Identifier: Apache-2.0
"""How numbers, methods and targets are written, the same on stdout and in figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable_cam.export.methods.registry import METHODS
from portable_cam.methods.registry import PASS_METHODS


def title_of(method: str) -> str:
    """A method by the name that papers use."""
    known = METHODS.get(method) or PASS_METHODS.get(method)
    return method if known is None else known.title


def number(value: float, digits: int = 4) -> str:
    """A number with so many digits behind the point, or in general format where that would show none or too many of
    them: ``0.7507``, ``-2.5113``, ``3.1e-08``, ``3.923e+31``; never ``-0.0000``."""
    size = abs(value)
    if not value:
        return f"{0:.{digits}f}"
    if size < 0.5 * 10**-digits:
        return f"{value:.2g}"
    if size < 1000:
        return f"{value:.{digits}f}"
    return f"{value:.{max(digits - 3, 0)}f}" if size < 1e6 else f"{value:.4g}"


def how_much(line: Mapping[str, Any], digits: int = 2) -> str:
    """The number that one target is reported with, and its name.

    For a box its detection score, for a segmentation the share of the image, or the pixel, for a word its
    probability; for everything else the score explained.

    Args:
        line: An entry of a record's ``explained``.
        digits: Behind the point.
    """
    if "detection" in line:
        return f"detection {number(line['detection'], digits)}"
    if "pixel" in line:
        best = "" if line.get("found", True) else "its best "
        return f"at {best}pixel {line['pixel'][0]}, {line['pixel'][1]}"
    if "probability" in line:
        return f"{100 * line['probability']:.3g} %"
    if "share" in line:
        return f"on {line['share']:.1%} of the picture"
    return f"{'score difference' if 'rather_than' in line else 'score'} {number(line['score'], digits)}"


def part_explained(line: Mapping[str, Any]) -> str:
    """Which part of the score of a box is explained, to be appended; empty where that is the whole score."""
    part = line.get("part", "product")
    if part == "product":
        return ""
    return f", {part} edge explained" if part in ("left", "top", "right", "bottom") else f", {part} explained"


def score_is(line: Mapping[str, Any]) -> str:
    """What a record's ``score``, the number that was differentiated, is."""
    contrast = ", less that of the rival" if "rather_than" in line else ""
    if "detection" in line:
        part = part_explained(line)[2:].removesuffix(" explained")
        return (part or "score of the class, times the objectness where there is one") + contrast
    if "probability" in line:
        return "log-probability"
    return ("sum of the class's scores over the pixels" if "share" in line else "score of the class") + contrast
