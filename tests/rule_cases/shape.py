# SPDX-License-Identifier: Apache-2.0

"""What moves elements and keeps their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rule_cases.case import NONE, Case, const, late, x

F = torch.nn.functional
CASES: list[Case] = []
add = CASES.append

CASES += [
    Case("Reshape", [x(2, 3, 4), const([4, -1])], {}, lambda t, s: t.reshape(4, 6), linear=[0]),
    Case("Reshape", [x(2, 3, 4), const([0, -1])], {}, lambda t, s: t.reshape(2, 12), linear=[0]),
    Case("Reshape", [x(2, 3, 4), late([6, 4])], {}, lambda t, s: t.reshape(6, 4), linear=[0]),
    Case("Reshape", [x(1), const([])], {}, lambda t, s: t.reshape(()), linear=[0], note="to a scalar"),
    Case("Flatten", [x(2, 3, 4)], {}, lambda t: t.flatten(1), linear=[0]),
    Case("Flatten", [x(2, 3, 4)], {"axis": 0}, lambda t: t.reshape(1, -1), linear=[0]),
    Case("Flatten", [x(2, 3, 4)], {"axis": -1}, lambda t: t.reshape(6, 4), linear=[0]),
    Case("Squeeze", [x(1, 3, 1), const([0])], {}, lambda t, a: t.squeeze(0), linear=[0]),
    Case("Squeeze", [x(1, 3, 1)], {}, lambda t: t.squeeze(), linear=[0]),
    Case("Unsqueeze", [x(3, 2), const([0, -1])], {}, lambda t, a: t[None, ..., None], linear=[0]),
    Case("Expand", [x(3, 1), const([2, 1, 4])], {}, lambda t, s: t.expand(2, 3, 4), linear=[0]),
    Case("Expand", [x(3, 1), late([2, 3, 4])], {}, lambda t, s: t.expand(2, 3, 4), linear=[0]),
    Case("Expand", [x(3, 4), const([1, 1])], {}, lambda t, s: t.clone(), linear=[0]),
    Case("Expand", [x(), const([2, 3])], {}, lambda t, s: t.expand(2, 3), linear=[0]),
    Case("Transpose", [x(2, 3, 4)], {}, lambda t: t.permute(2, 1, 0), linear=[0]),
    Case("Transpose", [x(2, 3, 4, 5)], {"perm": [2, 0, 3, 1]}, lambda t: t.permute(2, 0, 3, 1), linear=[0]),
    Case("Concat", [x(2, 3), x(2, 1), x(2, 2)], {"axis": 1}, lambda *t: torch.cat(t, 1), linear=[0, 1, 2]),
    Case("Concat", [x(2, 3), x(1, 3)], {"axis": -2}, lambda *t: torch.cat(t, 0), linear=[0, 1]),
    Case("Concat", [x(2, 3)], {"axis": 0}, lambda t: t.clone(), linear=[0]),
    Case("Concat", [x(2, 3), const(np.ones((2, 2)), np.float32)], {"axis": 1}, lambda *t: torch.cat(t, 1), linear=[0]),
    *[
        Case(
            "Split",
            [x(2, 7), const([1, 4, 2])],
            {"axis": axis},
            lambda t, s, of=of: t.split([1, 4, 2], 1)[of],
            linear=[0],
            outputs=3,
            of=of,
        )
        for axis, of in ((1, 0), (-1, 2))
    ],
    Case("Split", [x(5, 3)], {"num_outputs": 2}, lambda t: t.split([3, 2])[1], linear=[0], outputs=2, of=1),
    Case("Tile", [x(2, 3), const([2, 3])], {}, lambda t, r: t.repeat(2, 3), linear=[0]),
    Case("Tile", [x(2, 1, 3), late([1, 4, 2])], {}, lambda t, r: t.repeat(1, 4, 2), linear=[0]),
    Case(
        "DepthToSpace", [x(2, 12, 2, 3)], {"blocksize": 2, "mode": "CRD"}, lambda t: F.pixel_shuffle(t, 2), linear=[0]
    ),
    Case(
        "DepthToSpace",
        [x(2, 8, 2, 3)],
        {"blocksize": 2},
        lambda t: t.reshape(2, 2, 2, 2, 2, 3).permute(0, 3, 4, 1, 5, 2).reshape(2, 2, 4, 6),
        linear=[0],
    ),
    Case("DepthToSpace", [x(2, 9, 2, 3)], {"blocksize": 3, "mode": "CRD"}, lambda t: F.pixel_shuffle(t, 3), linear=[0]),
    Case(
        "SpaceToDepth",
        [x(2, 3, 4, 6)],
        {"blocksize": 2},
        lambda t: t.reshape(2, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 12, 2, 3),
        linear=[0],
    ),
    Case("CenterCropPad", [x(5, 8), const([3, 5])], {}, linear=[0]),
    Case("CenterCropPad", [x(3, 4), const([6, 7])], {}, linear=[0]),
    Case("CenterCropPad", [x(2, 6, 5), const([3, 8])], {"axes": [1, -1]}, linear=[0]),
    Case("CenterCropPad", [x(7, 8), const([4, 11])], {}, linear=[0]),
]

BIG = 2**63 - 1
for starts, ends, axes, steps in [
    ([1], [4], [0], None),
    ([0, 2], [BIG, 6], [0, 1], None),
    ([-3], [-1], [1], None),
    ([1], [BIG], [1], [3]),
    ([0], [7], [1], [2]),
    ([-1], [-BIG], [1], [-1]),
    ([6], [0], [1], [-2]),
    ([-1], [-100], [0], [-3]),
    ([4, 1], [0, 7], [0, 1], [-1, 2]),
    ([1, 2], [4, 6], None, None),
    ([3], [3], [1], None),
    ([0], [5], [1], [-1]),
    ([2], [100], [-1], [5]),
    ([0], [2**31 - 1], [1], None),
    ([5], [2], [1], [-7]),
]:

    def torch_slice(t: Any, *_: Any, s: Any = starts, e: Any = ends, a: Any = axes, p: Any = steps) -> Any:
        for i, axis in enumerate(a if a is not None else range(len(s))):
            step = p[i] if p else 1
            t = t.index_select(axis, torch.tensor(range(t.shape[axis])[slice(s[i], e[i], step)], dtype=torch.long))
        return t

    for kind in (const, late):
        bounds = [kind(starts), kind(ends)]
        bounds += [const(axes)] if axes is not None else ([NONE] if steps else [])
        bounds += [kind(steps)] if steps else []
        add(
            Case(
                "Slice",
                [x(5, 8), *bounds],
                {},
                torch_slice,
                linear=[0],
                note=f"{starts}:{ends}:{steps}@{axes}{' late' * (kind is late)}".replace(" ", ""),
            )
        )
CASES += [
    Case(
        "Slice",
        [x(5, 8), late([1], np.int32), late([4], np.int32), const([1], np.int32)],
        {},
        lambda t, *_: t[:, 1:4],
        linear=[0],
        note="int32 late",
    ),
    Case(
        "Slice",
        [x(5, 8), late([1], np.int32), late([7], np.int32), const([1], np.int32), const([2], np.int32)],
        {},
        lambda t, *_: t[:, 1:7:2],
        linear=[0],
        note="int32 late, step",
    ),
    Case(
        "Slice",
        [x(2, 3, 6, 6), const([0, 1]), const([BIG, BIG]), const([2, 3]), const([2, 2])],
        {},
        lambda t, *_: t[:, :, ::2, 1::2],
        linear=[0],
        note="focus",
    ),
    Case(
        "Slice",
        [x(5, 8), const([-9]), const([-BIG]), const([1]), const([-1])],
        {},
        lambda t, *_: t[:, :1],
        linear=[0],
        note="from before the first, backwards",
    ),
    Case(
        "Slice",
        [x(5, 8), late([-9]), late([-BIG]), const([1]), const([-1])],
        {},
        lambda t, *_: t[:, :1],
        linear=[0],
        note="from before the first, backwards, late",
    ),
    Case(
        "Slice",
        [x(9), const([1]), const([8]), const([0]), const([3])],
        {},
        lambda t, *_: t[1:8:3],
        linear=[0],
        note="rank 1",
    ),
]

for mode in ("constant", "reflect", "edge", "wrap"):
    torch_mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    for pads in ([1, 2, 3, 1], [0, 0, 0, 2], [2, 0, 0, 0]):
        add(
            Case(
                "Pad",
                [x(2, 3, 5, 6), const([0, 0, *pads[:2], 0, 0, *pads[2:]])],
                {"mode": mode},
                lambda t, p, pads=pads, m=torch_mode: F.pad(t, [pads[1], pads[3], pads[0], pads[2]], mode=m),
                linear=[0],
                note=f"{pads}",
            )
        )
CASES += [
    Case(
        "Pad",
        [x(3, 5), const([1, -1, 0, 2]), const(0.5, np.float32)],
        {},
        lambda t, p, v: F.pad(t, [-1, 2, 1, 0], value=0.5),
        linear=[0],
        note="negative",
    ),
    Case("Pad", [x(3, 5), const([0, -1, 0, -2])], {}, lambda t, p: t[:, 1:3], linear=[0], note="negative"),
    Case("Pad", [x(3, 5), const([0, 0, 0, 0])], {}, lambda t, p: t.clone(), linear=[0], note="nothing"),
    Case(
        "Pad",
        [x(2, 3, 5), const([1, 2, 0, 1]), NONE, const([2, 0])],
        {},
        lambda t, p, v, a: F.pad(t, [1, 0, 0, 0, 2, 1]),
        linear=[0],
        note="axes",
    ),
    Case(
        "Pad",
        [x(2, 3, 5), const([-1, 2, -1, 1]), NONE, const([-1, 0])],
        {},
        lambda t, p, v, a: F.pad(t, [-1, -1, 0, 0, 2, 1]),
        linear=[0],
        note="axes, negative",
    ),
    Case("Pad", [x(2, 5), late([0, 2, 1, 1])], {}, lambda t, p: F.pad(t, [2, 1, 0, 1]), linear=[0], note="late"),
    Case("Pad", [x(2, 5), const([1, -1, 2, 2])], {"mode": "edge"}, linear=[0], note="edge, negative"),
    Case("Pad", [x(2, 5), const([0, -1, 0, 2])], {"mode": "reflect"}, linear=[0], note="reflect, negative"),
    Case("Pad", [x(2, 3, 5), const([1, 1]), NONE, const([-2])], {"mode": "reflect"}, linear=[0], note="reflect, axes"),
]
