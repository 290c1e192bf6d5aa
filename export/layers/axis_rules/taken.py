"""What entries of an axis are that a range or a table of indices reads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from portable_cam.export.layers.axes import (
    BATCH,
    Axis,
    Digit,
    Part,
    Source,
    holds,
    lost,
    merged,
    part_size,
    side_by_side,
    size_of,
    why_lost,
)
from portable_cam.export.layers.axis_rules.regroup import Lose
from portable_cam.export.layers.frames import settled


def take(axis: Axis, entries: range, lose: Lose) -> Axis:
    """The entries of an axis, all of whose parts have known sizes, in this order."""
    if (why := why_lost(axis)) is not None:
        return lost(len(entries), why)
    found: list[Part] = []
    begin = 0
    bounds = []
    for part in axis:
        size = part_size(part)
        if size is None:
            return lose(len(entries), "a part of an axis of open size is cut")
        bounds.append((part, begin, begin + size))
        begin += size
    for part, start, end in bounds if entries.step > 0 else reversed(bounds):
        inside = [e for e in entries if start <= e < end]
        if not inside:
            continue
        within = range(inside[0] - start, inside[-1] - start + (1 if entries.step > 0 else -1), entries.step)
        cut = _take_of_part(part, within)
        if cut is None:
            return lose(len(entries), "it cuts through rows and columns")
        found.append(cut)
    return side_by_side(found) if found else ((),)


def _take_of_part(part: Part, entries: range) -> Part | None:
    size, count, step = part_size(part), len(entries), entries.step
    if size is None:
        return None
    if entries == range(size) or not part:
        return part
    if not holds((part,), *BATCH, "position", "unknown"):
        return (Digit(Source("extra" if holds((part,), "extra") else "channel", count), count),)
    if len(part) == 1:
        return _take_of_digit(part[0], entries)
    if count == size and step == -1:
        turned = [_take_of_digit(d, range(int(d.size or 1) - 1, -1, -1)) for d in part]
        return None if None in turned else tuple(d for t in turned if t is not None for d in t)
    inner = part_size(part[1:]) or 1
    if step == 1 and entries.start % inner == 0 and count % inner == 0:
        first = _take_of_part(part[:1], range(entries.start // inner, (entries.start + count) // inner))
        return None if first is None else (*first, *part[1:])
    if count == 1 and not any(d.kind == "image" for d in part):
        return ()
    return None


def _take_of_digit(digit: Digit, entries: range) -> Part | None:
    count = len(entries)
    if digit.kind == "position" and digit.whole:
        relation = settled(digit.relation.through(entries.step, entries.start), count)
        return (Digit(Source("position", count, digit.source.spatial, relation), count),)
    if digit.kind == "joined" and digit.whole:
        cut = take(digit.source.parts, entries, lambda size, why: ())
        return cut[0] if len(cut) == 1 else None
    if digit.kind == "position" and digit.size == digit.source.size and isinstance(digit.size, int):
        return None
    if digit.kind == "position" and isinstance(digit.source.size, int) and isinstance(digit.size, int):
        if digit.stride * digit.size == digit.source.size:  # the outermost one: windows or patches of it
            relation = digit.relation.through(entries.step, entries.start)
            return (Digit(Source("position", count, digit.source.spatial, relation), count),)
        return () if count == 1 else None
    if digit.kind == "image" and count == 1 and digit.size == 1:
        return (digit,)
    return None


def permuted(axis: Axis, table: np.ndarray) -> Axis | None:
    """The axis whose entries a table reads in an order that nested loops over its digits make, as patches and windows
    cut out by indices are; None if it is no such order of all of them."""
    size = size_of(axis)
    if len(axis) != 1 or table.size != size or not np.array_equal(np.sort(table), np.arange(table.size)):
        return None
    loops = _loops(table)
    if loops is None:
        return None
    found: list[Digit] = []
    for count, distance in loops:
        inner = int(size)
        for digit in axis[0]:
            assert isinstance(digit.size, int)
            outer, inner = inner, inner // digit.size
            if inner <= distance < outer:
                stride = distance // inner
                if distance % inner or digit.size % (stride * count):
                    return None
                found.append(Digit(digit.source, count, digit.stride * stride))
                break
        else:
            return None
    return merged(found)


def _loops(table: np.ndarray) -> list[tuple[int, int]] | None:
    """How often and by how much each loop steps, outer to inner."""
    found: list[tuple[int, int]] = []
    rest = table
    while rest.size > 1:
        distance = int(rest[1] - rest[0])
        if distance <= 0:
            return None
        breaks = np.nonzero(np.diff(rest) != distance)[0]
        longest = int(breaks[0]) + 1 if breaks.size else rest.size
        for count in range(longest, 1, -1):
            if rest.size % count == 0:
                rows = rest.reshape(-1, count)
                if (rows - rows[:, :1] == np.arange(count) * distance).all():
                    break
        else:
            return None
        found.append((count, distance))
        rest = rest[::count]
    return found[::-1]


def pick(axis: Axis, table: np.ndarray, lose: Lose) -> Axis:
    """The entries that a flat table of indices reads."""
    count = int(table.size)
    if count == 0:
        return lose(0, "nothing is read")
    steps = np.unique(np.diff(table))
    if steps.size <= 1 and (count == 1 or steps[0]):
        step = int(steps[0]) if steps.size else 1
        first = int(table[0])
        return take(axis, range(first, first + step * count, step), lose)
    found = permuted(axis, table)
    if found is not None:
        return found
    if not holds(axis, *BATCH, "position", "unknown"):
        return ((Digit(Source("channel", count), count),),)
    starts = [0, *(np.nonzero(np.diff(table) != 1)[0] + 1).tolist(), count]
    if len(starts) > 64:
        return lose(count, "its indices follow no order of rows and columns")
    runs = [take(axis, range(int(table[a]), int(table[b - 1]) + 1), lose) for a, b in pairwise(starts)]
    if any(holds(run, "unknown") for run in runs):
        return lose(count, "its indices follow no order of rows and columns")
    return side_by_side([part for run in runs for part in run])
