# SPDX-License-Identifier: Apache-2.0

"""Sampling at computed places, and determinants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rule_cases.case import NONE, Case, at, const, late, uniform, w, x

F = torch.nn.functional
CASES: list[Case] = []
add = CASES.append

INNER = uniform(-0.93, 0.93)  # over 5 and 7 elements, hardly ever near one: there is a kink at each


def grid_sample(shape: Sequence[int], out: Sequence[int], draw: Any = INNER, **kw: Any) -> Case:
    options = {
        "mode": {"linear": "bilinear", "cubic": "bicubic"}.get(kw.get("mode", "linear"), "nearest"),
        "padding_mode": kw.get("padding_mode", "zeros"),
        "align_corners": bool(kw.get("align_corners", 0)),
    }
    oracle = len(shape) == 4
    return Case(
        "GridSample",
        [x(*shape), x(shape[0], *out, len(shape) - 2, draw=draw)],
        kw,
        (lambda t, g: F.grid_sample(t, g, **options)) if oracle else None,
        linear=[0],
        fd=not oracle,
    )


CASES += [
    grid_sample((2, 3, 5, 7), (4, 3), draw, mode=mode, padding_mode=padding, align_corners=corners)
    for mode in ("linear", "nearest", "cubic")
    for padding in ("zeros", "border", "reflection")
    for corners in (0, 1)
    for draw in (INNER, uniform(-2.7, 2.7))
] + [
    grid_sample((1, 2, 3, 4, 5), (2, 3, 2), mode="nearest"),
    grid_sample((2, 1, 1, 1), (2, 2), padding_mode="reflection", align_corners=1),
]


CASES += [
    Case(
        "AffineGrid",
        [x(2, d, d + 1), kind([2, 3, 4, 5, 3][: d + 2])],
        {"align_corners": corners},
        lambda t, s, c=corners, d=d: F.affine_grid(t, [2, 3, 4, 5, 3][: d + 2], align_corners=bool(c)),
        linear=[0],
        note="late" * (kind is late),
    )
    for d in (2, 3)
    for corners in (0, 1)
    for kind in (const, late)
]


def torch_deform(
    t: Any,
    weight: Any,
    offset: Any,
    bias: Any,
    mask: Any,
    *,
    strides: int,
    pads: int,
    dilations: int,
    group: int,
    offset_group: int,
) -> Any:
    """Every element of every window read by grid_sample, then a matrix product."""
    n, c, height, width = t.shape
    m, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    read = []
    for o in range(offset_group):
        for k in range(kh * kw):
            at = 2 * (o * kh * kw + k)
            y = torch.arange(oh).reshape(-1, 1) * strides - pads + (k // kw) * dilations + offset[:, at]
            xx = torch.arange(ow) * strides - pads + (k % kw) * dilations + offset[:, at + 1]
            grid = torch.stack([2 * xx / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            part = F.grid_sample(t[:, o * c // offset_group : (o + 1) * c // offset_group], grid, align_corners=True)
            read.append(part * (1 if mask is None else mask[:, None, o * kh * kw + k]))
    columns = torch.cat([torch.stack(read[o * kh * kw : (o + 1) * kh * kw], 2) for o in range(offset_group)], 1)
    columns = columns.reshape(n, group, -1, oh * ow)
    y = (weight.reshape(group, m // group, -1) @ columns).reshape(n, m, oh, ow)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def deform(shape: Sequence[int], weight: Sequence[int], bias: bool = True, mask: bool = True, **kw: int) -> Case:
    strides, pads, dilations = (
        kw.pop(name, default) for name, default in (("strides", 1), ("pads", 0), ("dilations", 1))
    )
    group, og = kw.get("group", 1), kw.get("offset_group", 1)
    out = [(s + 2 * pads - dilations * (k - 1) - 1) // strides + 1 for s, k in zip(shape[2:], weight[2:], strict=True)]
    k = math.prod(weight[2:])
    inputs = [
        x(*shape),
        w(*weight),
        x(shape[0], og * 2 * k, *out, draw=lambda s: lambda rng: rng.integers(-2, 2, s) + rng.uniform(0.1, 0.9, s)),
        w(weight[0]) if bias else NONE,
        *([x(shape[0], og * k, *out)] if mask else []),
    ]
    attributes = {"strides": [strides] * 2, "pads": [pads] * 4, "dilations": [dilations] * 2, **kw}
    settings = {"strides": strides, "pads": pads, "dilations": dilations, "group": group, "offset_group": og}
    return Case(
        "DeformConv",
        inputs,
        attributes,
        lambda t, w_, o, b, m=None: torch_deform(t, w_, o, b, m, **settings),
        linear=[0, 1, 3, 4],
        tolerance=2e-5,
    )


CASES += [
    deform((2, 4, 6, 7), (3, 4, 3, 2), pads=1),
    deform((1, 4, 6, 7), (4, 2, 2, 2), False, False, group=2, offset_group=2, strides=2, pads=1),
    deform((2, 2, 7, 6), (2, 2, 3, 3), True, False, dilations=2, pads=2),
]


def torch_roi_align(
    t: Any, rois: Any, which: Any, *, cells: Sequence[int], scale: float, ratio: int, half: bool
) -> Any:
    """Sample by sample, as the standard has it."""
    out = torch.zeros(len(rois), t.shape[1], *cells, dtype=t.dtype)
    for r, (box, n) in enumerate(zip(rois.tolist(), which.tolist(), strict=True)):
        left, top, right, bottom = (v * scale - (0.5 if half else 0.0) for v in box)
        sizes = [bottom - top, right - left] if half else [max(bottom - top, 1.0), max(right - left, 1.0)]
        counts = [ratio or math.ceil(size / cell) for size, cell in zip(sizes, cells, strict=True)]
        for p, q in itertools.product(range(cells[0]), range(cells[1])):
            for i, j in itertools.product(range(counts[0]), range(counts[1])):
                yy = top + sizes[0] / cells[0] * (p + (i + 0.5) / counts[0])
                xx = left + sizes[1] / cells[1] * (q + (j + 0.5) / counts[1])
                if not (-1 <= yy <= t.shape[2] and -1 <= xx <= t.shape[3]):
                    continue
                yy, xx = min(max(yy, 0), t.shape[2] - 1), min(max(xx, 0), t.shape[3] - 1)
                fy, fx, y0, x0 = yy % 1, xx % 1, int(yy), int(xx)
                y1, x1 = min(y0 + 1, t.shape[2] - 1), min(x0 + 1, t.shape[3] - 1)
                value = (1 - fy) * ((1 - fx) * t[n, :, y0, x0] + fx * t[n, :, y0, x1]) + fy * (
                    (1 - fx) * t[n, :, y1, x0] + fx * t[n, :, y1, x1]
                )
                out[r, :, p, q] = out[r, :, p, q] + value / (counts[0] * counts[1])
    return out


BOXES = [[1.3, 2.1, 9.2, 13.7], [-3.0, -2.0, 8.0, 4.0], [4.0, 6.0, 4.2, 6.1], [2.0, 3.0, 30.0, 20.0]]
for ratio, half, kind in itertools.product((0, 2), (True, False), (const, late)):
    add(
        Case(
            "RoiAlign",
            [x(2, 3, 8, 9), kind(BOXES, np.float32), kind([0, 1, 1, 0])],
            {
                "output_height": 3,
                "output_width": 2,
                "spatial_scale": 0.5,
                "sampling_ratio": ratio,
                "coordinate_transformation_mode": "half_pixel" if half else "output_half_pixel",
            },
            lambda t, r, n, a=ratio, h=half: torch_roi_align(t, r, n, cells=(3, 2), scale=0.5, ratio=a, half=h),
            linear=[0],
            note="late" * (kind is late),
        )
    )

for kind in (const, late):
    CASES += [
        Case(
            "Col2Im",
            [x(2, 12, 12), kind([4, 5]), kind([2, 2])],
            {},
            lambda t, s, b: F.fold(t, (4, 5), 2),
            linear=[0],
            note="late" * (kind is late),
        ),
        Case(
            "Col2Im",
            [x(1, 12, 6), kind([6, 7]), kind([2, 3])],
            {"strides": [2, 3], "pads": [1, 0, 1, 0], "dilations": [2, 1]},
            lambda t, s, b: F.fold(t, (6, 7), (2, 3), (2, 1), (1, 0), (2, 3)),
            linear=[0],
            note="late" * (kind is late),
        ),
    ]
CASES += [
    Case("Col2Im", [x(1, 6, 4), const([6]), const([3])], {}, linear=[0], note="1-D"),
    Case("Col2Im", [x(1, 8, 4), const([2, 3, 3]), const([2, 2, 2])], {}, linear=[0], note="3-D"),
    Case("Det", [x(3, 3)], {}, torch.linalg.det),
    Case("Det", [x(2, 3, 4, 4)], {}, torch.linalg.det),
    Case("Det", [at([[1.0, 2.0], [2.0, 4.0]])], {}, lambda t: t[0, 0] * t[1, 1] - t[0, 1] * t[1, 0], note="singular"),
]
