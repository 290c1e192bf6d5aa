"""Resizing."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.builder import Attribute, constant_of, known_dims, rank_of
from portable_cam.export.rules.registry import Gradient, Vjp, register
from portable_cam.export.rules.separable import apply_adjoint


@register("Resize")
def resize(v: Vjp) -> Sequence[Gradient]:
    """Every mode is separable: along each resized axis the adjoint is the transpose of what Resize, with the same
    attributes, makes of the identity."""
    b, rank = v.b, rank_of(v.x)
    coordinates = v.str_attr("coordinate_transformation_mode", "half_pixel")
    if v.str_attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise v.unsupported("keep_aspect_ratio_policy other than stretch")
    if coordinates == "tf_crop_and_resize":
        raise v.unsupported("coordinate_transformation_mode tf_crop_and_resize")
    attributes: dict[str, Attribute] = {
        "mode": v.str_attr("mode", "nearest"),
        "coordinate_transformation_mode": coordinates,
        "antialias": v.int_attr("antialias", 0),
        "cubic_coeff_a": v.float_attr("cubic_coeff_a", -0.75),
        "exclude_outside": v.int_attr("exclude_outside", 0),
        "nearest_mode": v.str_attr("nearest_mode", "round_prefer_floor"),
    }
    axes = [a % rank for a in v.ints_attr("axes", list(range(rank)))]
    source, result = known_dims(v.x), known_dims(v.y)
    by_scale = v.optional(2) is not None and known_dims(v.input(2)) != [0]  # an empty tensor stands for none
    constant_scales = constant_of(v.input(2)) if by_scale else None
    known_scales = None if constant_scales is None else constant_scales.tolist()
    gradient = v.g
    for i, axis in enumerate(axes):
        if known_scales is not None and known_scales[i] == 1:
            continue
        if source and result and source[axis] is not None and source[axis] == result[axis] and not by_scale:
            continue
        if source and result and (source[axis] is None or result[axis] is None) and axis < 2 and rank > 2:
            continue  # batch and channels are never resized: ONNX Runtime and every exporter leave them alone

        def stretch(identity: ir.Value, i: int = i, axis: int = axis) -> ir.Value:
            # (n, n) -> (1, 1, n, m) with the last axis resized -> (n, m)
            picture = b.op("Unsqueeze", identity, b.ints([0, 1]))
            if by_scale:
                scale = b.op("Slice", v.input(2), b.ints([i]), b.ints([i + 1]))
                every = b.op("Concat", b.constant([1, 1, 1], ir.DataType.FLOAT), scale, axis=0)
                out = b.op("Resize", picture, None, every, **attributes)
            else:
                sizes = b.op("Concat", b.ints([1, 1]), b.dim(v.x, axis), b.dim(v.y, axis), axis=0)
                out = b.op("Resize", picture, None, None, sizes, **attributes)
            return b.op("Squeeze", out, b.ints([0, 1]))

        gradient = apply_adjoint(v, gradient, axis, stretch)
    return [gradient]
