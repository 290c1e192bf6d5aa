"""Arithmetic on the entries of a tensor of sizes: numbers, names of open sizes, and None for what is not known."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from portable_cam.export.layers.axes import scaled


def numeric(a: Any, b: Any) -> bool:
    """Both are numbers."""
    return isinstance(a, int | float) and isinstance(b, int | float)


def times(a: Any, b: Any) -> Any:
    """A product."""
    if numeric(a, b):
        return a * b
    if isinstance(a, int | float):
        a, b = b, a
    return scaled(a, Fraction(b)) if isinstance(b, int) and b > 0 else None


def over(a: Any, b: Any) -> Any:
    """A quotient: of integers as ONNX divides them."""
    if numeric(a, b):
        if not b:
            return None
        if isinstance(a, float) or isinstance(b, float):
            return a / b
        return a // b if a >= 0 and b > 0 else int(a / b)
    return scaled(a, Fraction(1, b)) if isinstance(b, int) and b > 0 and not isinstance(a, float) else None


def plus(a: Any, b: Any) -> Any:
    """A sum."""
    return a + b if numeric(a, b) else a if b == 0 else b if a == 0 else None


def minus(a: Any, b: Any) -> Any:
    """A difference."""
    return a - b if numeric(a, b) else a if b == 0 else None


def equal(a: Any, b: Any) -> Any:
    """1 or 0."""
    if isinstance(a, str) or isinstance(b, str):  # an open size is no -1 or 0
        return int(a == b) if a == b or isinstance(a, int) or isinstance(b, int) else None
    return None if a is None or b is None else int(a == b)
