"""Elementwise operators. ``v`` is the node's :class:`Vjp`: ``v.g`` the output's gradient, ``v.x`` and ``v.y`` its
first input and output, ``v.b`` the builder. Activations that gate like a ReLU are in ``relu.py``."""

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.quant import per_step
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import constant_of, dtype_of, input_of

# -- arithmetic; the walker undoes the broadcasting ----------------------------------------------------------------


@register("Add", "Sub", broadcasts=True)
def add(v: Vjp) -> Sequence[Gradient]:
    """Of floats, or of quantised integers, as a product of them and its bias."""
    second = v.b.op("Neg", v.g) if v.needed(1) and v.node.op_type == "Sub" else v.g
    if v.node.outputs[0].dtype in FLOATS:
        return [v.g, second]
    return [per_step(v, g, i) if v.needed(i) else None for i, g in enumerate((v.g, second))]


register("Sum", rule=lambda v: [v.g] * len(v.node.inputs), broadcasts=True)
register("Mean", rule=lambda v: [v.b.op("Div", v.g, len(v.node.inputs))] * len(v.node.inputs), broadcasts=True)


@register("Mul", broadcasts=True)
def mul(v: Vjp) -> Sequence[Gradient]:
    return [v.b.op("Mul", v.g, v.input(1 - i)) if v.needed(i) else None for i in (0, 1)]


@register("Div", broadcasts=True)
def div(v: Vjp) -> Sequence[Gradient]:
    quotient = v.b.op("Div", v.g, v.input(1))
    return [quotient, v.b.op("Neg", v.b.op("Mul", quotient, v.y)) if v.needed(1) else None]


@register("Pow", broadcasts=True)
def power(v: Vjp) -> Sequence[Gradient]:
    """d/dx x^e = e x^(e-1); d/de x^e = x^e log x. A constant exponent of 2 or 1 is spared the Pow."""
    b, base, exponent = v.b, v.x, v.input(1)
    value = constant_of(exponent)
    known = float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
    to_base: Gradient = None
    if v.needed(0):
        if known == 2:
            slope = b.op("Mul", base, 2)
        elif known == 0:
            return [b.op("Mul", v.g, 0), None]
        elif known is not None:
            slope = b.op("Mul", b.op("Pow", base, known - 1), known)
        else:
            e = b.cast_like(exponent, base)
            slope = b.op("Mul", b.op("Pow", base, b.op("Sub", e, 1)), e)
            slope = b.op("Where", b.op("Equal", e, 0), b.number(0, base), slope)  # not 0 times 1 / 0
        to_base = b.op("Mul", v.g, slope)
    to_exponent: Gradient = None
    if v.needed(1):
        zero = b.number(0, base)
        at_zero = b.op("And", b.op("Equal", base, 0), b.op("GreaterOrEqual", b.cast_like(exponent, base), 0))
        slope = b.op("Where", at_zero, zero, b.op("Mul", v.y, b.op("Log", base)))  # 0 log 0 is 0
        to_exponent = b.cast_like(b.op("Mul", v.g, slope), exponent)
    return [to_base, to_exponent]


def _extremum(v: Vjp) -> Sequence[Gradient]:
    """Min and Max: to the input that was taken; shared equally between ties, as torch does."""
    b = v.b
    if len(v.node.inputs) == 1:
        return [v.g]
    taken = [b.op("Equal", v.input(i), v.y) for i in range(len(v.node.inputs))]
    share = b.op("Div", v.g, b.op("Sum", *(b.cast_like(each, v.y) for each in taken)))
    return [b.op("Where", mask, share, _zero(v)) if v.needed(i) else None for i, mask in enumerate(taken)]


register("Min", "Max", rule=_extremum, broadcasts=True)


@register("Where", broadcasts=True)
def where(v: Vjp) -> Sequence[Gradient]:
    condition = v.input(0)
    return [
        None,
        v.b.op("Where", condition, v.g, _zero(v)) if v.needed(1) else None,
        v.b.op("Where", condition, _zero(v), v.g) if v.needed(2) else None,
    ]


@register("Mod", broadcasts=True)
def mod(v: Vjp) -> Sequence[Gradient]:
    """x - b * trunc(x / b) for fmod: slope 1 in x, -trunc(x / b) in b."""
    b = v.b
    if not v.needed(1):
        return [v.g, None]
    steps = b.op("Div", b.op("Sub", v.x, v.y), v.input(1))
    return [v.g, b.op("Neg", b.op("Mul", v.g, b.op("Round", steps)))]


@register("Range", inputs=[0, 2])
def range_(v: Vjp) -> Sequence[Gradient]:
    """start + i delta; the limit only determines their number."""
    b = v.b
    steps = b.op("Mul", v.g, b.cast_like(b.positions(v.y), v.g))
    to_start, to_delta = (b.op("ReduceSum", each, keepdims=0) for each in (v.g, steps))
    return [to_start, None, to_delta]


# -- unary: gradient times a slope --------------------------------------------------------------------------------

Slope = Callable[[Vjp], ir.Value]


def _unary(op_type: str, slope: Slope) -> None:
    register(op_type, rule=lambda v: v.b.op("Mul", v.g_broadcast, slope(v)))


def _square(v: Vjp, value: ir.Value) -> ir.Value:
    return v.b.op("Mul", value, value)


def _one_minus(v: Vjp, value: ir.Value) -> ir.Value:
    return v.b.op("Add", v.b.op("Neg", value), 1)


def _zero(v: Vjp) -> ir.Value:
    return v.b.number(0, v.y)


register("Neg", rule=lambda v: per_step(v, v.b.op("Neg", v.g), 0))
register("Identity", rule=lambda v: v.g)
register("Sqrt", rule=lambda v: v.b.op("Div", v.g, v.b.op("Mul", v.y, 2)))
register("Log", rule=lambda v: v.b.op("Div", v.g, v.x))
_unary("Exp", lambda v: v.y)
_unary("Reciprocal", lambda v: v.b.op("Neg", _square(v, v.y)))
_unary("Sigmoid", lambda v: v.b.op("Mul", v.y, _one_minus(v, v.y)))
_unary("Tanh", lambda v: _one_minus(v, _square(v, v.y)))
_unary("Erf", lambda v: v.b.op("Mul", v.b.op("Exp", v.b.op("Neg", _square(v, v.x))), 2 / math.sqrt(math.pi)))
_unary("Sin", lambda v: v.b.op("Cos", v.x))
_unary("Cos", lambda v: v.b.op("Neg", v.b.op("Sin", v.x)))
_unary("Tan", lambda v: v.b.op("Add", _square(v, v.y), 1))
_unary("Sinh", lambda v: v.b.op("Cosh", v.x))
_unary("Cosh", lambda v: v.b.op("Sinh", v.x))
_unary("Asin", lambda v: v.b.op("Reciprocal", v.b.op("Sqrt", _one_minus(v, _square(v, v.x)))))
_unary("Acos", lambda v: v.b.op("Neg", v.b.op("Reciprocal", v.b.op("Sqrt", _one_minus(v, _square(v, v.x))))))
_unary("Atan", lambda v: v.b.op("Reciprocal", v.b.op("Add", _square(v, v.x), 1)))
_unary("Asinh", lambda v: v.b.op("Reciprocal", v.b.op("Sqrt", v.b.op("Add", _square(v, v.x), 1))))
_unary("Acosh", lambda v: v.b.op("Reciprocal", v.b.op("Sqrt", v.b.op("Sub", _square(v, v.x), 1))))
_unary("Atanh", lambda v: v.b.op("Reciprocal", _one_minus(v, _square(v, v.x))))
_unary("Softplus", lambda v: v.b.op("Sigmoid", v.x))
_unary("Softsign", lambda v: v.b.op("Reciprocal", _square(v, v.b.op("Add", v.b.op("Abs", v.x), 1))))


@register("Abs")
def absolute(v: Vjp) -> ir.Value:
    """0 at 0, also in front of a square root there: torch's exporter takes the epsilon out of sqrt(|x| + 1e-12)."""
    slope = v.b.op("Mul", v.g_broadcast, v.b.op("Sign", v.x))
    return v.b.op("Where", v.b.op("Equal", v.x, 0), _zero(v), slope) if v.singular else slope


@register("HardSigmoid")
def hard_sigmoid(v: Vjp) -> ir.Value:
    """max(0, min(1, alpha x + beta)): slope alpha strictly between the bounds."""
    b = v.b
    inside = b.op("And", b.op("Greater", v.y, 0), b.op("Less", v.y, 1))
    return b.op("Where", inside, b.op("Mul", v.g, v.float_attr("alpha", 0.2)), _zero(v))


@register("Cast", "CastLike", inputs=[0])
def cast(v: Vjp) -> Sequence[Gradient]:
    """Back to the input's type; float32 where that is a type of quantised tensors and images."""
    source, to = input_of(v.node, 0), v.node.outputs[0].dtype
    if source.dtype not in FLOATS:
        g = v.b.op("Cast", v.g, to=int(ir.DataType.FLOAT)) if to in FLOATS - {ir.DataType.FLOAT} else v.g
        return [per_step(v, g, 0)]
    return [v.b.op("Cast", v.g, to=int(dtype_of(source)))]


@register("Dropout", inputs=[0])
def dropout(v: Vjp) -> Sequence[Gradient]:
    """The identity, as at inference; in training mode the gradient would need the mask that was drawn."""
    training = constant_of(v.optional(2))
    if v.optional(2) is not None and (training is None or bool(training)):
        raise v.unsupported("it is in training mode; export the model in evaluation mode")
    return [v.g]
