"""The activation functions of LSTM, GRU and RNN with their slopes, by the names in the operators' attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Vjp
from portable_cam.export.graph.builder import Builder

#: (builder, x, alpha, beta) -> y
_Value: TypeAlias = Callable[[Builder, ir.Value, float, float], ir.Value]
#: (builder, x, y, alpha, beta) -> dy/dx
_Slope: TypeAlias = Callable[[Builder, ir.Value, ir.Value, float, float], ir.Value]


@dataclass(frozen=True)
class _Function:
    """A function and its slope; ``defaults`` are those of ONNX Runtime for the parameters that it takes, alpha and
    beta."""

    value: _Value
    slope: _Slope
    defaults: tuple[float, ...] = ()


def _where(b: Builder, condition: ir.Value, like: ir.Value) -> ir.Value:
    """1 where the condition holds, else 0, in the type of ``like``."""
    return b.cast_like(condition, like)


def _constant(b: Builder, x: ir.Value, number: float) -> ir.Value:
    return b.expand_like(b.number(number, x), x)


def _one_minus_square(b: Builder, y: ir.Value) -> ir.Value:
    return b.op("Sub", b.number(1, y), b.op("Mul", y, y))


_FUNCTIONS = {
    "relu": _Function(
        lambda b, x, alpha, beta: b.op("Relu", x),
        lambda b, x, y, alpha, beta: _where(b, b.op("Greater", y, 0), y),
    ),
    "tanh": _Function(
        lambda b, x, alpha, beta: b.op("Tanh", x),
        lambda b, x, y, alpha, beta: _one_minus_square(b, y),
    ),
    "sigmoid": _Function(
        lambda b, x, alpha, beta: b.op("Sigmoid", x),
        lambda b, x, y, alpha, beta: b.op("Sub", y, b.op("Mul", y, y)),
    ),
    "affine": _Function(
        lambda b, x, alpha, beta: b.op("Add", b.op("Mul", x, alpha), beta),
        lambda b, x, y, alpha, beta: _constant(b, x, alpha),
        (0.0, 0.0),
    ),
    "leakyrelu": _Function(
        lambda b, x, alpha, beta: b.op("LeakyRelu", x, alpha=alpha),
        lambda b, x, y, alpha, beta: b.op("Add", b.op("Mul", _where(b, b.op("Greater", x, 0), x), 1 - alpha), alpha),
        (0.01,),
    ),
    "thresholdedrelu": _Function(
        lambda b, x, alpha, beta: b.op("Mul", x, _where(b, b.op("Greater", x, alpha), x)),
        lambda b, x, y, alpha, beta: _where(b, b.op("Greater", x, alpha), x),
        (0.0,),
    ),
    "scaledtanh": _Function(
        lambda b, x, alpha, beta: b.op("Mul", b.op("Tanh", b.op("Mul", x, beta)), alpha),
        lambda b, x, y, alpha, beta: b.op(
            "Mul", _one_minus_square(b, b.op("Tanh", b.op("Mul", x, beta))), alpha * beta
        ),
        (0.0, 0.0),
    ),
    "hardsigmoid": _Function(
        lambda b, x, alpha, beta: b.op("HardSigmoid", x, alpha=alpha, beta=beta),
        lambda b, x, y, alpha, beta: b.op(
            "Mul", _where(b, b.op("And", b.op("Greater", y, 0), b.op("Less", y, 1)), y), alpha
        ),
        (0.2, 0.5),
    ),
    "elu": _Function(
        lambda b, x, alpha, beta: b.op("Elu", x, alpha=alpha),
        lambda b, x, y, alpha, beta: b.op(
            "Where", b.op("Greater", x, 0), _constant(b, x, 1), b.op("Add", y, alpha)
        ),
        (1.0,),
    ),
    "softsign": _Function(
        lambda b, x, alpha, beta: b.op("Softsign", x),
        lambda b, x, y, alpha, beta: b.op(
            "Reciprocal", b.op("Mul", b.op("Add", b.op("Abs", x), 1), b.op("Add", b.op("Abs", x), 1))
        ),
    ),
    "softplus": _Function(
        lambda b, x, alpha, beta: b.op("Softplus", x),
        lambda b, x, y, alpha, beta: b.op("Sigmoid", x),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Activation:
    """One activation function of a node, with its parameters; ``clip`` bounds its input, None for no bound."""

    function: _Function
    alpha: float
    beta: float
    clip: float | None

    def __call__(self, b: Builder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The value and the slope at ``x``, each in its shape."""
        inside = self._clipped(b, x)
        y = self.function.value(b, inside, self.alpha, self.beta)
        slope = self.function.slope(b, inside, y, self.alpha, self.beta)
        if self.clip is not None:
            slope = b.op("Mul", slope, _where(b, b.op("LessOrEqual", b.op("Abs", x), self.clip), x))
        return y, slope

    def value(self, b: Builder, x: ir.Value) -> ir.Value:
        return self.function.value(b, self._clipped(b, x), self.alpha, self.beta)

    def _clipped(self, b: Builder, x: ir.Value) -> ir.Value:
        if self.clip is None:
            return x
        return b.op("Clip", x, b.number(-self.clip, x), b.number(self.clip, x))


def activation_functions(v: Vjp, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """The activation functions of a node, for each direction those that ``defaults`` names by default."""
    names = [str(name) for name in v.node.attributes.get_strings("activations", [])] or [*defaults] * directions
    if len(names) != len(defaults) * directions:
        raise v.unsupported(
            f"it names {len(names)} activation functions, {len(defaults)} for each of {directions} directions expected"
        )
    given = [list(v.node.attributes.get_floats(f"activation_{name}", [])) for name in ("alpha", "beta")]
    clip = float(v.node.attributes.get_float("clip", 0.0)) or None
    found = []
    for name in names:
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            raise v.unsupported(f"its activation function {name} is not one of {', '.join(sorted(_FUNCTIONS))}")
        # each function takes the next number, if it takes one at all
        alpha, beta = (
            numbers.pop(0) if numbers and i < len(function.defaults) else (*function.defaults, 0.0, 0.0)[i]
            for i, numbers in enumerate(given)
        )
        found.append(Activation(function, float(alpha), float(beta), clip))
    return [found[i : i + len(defaults)] for i in range(0, len(found), len(defaults))]
