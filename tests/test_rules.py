# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the table is read down its columns
"""Every gradient rule, checked three ways: against torch autograd in float64, by finite differences of the ONNX model
(the referee where the two differ), and for linear operators by the adjoint identity <A x, y> = <x, A^T y>.

``CASES`` is the one table. Each record is run in several forms: all its differentiable inputs as graph inputs, its
weights as constants, and with every dimension of its inputs known only at run time.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from portable_cam.errors import InputError, LayerError, ModelError, TargetError, UnsupportedOperatorError
from portable_cam.export.differentiate import differentiate
from portable_cam.export.rules import RULES
from portable_cam.runtime import Session
from portable_cam.testing import check_vjp, node_model, widen

torch = pytest.importorskip("torch", reason="the rules are compared with torch autograd")
F = torch.nn.functional

# -- what a case is made of ----------------------------------------------------------------------------------------

Sampler = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class In:
    """One input. Role ``x``: differentiated for, a graph input always; ``w``: differentiated for, a constant in most
    forms; ``c``: a constant; ``r``: known only at run time, not differentiated for; ``-``: absent."""

    role: str
    sample: Sampler


def normal(shape: Sequence[int]) -> Sampler:
    return lambda rng: rng.standard_normal(shape)


def uniform(low: float, high: float) -> Callable[[Sequence[int]], Sampler]:
    return lambda shape: lambda rng: rng.uniform(low, high, shape)


def spaced(shape: Sequence[int]) -> Sampler:
    """All different by at least 0.2, none nearer to 0 than 0.1: no ties, no kinks at 0 within a step's reach."""

    def sample(rng: np.random.Generator) -> np.ndarray:
        count = math.prod(shape)
        return ((rng.permutation(count) - count // 2) * 0.2 + 0.1).reshape(shape)

    return sample


def away_from(*kinks: float) -> Callable[[Sequence[int]], Sampler]:
    """Normal numbers, those nearer than 0.2 to a kink moved away from it."""

    def make(shape: Sequence[int]) -> Sampler:
        def sample(rng: np.random.Generator) -> np.ndarray:
            x = 2 * rng.standard_normal(shape)
            for kink in kinks:
                x = np.where(abs(x - kink) < 0.2, kink + np.where(x >= kink, 0.2, -0.2), x)
            return x

        return sample

    return make


def x(*shape: int, draw: Callable[[Sequence[int]], Sampler] = normal) -> In:
    sample = draw(shape)
    return In("x", lambda rng: np.asarray(sample(rng), np.float32))


def at(values: Any) -> In:
    """Differentiated for, at exactly these values."""
    return In("x", lambda rng: np.asarray(values, np.float32))


def w(*shape: int, draw: Callable[[Sequence[int]], Sampler] = normal) -> In:
    return In("w", x(*shape, draw=draw).sample)


def const(values: Any, dtype: Any = np.int64) -> In:
    return In("c", lambda rng: np.asarray(values, dtype))


def late(values: Any, dtype: Any = np.int64) -> In:
    return In("r", lambda rng: np.asarray(values, dtype))


NONE = In("-", lambda rng: np.zeros(0))


@dataclass(frozen=True)
class Case:
    """One operator with attributes, as a record.

    ``torch`` takes a tensor for each input and returns the output that is differentiated. ``linear``: the inputs in
    which the operator is linear or affine. ``fd``: False at a kink, where only torch can say what the convention is.
    ``dynamic``: ``all`` dimensions unknown, all but the ``channels``, or ``no`` with ``why``: a part of the message
    with which the rule refuses, never a wrong number.
    """

    op: str
    inputs: Sequence[In]
    attributes: dict[str, Any] = field(default_factory=dict)
    torch: Callable[..., Any] | None = None
    linear: Sequence[int] = ()
    fd: bool = True
    dynamic: str = "all"
    why: str = ""
    outputs: int = 1
    of: int = 0
    tolerance: float = 1e-5
    note: str = ""

    def __str__(self) -> str:
        shapes = [
            ("x".join(map(str, i.sample(np.random.default_rng(0)).shape)) or "s") for i in self.inputs if i.role != "-"
        ]
        attributes = ",".join(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())
        return "-".join(
            p for p in (self.op, "_".join(shapes), attributes, f"out{self.of}" * (self.of > 0), self.note) if p
        )


def elementwise(op: str, function: Any, draw: Any = normal, **attributes: Any) -> Case:
    return Case(op, [x(2, 3, 4, draw=draw)], attributes, function)


CASES: list[Case] = []
add = CASES.append

# -- elementwise ---------------------------------------------------------------------------------------------------

positive, inside_one = uniform(0.3, 2.0), uniform(-0.8, 0.8)
for op, function, draw in [
    ("Neg", torch.neg, normal), ("Identity", lambda t: t.clone(), normal), ("Sqrt", torch.sqrt, positive),
    ("Log", torch.log, positive), ("Exp", torch.exp, normal), ("Abs", torch.abs, spaced),
    ("Reciprocal", torch.reciprocal, positive), ("Sigmoid", torch.sigmoid, normal), ("Tanh", torch.tanh, normal),
    ("Erf", torch.erf, normal), ("Sin", torch.sin, normal), ("Cos", torch.cos, normal), ("Tan", torch.tan, inside_one),
    ("Sinh", torch.sinh, normal), ("Cosh", torch.cosh, normal), ("Asin", torch.asin, inside_one),
    ("Acos", torch.acos, inside_one), ("Atan", torch.atan, normal), ("Asinh", torch.asinh, normal),
    ("Acosh", torch.acosh, uniform(1.3, 3.0)), ("Atanh", torch.atanh, inside_one), ("Softplus", F.softplus, normal),
    ("Softsign", F.softsign, spaced), ("Relu", F.relu, spaced), ("LeakyRelu", F.leaky_relu, spaced),
    ("Mish", F.mish, normal), ("Selu", F.selu, spaced), ("Elu", F.elu, spaced), ("Celu", F.celu, spaced),
    ("HardSwish", F.hardswish, away_from(-3, 3)), ("Gelu", F.gelu, normal),
]:  # fmt: skip
    add(elementwise(op, function, draw))
CASES += [
    Case("Neg", [x(2, 3)], {}, torch.neg, linear=[0]),
    Case("Identity", [x()], {}, lambda t: t.clone(), linear=[0], note="scalar"),
    Case("Abs", [at([-1.0, 0.0, 2.0])], {}, torch.abs, fd=False, note="at 0"),
    elementwise("LeakyRelu", lambda t: F.leaky_relu(t, 0.3), spaced, alpha=0.3),
    elementwise("LeakyRelu", lambda t: F.leaky_relu(t, 0.0), spaced, alpha=0.0),
    elementwise("LeakyRelu", lambda t: F.leaky_relu(t, -0.5), spaced, alpha=-0.5),
    Case("LeakyRelu", [at([-1.0, 0.0, 2.0])], {}, F.leaky_relu, fd=False, note="at 0"),
    Case("Relu", [at([-1.0, -0.0, 0.0, 1e-30, 2.0, 1e30])], {}, F.relu, fd=False, note="at 0"),
    Case("Relu", [x(2, 0, 3)], {}, F.relu, note="empty"),
    elementwise("Elu", lambda t: F.elu(t, 0.7), spaced, alpha=0.7),
    Case("Elu", [at([-200.0, -1.0, 0.5, 200.0])], {}, F.elu, fd=False, note="large"),
    elementwise("Celu", lambda t: F.celu(t, 0.7), spaced, alpha=0.7),
    elementwise("Selu", lambda t: 1.3 * F.elu(t, 0.8), spaced, alpha=0.8, gamma=1.3),
    elementwise("ThresholdedRelu", lambda t: torch.where(t > 1.0, t, 0.0), away_from(1.0)),
    elementwise("ThresholdedRelu", lambda t: torch.where(t > 0.4, t, 0.0), away_from(0.4), alpha=0.4),
    elementwise("Shrink", lambda t: F.hardshrink(t, 0.7), away_from(-0.7, 0.7), lambd=0.7),
    elementwise("Shrink", lambda t: F.softshrink(t, 0.7), away_from(-0.7, 0.7), lambd=0.7, bias=0.7),
    elementwise("HardSigmoid", lambda t: torch.clamp(0.2 * t + 0.5, 0, 1), away_from(-2.5, 2.5)),
    elementwise("HardSigmoid", F.hardsigmoid, away_from(-3, 3), alpha=1 / 6, beta=0.5),
    Case("HardSigmoid", [at([-3.0, 0.0, 3.0])], {"alpha": 0.5, "beta": 0.5}, lambda t: F.hardtanh(0.5 * t + 0.5, 0, 1), fd=False, note="at the bounds"),
    elementwise("Gelu", lambda t: F.gelu(t, approximate="tanh"), normal, approximate="tanh"),
    Case("Gelu", [at([-40.0, -5.0, 0.0, 5.0, 40.0])], {}, F.gelu, fd=False, note="large"),
    Case("Softplus", [at([-90.0, -5.0, 0.0, 5.0, 90.0])], {}, lambda t: F.softplus(t, threshold=1e4), fd=False, note="large"),
    Case("Cast", [x(2, 3)], {"to": onnx.TensorProto.FLOAT}, lambda t: t.clone(), linear=[0]),
    Case("Cast", [x(2, 3)], {"to": onnx.TensorProto.DOUBLE}, lambda t: t.clone(), linear=[0]),
    Case("CastLike", [x(2, 3), const([1.0], np.float64)], {}, lambda t, like: t.clone(), linear=[0]),
    Case("Dropout", [x(2, 3)], {}, lambda t: t.clone(), linear=[0]),
    Case("Dropout", [x(2, 3), const(0.5, np.float32), const(False, np.bool_)], {}, lambda t, r, m: t.clone(), linear=[0]),
    Case("Clip", [x(2, 9, draw=away_from(0, 6)), const(0, np.float32), const(6, np.float32)], {}, lambda t, a, b: F.relu6(t)),
    Case("Clip", [at([-1.0, 0.0, 1e-20, 3.0, 5.9999995, 6.0, 7.0, 1e30]), const(0, np.float32), const(6, np.float32)],
         {}, lambda t, a, b: F.relu6(t), fd=False, note="at 0 and 6"),
    Case("Clip", [at([-1.0, 0.0, 2.0]), const(0, np.float32)], {}, lambda t, a: F.relu(t), fd=False, note="min 0"),
    Case("Clip", [at([-2.0, -1.0, 0.0, 2.0]), const(-1, np.float32)], {}, lambda t, a: t.clamp(min=-1), fd=False, note="min only"),
    Case("Clip", [at([-2.0, -1.0, 1.5, 2.0]), NONE, const(1.5, np.float32)], {}, lambda t, _, b: t.clamp(max=1.5), fd=False, note="max only"),
    Case("Clip", [at([-2.0, -1.0, 0.3, 1.5, 2.0]), const(-1, np.float32), const(1.5, np.float32)],
         {}, lambda t, a, b: t.clamp(-1, 1.5), fd=False, note="bounds inclusive"),
    Case("Clip", [x(3, 4)], {}, lambda t: t.clone(), note="no bounds"),
    Case("Clip", [x(3, 4, draw=away_from(-1, 1)), late(-1, np.float32), late(1, np.float32)], {}, lambda t, a, b: t.clamp(-1, 1), note="bounds at run time"),
]  # fmt: skip

# -- arithmetic with broadcasting ----------------------------------------------------------------------------------

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
        Case("Where", [const(np.arange(12).reshape(1, 3, 4) % 3 == 0, np.bool_) if left == (3, 1) else
                       const(np.arange(math.prod(np.broadcast_shapes(left, right))).reshape(np.broadcast_shapes(left, right)) % 3 == 0, np.bool_),
                       x(*left), x(*right)], {}, torch.where, linear=[1, 2]),
    ]  # fmt: skip
CASES += [
    Case("Where", [late([[True], [False]], np.bool_), x(2, 3), x(1, 3)], {}, torch.where, linear=[1, 2], note="condition broadcasts"),
    Case("Sum", [x(2, 3), x(3), x()], {}, lambda a, b, c: a + b + c, linear=[0, 1, 2]),
    Case("Sum", [x(2, 3)], {}, lambda a: a.clone(), linear=[0]),
    Case("Mean", [x(2, 3), x(1, 3), x(1)], {}, lambda a, b, c: (a + b + c) / 3, linear=[0, 1, 2]),
    Case("Max", [x(2, 3, draw=spaced), x(1, 3)], {}, torch.maximum),
    Case("Max", [at([1.0, 2.0, 3.0]), at([1.0, 1.0, 4.0])], {}, torch.maximum, fd=False, note="ties"),
    Case("Max", [x(4)], {}, lambda a: a.clone(), linear=[0], note="one input"),
    Case("Max", [x(2, 3, draw=spaced), x(3, draw=away_from(5)), x()], {}, lambda a, b, c: torch.maximum(torch.maximum(a, b), c), note="three inputs"),
    Case("Min", [x(2, 3, draw=spaced), x(2, 1)], {}, torch.minimum),
    Case("Min", [at([1.0, 2.0, 3.0]), at([1.0, 1.0, 4.0])], {}, torch.minimum, fd=False, note="ties"),
    Case("Mod", [x(2, 5, draw=away_from(-3, -1.5, 0, 1.5, 3)), const(1.5, np.float32)], {"fmod": 1}, lambda a, b: torch.fmod(a, b)),
    Case("Mod", [at([-4.0, -1.0, 2.0, 5.0]), at([1.5, 0.7, 3.0, -2.2])], {"fmod": 1}, torch.fmod),
    Case("Pow", [x(2, 3), const(2, np.float32)], {}, torch.pow), Case("Pow", [x(2, 3), const([[3.0]], np.float32)], {}, torch.pow),
    Case("Pow", [x(2, 3), const(2, np.int64)], {}, lambda a, e: a**2), Case("Pow", [x(2, 3, draw=positive), const(-0.5, np.float32)], {}, torch.pow),
    Case("Pow", [x(3), const([[3.0]], np.float32)], {}, torch.pow, note="exponent of a higher rank"),
    Case("Pow", [at([-1.0, 0.0, 2.0]), const(1, np.float32)], {}, torch.pow, note="exponent 1"),
    Case("Pow", [at([-1.0, 0.0, 2.0]), const(0, np.float32)], {}, torch.pow, note="exponent 0"),
    Case("Pow", [at([0.0, 0.0, 0.0, 2.0]), at([0.0, 2.0, 1.0, 3.0])], {}, torch.pow, fd=False, note="at 0"),
    Case("Pow", [x(2, 3, draw=positive), late([2, 0, 3], np.int64)], {}, lambda a, e: a**e, note="integer exponent at run time"),
    Case("PRelu", [x(2, 3, 4, draw=spaced), w(3, 1)], {}, lambda t, a: torch.where(t > 0, t, a * t), linear=[1]),
    Case("PRelu", [x(2, 3, 4, draw=spaced), w(1)], {}, lambda t, a: torch.where(t > 0, t, a * t), linear=[1]),
    Case("PRelu", [at([[-1.0, 0.0, 2.0]]), w(3)], {}, lambda t, a: torch.where(t > 0, t, a * t), fd=False, note="at 0"),
]  # fmt: skip

# -- convolutions --------------------------------------------------------------------------------------------------


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
    conv((2, 3, 9), (4, 3, 3), bias=True), conv((2, 3, 10), (4, 3, 4), strides=[3], pads=[2, 1]),
    conv((2, 4, 11), (6, 2, 3), group=2, dilations=[2], strides=[2], pads=[1, 0], bias=True),
    conv((2, 3, 6, 7), (4, 3, 3, 3), bias=True), conv((2, 3, 6, 7), (4, 3, 1, 1)),
    conv((2, 3, 6, 7), (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    conv((2, 3, 6, 7), (4, 3, 2, 3), pads=[2, 0, 1, 3]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], bias=True),
    conv((2, 3, 8, 8), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    conv((2, 3, 8, 8), (4, 3, 2, 2), strides=[2, 2]), conv((1, 3, 11, 10), (4, 3, 2, 1), strides=[3, 4]),
    conv((2, 4, 9, 8), (8, 1, 3, 3), group=4, pads=[1, 1, 1, 1]), conv((2, 4, 9, 8), (4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    conv((2, 4, 9, 8), (6, 2, 3, 2), group=2, dilations=[2, 3], pads=[2, 1, 0, 2]),
    conv((2, 3, 9, 8), (3, 1, 3, 3), group=3, strides=[2, 2]),
    conv((2, 3, 9, 10), (3, 1, 5, 4), group=3, strides=[2, 3], pads=[1, 2, 2, 1]),
    conv((2, 3, 11, 10), (3, 1, 3, 2), group=3, strides=[2, 2], dilations=[2, 3], pads=[0, 1, 2, 1]),
    conv((2, 3, 8, 7), (3, 1, 2, 1), group=3, strides=[3, 2]),
    conv((2, 3, 7, 9), (3, 1, 3, 3), group=3, strides=[3, 1], pads=[1, 1, 1, 1]),
    conv((2, 3, 8, 8), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[3, 0, 0, 2]),
    conv((2, 4, 12, 13), (6, 2, 3, 2), group=2, dilations=[2, 3], strides=[3, 2], pads=[2, 1, 0, 2], bias=True),
    conv((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), bias=True), conv((1, 4, 5, 6, 7), (4, 2, 2, 3, 2), group=2, strides=[2, 1, 3], pads=[1, 0, 1, 0, 1, 2], dilations=[1, 2, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="VALID", same=[0] * 4), conv((2, 3, 7, 8), (4, 3, 3, 2), auto_pad="SAME_UPPER", same=[1, 0, 1, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 2), auto_pad="SAME_LOWER", same=[1, 1, 1, 0]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2], same=[1, 0, 1, 1]),
    conv((2, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2], same=[1, 1, 1, 0]),
    conv((2, 3, 7, 8), (4, 3, 1, 2), auto_pad="SAME_UPPER", strides=[3, 3], same=[0, 0, 0, 0]),
    conv((2, 2, 9, 10), (2, 1, 3, 3), auto_pad="SAME_LOWER", strides=[2, 3], group=2, kernel_shape=[3, 3], same=[1, 1, 1, 1]),
]  # fmt: skip


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
    deconv((2, 3, 5), (3, 4, 3), bias=True), deconv((2, 3, 5), (3, 4, 3), strides=[2], pads=[1, 0], output_padding=[1]),
    deconv((2, 3, 4, 5), (3, 4, 3, 2), bias=True), deconv((2, 4, 4, 5), (4, 3, 3, 2), group=2, strides=[2, 3], pads=[1, 0, 0, 1]),
    deconv((2, 3, 4, 5), (3, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1], bias=True),
    deconv((2, 3, 4, 5), (3, 2, 2, 2), strides=[2, 2]), deconv((2, 3, 4, 5), (3, 2, 2, 2), strides=[3, 3]),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[3, 2], dilations=[4, 3], output_padding=[2, 1], pads=[1, 2, 0, 1]),
    deconv((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), strides=[2, 1, 2], pads=[0, 1, 0, 1, 0, 1], bias=True),
    deconv((2, 4, 4, 5), (4, 1, 3, 3), group=4, strides=[2, 2], dilations=[2, 1]),
    # total = 2 * 3 + 3 - 8 = 1, and 2 * 4 + 3 - 9 = 2; without auto_pad the odd one is at the begin
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], output_shape=[8, 9], pads_are=[1, 1, 0, 1], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], output_shape=[8, 8], auto_pad="SAME_UPPER", pads_are=[0, 1, 1, 2], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER", pads_are=[0, 0, 1, 1], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER", pads_are=[1, 1, 0, 0], dynamic="no"),
    deconv((2, 3, 4, 5), (3, 2, 3, 3), auto_pad="VALID"),
]  # fmt: skip

# -- products ------------------------------------------------------------------------------------------------------

for left, right in [
    ((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)),
    ((2, 5, 4, 2, 3), (1, 4, 3, 2)),
]:  # fmt: skip
    add(Case("MatMul", [x(*left), x(*right)], {}, torch.matmul, linear=[0, 1]))
    add(Case("MatMul", [x(*left), w(*right)], {}, torch.matmul, linear=[0, 1], note="weights"))
for ta, tb in itertools.product((0, 1), repeat=2):
    a, bb = (4, 2) if ta else (2, 4), (3, 4) if tb else (4, 3)
    for c, alpha, beta in [((3,), 1.0, 1.0), ((2, 1), 0.5, 2.0), ((), 1.5, 0.0), ((2, 3), 1.0, -1.0), (None, 0.7, 1.0)]:
        attributes = {"transA": ta, "transB": tb, "alpha": alpha, "beta": beta}

        def torch_gemm(
            p: Any, q: Any, r: Any = 0.0, ta: int = ta, tb: int = tb, alpha: float = alpha, beta: float = beta
        ) -> Any:
            return alpha * ((p.T if ta else p) @ (q.T if tb else q)) + beta * r

        inputs = [x(*a), w(*bb), *([w(*c)] if c is not None else [])]
        add(Case("Gemm", inputs, attributes, torch_gemm, linear=range(len(inputs))))
for equation, shapes in [
    ("ij,jk->ik", ((2, 3), (3, 4))), ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))), ("ij,jk", ((2, 3), (3, 4))),
    ("ba,cb", ((2, 3), (4, 2))), ("ij->ji", ((2, 3),)), ("ijk->i", ((2, 3, 4),)), ("ij,kl->il", ((2, 3), (4, 5))),
    ("ij,j,k->ik", ((2, 3), (3,), (4,))), ("i,i->", ((3,), (3,))), ("bhid,bhjd->bhij", ((2, 3, 4, 5), (2, 3, 6, 5))),
    ("...ij,...jk->...ik", ((5, 2, 3), (5, 3, 4))), ("...ij,jk->...ik", ((5, 2, 3), (3, 4))), ("...i,...i", ((2, 3), (2, 3))),
    ("ii->i", ((3, 3),)), ("bii->b", ((2, 3, 3),)), ("bii,bi->bi", ((2, 3, 3), (2, 3))), ("ii,jj->ij", ((3, 3), (2, 2))), ("iii->", ((3, 3, 3),)),
    ("...ij->...", ((5, 2, 3),)), ("...ij,...jk->...ik", ((1, 2, 3), (5, 3, 4))),
]:  # fmt: skip
    broadcasts = len(shapes) > 1 and shapes[0][0] == 1
    add(Case("Einsum", [x(*s) for s in shapes], {"equation": equation},
             lambda *t, e=equation: torch.einsum(e, *t), linear=range(len(shapes)), dynamic="static" if broadcasts else "all"))  # fmt: skip

# -- normalisation and softmax -------------------------------------------------------------------------------------

CASES += [
    Case("BatchNormalization", [x(2, 3, 4, 5), w(3), w(3), w(3), w(3, draw=positive)], {},
         lambda t, s, b, m, v: (t - m[:, None, None]) / torch.sqrt(v[:, None, None] + 1e-5) * s[:, None, None] + b[:, None, None], linear=[0, 1, 2]),
    Case("BatchNormalization", [x(2, 3), w(3), w(3), w(3), w(3, draw=positive)], {"epsilon": 0.1},
         lambda t, s, b, m, v: (t - m) / torch.sqrt(v + 0.1) * s + b, linear=[0, 1, 2]),
    Case("LayerNormalization", [x(2, 3, 4), w(4), w(4)], {}, lambda t, s, b: F.layer_norm(t, (4,), s, b), linear=[1, 2]),
    Case("LayerNormalization", [x(2, 3, 4), w(3, 4), w(3, 4)], {"axis": 1, "epsilon": 0.1}, lambda t, s, b: F.layer_norm(t, (3, 4), s, b, 0.1), linear=[1, 2]),
    Case("LayerNormalization", [x(2, 3, 4), w(4)], {"axis": -1}, lambda t, s: F.layer_norm(t, (4,), s), linear=[1]),
    Case("InstanceNormalization", [x(2, 3, 4, 5), w(3), w(3)], {}, lambda t, s, b: F.instance_norm(t, weight=s, bias=b), linear=[1, 2]),
    Case("InstanceNormalization", [x(2, 3, 6), w(3), w(3)], {"epsilon": 0.1}, lambda t, s, b: F.instance_norm(t, weight=s, bias=b, eps=0.1), linear=[1, 2]),
    Case("GroupNormalization", [x(2, 6, 3, 4), w(6), w(6)], {"num_groups": 3}, lambda t, s, b: F.group_norm(t, 3, s, b), linear=[1, 2], dynamic="channels"),
    Case("GroupNormalization", [x(2, 4, 5), w(4), w(4)], {"num_groups": 1, "epsilon": 0.1}, lambda t, s, b: F.group_norm(t, 1, s, b, 0.1), linear=[1, 2], dynamic="channels"),
    *[Case("LayerNormalization", [x(2, 3, 4), const(np.ones(4), np.float32), const(np.ones(4), np.float32)], {"axis": 1} if a else {}, lambda t, s, b, f=f, d=(1, 2) if a else (2,): f(t, d), outputs=3, of=of, note="statistics")
      for a in (0, 1) for of, f in ((1, lambda t, d: t.mean(d, keepdim=True)), (2, lambda t, d: (t.var(d, keepdim=True, correction=0) + 1e-5).rsqrt()))],
    Case("MeanVarianceNormalization", [x(2, 3, 4, 5)], {}, lambda t: (t - t.mean((0, 2, 3), keepdim=True)) / t.std((0, 2, 3), keepdim=True, correction=0)),
    Case("MeanVarianceNormalization", [x(2, 3, 4, 5)], {"axes": [2, 3]}, lambda t: (t - t.mean((2, 3), keepdim=True)) / t.std((2, 3), keepdim=True, correction=0)),
    Case("LpNormalization", [x(2, 3, 4)], {}, lambda t: F.normalize(t, 2, -1)),
    Case("LpNormalization", [x(2, 3, 4, draw=spaced)], {"p": 1, "axis": 1}, lambda t: F.normalize(t, 1, 1)),
    Case("LpNormalization", [x(2, 3, 4)], {"axis": -2}, lambda t: F.normalize(t, 2, 1)),
    Case("LpNormalization", [at([[0.0, 0.0], [3.0, 4.0]])], {}, lambda t: torch.cat([0 * t[:1], F.normalize(t[1:], 2, -1)]), fd=False, note="at 0"),
    Case("LRN", [x(2, 7, 3, 4)], {"size": 5, "alpha": 0.3, "beta": 0.75, "bias": 2.0}, lambda t: F.local_response_norm(t, 5, 0.3, 0.75, 2.0), dynamic="channels"),
    Case("LRN", [x(2, 3, 3, 4)], {"size": 3}, lambda t: F.local_response_norm(t, 3), dynamic="channels"),
    Case("LRN", [x(2, 4, 3, 3)], {"size": 1, "alpha": 0.5}, lambda t: F.local_response_norm(t, 1, 0.5, 0.75, 1.0), dynamic="channels"),
    *[Case(op, [x(2, 3, 4)], {} if axis is None else {"axis": axis}, lambda t, f=f, axis=axis: f(t, dim=-1 if axis is None else axis))
      for op, f in (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)) for axis in (None, 0, 1, -2)],
    Case("Softmax", [at([[-300.0, 0.0, 300.0]])], {}, lambda t: torch.softmax(t, -1), fd=False, note="large"),
    Case("LogSoftmax", [at([[-300.0, 0.0, 300.0]])], {}, lambda t: torch.log_softmax(t, -1), fd=False, note="large"),
]  # fmt: skip

# -- pooling -------------------------------------------------------------------------------------------------------


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
    max_pool((2, 3, 9), kernel_shape=[3], strides=[2]), max_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    max_pool((2, 3, 6, 7), kernel_shape=[2, 3]), max_pool((2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), max_pool((2, 3, 7, 8), kernel_shape=[3, 4], strides=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1),
    max_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2]), max_pool((1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", same=[1, 0, 1, 1]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", same=[1, 1, 1, 0]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], auto_pad="VALID"), max_pool((2, 3, 5, 6), kernel_shape=[1, 1], strides=[2, 2]),
    max_pool((2, 3, 7, 8), kernel_shape=[3, 3], storage_order=1),
    Case("MaxPool", [at(np.ones((1, 2, 5, 5)))], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, lambda t: F.max_pool2d(t, 3, 2, 1), fd=False, note="ties"),
    Case("MaxPool", [at(np.tile([[1.0, 2.0], [2.0, 1.0]], (1, 2, 3, 3)))], {"kernel_shape": [3, 3]}, lambda t: F.max_pool2d(t, 3, 1), fd=False, note="ties"),
    Case("MaxPool", [at(-np.ones((1, 1, 4, 4)))], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}, lambda t: F.max_pool2d(t, 2, 2, 1), fd=False, note="negative at the border"),
    average_pool((2, 3, 9), kernel_shape=[3], strides=[2]), average_pool((2, 3, 6, 7), kernel_shape=[2, 3]),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    average_pool((2, 3, 6, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1]), average_pool((2, 3, 8, 8), kernel_shape=[2, 2], strides=[2, 2]),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    average_pool((2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    average_pool((2, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 4], strides=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 2], pads=[2, 0, 1, 1], count_include_pad=1),
    average_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], strides=[1, 2]),
    average_pool((2, 3, 9, 8), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 0], count_include_pad=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
    average_pool((2, 3, 7, 8), kernel_shape=[3, 3], auto_pad="VALID"), average_pool((2, 3, 5, 6), kernel_shape=[1, 1], strides=[2, 3]),
    average_pool((1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 0, 0, 1, 0]),
    Case("GlobalAveragePool", [x(2, 3, 4, 5)], {}, lambda t: t.mean((2, 3), keepdim=True), linear=[0]),
    Case("GlobalAveragePool", [x(2, 3, 4)], {}, lambda t: t.mean(2, keepdim=True), linear=[0]),
    Case("GlobalMaxPool", [x(2, 3, 4, 5, draw=spaced)], {}, lambda t: F.adaptive_max_pool2d(t, 1)),
    Case("GlobalMaxPool", [x(2, 3, 4, draw=spaced)], {}, lambda t: F.adaptive_max_pool1d(t, 1)),
    Case("GlobalMaxPool", [at(np.ones((1, 2, 3, 3)))], {}, lambda t: F.adaptive_max_pool2d(t, 1), fd=False, note="ties"),
    Case("LpPool", [x(2, 3, 6, 7)], {"kernel_shape": [2, 3], "strides": [2, 1]}, lambda t: F.avg_pool2d(t * t, (2, 3), (2, 1)).mul(6).sqrt()),
    Case("LpPool", [x(2, 3, 6, 7, draw=spaced)], {"kernel_shape": [3, 3], "p": 3, "pads": [1, 1, 1, 1], "strides": [2, 2]},
         lambda t: F.avg_pool2d(t.abs() ** 3, 3, 2, 1).mul(9) ** (1 / 3)),
    Case("LpPool", [x(2, 3, 6, 7, draw=spaced)], {"kernel_shape": [2, 2], "p": 1}, lambda t: F.avg_pool2d(t.abs(), 2, 1).mul(4)),
    Case("LpPool", [x(2, 3, 7, 8, draw=spaced)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("LpPool", [x(2, 3, 7, 8, draw=spaced)], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("LpPool", [x(2, 3, 9, 8, draw=spaced)], {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    Case("GlobalLpPool", [x(2, 3, 4, 5)], {}, lambda t: t.flatten(2).norm(dim=2)[..., None, None]),
    Case("GlobalLpPool", [x(2, 3, 4, draw=spaced)], {"p": 3}, lambda t: t.norm(3, dim=2, keepdim=True)),
]  # fmt: skip

# -- reductions ----------------------------------------------------------------------------------------------------


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
    Case("ReduceMean", [x(2, 3), const([])], {"noop_with_empty_axes": 1, "keepdims": 0}, lambda t, a: t.clone(), linear=[0]),
    Case("ReduceMean", [x(2, 3), const([])], {"keepdims": 0}, lambda t, a: t.mean(), linear=[0]),
    Case("ReduceMax", [at([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), const([1])], {}, lambda t, a: t.amax(1, keepdim=True), fd=False, note="ties"),
    Case("ReduceMin", [at([[1.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), const([1])], {"keepdims": 0}, lambda t, a: t.amin(1), fd=False, note="ties"),
    Case("ReduceProd", [at([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0], [1.0, 5.0, 2.0]]), const([1])], {}, lambda t, a: t.prod(1, keepdim=True), note="zeros"),
    Case("ReduceL2", [at([[0.0, 0.0], [3.0, 4.0]]), const([1])], {}, lambda t, a: torch.linalg.vector_norm(t, dim=1, keepdim=True), fd=False, note="at 0"),
]  # fmt: skip

# -- shapes --------------------------------------------------------------------------------------------------------

CASES += [
    Case("Reshape", [x(2, 3, 4), const([4, -1])], {}, lambda t, s: t.reshape(4, 6), linear=[0]),
    Case("Reshape", [x(2, 3, 4), const([0, -1])], {}, lambda t, s: t.reshape(2, 12), linear=[0]),
    Case("Reshape", [x(2, 3, 4), late([6, 4])], {}, lambda t, s: t.reshape(6, 4), linear=[0]),
    Case("Reshape", [x(1), const([])], {}, lambda t, s: t.reshape(()), linear=[0], note="to a scalar"),
    Case("Flatten", [x(2, 3, 4)], {}, lambda t: t.flatten(1), linear=[0]), Case("Flatten", [x(2, 3, 4)], {"axis": 0}, lambda t: t.reshape(1, -1), linear=[0]),
    Case("Flatten", [x(2, 3, 4)], {"axis": -1}, lambda t: t.reshape(6, 4), linear=[0]),
    Case("Squeeze", [x(1, 3, 1), const([0])], {}, lambda t, a: t.squeeze(0), linear=[0]), Case("Squeeze", [x(1, 3, 1)], {}, lambda t: t.squeeze(), linear=[0]),
    Case("Unsqueeze", [x(3, 2), const([0, -1])], {}, lambda t, a: t[None, ..., None], linear=[0]),
    Case("Expand", [x(3, 1), const([2, 1, 4])], {}, lambda t, s: t.expand(2, 3, 4), linear=[0]), Case("Expand", [x(3, 1), late([2, 3, 4])], {}, lambda t, s: t.expand(2, 3, 4), linear=[0]),
    Case("Expand", [x(3, 4), const([1, 1])], {}, lambda t, s: t.clone(), linear=[0]), Case("Expand", [x(), const([2, 3])], {}, lambda t, s: t.expand(2, 3), linear=[0]),
    Case("Transpose", [x(2, 3, 4)], {}, lambda t: t.permute(2, 1, 0), linear=[0]), Case("Transpose", [x(2, 3, 4, 5)], {"perm": [2, 0, 3, 1]}, lambda t: t.permute(2, 0, 3, 1), linear=[0]),
    Case("Concat", [x(2, 3), x(2, 1), x(2, 2)], {"axis": 1}, lambda *t: torch.cat(t, 1), linear=[0, 1, 2]),
    Case("Concat", [x(2, 3), x(1, 3)], {"axis": -2}, lambda *t: torch.cat(t, 0), linear=[0, 1]), Case("Concat", [x(2, 3)], {"axis": 0}, lambda t: t.clone(), linear=[0]),
    Case("Concat", [x(2, 3), const(np.ones((2, 2)), np.float32)], {"axis": 1}, lambda *t: torch.cat(t, 1), linear=[0]),
    *[Case("Split", [x(2, 7), const([1, 4, 2])], {"axis": axis}, lambda t, s, of=of: t.split([1, 4, 2], 1)[of], linear=[0], outputs=3, of=of) for axis, of in ((1, 0), (-1, 2))],
    Case("Split", [x(5, 3)], {"num_outputs": 2}, lambda t: t.split([3, 2])[1], linear=[0], outputs=2, of=1),
    Case("Tile", [x(2, 3), const([2, 3])], {}, lambda t, r: t.repeat(2, 3), linear=[0]), Case("Tile", [x(2, 1, 3), late([1, 4, 2])], {}, lambda t, r: t.repeat(1, 4, 2), linear=[0]),
    Case("DepthToSpace", [x(2, 12, 2, 3)], {"blocksize": 2, "mode": "CRD"}, lambda t: F.pixel_shuffle(t, 2), linear=[0]),
    Case("DepthToSpace", [x(2, 8, 2, 3)], {"blocksize": 2}, lambda t: t.reshape(2, 2, 2, 2, 2, 3).permute(0, 3, 4, 1, 5, 2).reshape(2, 2, 4, 6), linear=[0]),
    Case("DepthToSpace", [x(2, 9, 2, 3)], {"blocksize": 3, "mode": "CRD"}, lambda t: F.pixel_shuffle(t, 3), linear=[0]),
    Case("SpaceToDepth", [x(2, 3, 4, 6)], {"blocksize": 2}, lambda t: t.reshape(2, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 12, 2, 3), linear=[0]),
    Case("CenterCropPad", [x(5, 8), const([3, 5])], {}, linear=[0], dynamic="no", why="run time"), Case("CenterCropPad", [x(3, 4), const([6, 7])], {}, linear=[0], dynamic="no", why="run time"),
    Case("CenterCropPad", [x(2, 6, 5), const([3, 8])], {"axes": [1, -1]}, linear=[0], dynamic="no", why="run time"),
    Case("CenterCropPad", [x(7, 8), const([4, 11])], {}, linear=[0], dynamic="no", why="run time"),
]  # fmt: skip

BIG = 2**63 - 1
for starts, ends, axes, steps in [
    ([1], [4], [0], None), ([0, 2], [BIG, 6], [0, 1], None), ([-3], [-1], [1], None), ([1], [BIG], [1], [3]), ([0], [7], [1], [2]),
    ([-1], [-BIG], [1], [-1]), ([6], [0], [1], [-2]), ([-1], [-100], [0], [-3]), ([4, 1], [0, 7], [0, 1], [-1, 2]), ([1, 2], [4, 6], None, None),
    ([3], [3], [1], None), ([0], [5], [1], [-1]), ([2], [100], [-1], [5]), ([0], [2**31 - 1], [1], None), ([5], [2], [1], [-7]),
]:  # fmt: skip

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
    Case("Slice", [x(5, 8), late([1], np.int32), late([4], np.int32), const([1], np.int32)], {}, lambda t, *_: t[:, 1:4], linear=[0], note="int32 late"),
    Case("Slice", [x(5, 8), late([1], np.int32), late([7], np.int32), const([1], np.int32), const([2], np.int32)], {}, lambda t, *_: t[:, 1:7:2], linear=[0], note="int32 late, step"),
    Case("Slice", [x(2, 3, 6, 6), const([0, 1]), const([BIG, BIG]), const([2, 3]), const([2, 2])], {}, lambda t, *_: t[:, :, ::2, 1::2], linear=[0], note="focus"),
    Case("Slice", [x(5, 8), const([-9]), const([-BIG]), const([1]), const([-1])], {}, lambda t, *_: t[:, :1], linear=[0], note="from before the first, backwards"),
    Case("Slice", [x(5, 8), late([-9]), late([-BIG]), const([1]), const([-1])], {}, lambda t, *_: t[:, :1], linear=[0], note="from before the first, backwards, late"),
    Case("Slice", [x(9), const([1]), const([8]), const([0]), const([3])], {}, lambda t, *_: t[1:8:3], linear=[0], note="rank 1"),
]  # fmt: skip

for mode in ("constant", "reflect", "edge", "wrap"):
    torch_mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    for pads in ([1, 2, 3, 1], [0, 0, 0, 2], [2, 0, 0, 0]):
        add(Case("Pad", [x(2, 3, 5, 6), const([0, 0, *pads[:2], 0, 0, *pads[2:]])], {"mode": mode},
                 lambda t, p, pads=pads, m=torch_mode: F.pad(t, [pads[1], pads[3], pads[0], pads[2]], mode=m), linear=[0], note=f"{pads}"))  # fmt: skip
CASES += [
    Case("Pad", [x(3, 5), const([1, -1, 0, 2]), const(0.5, np.float32)], {}, lambda t, p, v: F.pad(t, [-1, 2, 1, 0], value=0.5), linear=[0], note="negative"),
    Case("Pad", [x(3, 5), const([0, -1, 0, -2])], {}, lambda t, p: t[:, 1:3], linear=[0], note="negative"),
    Case("Pad", [x(3, 5), const([0, 0, 0, 0])], {}, lambda t, p: t.clone(), linear=[0], note="nothing"),
    Case("Pad", [x(2, 3, 5), const([1, 2, 0, 1]), NONE, const([2, 0])], {}, lambda t, p, v, a: F.pad(t, [1, 0, 0, 0, 2, 1]), linear=[0], note="axes"),
    Case("Pad", [x(2, 3, 5), const([-1, 2, -1, 1]), NONE, const([-1, 0])], {}, lambda t, p, v, a: F.pad(t, [-1, -1, 0, 0, 2, 1]), linear=[0], note="axes, negative"),
    Case("Pad", [x(2, 5), late([0, 2, 1, 1])], {}, lambda t, p: F.pad(t, [2, 1, 0, 1]), linear=[0], note="late"),
    Case("Pad", [x(2, 5), const([1, -1, 2, 2])], {"mode": "edge"}, linear=[0], note="edge, negative"),
    Case("Pad", [x(2, 5), const([0, -1, 0, 2])], {"mode": "reflect"}, linear=[0], note="reflect, negative"),
    Case("Pad", [x(2, 3, 5), const([1, 1]), NONE, const([-2])], {"mode": "reflect"}, linear=[0], note="reflect, axes"),
]  # fmt: skip

# -- indexing ------------------------------------------------------------------------------------------------------

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
    Case("GatherElements", [x(3, 4), const([[0, 1, 1], [-1, 3, 0]])], {"axis": 1}, lambda t, i: t[:2].gather(1, i % 4), linear=[0]),
    Case("GatherElements", [x(3, 4), late([[0, 1, 1, 0]])], {}, lambda t, i: t.gather(0, i), linear=[0]),
    Case("GatherND", [x(3, 4, 2), const([[0, 1], [2, 3], [0, 1]])], {}, lambda t, i: t[[0, 2, 0], [1, 3, 1]], linear=[0]),
    Case("GatherND", [x(3, 4), late([[[0, 1]], [[2, -1]]])], {}, lambda t, i: t[[[0], [2]], [[1], [3]]], linear=[0]),
    Case("ScatterElements", [x(3, 4), const([[1, 0, 3], [0, 2, 1]]), x(2, 3)], {"axis": 1}, lambda t, i, u: t.scatter(1, i, u), linear=[0, 2]),
    Case("ScatterElements", [x(3, 4), late([[1, 0, 1, 0], [1, 2, 0, 1]]), x(2, 4)], {"reduction": "add"}, lambda t, i, u: t.scatter_add(0, i, u), linear=[0, 2]),
    Case("ScatterElements", [x(3, 4), const([[1, 0, 3, 2]]), const(np.ones((1, 4)), np.float32)], {"axis": -1}, lambda t, i, u: t.scatter(1, i, u), linear=[0]),
    Case("ScatterND", [x(3, 4), const([[2], [0]]), x(2, 4)], {}, lambda t, i, u: t.index_put((torch.tensor([2, 0]),), u), linear=[0, 2]),
    Case("ScatterND", [x(3, 4), late([[0, 1], [0, 1], [2, 2]]), x(3)], {"reduction": "add"}, lambda t, i, u: t.index_put((i[:, 0], i[:, 1]), u, accumulate=True), linear=[0, 2]),
    *[Case("GatherND", [x(2, 3, 4), kind([[[1, 0], [2, 3]], [[0, 1], [0, 1]]])], {"batch_dims": 1}, lambda t, i: torch.stack([t[n][i[n, :, 0], i[n, :, 1]] for n in (0, 1)]), linear=[0]) for kind in (const, late)],
    *[Case("ScatterElements", [draw, late([[1, 0, 1, 0], [1, 2, 0, 1]]), x(2, 4, draw=positive)], {"reduction": onnx_name}, lambda t, i, u, r=r: t.scatter_reduce(0, i, u, r))
      for draw in (x(3, 4, draw=spaced),) for onnx_name, r in (("mul", "prod"), ("max", "amax"), ("min", "amin"))],
    Case("ScatterElements", [at([[0.0, 2.0], [3.0, 0.0]]), const([[0, 0], [1, 0]]), at([[0.0, 5.0], [0.0, 2.0]])], {"reduction": "mul"}, lambda t, i, u: t.scatter_reduce(0, i, u, "prod"), note="zeros"),
    Case("ScatterElements", [at([1.0, 2.0, 3.0]), const([0, 0, 1]), at([1.0, 1.0, 4.0])], {"reduction": "max"}, lambda t, i, u: t.scatter_reduce(0, i, u, "amax"), fd=False, note="ties"),
    *[Case("ScatterND", [x(4, 2, draw=spaced), late([[2], [0], [2]]), x(3, 2, draw=positive)], {"reduction": name}, lambda t, i, u, r=r: t.scatter_reduce(0, i.expand(3, 2), u, r))
      for name, r in (("mul", "prod"), ("max", "amax"), ("min", "amin"))],
    Case("Compress", [x(3, 4), const([False, True, True], np.bool_)], {"axis": 0}, lambda t, c: t[1:], linear=[0]),
    Case("Compress", [x(3, 4), late([True, False, True, True], np.bool_)], {"axis": -1}, lambda t, c: t[:, [0, 2, 3]], linear=[0]),
    Case("Compress", [x(3, 4), late([False, True, False, False, True], np.bool_)], {}, lambda t, c: t.reshape(-1)[[1, 4]], linear=[0]),
    Case("ReverseSequence", [x(4, 3, 2), const([1, 4, 3])], {}, lambda t, n: torch.stack([torch.cat([t[:k, i].flip(0), t[k:, i]]) for i, k in enumerate((1, 4, 3))], 1), linear=[0]),
    Case("ReverseSequence", [x(2, 4), late([3, 2])], {"time_axis": 1, "batch_axis": 0}, lambda t, n: torch.stack([torch.cat([t[i, :k].flip(0), t[i, k:]]) for i, k in enumerate((3, 2))]), linear=[0]),
    Case("MaxUnpool", [x(1, 1, 2, 2), const([[[[5, 7], [8, 10]]]])], {"kernel_shape": [2, 2], "strides": [2, 2]}, lambda t, i: F.max_unpool2d(t, i, 2), linear=[0]),
    Case("Range", [at(1.5), const(4.0, np.float32), at(0.7)], {}, lambda s, e, d: s + d * torch.arange(4)),
    Case("TopK", [x(3, 5, draw=spaced), const([2])], {}, lambda t, k: t.topk(2).values, outputs=2),
    Case("TopK", [x(5, 3, draw=spaced), late([3])], {"axis": 0, "largest": 0}, lambda t, k: t.topk(3, 0, largest=False).values, outputs=2),
    *[Case("CumSum", [x(3, 5), const(axis)], {"reverse": r, "exclusive": e}, None if e else (lambda t, a, r=r: t.flip(1).cumsum(1).flip(1) if r else t.cumsum(1)), linear=[0])
      for axis, r, e in ((1, 0, 0), (-1, 1, 0), (1, 0, 1), (1, 1, 1))],
    Case("Trilu", [x(2, 3, 4)], {}, torch.triu, linear=[0]), Case("Trilu", [x(3, 4), const(-1)], {"upper": 0}, lambda t, k: t.tril(-1), linear=[0]),
    Case("Trilu", [x(3, 4), late(1)], {}, lambda t, k: t.triu(1), linear=[0]),
]  # fmt: skip

# -- resizing ------------------------------------------------------------------------------------------------------


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
):  # fmt: skip
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
    resize((2, 3, 4, 5), [1, 1, 2, 2], {"mode": "nearest"}, "scales", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize((2, 3, 4, 5), [1, 1, 2, 2], {"mode": "bilinear"}, "scales", mode="linear"), resize((2, 3, 8, 7), [2, 3, 4, 3], {"mode": "bilinear", "antialias": True}, mode="linear", antialias=1, exclude_outside=1),
    resize((2, 3, 8, 7), [2, 3, 3, 5], {"mode": "bicubic", "antialias": True}, mode="cubic", antialias=1, cubic_coeff_a=-0.5, exclude_outside=1),
    resize((2, 3, 4, 5), [2, 3, 7, 3], None, mode="cubic", exclude_outside=1), resize((2, 3, 4, 5), [2, 3, 7, 3], None, mode="cubic", cubic_coeff_a=-0.5),
    resize((1, 2, 2, 2), [1, 1, 0.5, 1.3], None, "scales", mode="cubic"), resize((1, 1, 4, 4), [1, 1, 1.1, 2.0], None, "scales", mode="linear"),
    Case("Resize", [x(1, 1, 2, 2), NONE, const([1, 1, 1.3, 1.3], np.float32)], {"mode": "linear"}, linear=[0], note="copied, scales near 1"),
    Case("Resize", [x(1, 1, 2, 2), NONE, late([1, 1, 1.0, 1.3], np.float32)], {"mode": "linear"}, linear=[0], note="copied, late"),
    Case("Resize", [x(1, 1, 2, 3), NONE, late([1, 1, 1.3, 1.4], np.float32)], {"mode": "linear"}, linear=[0], note="not copied, late"),
    resize((2, 3, 6), [2, 3, 9], {"mode": "linear"}, mode="linear"), resize((2, 3, 4, 5), [7, 9], {"mode": "bilinear"}, mode="linear", axes=[2, 3]),
    resize((2, 3, 4, 5), [1.5, 2], {"mode": "bilinear"}, "scales", mode="linear", axes=[-2, -1]),
    resize((2, 4, 5, 3), [2, 7, 9, 3], None, mode="linear"), resize((2, 4, 5, 3), [1, 2, 1.5, 1], None, "scales", mode="nearest", coordinate_transformation_mode="asymmetric"),
    resize((2, 4, 5, 3), [7, 9], None, mode="nearest", axes=[1, 2]), resize((2, 4, 5, 3), [2, 7, 9, 3], None, late_bounds=True, mode="linear"),
    resize((2, 3, 4, 5), [2, 3, 8, 9], {"mode": "bilinear"}, late_bounds=True, mode="linear"), resize((2, 3, 4, 5), [1, 1, 2, 1.5], None, "scales", late_bounds=True, mode="linear"),
    resize((2, 3, 2, 3, 4), [2, 3, 4, 5, 3], {"mode": "trilinear"}, mode="linear"), resize((4, 5), [6, 3], None, mode="linear"), resize((4, 5, 3), [8, 9, 3], None, late_bounds=True, mode="nearest"),
]  # fmt: skip

CASES += [
    *[Case("Resize", [x(2, 3, 5, 6), const([*begin, *end], np.float32), NONE, const([2, 3, 4, 3])], {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.0}, fd=False, linear=[0], note=f"crop {begin[2]}")
      for begin, end in (([0, 0, 0.2, 0.3], [1, 1, 0.7, 0.9]), ([0, 0, -0.2, 0.3], [1, 1, 0.7, 1.4]))],
    *[Case("Resize", [x(2, 3, 4, 6), NONE, NONE, const(sizes)], {"mode": mode, "axes": [2, 3], "keep_aspect_ratio_policy": policy}, linear=[0], note=f"{policy} {sizes}", dynamic="all" if mode == "nearest" else "no", why="known before it runs")
      for policy in ("not_larger", "not_smaller") for mode in ("nearest", "linear", "cubic") for sizes in ([7, 9], [3, 2])],
]  # fmt: skip

# -- sampling ------------------------------------------------------------------------------------------------------

INNER = uniform(-0.93, 0.93)  # over 5 and 7 elements, hardly ever near one: there is a kink at each


def grid_sample(shape: Sequence[int], out: Sequence[int], draw: Any = INNER, **kw: Any) -> Case:
    options = {"mode": {"linear": "bilinear", "cubic": "bicubic"}.get(kw.get("mode", "linear"), "nearest"), "padding_mode": kw.get("padding_mode", "zeros"),
               "align_corners": bool(kw.get("align_corners", 0))}  # fmt: skip
    oracle = len(shape) == 4
    return Case(
        "GridSample", [x(*shape), x(shape[0], *out, len(shape) - 2, draw=draw)], kw,
        (lambda t, g: F.grid_sample(t, g, **options)) if oracle else None, linear=[0], fd=not oracle,
    )  # fmt: skip


CASES += [
    grid_sample((2, 3, 5, 7), (4, 3), draw, mode=mode, padding_mode=padding, align_corners=corners)
    for mode in ("linear", "nearest", "cubic") for padding in ("zeros", "border", "reflection") for corners in (0, 1) for draw in (INNER, uniform(-2.7, 2.7))
] + [grid_sample((1, 2, 3, 4, 5), (2, 3, 2), mode="nearest"), grid_sample((2, 1, 1, 1), (2, 2), padding_mode="reflection", align_corners=1)]  # fmt: skip


CASES += [
    Case("AffineGrid", [x(2, d, d + 1), kind([2, 3, 4, 5, 3][: d + 2])], {"align_corners": corners}, lambda t, s, c=corners, d=d: F.affine_grid(t, [2, 3, 4, 5, 3][: d + 2], align_corners=bool(c)), linear=[0], note="late" * (kind is late))
    for d in (2, 3) for corners in (0, 1) for kind in (const, late)
]  # fmt: skip


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
    inputs = [x(*shape), w(*weight), x(shape[0], og * 2 * k, *out, draw=lambda s: lambda rng: rng.integers(-2, 2, s) + rng.uniform(0.1, 0.9, s)),
              w(weight[0]) if bias else NONE, *([x(shape[0], og * k, *out)] if mask else [])]  # fmt: skip
    attributes = {"strides": [strides] * 2, "pads": [pads] * 4, "dilations": [dilations] * 2, **kw}
    settings = {"strides": strides, "pads": pads, "dilations": dilations, "group": group, "offset_group": og}
    return Case("DeformConv", inputs, attributes, lambda t, w_, o, b, m=None: torch_deform(t, w_, o, b, m, **settings),
                linear=[0, 1, 3, 4], tolerance=2e-5)  # fmt: skip


CASES += [
    deform((2, 4, 6, 7), (3, 4, 3, 2), pads=1), deform((1, 4, 6, 7), (4, 2, 2, 2), False, False, group=2, offset_group=2, strides=2, pads=1), deform((2, 2, 7, 6), (2, 2, 3, 3), True, False, dilations=2, pads=2),
]  # fmt: skip


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
    add(Case("RoiAlign", [x(2, 3, 8, 9), kind(BOXES, np.float32), kind([0, 1, 1, 0])],
             {"output_height": 3, "output_width": 2, "spatial_scale": 0.5, "sampling_ratio": ratio, "coordinate_transformation_mode": "half_pixel" if half else "output_half_pixel"},
             lambda t, r, n, a=ratio, h=half: torch_roi_align(t, r, n, cells=(3, 2), scale=0.5, ratio=a, half=h), linear=[0], note="late" * (kind is late)))  # fmt: skip

for kind in (const, late):
    CASES += [
        Case("Col2Im", [x(2, 12, 12), kind([4, 5]), kind([2, 2])], {}, lambda t, s, b: F.fold(t, (4, 5), 2), linear=[0], note="late" * (kind is late)),
        Case("Col2Im", [x(1, 12, 6), kind([6, 7]), kind([2, 3])], {"strides": [2, 3], "pads": [1, 0, 1, 0], "dilations": [2, 1]}, lambda t, s, b: F.fold(t, (6, 7), (2, 3), (2, 1), (1, 0), (2, 3)), linear=[0], note="late" * (kind is late)),
    ]  # fmt: skip
CASES += [
    Case("Col2Im", [x(1, 6, 4), const([6]), const([3])], {}, linear=[0], note="1-D"),
    Case("Col2Im", [x(1, 8, 4), const([2, 3, 3]), const([2, 2, 2])], {}, linear=[0], note="3-D"),
    Case("Det", [x(3, 3)], {}, torch.linalg.det), Case("Det", [x(2, 3, 4, 4)], {}, torch.linalg.det),
    Case("Det", [at([[1.0, 2.0], [2.0, 4.0]])], {}, lambda t: t[0, 0] * t[1, 1] - t[0, 1] * t[1, 0], note="singular"),
]  # fmt: skip

# -- running a case ------------------------------------------------------------------------------------------------

DTYPES = {np.float32: onnx.TensorProto.FLOAT, np.float16: onnx.TensorProto.FLOAT16, np.float64: onnx.TensorProto.DOUBLE}


@dataclass
class Prepared:
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    arrays: list[np.ndarray | None]
    wrt: list[int]
    of: str


def prepare(case: Case, form: str, dtype: Any = np.float32) -> Prepared:
    rng = np.random.default_rng(7)
    arrays: list[np.ndarray | None] = []
    feeds, constants, dims = {}, {}, {}
    names = []
    for i, given in enumerate(case.inputs):
        array = given.sample(rng)
        if given.role == "-":
            arrays.append(None)
            names.append("")
            continue
        keep = case.op == "Resize" and i == 2
        array = np.asarray(array, dtype) if array.dtype == np.float32 and not keep else array
        arrays.append(array)
        names.append(f"i{i}")
        if given.role in "xr" or (given.role == "w" and form == "inputs"):
            feeds[f"i{i}"] = array
            if form in {"symbolic", "unnamed"} and given.role == "x":
                fixed = {1} if case.dynamic == "channels" else set()
                name = (lambda a, i=i: f"d{i}_{a}") if form == "symbolic" else (lambda a: None)
                dims[f"i{i}"] = [s if a in fixed else name(a) for a, s in enumerate(array.shape)]
        else:
            constants[f"i{i}"] = array
    wrt = [i for i, given in enumerate(case.inputs) if given.role == "x" or (given.role == "w" and form == "inputs")]
    outputs = [f"o{i}" for i in range(case.outputs)]
    node = onnx.helper.make_node(case.op, names, outputs, name="node", **case.attributes)
    model = node_model([node], feeds, [outputs[case.of]], constants, dims=dims)
    if case.op == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = case.attributes["to"]
    return Prepared(model, feeds, arrays, wrt, outputs[case.of])


def against_torch(case: Case, p: Prepared, gradients: dict[str, np.ndarray], dy: np.ndarray, tolerance: float) -> None:
    """The gradients equal torch's, computed in float64 from the same numbers."""
    assert case.torch is not None
    tensors = [
        None
        if a is None
        else torch.tensor(np.asarray(a, np.float64) if a.dtype.kind == "f" else a, requires_grad=i in p.wrt)
        for i, a in enumerate(p.arrays)
    ]
    result = case.torch(*tensors)
    forward = Session(p.model, threads=1).run(p.feeds)[p.of]
    assert tuple(result.shape) == forward.shape, "the torch equivalent is another operator: its shape differs"
    np.testing.assert_allclose(
        forward,
        result.detach().numpy(),
        rtol=tolerance,
        atol=tolerance * max(1.0, np.abs(forward).max(initial=0.0)),
        err_msg="the torch equivalent is another operator",
    )
    expected = torch.autograd.grad(result, [tensors[i] for i in p.wrt], torch.tensor(np.asarray(dy, np.float64)))
    for i, want in zip(p.wrt, expected, strict=True):
        got = gradients[f"i{i}"].astype(np.float64)
        scale = max(1.0, want.abs().max().item() if want.numel() else 0.0)
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=tolerance * scale, err_msg=f"input {i} of {case}")


def adjoint(case: Case, p: Prepared, gradients: dict[str, np.ndarray], dy: np.ndarray, tolerance: float) -> None:
    """<A x, y> = <x, A^T y>, the constant part of an affine operator taken out."""
    session = Session(p.model, threads=1)
    full = session.run(p.feeds)[p.of].astype(np.float64)
    for i in set(case.linear) & set(p.wrt):
        zero = session.run({**p.feeds, f"i{i}": np.zeros_like(p.feeds[f"i{i}"])})[p.of].astype(np.float64)
        forward, backward = (full - zero) * dy, gradients[f"i{i}"].astype(np.float64) * p.feeds[f"i{i}"]
        size = max(float(np.linalg.norm(forward)), float(np.linalg.norm(backward)))
        assert abs(forward.sum() - backward.sum()) <= tolerance * size, (
            f"<A x, y> = {forward.sum()}, <x, A^T y> = {backward.sum()}: input {i}"
        )


def vjp(p: Prepared, seed: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The gradients for a random gradient of the output."""
    shape_and_type = Session(p.model, threads=1).run(p.feeds)[p.of]
    dy = np.asarray(np.random.default_rng(seed).standard_normal(shape_and_type.shape), shape_and_type.dtype)
    session = Session(differentiate(p.model, p.of, [f"i{i}" for i in p.wrt]), threads=1)
    results = session.run({**{k: v for k, v in p.feeds.items() if k in session.inputs}, "seed": dy})
    return {f"i{i}": results[f"gradient.i{i}"] for i in p.wrt}, dy


def forms() -> list[Any]:
    out = []
    for case in CASES:
        chosen = ["inputs"]
        if any(i.role == "w" for i in case.inputs):
            chosen.append("constant")
        if case.dynamic != "static":
            chosen.append("symbolic")
            if sum(i.role == "x" for i in case.inputs) > 1:
                chosen.append("unnamed")
        out += [pytest.param(case, form, id=f"{case}-{form}") for form in chosen]
    return out


@pytest.mark.parametrize(("case", "form"), forms())
def test_rule(case: Case, form: str) -> None:
    p = prepare(case, form)
    if form in {"symbolic", "unnamed"} and case.dynamic == "no":
        with pytest.raises(UnsupportedOperatorError, match=case.why):
            differentiate(p.model, p.of, [f"i{i}" for i in p.wrt])
        return
    gradients, dy = vjp(p)
    if case.torch is not None:
        against_torch(case, p, gradients, dy, case.tolerance)
    if case.fd:
        check_vjp(p.model, p.feeds, p.of, [f"i{i}" for i in p.wrt])
    if case.linear:
        adjoint(case, p, gradients, dy, 1e-5)


#: Families whose records are of another kind: test files with a table CASES of their own, each record with an ``op``.
OTHER_TABLES = (
    "test_quantized.py",
    "test_recurrent.py",
    "test_control_flow.py",
)


def test_every_rule_has_a_case() -> None:
    judged = {case.op for case in CASES}
    for name in OTHER_TABLES:
        spec = importlib.util.spec_from_file_location(f"cases_of_{name}", Path(__file__).with_name(name))
        assert spec is not None
        assert spec.loader is not None
        table = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(table)
        judged |= {case.op for case in table.CASES}
    assert set(RULES) - judged == set(), "rules without a case in a table"
    assert judged - set(RULES) == set(), "cases for operators that have no rule"


def test_every_case_is_judged() -> None:
    assert [str(c) for c in CASES if c.torch is None and not c.fd and not c.linear] == []


# -- other precisions ----------------------------------------------------------------------------------------------


# float64: attributes are float32 in the file, and so are ONNX Runtime's epsilon, alpha and beta.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 2e-7), (np.float16, 4e-3)], ids=["float64", "float16"])
@pytest.mark.parametrize("op", sorted({c.op for c in CASES}))
def test_other_precisions(op: str, dtype: Any, tolerance: float) -> None:
    """Wherever ONNX Runtime runs the operator in this type, the gradient runs, and is as exact as the type."""
    for case in [c for c in CASES if c.op == op and c.torch is not None and c.attributes.get("to", 1) == 1]:
        with np.errstate(over="ignore"):
            p = prepare(case, "inputs", dtype)
        try:
            forward = Session(p.model, threads=1).run(p.feeds)[p.of]
        except (ModelError, InputError):
            continue  # no kernel of this type
        if dtype == np.float16 and not np.isfinite(forward).all():
            continue  # beyond the range of the type
        gradients, dy = vjp(p)
        for i in p.wrt:
            assert gradients[f"i{i}"].dtype == dtype
        against_torch(case, p, gradients, dy, tolerance)


# -- guided backpropagation and the deconvnet ----------------------------------------------------------------------


def rectifying(function: Callable[..., Any], rule: str, is_relu: bool) -> Callable[..., Any]:
    """``function`` with the gradient that the papers give a ReLU: written here a second time, from their formulas."""

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.save_for_backward(t)
            return function(t)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (t,) = ctx.saved_tensors
            with torch.enable_grad():
                leaf = t.detach().requires_grad_()
                (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
            g = g if rule == "standard" else g.clamp(min=0)
            return g if rule == "deconvnet" and is_relu else g * slope

    return Rule.apply


ACTIVATIONS = [
    ("Relu", {}, [], F.relu, "relu"), ("Clip", {}, [0.0, 6.0], F.relu6, "relu+clip"), ("Clip", {}, [0.0, 0.4], lambda t: F.hardtanh(t, 0.0, 0.4), "relu+clip"),
    ("LeakyRelu", {"alpha": 0.2}, [], lambda t: F.leaky_relu(t, 0.2), "all"), ("PRelu", {}, [0.3], lambda t: F.leaky_relu(t, 0.3), "all"),
    ("Elu", {}, [], F.elu, "all"), ("Selu", {}, [], F.selu, "all"), ("Celu", {"alpha": 0.7}, [], lambda t: F.celu(t, 0.7), "all"),
    ("Gelu", {}, [], F.gelu, "all"), ("Gelu", {"approximate": "tanh"}, [], lambda t: F.gelu(t, approximate="tanh"), "all"),
    ("HardSwish", {}, [], F.hardswish, "all"), ("Mish", {}, [], F.mish, "all"), ("ThresholdedRelu", {"alpha": 0.1}, [], lambda t: torch.where(t > 0.1, t, 0.0), "all"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
@pytest.mark.parametrize(("op", "attributes", "extra", "function", "policy"), ACTIVATIONS)
def test_guided_rules(op: str, attributes: Any, extra: Any, function: Any, policy: Any, rule: Any, dtype: Any) -> None:
    """Two layers, the gradient of each activation replaced; a policy that does not name it leaves the derivative."""
    rng = np.random.default_rng(5)
    weights = [rng.standard_normal((6, 6)).astype(dtype) for _ in range(3)]
    names = [f"e{i}" for i in range(len(extra))]
    nodes = []
    for i in range(3):
        nodes.append(onnx.helper.make_node("MatMul", [f"a{i - 1}" if i else "x", f"w{i}"], [f"z{i}"]))
        if i < 2:
            nodes.append(onnx.helper.make_node(op, [f"z{i}", *names], [f"a{i}"], **attributes))
    point = rng.standard_normal((4, 6)).astype(dtype)
    constants = {f"w{i}": weight for i, weight in enumerate(weights)} | {
        n: np.array(v, dtype) for n, v in zip(names, extra, strict=True)
    }
    model = node_model(nodes, {"x": point}, ["z2"], constants)
    try:
        Session(model)
    except ModelError:
        assert dtype == np.float64
        return  # ONNX Runtime has no kernel of this type
    for used in ("relu", "relu+clip", "all"):
        session = Session(differentiate(model, "z2", ["x"], rule, used), threads=1)  # type: ignore[arg-type]
        dy = np.random.default_rng(6).standard_normal((4, 6)).astype(dtype)
        got = session.run({"x": point, "seed": dy})["gradient.x"]
        named = ["relu", "relu+clip", "all"].index(used) >= ["relu", "relu+clip", "all"].index(policy)
        act = rectifying(function, rule if named else "standard", op in {"Relu", "Clip"})
        t = torch.tensor(point.astype(np.float64), requires_grad=True)
        m = [torch.tensor(weight.astype(np.float64)) for weight in weights]
        (want,) = torch.autograd.grad(act(act(t @ m[0]) @ m[1]) @ m[2], t, torch.tensor(dy.astype(np.float64)))
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=3e-6 * want.abs().max().item())


def counted(module: Any, *shape: int, policy: str = "all", opset: int = 18) -> list[str]:
    """The operators that a policy names in a module exported by torch, normalised."""
    from portable_cam.export.guided import guided_nodes
    from portable_cam.export.normalize import normalize

    module = module.eval()
    program = torch.onnx.export(module, (torch.randn(*shape),), dynamo=True, opset_version=opset, verbose=False)
    return [n.op_type for n in guided_nodes(normalize(program.model_proto).graph, policy)]  # type: ignore[arg-type]


class SqueezeExcite(torch.nn.Module):
    def __init__(self, gate: Any, inner: Any = torch.nn.ReLU) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(4, 2, 1), inner(), torch.nn.Conv2d(2, 4, 1), gate()
        )

    def forward(self, t: Any) -> Any:
        return t * self.net(t)


class Lambda(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, t: Any) -> Any:
        return self.function(t)


nn = torch.nn


class All(torch.nn.Module):
    """Each module on its own convolution, the results side by side: exporting takes seconds, so it is done once."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 4, 3), module) for module in modules)

    def forward(self, t: Any) -> list[Any]:
        return [branch(t) for branch in self.branches]


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
@pytest.mark.parametrize("opset", [18, 20])
def test_policy_all_finds_smooth_activations_and_nothing_else(opset: int) -> None:
    one = [
        nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish(), nn.Mish(), nn.ReLU(), nn.ReLU6(),
        Lambda(lambda t: t * torch.sigmoid(t)), Lambda(lambda t: torch.sigmoid(t) * t), Lambda(lambda t: t * torch.sigmoid(1.702 * t)),
        Lambda(lambda t: t * (F.relu6(t + 3) / 6)), Lambda(lambda t: t * torch.clamp(t / 6 + 0.5, 0, 1)),
        Lambda(lambda t: 0.5 * t * (1 + torch.erf(t / math.sqrt(2)))), Lambda(lambda t: t * torch.tanh(F.softplus(t))),
    ]  # fmt: skip
    none = [
        SqueezeExcite(nn.Sigmoid, nn.Identity), SqueezeExcite(nn.Hardsigmoid, nn.Identity), nn.GLU(1), nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(),
        Lambda(lambda t: t * torch.sigmoid(t.mean(1, keepdim=True))), Lambda(lambda t: t * torch.sigmoid(t - t.mean((2, 3), keepdim=True))),
        SqueezeExcite(lambda: Lambda(lambda t: F.relu6(t + 3) / 6), nn.Identity), Lambda(lambda t: t * t), nn.Hardtanh(-1, 6),
    ]  # fmt: skip
    assert len(counted(All(one), 1, 3, 8, 8, opset=opset)) == len(one)
    assert counted(All(none), 1, 3, 8, 8, opset=opset) == []
    assert counted(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), SqueezeExcite(nn.Sigmoid, nn.SiLU)), 1, 3, 8, 8, opset=opset
    ) == ["Mul", "Mul"]


# -- the walk ------------------------------------------------------------------------------------------------------

node = onnx.helper.make_node
POINT = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)


def test_a_tensor_consumed_twice() -> None:
    nodes = [
        node("Sin", ["x"], ["a"]),
        node("Mul", ["a", "a"], ["b"]),
        node("Exp", ["a"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("Mul", ["d", "x"], ["y"]),
    ]
    check_vjp(node_model(nodes, {"x": POINT}, ["y"]), {"x": POINT})


def test_inner_tensors_and_weights() -> None:
    w = np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32)
    model = node_model(
        [node("Sin", ["x"], ["a"]), node("MatMul", ["a", "w"], ["z"]), node("Exp", ["z"], ["y"])],
        {"x": POINT},
        ["y"],
        {"w": w},
    )
    check_vjp(model, {"x": POINT}, of="z", wrt=["x", "w"])
    out = Session(differentiate(model, "y", ["a", "z"])).run({"x": POINT, "seed": np.ones((2, 3, 5), np.float32)})
    np.testing.assert_allclose(out["gradient.z"], out["y"], rtol=1e-6)
    np.testing.assert_allclose(out["gradient.a"], out["y"] @ w.T, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_split_with_an_unused_output(dynamic: bool) -> None:
    nodes = [node("Split", ["x", "s"], ["a", "b", "c"], axis=-1), node("Mul", ["a", "c"], ["y"])]
    dims = {"x": ["n", None, 4]} if dynamic else None
    model = node_model(nodes, {"x": POINT}, ["y"], {"s": np.array([1, 2, 1])}, dims=dims)
    gradient = check_vjp(model, {"x": POINT}).gradients["x"]
    assert not gradient[:, :, 1:3].any()
    assert gradient[:, :, [0, 3]].all()


def test_a_secondary_output_is_an_error_not_a_silent_part() -> None:
    nodes = [
        node("BatchNormalization", ["x", "s", "s", "s", "s"], ["a", "mean", "variance"], training_mode=1),
        node("Mul", ["a", "mean"], ["y"]),
    ]
    model = node_model(nodes, {"x": POINT[:, 0]}, ["y"], {"s": np.ones(4, np.float32)})
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        differentiate(model, "y", ["x"])


def test_an_operator_without_a_rule_is_named_with_its_path() -> None:
    nodes = [
        node("Sin", ["x"], ["a"]),
        node("MaxRoiPool", ["a", "r"], ["d"], name="the-pooling", pooled_shape=[1, 1]),
        node("Exp", ["d"], ["y"]),
    ]
    square = np.ones((2, 3, 3, 3), np.float32)
    model = node_model(nodes, {"x": square}, ["y"], {"r": np.zeros((1, 5), np.float32)})
    with pytest.raises(UnsupportedOperatorError) as caught:
        differentiate(model, "y", ["x"])
    for part in ("ai.onnx::MaxRoiPool", "opset 21", "'the-pooling'", "'x' -> Sin -> MaxRoiPool"):
        assert part in str(caught.value)
    differentiate(model, "y", ["d"])  # behind it, it is of no concern


@pytest.mark.parametrize("blocked", [
    [node("ArgMax", ["x"], ["i"], axis=-1), node("Cast", ["i"], ["y"], to=1)],
    [node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], ["y"], to=1)],
    [node("Round", ["x"], ["r"]), node("Exp", ["r"], ["y"])], [node("Shape", ["x"], ["i"]), node("Cast", ["i"], ["y"], to=1)],
    [node("Exp", ["other"], ["y"])],
], ids=["ArgMax", "Cast", "Round", "Shape", "unrelated"])  # fmt: skip
def test_no_differentiable_path_is_an_error_not_zeros(blocked: list[onnx.NodeProto]) -> None:
    feeds = {"x": POINT, "other": POINT}
    with pytest.raises(ModelError, match="does not depend on 'x' in a differentiable way"):
        differentiate(node_model(blocked, feeds, ["y"]), "y", ["x"])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_mean_over_what_was_scaled_by_channel(dynamic: bool) -> None:
    """The gradient is the same all over a channel and is spread late; batch normalisation may not lose the space."""
    image = np.random.default_rng(6).standard_normal((2, 3, 5, 4)).astype(np.float32)
    constants = {name: np.linspace(0.5, 2, 4).astype(np.float32) for name in "sbmv"}
    constants["w"] = np.random.default_rng(7).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *"sbmv"], ["n"]),
        node("GlobalAveragePool", ["n"], ["y"]),
    ]
    dims = {"x": ["n", 3, "h", "w"]} if dynamic else None
    check_vjp(node_model(nodes, {"x": image}, ["y"], constants, dims=dims), {"x": image})


def test_boxes_are_places_and_carry_no_gradient() -> None:
    """A box that is computed from the image, as a detector does: the gradient is that of what is read, not of where."""
    image = np.random.default_rng(3).standard_normal((1, 2, 8, 8)).astype(np.float32)
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Mul", ["m", "unit"], ["boxes"]),
        node("RoiAlign", ["x", "boxes", "zero"], ["y"], output_height=2, output_width=2, sampling_ratio=2),
    ]
    constants = {"unit": np.array([[1, 1, 2, 2.5]], np.float32), "zero": np.zeros(1, np.int64)}
    computed = node_model(nodes, {"x": image}, ["y"], constants)
    boxes = constants["unit"] * image.max()
    given = node_model(nodes[2:], {"x": image, "boxes": boxes}, ["y"], {"zero": constants["zero"]})
    dy = np.ones((1, 2, 2, 2), np.float32)
    gradients = [
        Session(differentiate(model, "y", ["x"]), threads=1).run({**feeds, "seed": dy})["gradient.x"]
        for model, feeds in ((computed, {"x": image}), (given, {"x": image, "boxes": boxes}))
    ]
    np.testing.assert_array_equal(*gradients)
    with pytest.raises(ModelError, match="does not depend on 'boxes' in a differentiable way"):
        differentiate(given, "y", ["boxes"])


def test_the_score_path_through_non_maximum_suppression() -> None:
    """The scores that are kept are read by index: each has its gradient, the choice has none."""
    rng = np.random.default_rng(4)
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1.1, 1], [2, 2, 3, 3], [5, 5, 6, 6]]], np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["raw"]),
        node("Sigmoid", ["raw"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
        node("GatherND", ["scores", "kept_scores"], ["y"]),
        node("Gather", ["kept", "columns"], ["kept_scores"], axis=1),
    ]
    nodes = [*nodes[:3], nodes[4], nodes[3]]
    constants = {
        "w": rng.standard_normal((3, 4)).astype(np.float32), "boxes": boxes, "most": np.array([2]),
        "overlap": np.array([0.5], np.float32), "columns": np.array([0, 1, 2]),
    }  # fmt: skip
    x = rng.standard_normal((1, 1, 3)).astype(np.float32)
    check = check_vjp(node_model(nodes, {"x": x}, ["y"], constants), {"x": x})
    assert check.gradients["x"].any()


@pytest.mark.parametrize("corners", [0, 1])
def test_a_spatial_transformer(corners: int) -> None:
    """AffineGrid and GridSample: the gradient reaches the transformation."""
    rng = np.random.default_rng(5)
    feeds = {"x": rng.standard_normal((2, 3, 6, 5)), "theta": np.array([[[0.7, 0.2, 0.1], [-0.3, 0.6, 0.05]]] * 2)}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    nodes = [
        node("AffineGrid", ["theta", "size"], ["grid"], align_corners=corners),
        node("GridSample", ["x", "grid"], ["y"], align_corners=corners, mode="cubic"),
    ]
    model = node_model(nodes, feeds, ["y"], {"size": np.array([2, 3, 4, 3])})
    gradients = check_vjp(model, feeds).gradients
    theta = torch.tensor(feeds["theta"].astype(np.float64), requires_grad=True)
    grid = F.affine_grid(theta, (2, 3, 4, 3), align_corners=bool(corners))
    y = F.grid_sample(torch.tensor(feeds["x"].astype(np.float64)), grid, mode="bicubic", align_corners=bool(corners))
    session = Session(differentiate(model, "y", ["theta"]), threads=1)
    dy = rng.standard_normal((2, 3, 4, 3)).astype(np.float32)
    got = session.run({**feeds, "seed": dy})["gradient.theta"]
    (want,) = torch.autograd.grad(y, [theta], torch.tensor(dy.astype(np.float64)))
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4 * want.abs().max().item())
    assert gradients["x"].shape == (2, 3, 6, 5)


def test_tensors_that_are_not_there() -> None:
    model = node_model([node("Exp", ["x"], ["exponential"])], {"x": POINT}, ["exponential"])
    with pytest.raises(TargetError, match="near it: exponential"):
        differentiate(model, "exponentia", ["x"])
    with pytest.raises(LayerError, match="'z' is no tensor"):
        differentiate(model, "exponential", ["z"])


@pytest.mark.parametrize("dynamic", [False, True])
def test_same_padding_under_a_wide_stride_is_refused(dynamic: bool) -> None:
    """ONNX Runtime begins at the second element there: a gradient by the book would be silently wrong."""
    feeds = {"x": np.ones((1, 1, 8), np.float32)}
    dims = {"x": [1, 1, "length"]} if dynamic else None
    conv = node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[4], kernel_shape=[1])
    model = node_model([conv], feeds, ["y"], {"w": np.ones((1, 1, 1), np.float32)}, dims=dims)
    with pytest.raises(UnsupportedOperatorError, match="explicit pads"):
        differentiate(model, "y", ["x"])


def test_dropout_in_training_mode_is_refused() -> None:
    p = prepare(Case("Dropout", [x(2, 3), const(0.5, np.float32), const(True, np.bool_)]), "inputs")
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        differentiate(p.model, p.of, ["i0"])


def test_check_vjp_sees_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is itself judged: a rule off by a factor, and one of the wrong shape."""
    from portable_cam.export.rules.registry import Entry

    model = node_model([node("Sin", ["x"], ["y"])], {"x": POINT}, ["y"])
    check_vjp(model, {"x": POINT})
    monkeypatch.setitem(RULES, "Sin", Entry(lambda v: v.b.op("Mul", v.g, 1.001)))
    with pytest.raises(AssertionError, match=r"the gradient graph gives .* central differences in float"):
        check_vjp(model, {"x": POINT})
    monkeypatch.setitem(RULES, "Sin", Entry(lambda v: v.b.op("Transpose", v.g, perm=[1, 0, 2])))
    with pytest.raises(AssertionError, match="the tensor float32"):
        check_vjp(model, {"x": POINT})


def test_widen_leaves_the_scales_of_resize() -> None:
    p = prepare(resize((1, 1, 2, 2), [1, 1, 2, 2], by="scales", mode="linear"), "inputs")
    wide = widen(p.model)
    assert wide.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    assert wide.graph.initializer[0].data_type == onnx.TensorProto.FLOAT
