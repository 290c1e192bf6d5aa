"""Resizing."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.scatter import by_position
from portable_cam.export.autodiff.rules.separable import apply_adjoint
from portable_cam.export.graph.builder import Attribute
from portable_cam.export.graph.values import constant_of, dtype_of, known_dims, rank_of


@register("Resize", inputs=[0])
def resize(v: Vjp) -> Sequence[Gradient]:
    """Every mode is separable: along each resized axis the adjoint is the transpose of its matrix, which is Resize with
    the same attributes applied to the identity."""
    b, rank = v.b, rank_of(v.x)
    coordinates = v.str_attr("coordinate_transformation_mode", "half_pixel")
    attributes: dict[str, Attribute] = {
        "mode": v.str_attr("mode", "nearest"),
        "coordinate_transformation_mode": coordinates,
        "antialias": v.int_attr("antialias", 0),
        "cubic_coeff_a": v.float_attr("cubic_coeff_a", -0.75),
        "exclude_outside": v.int_attr("exclude_outside", 0),
        "nearest_mode": v.str_attr("nearest_mode", "round_prefer_floor"),
    }
    axes = [a % rank for a in v.ints_attr("axes", list(range(rank)))]
    if coordinates == "tf_crop_and_resize":
        return [_cropped(v, axes, attributes)]
    if v.str_attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return [_keeping_aspect(v, axes, attributes)]
    source, result = known_dims(v.x), known_dims(v.y)
    by_scale = v.optional(2) is not None and known_dims(v.input(2)) != [0]  # an empty tensor means none
    constant_scales = constant_of(v.input(2)) if by_scale else None
    known_scales = None if constant_scales is None else constant_scales.tolist()
    if source is not None and source == result and None not in source:
        return [v.g]  # ONNX Runtime copies then, even where a scale is not quite 1
    copied = _may_be_copied(v, known_scales) if by_scale else None
    gradient = v.g
    for i, axis in enumerate(axes):
        if known_scales is not None and known_scales[i] == 1:
            continue
        if source and result and source[axis] is not None and source[axis] == result[axis] and not by_scale:
            continue
        if source and result and _kept(v, i, axis):
            continue

        def stretch(identity: ir.Value, i: int = i, axis: int = axis) -> ir.Value:
            if by_scale:
                # (n, n) -> (1, n, 1, n) -> (1, n, 2, m), both rows the same -> (n, m). The second row is there so that
                # the size changes: ONNX Runtime copies where a scale near 1 leaves the size as it is, but not where
                # another axis changes.
                image = b.op("Unsqueeze", identity, b.ints([0, 2]))
                scale = b.op("Slice", v.input(2), b.ints([i]), b.ints([i + 1]))
                every = b.op("Concat", b.constant([1, 1, 2], ir.DataType.FLOAT), scale, axis=0)
                rows = b.op("Resize", image, None, every, **attributes)
                matrix = b.op("Squeeze", b.op("Slice", rows, b.ints([0]), b.ints([1]), b.ints([2])), b.ints([0, 2]))
                if copied is None:
                    return matrix
                return b.op("Where", copied, b.op("EyeLike", matrix, dtype=int(dtype_of(matrix))), matrix)
            # (n, n) -> (1, 1, n, m) with the last axis resized -> (n, m)
            image = b.op("Unsqueeze", identity, b.ints([0, 1]))
            sizes = b.op("Concat", b.ints([1, 1]), b.dim(v.x, axis), b.dim(v.y, axis), axis=0)
            return b.op("Squeeze", b.op("Resize", image, None, None, sizes, **attributes), b.ints([0, 1]))

        gradient = apply_adjoint(v, gradient, axis, stretch)
    return [gradient]


def _cropped(v: Vjp, axes: Sequence[int], attributes: dict[str, Attribute]) -> ir.Value:
    """Coordinate mode tf_crop_and_resize: along each axis from the start to the end that the region names. Reading
    outside of the image gives a constant, so its part of the matrix is 0."""
    b, gradient = v.b, v.g
    region = v.input(1)
    for i, axis in enumerate(axes):

        def crop(identity: ir.Value, i: int = i, axis: int = axis) -> ir.Value:
            # (n, n) -> (1, 1, n, m); the other axis keeps its size
            image = b.op("Unsqueeze", identity, b.ints([0, 1]))
            start, end = (b.op("Slice", region, b.ints([k]), b.ints([k + 1])) for k in (i, len(axes) + i))
            zeros, ones = (b.op("Expand", b.cast_like(b.ints([k]), region), b.ints([3])) for k in (0, 1))
            roi = b.op("Concat", zeros, start, ones, end, axis=0)
            sizes = b.op("Concat", b.ints([1, 1]), b.dim(v.x, axis), b.dim(v.y, axis), axis=0)
            rows = b.op("Resize", image, roi, None, sizes, **attributes, extrapolation_value=0.0)
            return b.op("Squeeze", rows, b.ints([0, 1]))

        gradient = apply_adjoint(v, gradient, axis, crop)
    return gradient


def _keeping_aspect(v: Vjp, axes: Sequence[int], attributes: dict[str, Attribute]) -> ir.Value:
    """Sizes that only bound the result: one scale for all axes, that of the axis which fills (or first exceeds) its
    size. Along another axis the matrix is computed together with the deciding axis, so that the scale is the same.
    """
    b, dims, sizes, gradient = v.b, known_dims(v.x), v.const_ints(3), v.g
    policy = v.str_attr("keep_aspect_ratio_policy", "stretch")
    if attributes["mode"] == "nearest":  # a copy

        def copy(positions: ir.Value) -> ir.Value:
            small = b.op("Cast", positions, to=int(ir.DataType.INT32))
            return b.op("Resize", small, *v.node.inputs[1:], **attributes, axes=axes, keep_aspect_ratio_policy=policy)

        return by_position(v, copy)
    if dims is None or sizes is None or None in [dims[axis] for axis in axes]:
        raise v.unsupported("its keep_aspect_ratio_policy needs sizes that are known before it runs")
    ratios = [size / (dims[axis] or 1) for axis, size in zip(axes, sizes, strict=True)]
    deciding = ratios.index(min(ratios) if policy == "not_larger" else max(ratios))
    for i, axis in enumerate(axes):

        def scale(identity: ir.Value, i: int = i) -> ir.Value:
            # (n, n) -> (1, n, L, n), the same along the deciding axis of length L -> (1, n, l, m) -> (n, m)
            image = b.op("Unsqueeze", identity, b.ints([0, 2]))
            if i == deciding:
                rows = b.op("Resize", image, None, None, b.ints([sizes[i]]), **attributes, axes=[3])
            else:
                length = dims[axes[deciding]] or 1
                image = b.op("Expand", image, b.ints([1, 1, length, 1]))
                bounds = b.ints([sizes[deciding], sizes[i]])
                rows = b.op(
                    "Resize", image, None, None, bounds, **attributes, axes=[2, 3], keep_aspect_ratio_policy=policy
                )
            return b.op("Squeeze", b.op("Slice", rows, b.ints([0]), b.ints([1]), b.ints([2])), b.ints([0, 2]))

        gradient = apply_adjoint(v, gradient, axis, scale)
    return gradient


def _may_be_copied(v: Vjp, scales: list[float] | None) -> ir.Value | None:
    """A bool computed at run time: no axis changes its size, so that ONNX Runtime copies whatever the scales are. None
    where one surely does."""
    source, result = known_dims(v.x), known_dims(v.y)
    if (
        source
        and result
        and any(s != r for s, r in zip(source, result, strict=True) if s is not None and r is not None)
    ):
        return None
    if scales is not None and any(s >= 2 or s <= 0.5 for s in scales):
        return None
    b = v.b
    same = b.op("Cast", b.op("Equal", b.op("Shape", v.x), b.op("Shape", v.y)), to=int(ir.DataType.INT64))
    return b.op("Cast", b.op("ReduceMin", same, keepdims=0), to=int(ir.DataType.BOOL))


def _kept(v: Vjp, position: int, axis: int) -> bool:
    """Whether an axis of unknown size keeps it: the batch of images always does, and so does an axis whose entry in
    ``sizes`` was read from the shape of the input, as exporters write it for the channels."""
    dims, rank = known_dims(v.x), rank_of(v.x)
    if axis == 0 and rank > 3:
        return True
    sizes = v.optional(3)
    producer = None if sizes is None else sizes.producer()
    if producer is None or producer.op_type != "Concat":
        return False
    start = 0
    for part in producer.inputs:
        length = None if part is None else (known_dims(part) or [None])[0]
        if part is None or length is None:
            return False
        if start <= position < start + length:
            content = constant_of(part)
            if content is not None:
                return dims is not None and dims[axis] == int(content.reshape(-1)[position - start])
            return _is_shape_of(part, v.x, axis - (position - start))
        start += length
    return False


def _is_shape_of(value: ir.Value, x: ir.Value, first: int) -> bool:
    """Whether ``value`` is the shape of ``x`` from axis ``first`` on: Shape(x, start), or a Slice of Shape(x)."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Shape" and node.inputs[0] is x:
        return int(node.attributes.get_int("start", 0)) == first
    if node.op_type == "Slice" and len(node.inputs) < 5 and node.inputs[0] is not None:
        start, shape = constant_of(node.inputs[1]), node.inputs[0].producer()
        if shape is None or shape.op_type != "Shape" or shape.inputs[0] is not x or "start" in shape.attributes:
            return False
        return start is not None and int(start.reshape(-1)[0]) == first
    return False
