# SPDX-License-Identifier: Apache-2.0

"""Arithmetic of several tensors, with broadcasting."""

from __future__ import annotations

import math

import numpy as np
import torch

from rule_cases.case import Case, at, away_from, const, late, positive, spaced, w, x

CASES: list[Case] = []

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 3), (2, 3)), ((2, 3, 4), (4,)), ((3, 1), (2, 3, 4)), ((), (2, 3)), ((1, 3, 1), (2, 1, 4)), ((1, 1), (1, 1)),
    ((2, 3, 2, 2), (2, 3, 1, 1)),
]  # fmt: skip
for left, right in SHAPES:
    CASES += [
        Case("Add", [x(*left), x(*right)], {}, torch.add, linear=[0, 1]),
        Case("Sub", [x(*left), x(*right)], {}, torch.sub, linear=[0, 1]),
        Case("Mul", [x(*left), x(*right)], {}, torch.mul, linear=[0, 1]),
        Case("Div", [x(*left), x(*right, draw=positive)], {}, torch.div, linear=[0]),
        Case("Pow", [x(*left, draw=positive), x(*right)], {}, torch.pow),
        Case(
            "Where",
            [
                const(np.arange(12).reshape(1, 3, 4) % 3 == 0, np.bool_)
                if left == (3, 1)
                else const(
                    np.arange(math.prod(np.broadcast_shapes(left, right))).reshape(np.broadcast_shapes(left, right)) % 3
                    == 0,
                    np.bool_,
                ),
                x(*left),
                x(*right),
            ],
            {},
            torch.where,
            linear=[1, 2],
        ),
    ]
CASES += [
    Case(
        "Where",
        [late([[True], [False]], np.bool_), x(2, 3), x(1, 3)],
        {},
        torch.where,
        linear=[1, 2],
        note="condition broadcasts",
    ),
    Case("Sum", [x(2, 3), x(3), x()], {}, lambda a, b, c: a + b + c, linear=[0, 1, 2]),
    Case("Sum", [x(2, 3)], {}, lambda a: a.clone(), linear=[0]),
    Case("Mean", [x(2, 3), x(1, 3), x(1)], {}, lambda a, b, c: (a + b + c) / 3, linear=[0, 1, 2]),
    Case("Max", [x(2, 3, draw=spaced), x(1, 3)], {}, torch.maximum),
    Case("Max", [at([1.0, 2.0, 3.0]), at([1.0, 1.0, 4.0])], {}, torch.maximum, fd=False, note="ties"),
    Case("Max", [x(4)], {}, lambda a: a.clone(), linear=[0], note="one input"),
    Case(
        "Max",
        [x(2, 3, draw=spaced), x(3, draw=away_from(5)), x()],
        {},
        lambda a, b, c: torch.maximum(torch.maximum(a, b), c),
        note="three inputs",
    ),
    Case("Min", [x(2, 3, draw=spaced), x(2, 1)], {}, torch.minimum),
    Case("Min", [at([1.0, 2.0, 3.0]), at([1.0, 1.0, 4.0])], {}, torch.minimum, fd=False, note="ties"),
    Case(
        "Mod",
        [x(2, 5, draw=away_from(-3, -1.5, 0, 1.5, 3)), const(1.5, np.float32)],
        {"fmod": 1},
        lambda a, b: torch.fmod(a, b),
    ),
    Case("Mod", [at([-4.0, -1.0, 2.0, 5.0]), at([1.5, 0.7, 3.0, -2.2])], {"fmod": 1}, torch.fmod),
    Case("Pow", [x(2, 3), const(2, np.float32)], {}, torch.pow),
    Case("Pow", [x(2, 3), const([[3.0]], np.float32)], {}, torch.pow),
    Case("Pow", [x(2, 3), const(2, np.int64)], {}, lambda a, e: a**2),
    Case("Pow", [x(2, 3, draw=positive), const(-0.5, np.float32)], {}, torch.pow),
    Case("Pow", [x(3), const([[3.0]], np.float32)], {}, torch.pow, note="exponent of a higher rank"),
    Case("Pow", [at([-1.0, 0.0, 2.0]), const(1, np.float32)], {}, torch.pow, note="exponent 1"),
    Case("Pow", [at([-1.0, 0.0, 2.0]), const(0, np.float32)], {}, torch.pow, note="exponent 0"),
    Case("Pow", [at([0.0, 0.0, 0.0, 2.0]), at([0.0, 2.0, 1.0, 3.0])], {}, torch.pow, fd=False, note="at 0"),
    Case(
        "Pow",
        [x(2, 3, draw=positive), late([2, 0, 3], np.int64)],
        {},
        lambda a, e: a**e,
        note="integer exponent at run time",
    ),
    Case("PRelu", [x(2, 3, 4, draw=spaced), w(3, 1)], {}, lambda t, a: torch.where(t > 0, t, a * t), linear=[1]),
    Case("PRelu", [x(2, 3, 4, draw=spaced), w(1)], {}, lambda t, a: torch.where(t > 0, t, a * t), linear=[1]),
    Case("PRelu", [at([[-1.0, 0.0, 2.0]]), w(3)], {}, lambda t, a: torch.where(t > 0, t, a * t), fd=False, note="at 0"),
]
