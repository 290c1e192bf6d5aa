"""Which axes of a reshaped tensor hold the elements of which axes before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.values import shape_of

_Size: TypeAlias = int | str | None


def named_sizes(value: ir.Value) -> list[_Size]:
    """The sizes of a tensor, a name or None for each that is open."""
    return [d if isinstance(d, int) else d.value for d in shape_of(value).dims]


def groups(before: Sequence[_Size], after: Sequence[_Size]) -> list[tuple[list[int], list[int]]]:
    """Pairs of axes before and axes after that hold the same elements, as small as the sizes prove.

    Args:
        before: The sizes, a name or None where they are open.
        after: Those of the reshaped tensor.
    """
    found: list[tuple[list[int], list[int]]] = []
    i, j, end_i, end_j = 0, 0, len(before), len(after)
    if before and after and not isinstance(before[0], int) and not isinstance(after[0], int):
        # an open batch is the same one if the sizes behind it are as many elements
        rest = [*before[1:], *after[1:]]
        if not all(isinstance(d, int) for d in rest) or _count(before, range(1, end_i)) == _count(
            after, range(1, end_j)
        ):
            found.append(([0], [0]))
            i = j = 1
    while i < end_i and j < end_j and before[i] is not None and before[i] == after[j]:
        found.append(([i], [j]))
        i, j = i + 1, j + 1
    tail: list[tuple[list[int], list[int]]] = []
    while i < end_i and j < end_j and before[end_i - 1] is not None and before[end_i - 1] == after[end_j - 1]:
        end_i, end_j = end_i - 1, end_j - 1
        tail.append(([end_i], [end_j]))
    old, new = list(range(i, end_i)), list(range(j, end_j))
    if not all(isinstance(d, int) for d in (*before[i:end_i], *after[j:end_j])):
        found.append((old, new))
    else:
        while old or new:
            left, right = [old.pop(0)] if old else [], [new.pop(0)] if new else []
            while (p := _count(before, left)) != (q := _count(after, right)):
                if p < q and old:
                    left.append(old.pop(0))
                elif new:
                    right.append(new.pop(0))
                else:
                    break
            found.append((left, right))
    return found + tail[::-1]


def _count(dims: Sequence[_Size], axes: Iterable[int]) -> int:
    return math.prod(d if isinstance(d, int) and d else 1 for d in (dims[a] for a in axes))
