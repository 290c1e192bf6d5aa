"""The steps between gradient and heat map, as ONNX subgraphs.

Shapes: A (N, C, h, w) the explained layer's activation, w (N, K, C) a weight per channel for each of K targets, maps
(N, K, h, w), the picture H x W. What the profiles choose is tabulated in ``docs/methods.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import HALVES
from portable_cam.export.graph.values import known_dims, static_dim

Profile: TypeAlias = Literal["paper", "pytorch_grad_cam", "captum"]
_SPACE = (2, 3)
_PGC_EPSILON = 1e-7  # pytorch_grad_cam/utils/image.py: scale_cam_image


def channel_weights(b: Builder, gradient: ir.Value) -> ir.Value:
    """The mean gradient over space in float32, (N, C, h, w) -> (N, C); Selvaraju et al. 2017, equation 1."""
    producer, channels = gradient.producer(), static_dim(gradient, 1) if gradient.shape is not None else None
    small = producer.inputs[0] if gradient.meta.get("spread") and producer is not None else None
    if small is None or channels is None:
        return b.op("ReduceMean", as_float32(b, gradient), b.ints(_SPACE), keepdims=0)
    # constant along some axes, as before a global average pool: what is repeated need not be written to be averaged
    mean = b.op("ReduceMean", as_float32(b, small), b.ints(_SPACE), keepdims=0)
    return b.op("Expand", mean, b.ints([1, channels]))


def weighted_sum(b: Builder, weights: ir.Value, activation: ir.Value, sign: int = 1) -> ir.Value:
    """sum_c w[n, k, c] A[n, c]: (N, K, C), (N, C, h, w) -> (N, K, h, w)."""
    flat = b.op("Reshape", activation, b.ints([0, 0, -1]))
    maps = b.op("MatMul", weights, flat)
    if sign < 0:
        maps = b.op("Neg", maps)
    dims = known_dims(activation)
    size = [None, None] if dims is None else dims[2:]
    if None not in size:
        return b.reshape(maps, [0, 0, *(d for d in size if d is not None)])
    space = b.op("Shape", activation, start=2)
    return b.op("Reshape", maps, b.op("Concat", b.ints([0, 0]), space, axis=0))


def pixel_map(b: Builder, method: str, gradient: ir.Value, activation: ir.Value, sign: int = 1) -> ir.Value:
    """A map whose weights differ from place to place, (N, C, h, w) twice -> (N, h, w) in float32.

    ``layercam``: sum_c relu(g_c) A_c (Jiang et al. 2021, IEEE TIP 30, equation 6); ``hirescam``: sum_c g_c A_c (Draelos
    and Carin 2020, arXiv 2011.08891). For ``sign`` -1 with -g in place of g.
    """
    g, a = as_float32(b, gradient), as_float32(b, activation)
    if sign < 0:
        g = b.op("Neg", g)
    if method == "layercam":
        g = b.op("Relu", g)
    dims = known_dims(activation)
    summed = b.op("ReduceSum", b.op("Mul", g, a), b.ints([1]), keepdims=0)
    summed.shape = None if dims is None else ir.Shape([dims[0], *dims[2:]])
    return summed


def range_of(b: Builder, maps: ir.Value) -> ir.Value:
    """The least and the greatest value of each map, (N, K, 2); NaN if the map holds one, so that it can be reported."""
    ends = [b.op(kind, maps, b.ints(_SPACE), keepdims=0) for kind in ("ReduceMin", "ReduceMax")]
    # a sum is NaN if any element is, whatever the provider's minimum makes of it
    poison = b.op("Mul", b.op("ReduceSum", maps, b.ints(_SPACE), keepdims=0), 0)
    return b.op(
        "Add",
        b.op("Concat", *(b.op("Unsqueeze", e, b.ints([2])) for e in ends), axis=2),
        b.op("Unsqueeze", poison, b.ints([2])),
    )


def upsample(b: Builder, maps: ir.Value, size: ir.Value, mode: str = "linear") -> ir.Value:
    """(N, K, h, w) -> (N, K, H, W), bilinear with half-pixel centres (as cv2 INTER_LINEAR and torch with
    align_corners=False), or nearest (as torch's). ``size`` int64 (2,)."""
    sizes = b.op("Concat", b.op("Shape", maps, start=0, end=2), size, axis=0)
    if mode == "nearest":
        return b.op(
            "Resize",
            maps,
            None,
            None,
            sizes,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    return b.op("Resize", maps, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel")


def minmax(b: Builder, maps: ir.Value) -> ir.Value:
    """(x - min) / (max - min) for each map; a flat map becomes zeros."""
    low = b.op("ReduceMin", maps, b.ints(_SPACE), keepdims=1)
    span = b.op("Sub", b.op("ReduceMax", maps, b.ints(_SPACE), keepdims=1), low)
    assert maps.dtype is not None
    divisor = b.op("Where", b.op("Greater", span, 0), span, b.constant(1, maps.dtype))
    return b.op("Div", b.op("Sub", maps, low), divisor)


def pgc_scale(b: Builder, maps: ir.Value) -> ir.Value:
    """pytorch-grad-cam's: x - min, then divided by 1e-7 + max."""
    shifted = b.op("Sub", maps, b.op("ReduceMin", maps, b.ints(_SPACE), keepdims=1))
    high = b.op("ReduceMax", shifted, b.ints(_SPACE), keepdims=1)
    return b.op("Div", shifted, b.op("Add", high, _PGC_EPSILON))


def heat_map(b: Builder, raw: Sequence[ir.Value], size: ir.Value, profile: Profile) -> tuple[ir.Value, ir.Value]:
    """The map a person looks at, and the map that Guided Grad-CAM multiplies with, from the low-resolution maps of
    one or several layers (after the profile's ReLU): each (N, K, H, W), for the profile captum the first (N, K, h, w).
    """
    if profile == "captum":
        positive = b.op("Relu", raw[0])
        return raw[0], upsample(b, positive, size, "nearest")
    if profile == "pytorch_grad_cam":
        scaled = [upsample(b, pgc_scale(b, maps), size) for maps in raw]
        final = pgc_scale(b, _mean(b, scaled))
        return final, final
    if len(raw) == 1:
        wide = upsample(b, raw[0], size)
        return minmax(b, wide), wide
    # layers differ in scale by orders of magnitude: each has its say only once normalised
    mean = _mean(b, [minmax(b, upsample(b, maps, size)) for maps in raw])
    return minmax(b, mean), mean


def guided_product(b: Builder, guided: ir.Value, wide: ir.Value, channel_axis: int) -> ir.Value:
    """(N, K, C, H, W) or (N, K, H, W, C) times (N, K, H, W)."""
    return b.op("Mul", guided, b.op("Unsqueeze", wide, b.ints([channel_axis + 1])))


def picture_size(b: Builder, image: ir.Value, channel_axis: int) -> ir.Value:
    """(H, W) of the picture as int64 (2,)."""
    dims, start = known_dims(image), 2 if channel_axis == 1 else 1
    if dims is not None and None not in dims[start : start + 2]:
        return b.ints([d for d in dims[start : start + 2] if d is not None])
    return b.op("Shape", image, start=start, end=start + 2)


def _mean(b: Builder, maps: Sequence[ir.Value]) -> ir.Value:
    return maps[0] if len(maps) == 1 else b.op("Mean", *maps)


def as_float32(b: Builder, value: ir.Value) -> ir.Value:
    """The value cast to float32, or itself if it is."""
    return value if value.dtype == ir.DataType.FLOAT else b.op("Cast", value, to=int(ir.DataType.FLOAT))


def for_kernels(b: Builder, value: ir.Value) -> ir.Value:
    """The value as the kernels read it: float64 cast to float32, others as they are."""
    return value if value.dtype in {ir.DataType.FLOAT, *HALVES} else as_float32(b, value)
