# SPDX-License-Identifier: Apache-2.0

"""Functions of each element alone."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from rule_cases.case import (
    NONE,
    Case,
    at,
    away_from,
    const,
    elementwise,
    inside_one,
    late,
    normal,
    positive,
    spaced,
    uniform,
    x,
)

F = torch.nn.functional
CASES: list[Case] = []
add = CASES.append

for op, function, draw in [
    ("Neg", torch.neg, normal),
    ("Identity", lambda t: t.clone(), normal),
    ("Sqrt", torch.sqrt, positive),
    ("Log", torch.log, positive),
    ("Exp", torch.exp, normal),
    ("Abs", torch.abs, spaced),
    ("Reciprocal", torch.reciprocal, positive),
    ("Sigmoid", torch.sigmoid, normal),
    ("Tanh", torch.tanh, normal),
    ("Erf", torch.erf, normal),
    ("Sin", torch.sin, normal),
    ("Cos", torch.cos, normal),
    ("Tan", torch.tan, inside_one),
    ("Sinh", torch.sinh, normal),
    ("Cosh", torch.cosh, normal),
    ("Asin", torch.asin, inside_one),
    ("Acos", torch.acos, inside_one),
    ("Atan", torch.atan, normal),
    ("Asinh", torch.asinh, normal),
    ("Acosh", torch.acosh, uniform(1.3, 3.0)),
    ("Atanh", torch.atanh, inside_one),
    ("Softplus", F.softplus, normal),
    ("Softsign", F.softsign, spaced),
    ("Relu", F.relu, spaced),
    ("LeakyRelu", F.leaky_relu, spaced),
    ("Mish", F.mish, normal),
    ("Selu", F.selu, spaced),
    ("Elu", F.elu, spaced),
    ("Celu", F.celu, spaced),
    ("HardSwish", F.hardswish, away_from(-3, 3)),
    ("Gelu", F.gelu, normal),
]:
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
    Case(
        "HardSigmoid",
        [at([-3.0, 0.0, 3.0])],
        {"alpha": 0.5, "beta": 0.5},
        lambda t: F.hardtanh(0.5 * t + 0.5, 0, 1),
        fd=False,
        note="at the bounds",
    ),
    elementwise("Gelu", lambda t: F.gelu(t, approximate="tanh"), normal, approximate="tanh"),
    Case("Gelu", [at([-40.0, -5.0, 0.0, 5.0, 40.0])], {}, F.gelu, fd=False, note="large"),
    Case(
        "Softplus",
        [at([-90.0, -5.0, 0.0, 5.0, 90.0])],
        {},
        lambda t: F.softplus(t, threshold=1e4),
        fd=False,
        note="large",
    ),
    Case("Cast", [x(2, 3)], {"to": onnx.TensorProto.FLOAT}, lambda t: t.clone(), linear=[0]),
    Case("Cast", [x(2, 3)], {"to": onnx.TensorProto.DOUBLE}, lambda t: t.clone(), linear=[0]),
    Case("CastLike", [x(2, 3), const([1.0], np.float64)], {}, lambda t, like: t.clone(), linear=[0]),
    Case("Dropout", [x(2, 3)], {}, lambda t: t.clone(), linear=[0]),
    Case(
        "Dropout", [x(2, 3), const(0.5, np.float32), const(False, np.bool_)], {}, lambda t, r, m: t.clone(), linear=[0]
    ),
    Case(
        "Clip",
        [x(2, 9, draw=away_from(0, 6)), const(0, np.float32), const(6, np.float32)],
        {},
        lambda t, a, b: F.relu6(t),
    ),
    Case(
        "Clip",
        [at([-1.0, 0.0, 1e-20, 3.0, 5.9999995, 6.0, 7.0, 1e30]), const(0, np.float32), const(6, np.float32)],
        {},
        lambda t, a, b: F.relu6(t),
        fd=False,
        note="at 0 and 6",
    ),
    Case("Clip", [at([-1.0, 0.0, 2.0]), const(0, np.float32)], {}, lambda t, a: F.relu(t), fd=False, note="min 0"),
    Case(
        "Clip",
        [at([-2.0, -1.0, 0.0, 2.0]), const(-1, np.float32)],
        {},
        lambda t, a: t.clamp(min=-1),
        fd=False,
        note="min only",
    ),
    Case(
        "Clip",
        [at([-2.0, -1.0, 1.5, 2.0]), NONE, const(1.5, np.float32)],
        {},
        lambda t, _, b: t.clamp(max=1.5),
        fd=False,
        note="max only",
    ),
    Case(
        "Clip",
        [at([-2.0, -1.0, 0.3, 1.5, 2.0]), const(-1, np.float32), const(1.5, np.float32)],
        {},
        lambda t, a, b: t.clamp(-1, 1.5),
        fd=False,
        note="bounds inclusive",
    ),
    Case("Clip", [x(3, 4)], {}, lambda t: t.clone(), note="no bounds"),
    Case(
        "Clip",
        [x(3, 4, draw=away_from(-1, 1)), late(-1, np.float32), late(1, np.float32)],
        {},
        lambda t, a, b: t.clamp(-1, 1),
        note="bounds at run time",
    ),
]
