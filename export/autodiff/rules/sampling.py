"""Operators that interpolate between the elements: GridSample, AffineGrid, DeformConv, RoiAlign.

A value read at a coordinate is a weighted sum of the elements around it (the taps). For the input its gradient is
added to the same elements with the same weights; for the coordinate it is the sum with the slopes of the weights. The
coordinates have any leading axes, then the samples (..., P); the image has the same leading axes, channels and its
flattened space (..., C, S).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of, rank_of, static_shape

_CUBIC = -0.75  # the coefficient of Keys' kernel that the standard prescribes for GridSample


@dataclass(frozen=True)
class Taps:
    """K elements for each sample: their positions in the flattened space, weights, and for each axis of the space the
    slopes of the weights along it, all (..., K, P)."""

    positions: ir.Value
    weights: ir.Value
    slopes: Sequence[ir.Value]


def taps(b: Builder, at: Sequence[ir.Value], sizes: Sequence[ir.Value], mode: str, padding: str, corners: bool) -> Taps:
    """The taps at coordinates in elements, one tensor (..., P) for each axis of the space.

    Args:
        b: The builder.
        at: The coordinates.
        sizes: Of the space, as floats of shape (1,).
        mode: linear, nearest or cubic.
        padding: zeros, border or reflection.
        corners: Whether a reflection is at the centre of the outermost elements, not at their edge.
    """
    along = [_taps_along(b, t, size, mode, padding, corners) for t, size in zip(at, sizes, strict=True)]
    positions: list[ir.Value] = []
    weights: list[ir.Value] = []
    slopes: list[list[ir.Value]] = [[] for _ in at]
    for chosen in itertools.product(*along):
        flat = chosen[0][0]
        for (index, _, _), size in zip(chosen[1:], sizes[1:], strict=True):
            flat = b.op("Add", b.op("Mul", flat, size), index)
        positions.append(flat)
        weights.append(reduce(lambda left, right: b.op("Mul", left, right), [weight for _, weight, _ in chosen]))
        for axis, (_, _, slope) in enumerate(chosen):
            others = [weight for i, (_, weight, _) in enumerate(chosen) if i != axis]
            slopes[axis].append(reduce(lambda left, right: b.op("Mul", left, right), [slope, *others]))

    def stack(values: list[ir.Value]) -> ir.Value:
        return b.op("Concat", *(b.op("Unsqueeze", value, b.ints([-2])) for value in values), axis=-2)

    index = b.op("Cast", stack(positions), to=int(ir.DataType.INT64))
    return Taps(index, stack(weights), [stack(each) for each in slopes])


def _taps_along(
    b: Builder, t: ir.Value, size: ir.Value, mode: str, padding: str, corners: bool
) -> list[tuple[ir.Value, ir.Value, ir.Value]]:
    """Along one axis: positions, weights, and their slopes in t."""
    last = b.op("Sub", size, 1)
    inward: ir.Value | None = None  # the slope of the coordinate moved inside
    if mode != "cubic" and padding != "zeros":
        if padding == "reflection":
            t, inward = _reflect(b, t, size, corners)
        inside = b.op("And", b.op("GreaterOrEqual", t, 0), b.op("LessOrEqual", t, last))
        inside = b.cast_like(inside, t)
        inward = inside if inward is None else b.op("Mul", inward, inside)
        t = b.op("Min", b.op("Max", t, 0), last)
    if mode == "nearest":
        one = b.number(1, t)
        found = [(b.op("Round", t), b.op("Expand", one, b.op("Shape", t)), b.op("Mul", t, 0))]
    else:
        low = b.op("Floor", t)
        fraction = b.op("Sub", t, low)
        rest = b.op("Add", b.op("Neg", fraction), 1)
        if mode == "linear":
            up = b.op("Expand", b.number(1, t), b.op("Shape", t))
            found = [(low, rest, b.op("Neg", up)), (b.op("Add", low, 1), fraction, up)]
        else:
            distances = [b.op("Add", fraction, 1), fraction, rest, b.op("Add", rest, 1)]
            found = []
            for i, d in enumerate(distances):
                weight, slope = _keys(b, d, inner=i in (1, 2))
                found.append((b.op("Add", low, i - 1), weight, slope if i < 2 else b.op("Neg", slope)))
    placed = []
    for index, weight, slope in found:
        if padding == "zeros":
            inside = b.op("And", b.op("GreaterOrEqual", index, 0), b.op("LessOrEqual", index, last))
            mask = b.cast_like(inside, t)
            weight, slope = b.op("Mul", weight, mask), b.op("Mul", slope, mask)
        elif padding == "reflection" and mode == "cubic":
            index, _ = _reflect(b, index, size, corners)
        if inward is not None:
            slope = b.op("Mul", slope, inward)
        placed.append((b.op("Min", b.op("Max", index, 0), last), weight, slope))
    return placed


def _keys(b: Builder, d: ir.Value, *, inner: bool) -> tuple[ir.Value, ir.Value]:
    """Keys' cubic kernel (1981) and its slope at distance d: inner below 1, outer between 1 and 2."""
    a = _CUBIC
    # c3 d^3 + c2 d^2 + c1 d + c0
    c3, c2, c1, c0 = (a + 2, -(a + 3), 0.0, 1.0) if inner else (a, -5 * a, 8 * a, -4 * a)

    def polynomial(*coefficients: float) -> ir.Value:
        value = b.op("Mul", d, coefficients[0])
        for c in coefficients[1:-1]:
            value = b.op("Mul", b.op("Add", value, c), d)
        return b.op("Add", value, coefficients[-1])

    return polynomial(c3, c2, c1, c0), polynomial(3 * c3, 2 * c2, c1)


def _reflect(b: Builder, t: ir.Value, size: ir.Value, corners: bool) -> tuple[ir.Value, ir.Value]:
    """t mirrored until it lies between the borders, and the slope of that, 1 or -1."""
    border = 0.0 if corners else -0.5
    length = b.op("Max", b.op("Sub", size, 1), 1) if corners else size
    shifted = b.op("Sub", t, border)
    distance = b.op("Abs", shifted)
    flips = b.op("Floor", b.op("Div", distance, length))
    extra = b.op("Sub", distance, b.op("Mul", flips, length))
    odd = b.op("Mod", flips, 2, fmod=1)
    turned = b.op("Where", b.op("Equal", odd, 0), extra, b.op("Sub", length, extra))
    slope = b.op("Mul", b.op("Sign", shifted), b.op("Add", b.op("Mul", odd, -2), 1))
    return b.op("Add", turned, border), slope


def read(b: Builder, image: ir.Value, at: Taps) -> ir.Value:
    """The elements at the taps: (..., C, K, P)."""
    return b.op("Reshape", b.op("GatherElements", image, _spread(b, image, at), axis=-1), _shape(b, image, at))


def add(b: Builder, image: ir.Value, at: Taps, g: ir.Value) -> ir.Value:
    """The adjoint of sampling: ``g`` (..., C, P) added at the taps, in the shape of ``image``."""
    parts = b.op("Mul", b.op("Unsqueeze", g, b.ints([-2])), b.op("Unsqueeze", at.weights, b.ints([-3])))
    spread = _spread(b, image, at)
    return b.scatter_add("ScatterElements", image, spread, b.op("Reshape", parts, b.op("Shape", spread)), axis=-1)


def slopes(b: Builder, elements: ir.Value, at: Taps, g: ir.Value) -> list[ir.Value]:
    """The gradient for each coordinate (..., P), from the elements at the taps."""
    felt = b.op("ReduceSum", b.op("Mul", b.op("Unsqueeze", g, b.ints([-2])), elements), b.ints([-3]), keepdims=0)
    return [b.op("ReduceSum", b.op("Mul", felt, slope), b.ints([-2]), keepdims=0) for slope in at.slopes]


def _shape(b: Builder, image: ir.Value, at: Taps) -> ir.Value:
    """(..., C, K, P)."""
    return b.op("Concat", b.op("Shape", image, end=-1), b.op("Shape", at.positions, start=-2), axis=0)


def _spread(b: Builder, image: ir.Value, at: Taps) -> ir.Value:
    """The positions for every channel: (..., C, K P)."""
    every = b.op("Expand", b.op("Unsqueeze", at.positions, b.ints([-3])), _shape(b, image, at))
    return b.op("Reshape", every, b.op("Concat", b.op("Shape", image, end=-1), b.ints([-1]), axis=0))


def _sizes(v: Vjp) -> list[ir.Value]:
    return [v.b.cast_like(v.b.dim(v.x, axis), v.x) for axis in range(2, rank_of(v.x))]


@register("GridSample")
def grid_sample(v: Vjp) -> Sequence[Gradient]:
    """Coordinates from -1 to 1 over the image, the last axis first (Jaderberg et al. 2015, arXiv 1506.02025)."""
    b, spatial, corners = v.b, rank_of(v.x) - 2, bool(v.int_attr("align_corners", 0))
    mode = v.str_attr("mode", "linear").replace("bilinear", "linear").replace("bicubic", "cubic")
    grid = b.op("Reshape", b.cast_like(v.input(1), v.x), b.ints([0, -1, spatial]))
    sizes = _sizes(v)
    at, scales = [], []
    for axis, size in enumerate(sizes):
        given = b.op("Gather", grid, b.ints(spatial - 1 - axis), axis=2)
        scales.append(b.op("Mul", b.op("Sub", size, 1) if corners else size, 0.5))
        at.append(b.op("Add", b.op("Mul", given, scales[-1]), b.op("Mul", b.op("Sub", size, 1), 0.5)))
    found = taps(b, at, sizes, mode, v.str_attr("padding_mode", "zeros"), corners)
    image, g = b.reshape(v.x, [0, 0, -1]), b.reshape(v.g, [0, 0, -1])
    to_x = b.reshape_like(add(b, image, found, g), v.x) if v.needed(0) else None
    to_grid = None
    if v.needed(1):
        moved = slopes(b, read(b, image, found), found, g)
        each = [b.op("Unsqueeze", b.op("Mul", m, s), b.ints([2])) for m, s in zip(moved, scales, strict=True)]
        to_grid = b.cast_like(b.reshape_like(b.op("Concat", *reversed(each), axis=2), v.input(1)), v.input(1))
    return [to_x, to_grid]


@register("AffineGrid")
def affine_grid(v: Vjp) -> Sequence[Gradient]:
    """Linear in theta (N, D, D + 1): y = base theta^T, with the base (P, D + 1), which is the operator applied to unit
    vectors as the first row of theta."""
    b, d = v.b, rank_of(v.y) - 2
    unit = np.zeros((d + 1, d, d + 1))
    unit[:, 0, :] = np.eye(d + 1)
    size = b.op("Concat", b.ints([d + 1]), b.op("Slice", v.input(1), b.ints([1]), b.ints([2 + d])), axis=0)
    grids = b.op("AffineGrid", b.constant(unit, dtype_of(v.x)), size, align_corners=v.int_attr("align_corners", 0))
    base = b.reshape(b.op("Gather", grids, b.ints(0), axis=-1), [d + 1, -1])  # (D + 1, P)
    g = b.op("Transpose", b.reshape(v.g, [0, -1, d]), perm=[0, 2, 1])
    return [b.op("MatMul", g, b.op("Transpose", base, perm=[1, 0])), None]


@register("DeformConv")
def deform_conv(v: Vjp) -> Sequence[Gradient]:
    """A convolution that reads each element of its windows at an offset, and weighted by a mask (Dai et al. 2017,
    arXiv 1703.06211; Zhu et al. 2019, arXiv 1811.11168). The columns, (N, C K, P) with the K elements of the window at
    the P positions, are computed again; the rest is a matrix product."""
    b, spatial = v.b, rank_of(v.x) - 2
    weight, offset, mask = v.input(1), v.input(2), v.optional(4)
    dims = static_shape(weight)
    if dims is None:
        raise v.unsupported("the size of its kernels is known only at run time")
    groups, offset_groups = v.int_attr("group", 1), v.int_attr("offset_group", 1)
    channels, kernel, ones = dims[1] * groups, dims[2:], [1] * spatial
    strides, dilations = v.ints_attr("strides", ones), v.ints_attr("dilations", ones)
    pads = v.ints_attr("pads", [0] * 2 * spatial)

    # coordinates: the position of the window, the position in it, and the offset
    offsets = b.reshape(offset, [0, offset_groups, math.prod(kernel), spatial, -1])
    within = np.indices(kernel).reshape(spatial, -1, 1)
    rest = b.op("Range", b.ints(0), b.op("Squeeze", b.op("Shape", offsets, start=-1)), b.ints(1))
    at: list[ir.Value] = []
    for axis in reversed(range(spatial)):
        size = b.dim(v.y, 2 + axis)
        offset_of_window = b.op("Mul", b.op("Mod", rest, size), strides[axis])
        rest = b.op("Div", rest, size)
        start = b.constant(within[axis] * dilations[axis] - pads[axis], dtype_of(v.x))
        moved = b.op(
            "Add", b.op("Gather", offsets, b.ints(axis), axis=3), b.op("Add", start, b.cast_like(offset_of_window, v.x))
        )
        at.insert(0, b.reshape(moved, [0, offset_groups, -1]))
    found = taps(b, at, _sizes(v), "linear", "zeros", corners=False)

    image = b.reshape(v.x, [0, offset_groups, channels // offset_groups, -1])
    g = b.reshape(v.g, [0, groups, dims[0] // groups, -1])
    matrix = b.reshape(weight, [groups, dims[0] // groups, -1])
    columns = b.op("MatMul", b.swap_last(_with_shape(matrix, 3)), g)
    columns = b.reshape(columns, [0, offset_groups, channels // offset_groups, -1])
    factor = None if mask is None else b.reshape(mask, [0, offset_groups, 1, -1])
    masked = columns if factor is None else b.op("Mul", columns, factor)

    gradients: list[Gradient] = [None] * 5
    if v.needed(0):
        gradients[0] = b.reshape_like(add(b, image, found, masked), v.x)
    if v.needed(3):
        gradients[3] = b.op("ReduceSum", v.g, b.ints([0, *range(2, 2 + spatial)]), keepdims=0)
    if v.needed(1) or v.needed(2) or v.needed(4):
        elements = read(b, image, found)
        weighted = b.op("Mul", elements, b.op("Unsqueeze", found.weights, b.ints([-3])))
        values = b.op("ReduceSum", weighted, b.ints([-2]), keepdims=0)
        if v.needed(1):
            seen = values if factor is None else b.op("Mul", values, factor)
            seen = b.reshape(seen, [0, groups, dims[1] * math.prod(kernel), -1])
            every = b.op("MatMul", g, b.op("Transpose", seen, perm=[0, 1, 3, 2]))
            gradients[1] = b.reshape_like(b.op("ReduceSum", every, b.ints([0]), keepdims=0), weight)
        if v.needed(2):
            moved_by = slopes(b, elements, found, masked)
            per_element = [b.reshape(m, [0, offset_groups, math.prod(kernel), -1]) for m in moved_by]
            each = [b.op("Unsqueeze", m, b.ints([3])) for m in per_element]
            gradients[2] = b.reshape_like(b.op("Concat", *each, axis=3), offset)
        if mask is not None and v.needed(4):
            product = b.op("ReduceSum", b.op("Mul", columns, values), b.ints([2]), keepdims=0)
            gradients[4] = b.reshape_like(product, mask)
    return gradients


def _with_shape(value: ir.Value, rank: int) -> ir.Value:
    value.shape = ir.Shape([None] * rank)
    return value


@register("RoiAlign", inputs=[0])
def roi_align(v: Vjp) -> Sequence[Gradient]:
    """The mean of samples in each cell of a box (He et al. 2017, arXiv 1703.06870). It is separable: with the mean
    weights (R, cells, size) of the samples along each axis, y = W_h x W_w^T for each of the R boxes. Boxes have
    no gradient, as in torchvision."""
    b = v.b
    if v.str_attr("mode", "avg") != "avg":
        raise v.unsupported("its mode is max: export the model with mode avg")
    rows, columns = (_roi_weights(v, axis) for axis in (0, 1))  # (R, P, H), (R, Q, W)
    count = b.op("Range", b.ints(0), b.op("Squeeze", b.dim(v.x, 0)), b.ints(1))
    mine = b.op("Equal", b.op("Unsqueeze", count, b.ints([1])), b.op("Cast", v.input(2), to=int(ir.DataType.INT64)))
    mine = b.op("Unsqueeze", b.cast_like(mine, v.x), b.ints([2, 3]))  # (N, R, 1, 1)
    heights = b.op("Mul", mine, rows)  # (N, R, P, H)
    flat = b.op("Concat", b.dim(v.x, 0), b.ints([1, -1]), b.dim(v.x, 2), axis=0)
    heights = b.op("Transpose", b.op("Reshape", heights, flat), perm=[0, 1, 3, 2])  # (N, 1, H, R P)
    wide = b.op("MatMul", v.g, b.op("Unsqueeze", columns, b.ints([1])))  # (R, C, P, W)
    wide = b.op("Transpose", wide, perm=[1, 0, 2, 3])
    wide = b.op("Reshape", wide, b.op("Concat", b.dim(v.x, 1), b.ints([-1]), b.dim(v.x, 3), axis=0))  # (C, R P, W)
    return [b.op("MatMul", heights, wide), None, None]


def _roi_weights(v: Vjp, axis: int) -> ir.Value:
    """Along the height (0) or width (1): (R, cells, size)."""
    b, cells = v.b, v.int_attr(("output_height", "output_width")[axis], 1)
    half_pixel = v.str_attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale, ratio = v.float_attr("spatial_scale", 1.0), v.int_attr("sampling_ratio", 0)
    boxes = b.op("Sub", b.op("Mul", v.input(1), scale), 0.5 if half_pixel else 0.0)
    ends = (b.op("Gather", boxes, b.ints(i), axis=1) for i in (1 - axis, 3 - axis))
    start, end = (b.op("Unsqueeze", value, b.ints([1, 2])) for value in ends)
    length = b.op("Sub", end, start)  # (R, 1, 1)
    if not half_pixel:
        length = b.op("Max", length, 1)
    cell = b.op("Div", length, cells)
    if ratio > 0:
        count = b.op("Add", b.op("Mul", cell, 0), ratio)
        samples = b.ints(ratio)
    else:
        count = b.op("Max", b.op("Ceil", cell), 1)
        samples = b.op("Cast", b.op("ReduceMax", count, keepdims=0), to=int(ir.DataType.INT64))
    step = b.cast_like(b.op("Range", b.ints(0), samples, b.ints(1)), v.x)  # (I,)
    index = b.constant(np.arange(cells).reshape(-1, 1), dtype_of(v.x))
    within = b.op("Mul", b.op("Add", step, 0.5), b.op("Div", cell, count))
    at = b.op("Add", b.op("Add", start, b.op("Mul", cell, index)), within)  # (R, cells, I)
    size = b.cast_like(b.dim(v.x, 2 + axis), v.x)
    inside = b.op("And", b.op("GreaterOrEqual", at, -1), b.op("LessOrEqual", at, size))
    taken = b.op("And", inside, b.op("Less", step, count))
    at = b.op("Min", b.op("Max", at, 0), b.op("Sub", size, 1))
    elements = b.cast_like(b.op("Range", b.ints(0), b.op("Squeeze", b.dim(v.x, 2 + axis)), b.ints(1)), v.x)
    distance = b.op("Abs", b.op("Sub", b.op("Unsqueeze", at, b.ints([3])), elements))
    hat = b.op("Relu", b.op("Add", b.op("Neg", distance), 1))  # (R, cells, I, size)
    counted = b.op("Unsqueeze", b.op("Div", b.cast_like(taken, v.x), count), b.ints([3]))
    return b.op("ReduceSum", b.op("Mul", hat, counted), b.ints([2]), keepdims=0)
