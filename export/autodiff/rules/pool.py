"""Pooling."""

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Vjp, register
from portable_cam.export.autodiff.rules.scatter import add_at
from portable_cam.export.autodiff.rules.separable import apply_adjoint
from portable_cam.export.graph.values import element_count, known_dims, rank_of


@register("MaxPool")
def max_pool(v: Vjp) -> ir.Value:
    """To the element that was the maximum; the first one in a window of equals, as in torch.

    A second MaxPool gives the indices of the maxima: if the forward one gave them, it would lose the blocked layout of
    the whole forward pass. ONNX's indices count through the flattened tensor, batch and channels included.
    """
    b = v.b
    attributes = {
        name: v.ints_attr(name, [])
        for name in ("kernel_shape", "strides", "pads", "dilations")
        if name in v.node.attributes
    }
    _, indices = b.op_multi(
        "MaxPool",
        [v.x],
        2,
        **attributes,
        ceil_mode=v.int_attr("ceil_mode", 0),
        auto_pad=v.str_attr("auto_pad", "NOTSET"),
    )
    indices.dtype = ir.DataType.INT64
    return add_at(v, indices, v.g)


@register("AveragePool")
def average_pool(v: Vjp) -> ir.Value:
    """Linear, and separable with its divisor: the number of elements counted is a product over the axes."""
    return _averaging_adjoint(v, v.g, v.int_attr("count_include_pad", 0))


def _averaging_adjoint(v: Vjp, gradient: ir.Value, count_include_pad: int = 0, *, summing: bool = False) -> ir.Value:
    """The adjoint of averaging (or summing) over the node's windows. The sum of an identity matrix, which has nothing
    negative, is its 1-norm: LpPool has no divisor, whatever windows reach beyond the border."""
    b, spatial = v.b, rank_of(v.x) - 2
    kernel, ones = v.ints_attr("kernel_shape", []), [1] * spatial
    strides, dilations = v.ints_attr("strides", ones), v.ints_attr("dilations", ones)
    pads = v.ints_attr("pads", [0] * 2 * spatial)
    auto_pad = v.str_attr("auto_pad", "NOTSET")
    for i in range(spatial):
        if kernel[i] == 1 and strides[i] == 1 and pads[i] == pads[spatial + i] == 0:
            continue

        def pool(identity: ir.Value, i: int = i) -> ir.Value:
            # (n, n) -> (n, 1, n, 1) -> (n, 1, m, 1) -> (n, m)
            column = b.op("Unsqueeze", identity, b.ints([1, 3]))
            padding = {"pads": [pads[i], 0, pads[spatial + i], 0]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
            counting = {"p": 1} if summing else {"count_include_pad": count_include_pad}
            pooled = b.op(
                "LpPool" if summing else "AveragePool",
                column,
                kernel_shape=[kernel[i], 1],
                strides=[strides[i], 1],
                dilations=[dilations[i], 1],
                ceil_mode=v.int_attr("ceil_mode", 0),
                **counting,
                **padding,
            )
            return b.op("Squeeze", pooled, b.ints([1, 3]))

        gradient = apply_adjoint(v, gradient, 2 + i, pool)
    return gradient


@register("GlobalAveragePool")
def global_average_pool(v: Vjp) -> ir.Value:
    b, dims = v.b, known_dims(v.x)
    count = None if dims is None else element_count(dims[2:])
    if count is not None:
        scaled = b.op("Div", v.g, count)
    else:
        scaled = b.op("Div", v.g, b.cast_like(b.op("ReduceProd", b.op("Shape", v.x, start=2), keepdims=0), v.x))
    return b.spread(scaled, v.x)


@register("GlobalMaxPool")
def global_max_pool(v: Vjp) -> ir.Value:
    """To the first maximum of each channel."""
    b = v.b
    flat = b.op("Reshape", v.x, b.ints([0, 0, -1]))
    first = b.op("ArgMax", flat, axis=2, keepdims=1)
    length = b.op("Squeeze", b.op("Shape", flat, start=2), b.ints([0]))
    positions = b.op("Range", b.ints(0), length, b.ints(1))
    g = b.op("Reshape", v.g, b.ints([0, 0, 1]))
    chosen = b.op("Where", b.op("Equal", positions, first), g, b.number(0, v.x))
    return b.reshape_like(chosen, v.x)


@register("LpPool", "GlobalLpPool")
def lp_pool(v: Vjp) -> ir.Value:
    """y = (sum |x|^p)^(1/p): slope sign(x) |x|^(p-1) / y^(p-1)."""
    b, p = v.b, v.int_attr("p", 2)
    powers = b.op("Mul", b.op("Sign", v.x), b.op("Pow", b.op("Abs", v.x), p - 1)) if p != 2 else v.x
    norm = b.op("Pow", v.y, p - 1) if p != 2 else v.y
    zero = b.number(0, v.y)
    scaled = b.op("Where", b.op("Equal", norm, zero), zero, b.op("Div", v.g, norm))
    if v.node.op_type == "GlobalLpPool":
        return b.op("Mul", powers, scaled)
    return b.op("Mul", powers, _averaging_adjoint(v, scaled, summing=True))
