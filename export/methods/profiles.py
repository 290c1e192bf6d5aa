"""From low-resolution maps to the heat map that a person looks at, by the conventions of a profile.

Shapes: maps (N, K, h, w) for K targets of N images of height H and width W. What the profiles choose is tabulated in
``docs/methods.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.placement import Placement, place
from portable_cam.export.layers.view_maps import PlacedViews
from portable_cam.export.methods.gradcam import SPACE

Profile: TypeAlias = Literal["paper", "pytorch_grad_cam", "captum"]
#: Where a layer's maps go; None for stretched over the image.
Where: TypeAlias = Placement | PlacedViews | None
_PGC_EPSILON = 1e-7  # pytorch_grad_cam/utils/image.py: scale_cam_image


def value_range(b: Builder, maps: ir.Value) -> ir.Value:
    """The least and the greatest value of each map, (N, K, 2); NaN if the map holds one, so that it can be reported."""
    ends = [b.op(kind, maps, b.ints(SPACE), keepdims=0) for kind in ("ReduceMin", "ReduceMax")]
    # a sum is NaN if any element is, whatever the provider's minimum makes of it
    poison = b.op("Mul", b.op("ReduceSum", maps, b.ints(SPACE), keepdims=0), 0)
    return b.op(
        "Add",
        b.op("Concat", *(b.op("Unsqueeze", e, b.ints([2])) for e in ends), axis=2),
        b.op("Unsqueeze", poison, b.ints([2])),
    )


def upsample(b: Builder, maps: ir.Value, size: ir.Value, mode: str = "linear", where: Where = None) -> ir.Value:
    """(N, K, h, w) -> (N, K, H, W), bilinear with half-pixel centres (as cv2 INTER_LINEAR and torch with
    align_corners=False), or nearest (as torch's); to where the layer looks at, if that is given. ``size`` int64 (2,).
    """
    if isinstance(where, PlacedViews):
        return where.place(b, maps)
    if where is not None:
        return place(b, maps, where, size, mode)
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
    low = b.op("ReduceMin", maps, b.ints(SPACE), keepdims=1)
    span = b.op("Sub", b.op("ReduceMax", maps, b.ints(SPACE), keepdims=1), low)
    divisor = b.op("Where", b.op("Greater", span, 0), span, b.constant(1, dtype_of(maps)))
    return b.op("Div", b.op("Sub", maps, low), divisor)


def pgc_scale(b: Builder, maps: ir.Value) -> ir.Value:
    """pytorch-grad-cam's: x - min, then divided by 1e-7 + max."""
    shifted = b.op("Sub", maps, b.op("ReduceMin", maps, b.ints(SPACE), keepdims=1))
    high = b.op("ReduceMax", shifted, b.ints(SPACE), keepdims=1)
    return b.op("Div", shifted, b.op("Add", high, _PGC_EPSILON))


def heat_map(
    b: Builder, raw: Sequence[ir.Value], size: ir.Value, profile: Profile, where: Sequence[Where]
) -> tuple[ir.Value, ir.Value]:
    """The map a person looks at, and the map that Guided Grad-CAM multiplies with, from the low-resolution maps of
    one or several layers (after the profile's ReLU): each (N, K, H, W), for the profile captum the first (N, K, h, w).
    ``where`` says for each layer where its map goes, None for stretched over the image.
    """
    if profile == "captum":
        positive = b.op("Relu", raw[0])
        return raw[0], upsample(b, positive, size, "nearest", where[0])
    pairs = list(zip(raw, where, strict=True))
    if profile == "pytorch_grad_cam":
        scaled = [
            pgc_scale(b, there.place(b, maps))  # all views of an image in one scale
            if isinstance(there, PlacedViews)
            else upsample(b, pgc_scale(b, maps), size, where=there)
            for maps, there in pairs
        ]
        final = pgc_scale(b, _mean(b, scaled))
        return final, final
    if len(raw) == 1:
        wide = upsample(b, raw[0], size, where=where[0])
        return minmax(b, wide), wide
    # layers differ in scale by orders of magnitude: each has its say only once normalised
    mean = _mean(b, [minmax(b, upsample(b, maps, size, where=there)) for maps, there in pairs])
    return minmax(b, mean), mean


def image_size(b: Builder, image: ir.Value, channel_axis: int) -> ir.Value:
    """(H, W) of the image as int64 (2,)."""
    dims, start = known_dims(image), 2 if channel_axis == 1 else 1
    if dims is not None and None not in dims[start : start + 2]:
        return b.ints([d for d in dims[start : start + 2] if d is not None])
    return b.op("Shape", image, start=start, end=start + 2)


def _mean(b: Builder, maps: Sequence[ir.Value]) -> ir.Value:
    return maps[0] if len(maps) == 1 else b.op("Mean", *maps)
