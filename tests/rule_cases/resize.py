# SPDX-License-Identifier: Apache-2.0

"""Resizing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rule_cases.case import NONE, Case, const, late, x

F = torch.nn.functional
CASES: list[Case] = []
add = CASES.append


def resize(
    shape: Sequence[int],
    to: Sequence[float],
    torch_options: dict[str, Any] | None = None,
    by: str = "sizes",
    late_bounds: bool = False,
    **kw: Any,
) -> Case:
    kind = late if late_bounds else const
    tail = [NONE, NONE, kind(to)] if by == "sizes" else [NONE, kind(to, np.float32)]
    function = None
    if torch_options is not None:
        n = len(shape) - 2
        size = (
            {"size": [int(v) for v in to[-n:]]}
            if by == "sizes"
            else {"scale_factor": [float(v) for v in to[-n:]], "recompute_scale_factor": False}
        )
        function = lambda t, *_: F.interpolate(t, **size, **torch_options)  # noqa: E731
    return Case("Resize", [x(*shape), *tail], kw, function, linear=[0], note=f"{by} {list(to)}{' late' * late_bounds}")


for mode, coordinates in itertools.product(
    ("nearest", "linear", "cubic"),
    ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
):
    oracle = None
    if mode != "nearest" and coordinates in {"half_pixel", "align_corners"}:
        oracle = {
            "mode": "bilinear" if mode == "linear" else "bicubic",
            "align_corners": coordinates == "align_corners",
        }
    add(resize((2, 3, 4, 5), [2, 3, 7, 3], oracle, mode=mode, coordinate_transformation_mode=coordinates))
    add(resize((1, 2, 5, 4), [1, 1, 1.7, 0.6], None, "scales", mode=mode, coordinate_transformation_mode=coordinates))
for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
    oracle = {"mode": "nearest"} if rounding == "floor" else None
    add(
        resize(
            (2, 3, 4, 5),
            [2, 3, 7, 3],
            oracle,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode=rounding,
        )
    )
CASES += [
    resize(
        (2, 3, 4, 5),
        [1, 1, 2, 2],
        {"mode": "nearest"},
        "scales",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    resize((2, 3, 4, 5), [1, 1, 2, 2], {"mode": "bilinear"}, "scales", mode="linear"),
    resize(
        (2, 3, 8, 7),
        [2, 3, 4, 3],
        {"mode": "bilinear", "antialias": True},
        mode="linear",
        antialias=1,
        exclude_outside=1,
    ),
    resize(
        (2, 3, 8, 7),
        [2, 3, 3, 5],
        {"mode": "bicubic", "antialias": True},
        mode="cubic",
        antialias=1,
        cubic_coeff_a=-0.5,
        exclude_outside=1,
    ),
    resize((2, 3, 4, 5), [2, 3, 7, 3], None, mode="cubic", exclude_outside=1),
    resize((2, 3, 4, 5), [2, 3, 7, 3], None, mode="cubic", cubic_coeff_a=-0.5),
    resize((1, 2, 2, 2), [1, 1, 0.5, 1.3], None, "scales", mode="cubic"),
    resize((1, 1, 4, 4), [1, 1, 1.1, 2.0], None, "scales", mode="linear"),
    Case(
        "Resize",
        [x(1, 1, 2, 2), NONE, const([1, 1, 1.3, 1.3], np.float32)],
        {"mode": "linear"},
        linear=[0],
        note="copied, scales near 1",
    ),
    Case(
        "Resize",
        [x(1, 1, 2, 2), NONE, late([1, 1, 1.0, 1.3], np.float32)],
        {"mode": "linear"},
        linear=[0],
        note="copied, late",
    ),
    Case(
        "Resize",
        [x(1, 1, 2, 3), NONE, late([1, 1, 1.3, 1.4], np.float32)],
        {"mode": "linear"},
        linear=[0],
        note="not copied, late",
    ),
    resize((2, 3, 6), [2, 3, 9], {"mode": "linear"}, mode="linear"),
    resize((2, 3, 4, 5), [7, 9], {"mode": "bilinear"}, mode="linear", axes=[2, 3]),
    resize((2, 3, 4, 5), [1.5, 2], {"mode": "bilinear"}, "scales", mode="linear", axes=[-2, -1]),
    resize((2, 4, 5, 3), [2, 7, 9, 3], None, mode="linear"),
    resize((2, 4, 5, 3), [1, 2, 1.5, 1], None, "scales", mode="nearest", coordinate_transformation_mode="asymmetric"),
    resize((2, 4, 5, 3), [7, 9], None, mode="nearest", axes=[1, 2]),
    resize((2, 4, 5, 3), [2, 7, 9, 3], None, late_bounds=True, mode="linear"),
    resize((2, 3, 4, 5), [2, 3, 8, 9], {"mode": "bilinear"}, late_bounds=True, mode="linear"),
    resize((2, 3, 4, 5), [1, 1, 2, 1.5], None, "scales", late_bounds=True, mode="linear"),
    resize((2, 3, 2, 3, 4), [2, 3, 4, 5, 3], {"mode": "trilinear"}, mode="linear"),
    resize((4, 5), [6, 3], None, mode="linear"),
    resize((4, 5, 3), [8, 9, 3], None, late_bounds=True, mode="nearest"),
]

CASES += [
    *[
        Case(
            "Resize",
            [x(2, 3, 5, 6), const([*begin, *end], np.float32), NONE, const([2, 3, 4, 3])],
            {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.0},
            fd=False,
            linear=[0],
            note=f"crop {begin[2]}",
        )
        for begin, end in (([0, 0, 0.2, 0.3], [1, 1, 0.7, 0.9]), ([0, 0, -0.2, 0.3], [1, 1, 0.7, 1.4]))
    ],
    *[
        Case(
            "Resize",
            [x(2, 3, 4, 6), NONE, NONE, const(sizes)],
            {"mode": mode, "axes": [2, 3], "keep_aspect_ratio_policy": policy},
            linear=[0],
            note=f"{policy} {sizes}",
            dynamic="all" if mode == "nearest" else "no",
            why="known before it runs",
        )
        for policy in ("not_larger", "not_smaller")
        for mode in ("nearest", "linear", "cubic")
        for sizes in ([7, 9], [3, 2])
    ],
]
