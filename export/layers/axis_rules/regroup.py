"""How the digits of axes are dealt out to the axes behind a Reshape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from portable_cam.export.layers.axes import (
    BATCH,
    Axis,
    Digit,
    Part,
    Source,
    lost,
    merged,
    part_size,
    size_of,
    split_digit,
    why_lost,
)
from portable_cam.export.layers.relation import Size

#: Makes an axis that is not known, from its size and why.
Lose = Callable[[Size, str], Axis]


def regroup(axes: Sequence[Axis], before: Sequence[Size], after: Sequence[Size], lose: Lose) -> list[Axis]:
    """The axes of a reshaped tensor.

    Args:
        axes: Those before.
        before: Their sizes, a name or None where they are open.
        after: The sizes behind.
        lose: Makes an axis that is not known, from its size and why.
    """
    if 0 in before or 0 in after:
        return [lose(size, "nothing is left") for size in after]
    i, j, end_i, end_j = 0, 0, len(before), len(after)
    head: list[Axis] = []
    tail: list[Axis] = []
    if _same_batch(before, after):
        head.append(axes[0])
        i = j = 1
    while i < end_i and j < end_j and before[i] is not None:
        if _only_image(axes[i]) and head and _of_views(head[-1]) and end_i - i > end_j - j:
            head[-1] = merged([*head[-1][0], *axes[i][0]])  # views of the only image
            i += 1
        elif before[i] == after[j]:
            head.append(axes[i])
            i, j = i + 1, j + 1
        else:
            break
    while i < end_i and j < end_j and before[end_i - 1] is not None and before[end_i - 1] == after[end_j - 1]:
        end_i, end_j = end_i - 1, end_j - 1
        tail.append(axes[end_i])
    digits = list(_as_digits(merged([digit for axis in axes[i:end_i] for digit in _as_digits(axis)])))
    if j == end_j and _only_image((tuple(digits),)):
        if head and _of_views(head[-1]):
            head[-1] = merged([*head[-1][0], *digits])
        elif tail and _of_views(tail[-1]):
            tail[-1] = merged([*digits, *tail[-1][0]])
    return [*head, *_deal(digits, after[j:end_j], lose), *reversed(tail)]


def _only_image(axis: Axis) -> bool:
    return len(axis) == 1 and len(axis[0]) == 1 and axis[0][0].kind == "image" and axis[0][0].size == 1


def _of_views(axis: Axis) -> bool:
    return len(axis) == 1 and any(digit.kind == "view" for digit in axis[0])


def _same_batch(before: Sequence[Size], after: Sequence[Size]) -> bool:
    """An open first axis is the same one if the sizes behind it are as many elements."""
    if not before or not after or isinstance(before[0], int) or isinstance(after[0], int):
        return False
    rest = [*before[1:], *after[1:]]
    if not all(isinstance(d, int) for d in rest):
        return before[0] is not None and before[0] == after[0]
    one, other = (math.prod(d for d in dims[1:] if isinstance(d, int)) for dims in (before, after))
    return one == other


def _as_digits(axis: Axis) -> Part:
    """An axis as digits, several parts as one that is split as a whole."""
    if len(axis) == 1:
        return axis[0]
    size = size_of(axis)
    return (Digit(Source("joined", size, parts=axis), size),)


def _deal(digits: list[Digit], dims: Sequence[Size], lose: Lose) -> list[Axis]:
    """Digits dealt out to axes of these sizes: from the last axis back, then from the first on, and what is left to
    the axis whose size is open."""
    left, right = [], []
    rest = list(dims)
    digits = [d for d in digits if d.size != 1 or d.kind == "image"]
    while rest and (taken := _take_inner(digits, rest[-1])) is not None:
        digits, axis = taken
        right.append(axis)
        rest.pop()
    while rest and (taken := _take_outer(digits, rest[0])) is not None:
        digits, axis = taken
        left.append(axis)
        rest.pop(0)
    right.reverse()
    return [*left, *_deal_rest(digits, rest, left + right, lose), *right] if rest else _with_rest(digits, left + right)


def _with_rest(digits: list[Digit], axes: list[Axis]) -> list[Axis]:
    """An axis of one image that no axis took stands before the first."""
    if digits and axes and all(d.size == 1 for d in digits) and len(axes[0]) == 1:
        axes = [merged([*digits, *axes[0][0]]), *axes[1:]]
    return axes


def _deal_rest(digits: list[Digit], rest: Sequence[Size], others: Sequence[Axis], lose: Lose) -> list[Axis]:
    if len(rest) == 1:
        return [merged(digits)]
    if len(rest) == len(digits) and all(
        d.size == n or not (isinstance(d.size, int) and isinstance(n, int)) for d, n in zip(digits, rest, strict=True)
    ):
        return [((digit,),) for digit in digits]
    sizes = [part_size((digit,)) for digit in digits]
    if None not in sizes and all(isinstance(n, int) for n in rest):
        total = math.prod(s for s in sizes if s is not None)
        if total == math.prod(n for n in rest if isinstance(n, int)):
            return _cut_joined(digits, [n for n in rest if isinstance(n, int)], total)
    if (why := why_lost((tuple(digits),))) is not None:
        return [lost(size, why) for size in rest]
    what = " x ".join(str(d.size) for d in digits)
    return [lose(size, f"sizes {what} do not make {' x '.join(map(str, rest))}") for size in rest]


def _cut_joined(digits: list[Digit], rest: Sequence[int], total: int) -> list[Axis]:
    """What does not factor, as rows and columns cut into strips that end within a row, is split as one."""
    source = Source("joined", total, parts=(tuple(digits),))
    axes: list[Axis] = []
    stride = total
    for size in rest:
        stride //= size
        axes.append(((Digit(source, size, stride),),) if size > 1 else ((),))
    return axes


def _take_joined(digits: list[Digit], count: int) -> tuple[list[Digit], Axis] | None:
    """As :func:`_take_inner` for so many elements that do not end with a digit: of as few as make a multiple of them,
    split as one."""
    total = 1
    for k in range(1, len(digits) + 1):
        size = digits[-k].size
        if not isinstance(size, int) or digits[-k].kind in BATCH:
            return None
        total *= size
        if total % count == 0:
            source = Source("joined", total, parts=(tuple(digits[-k:]),))
            outer, inner = split_digit(Digit(source, total), count)
            return [*digits[:-k], outer], ((inner,),)
    return None


def _take_open(digits: list[Digit], count: str | None, cuts: range) -> tuple[list[Digit], Axis] | None:
    """As few digits of one end as make an open size, a name or a multiple of it; cut before each of ``cuts``."""
    for k in cuts if count is not None else ():
        taken, left = (digits[:k], digits[k:]) if cuts.step > 0 else (digits[k:], digits[:k])
        if size_of((tuple(taken),)) == count:
            return left, ((taken[0],),) if len(taken) == 1 else merged(taken)
    return None


def _take_inner(digits: list[Digit], count: Size) -> tuple[list[Digit], Axis] | None:
    """The innermost digits of so many elements, and those left; None if they do not factor."""
    if not isinstance(count, int):
        return _take_open(digits, count, range(len(digits) - 1, -1, -1))
    given, wanted = digits, count
    digits, taken = list(digits), []
    if count == 1 and digits and digits[-1].kind == "image" and digits[-1].size == 1:
        return digits[:-1], ((digits[-1],),)
    while count > 1:
        if not digits:
            return None
        digit = digits.pop()
        if isinstance(digit.size, int) and count % digit.size == 0:
            taken.append(digit)
            count //= digit.size
        elif not isinstance(digit.size, int) or digit.size % count == 0:
            outer, inner = split_digit(digit, count)
            digits.append(outer)
            taken.append(inner)
            count = 1
        else:
            return _take_joined(given, wanted)
    return digits, merged(taken[::-1])


def _take_outer(digits: list[Digit], count: Size) -> tuple[list[Digit], Axis] | None:
    if not isinstance(count, int):
        return _take_open(digits, count, range(1, len(digits) + 1))
    digits, taken = list(digits), []
    if count == 1 and digits and digits[0].kind == "image" and digits[0].size == 1:
        return digits[1:], ((digits[0],),)
    while count > 1:
        if not digits:
            return None
        digit = digits.pop(0)
        if not isinstance(digit.size, int):
            return None
        if count % digit.size == 0:
            taken.append(digit)
            count //= digit.size
        elif digit.size % count == 0:
            outer, inner = split_digit(digit, digit.size // count)
            taken.append(outer)
            digits.insert(0, inner)
            count = 1
        else:
            return None
    return digits, merged(taken)
