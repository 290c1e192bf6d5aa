# SPDX-License-Identifier: Apache-2.0
"""How numbers, methods and targets are written, the same on stdout and in figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable_cam.export.methods.registry import METHODS, uses_relu_rule
from portable_cam.methods.registry import PASS_METHODS


def title_of(method: str, guided: bool = True) -> str:
    """A method by the name that papers use.

    Args:
        method: Its name.
        guided: Whether some node was guided: where none was, a guided gradient is the gradient, and is called that.
    """
    if method in PASS_METHODS:
        return PASS_METHODS[method].title
    if method not in METHODS:
        return method
    known = METHODS[method]
    if not guided and known.uses_relu_rule:
        return "gradient (nothing guided)"
    if not guided and known.factors is not None and uses_relu_rule(known.factors):
        return " × ".join(title_of(factor, guided) for factor in known.factors)
    return known.title


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


def percent(share: float) -> str:
    """A share of 1 in percent: ``87.2 %``, ``below 0.01 %``."""
    return "below 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.3g} %"


def how_much(line: Mapping[str, Any], digits: int = 2) -> str:
    """The number that one target is reported with, and its name.

    For a box its detection score, for a segmentation the share of the image, or the pixel, for a word or a class its
    probability where it is known; for everything else the score explained.

    Args:
        line: An entry of a record's ``explained``.
        digits: Behind the point.
    """
    if "detection" in line:
        return f"detection {number(line['detection'], digits)}"
    if "pixel" in line:
        best = "your " if "given" in line else "" if line.get("found", True) else "its best "
        return f"at {best}pixel {line['pixel'][0]}, {line['pixel'][1]}"
    if "probability" in line:
        return f"{'' if 'span' in line else 'probability '}{percent(line['probability'])}"
    if "given" in line and "share" in line:
        return f"your {line['given']}, {100 * line['share']:.1f} % of the photo"
    if "share" in line:
        return f"on {100 * line['share']:.1f} % of the photo"
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
    if "span" in line:
        return "log-probability"
    return ("sum of the class's scores over the pixels" if "share" in line else "score of the class") + contrast


def top_is(scale: str) -> str:
    """What the numbers of the model's top classes are, from an explanation's ``top_scale``."""
    return "probability, the softmax of its scores" if scale == "softmax" else scale
