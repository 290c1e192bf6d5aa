# SPDX-License-Identifier: Apache-2.0

"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rule_cases.case import Case, at, spaced, x

F = torch.nn.functional
CASES: list[Case] = []


def torch_pad(pads: Sequence[int], value: float) -> Callable[[Any], Any]:
    n = len(pads) // 2
    return lambda t: F.pad(t, [v for a in reversed(range(n)) for v in (pads[a], pads[n + a])], value=value)


def max_pool(shape: Sequence[int], same: Sequence[int] | None = None, oracle: bool = True, **kw: Any) -> Case:
    n, ones = len(shape) - 2, [1] * (len(shape) - 2)
    pads = same if same is not None else kw.get("pads", [0] * 2 * n)

    def run(t: Any) -> Any:
        pool = [F.max_pool1d, F.max_pool2d, F.max_pool3d][n - 1]
        return pool(
            torch_pad(pads, -math.inf)(t),
            kw["kernel_shape"],
            kw.get("strides", ones),
            0,
            kw.get("dilations", ones),
            bool(kw.get("ceil_mode", 0)),
        )

    return Case("MaxPool", [x(*shape, draw=spaced)], kw, run if oracle else None)


def average_pool(shape: Sequence[int], **kw: Any) -> Case:
    """torch knows symmetric pads and no dilation; the adjoint identity and differences judge the rest."""
    n, ones = len(shape) - 2, [1] * (len(shape) - 2)
    pads = kw.get("pads", [0] * 2 * n)
    run = None
    if pads[:n] == pads[n:] and "dilations" not in kw and "auto_pad" not in kw:

        def run(t: Any) -> Any:
            pool = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][n - 1]
            return pool(
                t,
                kw["kernel_shape"],
                kw.get("strides", ones),
                pads[:n],
                bool(kw.get("ceil_mode", 0)),
                bool(kw.get("count_include_pad", 0)),
            )

    return Case("AveragePool", [x(*shape)], kw, run, linear=[0])


CASES += [
    max_pool((2, 3, 9), kernel_shape=[3], strides=[2]),
    max_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    max_pool((2, 3, 6, 7), kernel_shape=[2, 3]),
    max_pool((2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 4], strides=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1),
    max_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2]),
    max_pool((1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", same=[1, 0, 1, 1]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", same=[1, 1, 1, 0]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], auto_pad="VALID"),
    max_pool((2, 3, 5, 6), kernel_shape=[1, 1], strides=[2, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], storage_order=1),
    Case(
        "MaxPool",
        [at(np.ones((1, 2, 5, 5)))],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        lambda t: F.max_pool2d(t, 3, 2, 1),
        fd=False,
        note="ties",
    ),
    Case(
        "MaxPool",
        [at(np.tile([[1.0, 2.0], [2.0, 1.0]], (1, 2, 3, 3)))],
        {"kernel_shape": [3, 3]},
        lambda t: F.max_pool2d(t, 3, 1),
        fd=False,
        note="ties",
    ),
    Case(
        "MaxPool",
        [at(-np.ones((1, 1, 4, 4)))],
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        lambda t: F.max_pool2d(t, 2, 2, 1),
        fd=False,
        note="negative at the border",
    ),
    average_pool((2, 3, 9), kernel_shape=[3], strides=[2]),
    average_pool((2, 3, 6, 7), kernel_shape=[2, 3]),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    average_pool((2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2]),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    average_pool((2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    average_pool(
        (2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
    ),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 4], strides=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 2], pads=[2, 0, 1, 1], count_include_pad=1),
    average_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2]),
    average_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 0], count_include_pad=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], auto_pad="VALID"),
    average_pool((2, 3, 5, 6), kernel_shape=[1, 1], strides=[2, 3]),
    average_pool((1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 0, 0, 1, 0]),
    Case("GlobalAveragePool", [x(2, 3, 4, 5)], {}, lambda t: t.mean((2, 3), keepdim=True), linear=[0]),
    Case("GlobalAveragePool", [x(2, 3, 4)], {}, lambda t: t.mean(2, keepdim=True), linear=[0]),
    Case("GlobalMaxPool", [x(2, 3, 4, 5, draw=spaced)], {}, lambda t: F.adaptive_max_pool2d(t, 1)),
    Case("GlobalMaxPool", [x(2, 3, 4, draw=spaced)], {}, lambda t: F.adaptive_max_pool1d(t, 1)),
    Case(
        "GlobalMaxPool", [at(np.ones((1, 2, 3, 3)))], {}, lambda t: F.adaptive_max_pool2d(t, 1), fd=False, note="ties"
    ),
    Case(
        "LpPool",
        [x(2, 3, 6, 7)],
        {"kernel_shape": [2, 3], "strides": [2, 1]},
        lambda t: F.avg_pool2d(t * t, (2, 3), (2, 1)).mul(6).sqrt(),
    ),
    Case(
        "LpPool",
        [x(2, 3, 6, 7, draw=spaced)],
        {"kernel_shape": [3, 3], "p": 3, "pads": [1, 1, 1, 1], "strides": [2, 2]},
        lambda t: F.avg_pool2d(t.abs() ** 3, 3, 2, 1).mul(9) ** (1 / 3),
    ),
    Case(
        "LpPool",
        [x(2, 3, 6, 7, draw=spaced)],
        {"kernel_shape": [2, 2], "p": 1},
        lambda t: F.avg_pool2d(t.abs(), 2, 1).mul(4),
    ),
    Case("LpPool", [x(2, 3, 7, 8, draw=spaced)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("LpPool", [x(2, 3, 7, 8, draw=spaced)], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("LpPool", [x(2, 3, 9, 8, draw=spaced)], {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    Case("GlobalLpPool", [x(2, 3, 4, 5)], {}, lambda t: t.flatten(2).norm(dim=2)[..., None, None]),
    Case("GlobalLpPool", [x(2, 3, 4, draw=spaced)], {"p": 3}, lambda t: t.norm(3, dim=2, keepdim=True)),
]
