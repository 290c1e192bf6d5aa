# SPDX-License-Identifier: Apache-2.0

"""Reading and writing by index."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rule_cases.case import Case, at, const, late, positive, spaced, x

F = torch.nn.functional
CASES: list[Case] = []
add = CASES.append

for indices in (2, -1, [0], [3], [3, 0, 1, 2], [-1, 0], [0, 0, 2, 0], [[0, 3], [1, 1]], [[2]]):
    for axis in (1, -1):
        for kind in (const, late):
            shape = (3, 4, 2) if axis == 1 else (3, 2, 4)

            def torch_gather(t: Any, i: Any, axis: int = axis) -> Any:
                i = i.long() % 4
                return t.index_select(axis, i.reshape(-1)).reshape(
                    *t.shape[:1], *(t.shape[1:2] if axis == -1 else ()), *i.shape, *(t.shape[2:] if axis == 1 else ())
                )

            add(
                Case(
                    "Gather",
                    [x(*shape), kind(indices)],
                    {"axis": axis},
                    torch_gather,
                    linear=[0],
                    note=f"{indices}{'late' * (kind is late)}".replace(" ", ""),
                )
            )
CASES += [
    Case("Gather", [x(4), const(1, np.int32)], {}, lambda t, i: t[1], linear=[0], note="rank 1"),
    Case("Gather", [x(4), late([1, 1, 2], np.int32)], {}, lambda t, i: t[i.long()], linear=[0], note="rank 1, int32"),
    Case(
        "GatherElements",
        [x(3, 4), const([[0, 1, 1], [-1, 3, 0]])],
        {"axis": 1},
        lambda t, i: t[:2].gather(1, i % 4),
        linear=[0],
    ),
    Case("GatherElements", [x(3, 4), late([[0, 1, 1, 0]])], {}, lambda t, i: t.gather(0, i), linear=[0]),
    Case(
        "GatherND", [x(3, 4, 2), const([[0, 1], [2, 3], [0, 1]])], {}, lambda t, i: t[[0, 2, 0], [1, 3, 1]], linear=[0]
    ),
    Case("GatherND", [x(3, 4), late([[[0, 1]], [[2, -1]]])], {}, lambda t, i: t[[[0], [2]], [[1], [3]]], linear=[0]),
    Case(
        "ScatterElements",
        [x(3, 4), const([[1, 0, 3], [0, 2, 1]]), x(2, 3)],
        {"axis": 1},
        lambda t, i, u: t.scatter(1, i, u),
        linear=[0, 2],
    ),
    Case(
        "ScatterElements",
        [x(3, 4), late([[1, 0, 1, 0], [1, 2, 0, 1]]), x(2, 4)],
        {"reduction": "add"},
        lambda t, i, u: t.scatter_add(0, i, u),
        linear=[0, 2],
    ),
    Case(
        "ScatterElements",
        [x(3, 4), const([[1, 0, 3, 2]]), const(np.ones((1, 4)), np.float32)],
        {"axis": -1},
        lambda t, i, u: t.scatter(1, i, u),
        linear=[0],
    ),
    Case(
        "ScatterND",
        [x(3, 4), const([[2], [0]]), x(2, 4)],
        {},
        lambda t, i, u: t.index_put((torch.tensor([2, 0]),), u),
        linear=[0, 2],
    ),
    Case(
        "ScatterND",
        [x(3, 4), late([[0, 1], [0, 1], [2, 2]]), x(3)],
        {"reduction": "add"},
        lambda t, i, u: t.index_put((i[:, 0], i[:, 1]), u, accumulate=True),
        linear=[0, 2],
    ),
    *[
        Case(
            "GatherND",
            [x(2, 3, 4), kind([[[1, 0], [2, 3]], [[0, 1], [0, 1]]])],
            {"batch_dims": 1},
            lambda t, i: torch.stack([t[n][i[n, :, 0], i[n, :, 1]] for n in (0, 1)]),
            linear=[0],
        )
        for kind in (const, late)
    ],
    *[
        Case(
            "ScatterElements",
            [draw, late([[1, 0, 1, 0], [1, 2, 0, 1]]), x(2, 4, draw=positive)],
            {"reduction": onnx_name},
            lambda t, i, u, r=r: t.scatter_reduce(0, i, u, r),
        )
        for draw in (x(3, 4, draw=spaced),)
        for onnx_name, r in (("mul", "prod"), ("max", "amax"), ("min", "amin"))
    ],
    Case(
        "ScatterElements",
        [at([[0.0, 2.0], [3.0, 0.0]]), const([[0, 0], [1, 0]]), at([[0.0, 5.0], [0.0, 2.0]])],
        {"reduction": "mul"},
        lambda t, i, u: t.scatter_reduce(0, i, u, "prod"),
        note="zeros",
    ),
    Case(
        "ScatterElements",
        [at([1.0, 2.0, 3.0]), const([0, 0, 1]), at([1.0, 1.0, 4.0])],
        {"reduction": "max"},
        lambda t, i, u: t.scatter_reduce(0, i, u, "amax"),
        fd=False,
        note="ties",
    ),
    *[
        Case(
            "ScatterND",
            [x(4, 2, draw=spaced), late([[2], [0], [2]]), x(3, 2, draw=positive)],
            {"reduction": name},
            lambda t, i, u, r=r: t.scatter_reduce(0, i.expand(3, 2), u, r),
        )
        for name, r in (("mul", "prod"), ("max", "amax"), ("min", "amin"))
    ],
    Case("Compress", [x(3, 4), const([False, True, True], np.bool_)], {"axis": 0}, lambda t, c: t[1:], linear=[0]),
    Case(
        "Compress",
        [x(3, 4), late([True, False, True, True], np.bool_)],
        {"axis": -1},
        lambda t, c: t[:, [0, 2, 3]],
        linear=[0],
    ),
    Case(
        "Compress",
        [x(3, 4), late([False, True, False, False, True], np.bool_)],
        {},
        lambda t, c: t.reshape(-1)[[1, 4]],
        linear=[0],
    ),
    Case(
        "ReverseSequence",
        [x(4, 3, 2), const([1, 4, 3])],
        {},
        lambda t, n: torch.stack([torch.cat([t[:k, i].flip(0), t[k:, i]]) for i, k in enumerate((1, 4, 3))], 1),
        linear=[0],
    ),
    Case(
        "ReverseSequence",
        [x(2, 4), late([3, 2])],
        {"time_axis": 1, "batch_axis": 0},
        lambda t, n: torch.stack([torch.cat([t[i, :k].flip(0), t[i, k:]]) for i, k in enumerate((3, 2))]),
        linear=[0],
    ),
    Case(
        "MaxUnpool",
        [x(1, 1, 2, 2), const([[[[5, 7], [8, 10]]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        lambda t, i: F.max_unpool2d(t, i, 2),
        linear=[0],
    ),
    Case("Range", [at(1.5), const(4.0, np.float32), at(0.7)], {}, lambda s, e, d: s + d * torch.arange(4)),
    Case("TopK", [x(3, 5, draw=spaced), const([2])], {}, lambda t, k: t.topk(2).values, outputs=2),
    Case(
        "TopK",
        [x(5, 3, draw=spaced), late([3])],
        {"axis": 0, "largest": 0},
        lambda t, k: t.topk(3, 0, largest=False).values,
        outputs=2,
    ),
    *[
        Case(
            "CumSum",
            [x(3, 5), const(axis)],
            {"reverse": r, "exclusive": e},
            None if e else (lambda t, a, r=r: t.flip(1).cumsum(1).flip(1) if r else t.cumsum(1)),
            linear=[0],
        )
        for axis, r, e in ((1, 0, 0), (-1, 1, 0), (1, 0, 1), (1, 1, 1))
    ],
    Case("Trilu", [x(2, 3, 4)], {}, torch.triu, linear=[0]),
    Case("Trilu", [x(3, 4), const(-1)], {"upper": 0}, lambda t, k: t.tril(-1), linear=[0]),
    Case("Trilu", [x(3, 4), late(1)], {}, lambda t, k: t.triu(1), linear=[0]),
]
