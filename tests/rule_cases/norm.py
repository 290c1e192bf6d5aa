# SPDX-License-Identifier: Apache-2.0

"""Normalisation and softmax."""

from __future__ import annotations

import numpy as np
import torch

from rule_cases.case import Case, at, const, positive, spaced, w, x

F = torch.nn.functional
CASES: list[Case] = []

CASES += [
    Case(
        "BatchNormalization",
        [x(2, 3, 4, 5), w(3), w(3), w(3), w(3, draw=positive)],
        {},
        lambda t, s, b, m, v: (
            (t - m[:, None, None]) / torch.sqrt(v[:, None, None] + 1e-5) * s[:, None, None] + b[:, None, None]
        ),
        linear=[0, 1, 2],
    ),
    Case(
        "BatchNormalization",
        [x(2, 3), w(3), w(3), w(3), w(3, draw=positive)],
        {"epsilon": 0.1},
        lambda t, s, b, m, v: (t - m) / torch.sqrt(v + 0.1) * s + b,
        linear=[0, 1, 2],
    ),
    Case(
        "LayerNormalization", [x(2, 3, 4), w(4), w(4)], {}, lambda t, s, b: F.layer_norm(t, (4,), s, b), linear=[1, 2]
    ),
    Case(
        "LayerNormalization",
        [x(2, 3, 4), w(3, 4), w(3, 4)],
        {"axis": 1, "epsilon": 0.1},
        lambda t, s, b: F.layer_norm(t, (3, 4), s, b, 0.1),
        linear=[1, 2],
    ),
    Case("LayerNormalization", [x(2, 3, 4), w(4)], {"axis": -1}, lambda t, s: F.layer_norm(t, (4,), s), linear=[1]),
    Case(
        "InstanceNormalization",
        [x(2, 3, 4, 5), w(3), w(3)],
        {},
        lambda t, s, b: F.instance_norm(t, weight=s, bias=b),
        linear=[1, 2],
    ),
    Case(
        "InstanceNormalization",
        [x(2, 3, 6), w(3), w(3)],
        {"epsilon": 0.1},
        lambda t, s, b: F.instance_norm(t, weight=s, bias=b, eps=0.1),
        linear=[1, 2],
    ),
    Case(
        "GroupNormalization",
        [x(2, 6, 3, 4), w(6), w(6)],
        {"num_groups": 3},
        lambda t, s, b: F.group_norm(t, 3, s, b),
        linear=[1, 2],
        dynamic="channels",
    ),
    Case(
        "GroupNormalization",
        [x(2, 4, 5), w(4), w(4)],
        {"num_groups": 1, "epsilon": 0.1},
        lambda t, s, b: F.group_norm(t, 1, s, b, 0.1),
        linear=[1, 2],
        dynamic="channels",
    ),
    *[
        Case(
            "LayerNormalization",
            [x(2, 3, 4), const(np.ones(4), np.float32), const(np.ones(4), np.float32)],
            {"axis": 1} if a else {},
            lambda t, s, b, f=f, d=(1, 2) if a else (2,): f(t, d),
            outputs=3,
            of=of,
            note="statistics",
        )
        for a in (0, 1)
        for of, f in (
            (1, lambda t, d: t.mean(d, keepdim=True)),
            (2, lambda t, d: (t.var(d, keepdim=True, correction=0) + 1e-5).rsqrt()),
        )
    ],
    Case(
        "MeanVarianceNormalization",
        [x(2, 3, 4, 5)],
        {},
        lambda t: (t - t.mean((0, 2, 3), keepdim=True)) / t.std((0, 2, 3), keepdim=True, correction=0),
    ),
    Case(
        "MeanVarianceNormalization",
        [x(2, 3, 4, 5)],
        {"axes": [2, 3]},
        lambda t: (t - t.mean((2, 3), keepdim=True)) / t.std((2, 3), keepdim=True, correction=0),
    ),
    Case("LpNormalization", [x(2, 3, 4)], {}, lambda t: F.normalize(t, 2, -1)),
    Case("LpNormalization", [x(2, 3, 4, draw=spaced)], {"p": 1, "axis": 1}, lambda t: F.normalize(t, 1, 1)),
    Case("LpNormalization", [x(2, 3, 4)], {"axis": -2}, lambda t: F.normalize(t, 2, 1)),
    Case(
        "LpNormalization",
        [at([[0.0, 0.0], [3.0, 4.0]])],
        {},
        lambda t: torch.cat([0 * t[:1], F.normalize(t[1:], 2, -1)]),
        fd=False,
        note="at 0",
    ),
    Case(
        "LRN",
        [x(2, 7, 3, 4)],
        {"size": 5, "alpha": 0.3, "beta": 0.75, "bias": 2.0},
        lambda t: F.local_response_norm(t, 5, 0.3, 0.75, 2.0),
        dynamic="channels",
    ),
    Case("LRN", [x(2, 3, 3, 4)], {"size": 3}, lambda t: F.local_response_norm(t, 3), dynamic="channels"),
    Case(
        "LRN",
        [x(2, 4, 3, 3)],
        {"size": 1, "alpha": 0.5},
        lambda t: F.local_response_norm(t, 1, 0.5, 0.75, 1.0),
        dynamic="channels",
    ),
    *[
        Case(
            op,
            [x(2, 3, 4)],
            {} if axis is None else {"axis": axis},
            lambda t, f=f, axis=axis: f(t, dim=-1 if axis is None else axis),
        )
        for op, f in (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax))
        for axis in (None, 0, 1, -2)
    ],
    Case("Softmax", [at([[-300.0, 0.0, 300.0]])], {}, lambda t: torch.softmax(t, -1), fd=False, note="large"),
    Case("LogSoftmax", [at([[-300.0, 0.0, 300.0]])], {}, lambda t: torch.log_softmax(t, -1), fd=False, note="large"),
]
