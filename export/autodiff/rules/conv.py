"""Convolutions of any rank. The gradient of a convolution with respect to its input is a transposed convolution, the
gradient with respect to its weights a convolution of input and output gradient (Dumoulin and Visin 2016,
arXiv 1603.07285)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.builder import Attribute
from portable_cam.export.graph.values import known_dims, rank_of, static_dim


@dataclass(frozen=True)
class Window:
    """The attributes of a convolution or pooling, one entry per spatial axis. ``begin`` and ``end`` are the pads;
    None where they depend on a size that is known only at run time (auto_pad SAME)."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int] | None
    end: list[int] | None
    group: int

    @property
    def reach(self) -> list[int]:
        """How many elements the dilated kernel spans."""
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def pads(self) -> list[int]:
        """Those at the beginning of each axis, then those at the end; none where they are not known."""
        return [*(self.begin or ()), *(self.end or ())]


def read_window(v: Vjp, weight: ir.Value) -> Window:
    """The window of a Conv node with ``auto_pad`` resolved where the sizes are known."""
    spatial = rank_of(v.x) - 2
    dims = known_dims(weight)
    kernel = v.ints_attr("kernel_shape", [])
    if not kernel:
        if dims is None or None in dims[2:]:
            raise v.unsupported("its kernel's size is known only at run time")
        kernel = [d for d in dims[2:] if d is not None]
    ones = [1] * spatial
    strides, dilations = v.ints_attr("strides", ones), v.ints_attr("dilations", ones)
    pads = v.ints_attr("pads", [0] * 2 * spatial)
    begin: list[int] | None = pads[:spatial]
    end: list[int] | None = pads[spatial:]
    auto_pad = v.str_attr("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        begin = end = [0] * spatial
    elif auto_pad.startswith("SAME"):
        if v.node.op_type == "Conv":
            _refuse_wide_steps(v, kernel, strides, dilations)
        begin, end = _same_pads(known_dims(v.x), kernel, strides, dilations, upper=auto_pad == "SAME_UPPER")
    return Window(kernel, strides, dilations, begin, end, v.int_attr("group", 1))


def _refuse_wide_steps(v: Vjp, kernel: list[int], strides: list[int], dilations: list[int]) -> None:
    """Under auto_pad SAME the windows may end 3 or more elements before the border, where the stride steps over so
    many. The standard leaves this open; ONNX Runtime begins with the second element."""
    dims = known_dims(v.x)
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = None if dims is None else dims[axis + 2]
        span = d * (k - 1) + 1
        left_over = s - span if size is None else size - (-(-size // s) - 1) * s - span
        if left_over > 2:
            raise v.unsupported(f"auto_pad SAME with a stride of {s} over a kernel of {span}: give it explicit pads")


def _same_pads(
    dims: list[int | None] | None, kernel: list[int], strides: list[int], dilations: list[int], *, upper: bool
) -> tuple[list[int] | None, list[int] | None]:
    """Pads for which the output has ceil(size / stride) elements, an odd one at the end if ``upper``. At stride 1
    they do not depend on the size."""
    begin, end = [], []
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = None if dims is None else dims[axis + 2]
        if size is None and s > 1:
            return None, None
        total = d * (k - 1) if size is None else max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        begin.append(total // 2 if upper else total - total // 2)
        end.append(total - begin[-1])
    return begin, end


@register("Conv")
def conv(v: Vjp) -> Sequence[Gradient]:
    b, weight = v.b, v.input(1)
    window = read_window(v, weight)
    to_bias: Gradient = None
    if v.needed(2):
        to_bias = b.op("ReduceSum", v.g, b.ints([0, *range(2, rank_of(v.x))]), keepdims=0)
    return [
        transposed_conv(v, v.g, weight, window) if v.needed(0) else None,
        _weight_gradient(v, v.x, v.g, window) if v.needed(1) else None,
        to_bias,
    ]


def transposed_conv(v: Vjp, g: ir.Value, weight: ir.Value, window: Window) -> ir.Value:
    """The adjoint of the convolution that made ``g``'s shape from the shape of ``v.x``."""
    b, dims, spatial = v.b, known_dims(v.x), len(window.kernel)
    attributes: dict[str, Attribute] = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "dilations": window.dilations,
        "group": window.group,
    }
    if window.begin is None or window.end is None:
        return _crop_same(v, b.op("ConvTranspose", g, weight, **attributes), window)
    if all(s == 1 for s in window.strides):
        # A convolution with the flipped kernel: 1.5 to 1.8 times as fast as ConvTranspose on the CPU, 4.6 times if
        # depthwise. Its pads would be negative where the forward pads reach beyond the kernel.
        before = [r - 1 - p for r, p in zip(window.reach, window.begin, strict=True)]
        after = [r - 1 - p for r, p in zip(window.reach, window.end, strict=True)]
        if min([*before, *after], default=0) >= 0:
            return b.op("Conv", g, _flipped(v, weight, window), pads=[*before, *after], **attributes)
    sizes = None if dims is None or None in dims[2:] else [d for d in dims[2:] if d is not None]
    if sizes is None:
        # as many elements as any size could need, then cut to the true one
        out = b.op(
            "ConvTranspose", g, weight, pads=window.pads, output_padding=[s - 1 for s in window.strides], **attributes
        )
        axes = b.ints(range(2, 2 + spatial))
        return b.op("Slice", out, b.ints([0] * spatial), b.op("Shape", v.x, start=2), axes)
    rest = [
        (size + p + q - r) % s
        for size, p, q, r, s in zip(sizes, window.begin, window.end, window.reach, window.strides, strict=True)
    ]
    if (depthwise := _depthwise_transposed(v, g, weight, window, rest)) is not None:
        return depthwise
    padding: dict[str, Attribute] = {"output_padding": rest} if any(rest) else {}
    return b.enter_blocked_layout(b.op("ConvTranspose", g, weight, pads=window.pads, **padding, **attributes), v.x)


def _crop_same(v: Vjp, full: ir.Value, window: Window) -> ir.Value:
    """Cut the unpadded transposed convolution to the input's size, where auto_pad SAME depends on that size."""
    b, spatial = v.b, len(window.kernel)
    size = b.op("Shape", v.x, start=2)
    strides = b.ints(window.strides)
    out = b.op("Div", b.op("Sub", b.op("Add", size, strides), b.ints([1] * spatial)), strides)
    span = b.op("Add", b.op("Mul", b.op("Sub", out, b.ints([1] * spatial)), strides), b.ints(window.reach))
    total = b.op("Max", b.op("Sub", span, size), b.ints([0] * spatial))
    half = b.op("Div", total, b.ints([2] * spatial))
    begin = half if v.str_attr("auto_pad", "") == "SAME_UPPER" else b.op("Sub", total, half)
    # where the stride steps over the last elements, no gradient reaches them: pad with zeros before cutting
    beyond = b.op("Max", b.op("Sub", size, span), b.ints([0] * spatial))
    pads = b.op("Concat", b.ints([0] * (spatial + 2)), b.ints([0, 0]), beyond, axis=0)
    padded = b.op("Pad", full, pads)
    return b.op("Slice", padded, begin, b.op("Add", begin, size), b.ints(range(2, 2 + spatial)))


def _depthwise_transposed(v: Vjp, g: ir.Value, weight: ir.Value, window: Window, rest: list[int]) -> ir.Value | None:
    """Zeros between the elements of ``g``, then the flipped kernel at stride 1; None if the convolution is not
    depthwise and two-dimensional. ONNX Runtime's CPU provider runs a depthwise ConvTranspose as a matrix product per
    channel; this takes 30 to 65 % of its time (``docs/adr/0004-masks-and-layouts.md``)."""
    b, out = v.b, known_dims(v.y)
    depthwise = window.group > 1 and window.group == static_dim(weight, 0) and static_dim(weight, 1) == 1
    if not depthwise or len(window.kernel) != 2 or out is None or g.dtype != ir.DataType.FLOAT:
        return None
    before = [r - 1 - p for r, p in zip(window.reach, window.begin or (), strict=True)]
    after = [  # the last element, too, is followed by stride - 1 zeros
        r - 1 - p - (s - 1 - left)
        for r, p, s, left in zip(window.reach, window.end or (), window.strides, rest, strict=True)
    ]
    if min([*before, *after]) < 0:
        return None
    scales = b.constant(np.asarray([1, 1, *window.strides]), ir.DataType.FLOAT)
    spread = b.op(
        "Resize", g, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    rows, columns = (
        b.constant((np.arange((size or 0) * s) % s == 0).reshape(shape), ir.DataType.FLOAT)
        for size, s, shape in zip(out[2:], window.strides, ((-1, 1), (1, -1)), strict=True)
    )
    return b.op(
        "Conv",
        b.op("Mul", spread, b.op("Mul", rows, columns)),
        _flipped(v, weight, window),
        group=window.group,
        kernel_shape=window.kernel,
        dilations=window.dilations,
        pads=[*before, *after],
    )


def _flipped(v: Vjp, weight: ir.Value, window: Window) -> ir.Value:
    """(M, C/g, *k) -> (C, M/g, *k), reversed along the kernel: a constant subgraph over the model's own initialiser,
    computed once when the session loads, so that the file stores the weights only once."""
    b, spatial, group = v.b, len(window.kernel), window.group
    if group > 1:
        filters, per_group = static_dim(weight, 0), static_dim(weight, 1)
        if filters is None or per_group is None:
            raise v.unsupported("its grouped weights have a size known only at run time")
        weight = b.reshape(weight, [group, filters // group, per_group, *window.kernel])
        weight = b.op("Transpose", weight, perm=[0, 2, 1, *range(3, 3 + spatial)])
        weight = b.reshape(weight, [group * per_group, filters // group, *window.kernel])
    else:
        weight = b.op("Transpose", weight, perm=[1, 0, *range(2, 2 + spatial)])
    axes = [2 + i for i, k in enumerate(window.kernel) if k > 1]
    if axes:
        n = len(axes)
        weight = b.op("Slice", weight, b.ints([-1] * n), b.ints([-(2**62)] * n), b.ints(axes), b.ints([-1] * n))
    return weight


def _weight_gradient(v: Vjp, x: ir.Value, g: ir.Value, window: Window) -> ir.Value:
    """x (N, group * C, *size), g (N, group * M, *out) -> (group * M, C, *kernel): a convolution over the batch, with
    stride and dilation exchanged."""
    b, group, spatial = v.b, window.group, len(window.kernel)
    if window.begin is None:
        raise v.unsupported("auto_pad SAME on a size known only at run time, with respect to the weights")
    channels, filters = static_dim(x, 1), static_dim(g, 1)
    if channels is None or filters is None:
        raise v.unsupported("its number of channels is known only at run time")
    kernel_axes = list(range(3, 3 + spatial))

    def groups_first(value: ir.Value, count: int, perm: list[int]) -> ir.Value:
        split = b.op(
            "Reshape",
            value,
            b.op("Concat", b.dim(value, 0), b.ints([group, count // group]), b.op("Shape", value, start=2), axis=0),
        )
        return b.op("Transpose", split, perm=[*perm, *kernel_axes])

    # x: (C, group * N, *size), one channel of each group a sample; g: (group * M, N, *out), the kernels
    image = groups_first(x, channels, [2, 1, 0])
    image = b.op("Reshape", image, b.op("Concat", b.ints([channels // group, -1]), b.op("Shape", x, start=2), axis=0))
    kernels = groups_first(g, filters, [1, 2, 0])
    kernels = b.op("Reshape", kernels, b.op("Concat", b.ints([filters, -1]), b.op("Shape", g, start=2), axis=0))
    gradient = b.op(
        "Conv", image, kernels, strides=window.dilations, dilations=window.strides, pads=window.pads, group=group
    )
    axes = b.ints(range(2, 2 + spatial))
    gradient = b.op("Slice", gradient, b.ints([0] * spatial), b.ints(window.kernel), axes)
    return b.op("Transpose", gradient, perm=[1, 0, *range(2, 2 + spatial)])


@register("ConvTranspose")
def conv_transpose(v: Vjp) -> Sequence[Gradient]:
    """The adjoint of a transposed convolution is the convolution with the same weights and attributes."""
    b, weight = v.b, v.input(1)
    window = _transposed_window(v, read_window(v, weight))
    attributes: dict[str, Attribute] = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "dilations": window.dilations,
        "group": window.group,
    }
    to_x: Gradient = None
    if v.needed(0):
        to_x = b.op("Conv", v.g, weight, pads=window.pads, **attributes)
        spatial = len(window.kernel)
        # an output padding beyond the stride adds positions that depend on no input
        to_x = b.op("Slice", to_x, b.ints([0] * spatial), b.op("Shape", v.x, start=2), b.ints(range(2, 2 + spatial)))
    to_weight = _weight_gradient(v, v.g, v.x, window) if v.needed(1) else None
    to_bias = b.op("ReduceSum", v.g, b.ints([0, *range(2, rank_of(v.x))]), keepdims=0) if v.needed(2) else None
    return [to_x, to_weight, to_bias]


def _transposed_window(v: Vjp, window: Window) -> Window:
    """With the pads that ``auto_pad`` or ``output_shape`` imply, which a transposed convolution derives from its
    output's size."""
    auto_pad = v.str_attr("auto_pad", "NOTSET")
    if auto_pad in {"NOTSET", "VALID"} and "output_shape" not in v.node.attributes:
        return window
    sizes, outs = known_dims(v.x), known_dims(v.y)
    begin, end = [], []
    extra = v.ints_attr("output_padding", [0] * len(window.kernel))
    for axis, (reach, stride) in enumerate(zip(window.reach, window.strides, strict=True)):
        size, out = (None if dims is None else dims[2 + axis] for dims in (sizes, outs))
        if size is None or out is None:
            raise v.unsupported(f"auto_pad {auto_pad} on a size known only at run time")
        total = max(0, stride * (size - 1) + extra[axis] + reach - out)
        begin.append(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)
        end.append(total - begin[-1])
    return Window(window.kernel, window.strides, window.dilations, begin, end, window.group)


@register("Col2Im")
def col2im(v: Vjp) -> Sequence[Gradient]:
    """Every element of a block is read where it was added: (N, C, *image) -> (N, C prod(block), number of blocks)."""
    b = v.b
    spatial = static_dim(v.input(1), 0)
    if spatial is None:
        raise v.unsupported("its number of spatial axes is known only at run time")
    ones = [1] * spatial
    strides, dilations = v.ints_attr("strides", ones), v.ints_attr("dilations", ones)
    pads = v.ints_attr("pads", [0] * 2 * spatial)
    g = b.op("Pad", v.g, b.ints([0, 0, *pads[:spatial], 0, 0, *pads[spatial:]])) if any(pads) else v.g
    for i in range(spatial):
        size, block = (b.op("Gather", v.input(k), b.ints(i)) for k in (1, 2))
        reach = b.op("Add", b.op("Mul", b.op("Sub", block, 1), dilations[i]), 1)
        free = b.op("Sub", b.op("Add", size, pads[i] + pads[spatial + i]), reach)
        count = b.op("Add", b.op("Div", free, strides[i]), 1)
        within = b.op("Mul", b.op("Range", b.ints(0), block, b.ints(1)), dilations[i])
        starts = b.op("Mul", b.op("Range", b.ints(0), count, b.ints(1)), strides[i])
        at = b.op("Add", b.op("Unsqueeze", within, b.ints([1])), starts)  # (block, count)
        g = b.op("Gather", g, at, axis=2 + 2 * i)  # (N, C, block, count, ..., the axes not yet done)
    axes = range(2, 2 + 2 * spatial)
    return [b.reshape_like(b.op("Transpose", g, perm=[0, 1, *axes[::2], *axes[1::2]]), v.x), None, None]
