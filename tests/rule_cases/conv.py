# SPDX-License-Identifier: Apache-2.0

"""Convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rule_cases.case import Case, w, x

F = torch.nn.functional
CASES: list[Case] = []


def torch_conv(strides: Any = 1, pads: Sequence[int] = (), dilations: Any = 1, group: int = 1) -> Callable[..., Any]:
    """Padding written out, as ONNX has it: all the begins, then all the ends."""

    def run(t: Any, weight: Any, bias: Any = None) -> Any:
        n = t.ndim - 2
        p = list(pads) or [0] * 2 * n
        padded = F.pad(t, [v for a in reversed(range(n)) for v in (p[a], p[n + a])])
        return [F.conv1d, F.conv2d, F.conv3d][n - 1](padded, weight, bias, strides, 0, dilations, group)

    return run


def conv(
    shape: Sequence[int], weight: Sequence[int], bias: bool = False, same: Sequence[int] | None = None, **kw: Any
) -> Case:
    """``same``: the pads that auto_pad stands for."""
    pads = same if same is not None else kw.get("pads", ())
    options = {k: v for k, v in kw.items() if k in {"strides", "dilations", "group"}}
    inputs = [x(*shape), w(*weight), *([w(weight[0])] if bias else [])]
    return Case("Conv", inputs, kw, torch_conv(pads=pads, **options), linear=range(len(inputs)))


CASES += [
    conv((2, 3, 9), (4, 3, 3), bias=True),
    conv((2, 3, 10), (4, 3, 4), strides=[3], pads=[2, 1]),
    conv((2, 4, 11), (6, 2, 3), group=2, dilations=[2], strides=[2], pads=[1, 0], bias=True),
    conv((2, 3, 6, 7), (4, 3, 3, 3), bias=True),
    conv((2, 3, 6, 7), (4, 3, 1, 1)),
    conv((2, 3, 6, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    conv((2, 3, 6, 7), (4, 3, 2, 3), pads=[2, 0, 1, 3]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], bias=True),
    conv((2, 3, 8, 8), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    conv((2, 3, 8, 8), (4, 3, 2, 2), strides=[2, 2]),
    conv((1, 3, 11, 10), (4, 3, 2, 1), strides=[3, 4]),
    conv((2, 4, 9, 8), (8, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    conv((2, 4, 9, 8), (4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    conv((2, 4, 9, 8), (6, 2, 3, 2), group=2, dilations=[2, 3], pads=[2, 1, 0, 2]),
    conv((2, 3, 9, 8), (3, 1, 3, 3), group=3, strides=[2, 2]),
    conv((2, 3, 9, 10), (3, 1, 5, 4), group=3, strides=[2, 3], pads=[1, 2, 2, 1]),
    conv((2, 3, 11, 10), (3, 1, 3, 2), group=3, strides=[2, 2], dilations=[2, 3], pads=[0, 1, 2, 1]),
    conv((2, 3, 8, 7), (3, 1, 2, 1), group=3, strides=[3, 2]),
    conv((2, 3, 7, 9), (3, 1, 3, 3), group=3, strides=[3, 1], pads=[1, 1, 1, 1]),
    conv((2, 3, 8, 8), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[3, 0, 0, 2]),
    conv((2, 4, 12, 13), (6, 2, 3, 2), group=2, dilations=[2, 3], strides=[3, 2], pads=[2, 1, 0, 2], bias=True),
    conv((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), bias=True),
    conv((1, 4, 5, 6, 7), (4, 2, 2, 3, 2), group=2, strides=[2, 1, 3], pads=[1, 0, 1, 0, 1, 2], dilations=[1, 2, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="VALID", same=[0] * 4),
    conv((2, 3, 7, 8), (4, 3, 3, 2), auto_pad="SAME_UPPER", same=[1, 0, 1, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 2), auto_pad="SAME_LOWER", same=[1, 1, 1, 0]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2], same=[1, 0, 1, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2], same=[1, 1, 1, 0]),
    conv((2, 3, 7, 8), (4, 3, 1, 2), auto_pad="SAME_UPPER", strides=[3, 3], same=[0, 0, 0, 0]),
    conv(
        (2, 2, 9, 10),
        (2, 1, 3, 3),
        auto_pad="SAME_LOWER",
        strides=[2, 3],
        group=2,
        kernel_shape=[3, 3],
        same=[1, 1, 1, 1],
    ),
]


def torch_deconv(
    strides: Any, pads: Sequence[int], dilations: Any, group: int, extra: Sequence[int]
) -> Callable[..., Any]:
    """Uncropped, with the extra at the end, then cut."""

    def run(t: Any, weight: Any, bias: Any = None) -> Any:
        n = t.ndim - 2
        full = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d][n - 1](
            t, weight, None, strides, 0, 0, group, dilations
        )
        full = F.pad(full, [v for a in reversed(range(n)) for v in (-pads[a], extra[a] - pads[n + a])])
        return full if bias is None else full + bias.reshape(-1, *[1] * n)

    return run


def deconv(
    shape: Sequence[int],
    weight: Sequence[int],
    bias: bool = False,
    pads_are: Sequence[int] | None = None,
    dynamic: str = "all",
    **kw: Any,
) -> Case:
    n, group = len(shape) - 2, kw.get("group", 1)
    pads = pads_are or kw.get("pads", [0] * 2 * n)
    inputs = [x(*shape), w(*weight), *([w(weight[1] * group)] if bias else [])]
    function = torch_deconv(
        kw.get("strides", 1), pads, kw.get("dilations", 1), group, kw.get("output_padding", [0] * n)
    )
    why = "known only at run time" if dynamic == "no" else ""
    return Case("ConvTranspose", inputs, kw, function, linear=range(len(inputs)), dynamic=dynamic, why=why)


CASES += [
    deconv((2, 3, 5), (3, 4, 3), bias=True),
    deconv((2, 3, 5), (3, 4, 3), strides=[2], pads=[1, 0], output_padding=[1]),
    deconv((2, 3, 4, 5), (3, 4, 3, 2), bias=True),
    deconv((2, 4, 4, 5), (4, 3, 3, 2), group=2, strides=[2, 3], pads=[1, 0, 0, 1]),
    deconv((2, 3, 4, 5), (3, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1], bias=True),
    deconv((2, 3, 4, 5), (3, 2, 2, 2), strides=[2, 2]),
    deconv((2, 3, 4, 5), (3, 2, 2, 2), strides=[3, 3]),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[3, 2], dilations=[4, 3], output_padding=[2, 1], pads=[1, 2, 0, 1]),
    deconv((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), strides=[2, 1, 2], pads=[0, 1, 0, 1, 0, 1], bias=True),
    deconv((2, 4, 4, 5), (4, 1, 3, 3), group=4, strides=[2, 2], dilations=[2, 1]),
    # total = 2 * 3 + 3 - 8 = 1, and 2 * 4 + 3 - 9 = 2; without auto_pad the odd one is at the begin
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], output_shape=[8, 9], pads_are=[1, 1, 0, 1], dynamic="no"),
    deconv(
        (2, 3, 4, 5),
        (3, 2, 3, 3),
        strides=[2, 2],
        output_shape=[8, 8],
        auto_pad="SAME_UPPER",
        pads_are=[0, 1, 1, 2],
        dynamic="no",
    ),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER", pads_are=[0, 0, 1, 1], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER", pads_are=[1, 1, 0, 0], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), auto_pad="VALID"),
]
