"""Activations that gate like a ReLU, with the rules for guided backpropagation and the deconvnet.

For a ReLU y = max(x, 0) and the gradient g that arrives at y, the gradient that leaves at x is

=============  =================  =================================================
standard       g * (y > 0)        the derivative
guided         relu(g) * (y > 0)  Springenberg et al. 2015, arXiv 1412.6806
deconvnet      relu(g)            Zeiler and Fergus 2014, arXiv 1311.2901
=============  =================  =================================================

Every mask is read from the output y, not from the input x: ONNX Runtime can then keep the convolution and its
activation fused in the forward pass.

Masks in float32 are a HardSigmoid with a slope so steep that it is 0 or 1 for every normal number: two float
operators instead of Greater, Cast and Mul, and the tensor keeps ONNX Runtime's blocked layout on the CPU (ResNet-50,
forward and input gradient: 56 ms against 67 with Greater and Where). In other precisions the slope would overflow;
and where the gradient may be infinite, as in front of a square root, a product with 0 would be NaN.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.quantized_ranges import clip_bounds
from portable_cam.export.autodiff.registry import Gradient, Vjp, register

_STEEP = 2.0**126  # times the smallest normal float32 (2 ** -126) is 1
# Where y is 0, what is below 0 is 0; 1 loses it in rounding. Not 0, which OpenVINO takes for an attribute that is not
# given, and for which it then has the default of 0.5 (docs/runtimes.md).
_BELOW_ZERO = -(2.0**-100)
_STEEP_AT_BOUND = 2.0**100  # a power of two: bound * slope is exact, so that the mask is exactly 0 at the bound
#: A HardSigmoid steeper than this is a mask of a rule here.
STEEPEST_MODEL_SLOPE = 2.0**64


def gate(v: Vjp, rule: str) -> ir.Value:
    """The gradient through a ReLU, by one of the three rules."""
    b = v.b
    if rule == "deconvnet":
        return b.op("Relu", v.g)
    # the order matters to speed alone: the Relu fuses into the convolution that made the gradient
    g = b.op("Relu", v.g_broadcast) if rule == "guided" else v.g_broadcast
    masked = pass_where_positive(v, v.y, g)
    return masked if v.g_broadcast is v.g else b.enter_blocked_layout(masked, v.y)


def pass_where_positive(v: Vjp, y: ir.Value, g: ir.Value) -> ir.Value:
    """``g`` where y > 0, else 0."""
    b = v.b
    if y.dtype == ir.DataType.FLOAT and not v.singular:
        return b.op("Mul", b.op("HardSigmoid", y, alpha=_STEEP, beta=_BELOW_ZERO), g)
    return b.op("Where", b.op("Greater", y, 0), g, b.number(0, y))


def pass_below(v: Vjp, y: ir.Value, upper: float, g: ir.Value) -> ir.Value:
    """``g`` where y < upper, else 0."""
    b = v.b
    if y.dtype == ir.DataType.FLOAT and not v.singular and 0 < abs(upper) < 2.0**26:  # a beta of 0: see above
        below = b.op("HardSigmoid", y, alpha=-_STEEP_AT_BOUND, beta=upper * _STEEP_AT_BOUND)
        return b.op("Mul", below, g)
    return b.op("Where", b.op("Less", y, upper), g, b.number(0, y))


#: Operators whose rule itself applies guided backpropagation and the deconvnet; for others the walk rectifies the
#: gradient.
OWN_RELU_RULES = frozenset({"Relu", "Clip", "QuantizeLinear"})

register("Relu", rule=lambda v: gate(v, v.relu_rule))


@register("Clip")
def clip(v: Vjp) -> Sequence[Gradient]:
    """1 inside the bounds. With a minimum of 0 (ReLU6 and its like) the bounds themselves count as outside, as for
    ReLU and for torch's hardtanh; otherwise as inside, as for torch.clamp."""
    b = v.b
    bounds = clip_bounds(v.node)
    if v.needed(1) or v.needed(2):
        raise v.unsupported("its bounds depend on the tensor to differentiate for")
    if v.relu_rule == "deconvnet":
        return [b.op("Relu", v.g)]
    if bounds is not None and bounds[0] == 0:
        gradient = _clip_from_zero(v, bounds[1])
    else:
        inside = [
            b.op(compare, v.x, bound)
            for compare, bound in (("GreaterOrEqual", v.optional(1)), ("LessOrEqual", v.optional(2)))
            if bound is not None
        ]
        if not inside:
            return [v.g]
        mask = inside[0] if len(inside) == 1 else b.op("And", *inside)
        gradient = b.op("Where", mask, v.g, b.number(0, v.y))
    return [b.op("Relu", gradient) if v.relu_rule == "guided" else gradient]


def _clip_from_zero(v: Vjp, upper: float) -> ir.Value:
    gradient = pass_where_positive(v, v.y, v.g_broadcast)
    if upper == math.inf or upper >= np.finfo(np.float32).max:
        return gradient
    return pass_below(v, v.y, v.residuals.rounded(v.node.outputs[0], upper), gradient)


# -- leaky and smooth relatives ------------------------------------------------------------------------------------


@register("LeakyRelu")
def leaky_relu(v: Vjp) -> ir.Value:
    """Slope alpha where x < 0; alpha >= 0 makes the sign of y that of x."""
    alpha, g = v.float_attr("alpha", 0.01), v.g
    side = v.y if alpha > 0 else v.x
    return v.b.op("Where", v.b.op("Greater", side, 0), g, v.b.op("Mul", g, alpha))


@register("PRelu", broadcasts=True)
def prelu(v: Vjp) -> Sequence[Gradient]:
    b, g, slope = v.b, v.g, v.input(1)
    positive = b.op("Greater", v.x, 0)
    to_slope = b.op("Where", positive, b.number(0, v.x), b.op("Mul", g, v.x)) if v.needed(1) else None
    return [b.op("Where", positive, g, b.op("Mul", g, slope)), to_slope]


@register("ThresholdedRelu")
def thresholded_relu(v: Vjp) -> ir.Value:
    above = v.b.op("Greater", v.x, v.float_attr("alpha", 1.0))
    return v.b.op("Where", above, v.g, v.b.number(0, v.x))


@register("Elu", "Celu", "Selu")
def elu(v: Vjp) -> ir.Value:
    """scale * (x where x > 0, else alpha (exp(x / width) - 1))."""
    kind = v.node.op_type
    alpha = v.float_attr("alpha", 1.67326319217681884765625 if kind == "Selu" else 1.0)
    scale = v.float_attr("gamma", 1.05070102214813232421875) if kind == "Selu" else 1.0
    width = alpha if kind == "Celu" else 1.0
    b, g = v.b, v.g
    exponent = v.x if width == 1 else b.op("Div", v.x, width)
    # min(x, 0): the branch that is not taken must not overflow to infinity, for infinity times zero is NaN
    falling = b.op("Mul", b.op("Exp", b.op("Min", exponent, 0)), scale * alpha / width)
    rising = g if scale == 1 else b.op("Mul", g, scale)
    return b.op("Where", b.op("Greater", v.x, 0), rising, b.op("Mul", g, falling))


@register("Gelu")
def gelu(v: Vjp) -> ir.Value:
    """x Phi(x): slope Phi(x) + x phi(x); in the tanh form u = sqrt(2/pi) (x + 0.044715 x^3)."""
    b, x, g = v.b, v.x, v.g
    square = b.op("Mul", x, x)
    if v.str_attr("approximate", "none") == "none":
        cumulative = b.op("Mul", b.op("Add", b.op("Erf", b.op("Div", x, math.sqrt(2))), 1), 0.5)
        density = b.op("Mul", b.op("Exp", b.op("Mul", square, -0.5)), 1 / math.sqrt(2 * math.pi))
    else:
        c = math.sqrt(2 / math.pi)
        t = b.op("Tanh", b.op("Mul", b.op("Mul", x, b.op("Add", b.op("Mul", square, 0.044715), 1)), c))
        cumulative = b.op("Mul", b.op("Add", t, 1), 0.5)
        du = b.op("Add", b.op("Mul", square, 3 * 0.044715 * c), c)
        density = b.op("Mul", b.op("Mul", b.op("Sub", b.number(1, v.x), b.op("Mul", t, t)), du), 0.5)
    return b.op("Mul", g, b.op("Add", cumulative, b.op("Mul", x, density)))


@register("HardSwish")
def hard_swish(v: Vjp) -> ir.Value:
    """x * clip(x / 6 + 1/2, 0, 1): slope 0 below -3, 1 above 3, x / 3 + 1/2 between."""
    b, x, g = v.b, v.x, v.g
    between = b.op("Mul", g, b.op("Add", b.op("Div", x, 3), 0.5))
    zero = b.number(0, v.x)
    return b.op("Where", b.op("GreaterOrEqual", x, 3), g, b.op("Where", b.op("Greater", x, -3), between, zero))


@register("Mish")
def mish(v: Vjp) -> ir.Value:
    """x tanh(softplus(x)): slope t + x (1 - t^2) sigmoid(x)."""
    b, x, g = v.b, v.x, v.g
    t = b.op("Tanh", b.op("Softplus", x))
    tail = b.op("Mul", b.op("Sub", b.number(1, v.x), b.op("Mul", t, t)), b.op("Sigmoid", x))
    return b.op("Mul", g, b.op("Add", t, b.op("Mul", x, tail)))


@register("Shrink")
def shrink(v: Vjp) -> ir.Value:
    """0 between -lambd and lambd, slope 1 outside."""
    b, bound = v.b, v.float_attr("lambd", 0.5)
    return b.op("Where", b.op("Greater", b.op("Abs", v.x), bound), v.g, b.number(0, v.x))
