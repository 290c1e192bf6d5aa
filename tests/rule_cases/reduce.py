# SPDX-License-Identifier: Apache-2.0

"""Reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rule_cases.case import Case, at, const, late, normal, positive, spaced, x

CASES: list[Case] = []
add = CASES.append


def product(t: Any, axes: Sequence[int], keepdim: bool) -> Any:
    """torch multiplies along one axis at a time."""
    for axis in sorted((a % t.ndim for a in axes), reverse=True):
        t = t.prod(axis, keepdim=keepdim)
    return t


REDUCTIONS: dict[str, tuple[Any, Any, list[int]]] = {
    "ReduceSum": (lambda t, d, k: t.sum(d, keepdim=k), normal, [0]),
    "ReduceMean": (lambda t, d, k: t.mean(d, keepdim=k), normal, [0]),
    "ReduceMax": (lambda t, d, k: t.amax(d, keepdim=k), spaced, []),
    "ReduceMin": (lambda t, d, k: t.amin(d, keepdim=k), spaced, []),
    "ReduceL2": (lambda t, d, k: t.pow(2).sum(d, keepdim=k).sqrt(), normal, []),
    "ReduceL1": (lambda t, d, k: t.abs().sum(d, keepdim=k), spaced, []),
    "ReduceSumSquare": (lambda t, d, k: t.pow(2).sum(d, keepdim=k), normal, []),
    "ReduceLogSum": (lambda t, d, k: t.sum(d, keepdim=k).log(), positive, []),
    "ReduceLogSumExp": (lambda t, d, k: t.logsumexp(d, keepdim=k), normal, []),
    "ReduceProd": (lambda t, d, k: product(t, d, k), spaced, []),
}
for op, (reduction, draw, linear) in REDUCTIONS.items():
    for axes, keep in [([1], 1), ([0, 2], 0), ([-1], 0), ([-2, 0], 1), (None, 1), (None, 0)]:
        inputs = [x(2, 3, 4, draw=draw), *([const(axes)] if axes is not None else [])]

        def torch_reduce(t: Any, _: Any = None, axes: Any = axes, keep: int = keep, reduction: Any = reduction) -> Any:
            return reduction(t, axes or (0, 1, 2), bool(keep))

        add(Case(op, inputs, {"keepdims": keep}, torch_reduce, linear=linear, note=f"axes {axes}"))
    add(
        Case(
            op,
            [x(2, 3, 4, draw=draw), late([0, -1])],
            {"keepdims": 0},
            lambda t, a, f=reduction: f(t, (0, 2), False),
            linear=linear,
            note="axes at run time",
        )
    )
CASES += [
    Case("ReduceSum", [x(2, 3)], {"noop_with_empty_axes": 1}, lambda t: t.clone(), linear=[0]),
    Case(
        "ReduceMean",
        [x(2, 3), const([])],
        {"noop_with_empty_axes": 1, "keepdims": 0},
        lambda t, a: t.clone(),
        linear=[0],
    ),
    Case("ReduceMean", [x(2, 3), const([])], {"keepdims": 0}, lambda t, a: t.mean(), linear=[0]),
    Case(
        "ReduceMax",
        [at([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), const([1])],
        {},
        lambda t, a: t.amax(1, keepdim=True),
        fd=False,
        note="ties",
    ),
    Case(
        "ReduceMin",
        [at([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), const([1])],
        {"keepdims": 0},
        lambda t, a: t.amin(1),
        fd=False,
        note="ties",
    ),
    Case(
        "ReduceProd",
        [at([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0], [1.0, 5.0, 2.0]]), const([1])],
        {},
        lambda t, a: t.prod(1, keepdim=True),
        note="zeros",
    ),
    Case(
        "ReduceL2",
        [at([[0.0, 0.0], [3.0, 4.0]]), const([1])],
        {},
        lambda t, a: torch.linalg.vector_norm(t, dim=1, keepdim=True),
        fd=False,
        note="at 0",
    ),
]
