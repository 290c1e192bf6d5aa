"""Operators that move elements without changing them: the adjoint moves them back."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.scatter import by_position
from portable_cam.export.autodiff.rules.separable import apply_adjoint
from portable_cam.export.graph.values import dtype_of, known_dims, rank_of, static_dim, static_shape

register("Reshape", "Flatten", "Squeeze", "Unsqueeze", rule=lambda v: [v.b.reshape_like(v.g, v.x)])
register("Expand", rule=lambda v: [v.b.unbroadcast(v.g, v.x, v.y)])


@register("Transpose")
def transpose(v: Vjp) -> ir.Value:
    rank = rank_of(v.x)
    perm = v.ints_attr("perm", list(reversed(range(rank))))
    return v.b.op("Transpose", v.g, perm=[perm.index(i) for i in range(rank)])


@register("Concat")
def concat(v: Vjp) -> Sequence[Gradient]:
    b, axis, count = v.b, v.int_attr("axis", 0), len(v.node.inputs)
    if count == 1:
        return [v.g]
    sizes = [static_dim(v.input(i), axis) for i in range(count)]
    known = [s for s in sizes if s is not None]
    if axis == 1 and len(known) == count and (parts := _split_convolution(v, known)) is not None:
        return parts
    split = (
        b.ints(known)
        if len(known) == count
        else b.op("Concat", *(b.dim(v.input(i), axis % rank_of(v.x)) for i in range(count)), axis=0)
    )
    return list(b.op_multi("Split", [v.g, split], count, axis=axis))


def _split_convolution(v: Vjp, sizes: list[int]) -> Sequence[Gradient] | None:
    """The gradient's parts along the channels, where a convolution of the backward pass made it: as many convolutions,
    each with its share of the kernels. The same products, and the parts keep ONNX Runtime's blocked layout, which a
    Split would end (SqueezeNet, batch 8: 18 layout changes gone)."""
    b, node = v.b, v.g.producer()
    if node is None or node.op_type != "Conv" or not b.made(node) or node.attributes.get_int("group", 1) != 1:
        return None
    image, kernels = node.inputs[0], node.inputs[1]
    attributes = {name: list(node.attributes.get_ints(name, ()) or ()) for name in ("kernel_shape", "pads")}
    begin, parts = 0, []
    for size in sizes:
        share = b.op("Slice", kernels, b.ints([begin]), b.ints([begin + size]), b.ints([0]))
        parts.append(b.op("Conv", image, share, **attributes))
        begin += size
    return parts


@register("Split")
def split(v: Vjp) -> Sequence[Gradient]:
    parts = [
        gradient if gradient is not None else v.b.zeros_like(out)
        for gradient, out in zip(v.grads, v.node.outputs, strict=True)
    ]
    return [v.b.op("Concat", *parts, axis=v.int_attr("axis", 0))]


@register("Slice")
def slice_(v: Vjp) -> Sequence[Gradient]:
    """Where everything is known: spread out by the step, then zero-padded to the input's size. Otherwise along each
    axis by the matrix of the slicing, which is the slicing applied to the identity."""
    b, rank = v.b, rank_of(v.x)
    starts, ends = v.const_ints(1), v.const_ints(2)
    count = static_dim(v.input(1), 0)
    axes = v.const_ints(3) if v.optional(3) is not None else None if count is None else list(range(count))
    if count is None or axes is None:
        return [by_position(v, lambda positions: b.op("Slice", positions, *v.node.inputs[1:]))]
    steps = v.const_ints(4) if v.optional(4) is not None else [1] * count
    dims = known_dims(v.x)
    axes = [a % rank for a in axes]
    gradient = v.g
    if starts is not None and ends is not None and steps is not None and dims is not None:
        pads = [0] * 2 * rank
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = dims[axis]
            if size is None:
                if (start, end, step) == (0, 2**63 - 1, 1):
                    continue
                break
            first, last, step = slice(start, end, step).indices(size)
            first = max(first, 0)  # unlike Python, ONNX begins with the first element there (a negative step)
            taken = len(range(first, last, step))
            if not taken:
                return [b.zeros_like(v.x)]
            if step < 0:
                gradient = _reversed(v, gradient, axis)
                first, step = first + (taken - 1) * step, -step
            if step > 1 and taken > 1:
                gradient = _interleave(v, gradient, axis, step)
            pads[axis] = first
            pads[rank + axis] = size - first - ((taken - 1) * step + 1)
        else:
            return [b.op("Pad", gradient, b.ints(pads)) if any(pads) else gradient]
    gradient = v.g
    for i, axis in enumerate(axes):
        at = [b.op("Slice", v.input(k), b.ints([i]), b.ints([i + 1])) for k in (1, 2)]
        one = b.constant([1], dtype_of(at[0]))
        step_value = b.op("Slice", v.input(4), b.ints([i]), b.ints([i + 1])) if v.optional(4) else one

        def take(identity: ir.Value, bounds: Sequence[ir.Value] = (*at, one, step_value)) -> ir.Value:
            return b.op("Slice", identity, *bounds)

        gradient = apply_adjoint(v, gradient, axis, take)
    return [gradient]


def _reversed(v: Vjp, value: ir.Value, axis: int) -> ir.Value:
    b = v.b
    return b.op("Slice", value, b.ints([-1]), b.ints([-(2**62)]), b.ints([axis]), b.ints([-1]))


def _interleave(v: Vjp, value: ir.Value, axis: int, step: int) -> ir.Value:
    """Zeros between the elements along an axis: n elements become (n - 1) * step + 1."""
    b, rank = v.b, rank_of(v.x)
    pads = [0] * 2 * (rank + 1)
    pads[rank + 1 + axis + 1] = step - 1
    wide = b.op("Pad", b.op("Unsqueeze", value, b.ints([axis + 1])), b.ints(pads))
    joined = b.op(
        "Reshape",
        wide,
        b.op(
            "Concat",
            *([b.op("Shape", value, end=axis)] if axis else []),
            b.ints([-1]),
            *([b.op("Shape", value, start=axis + 1)] if axis < rank - 1 else []),
            axis=0,
        ),
    )
    return b.op("Slice", joined, b.ints([0]), b.ints([1 - step]), b.ints([axis]))


@register("Pad")
def pad(v: Vjp) -> Sequence[Gradient]:
    """Constant: the adjoint of padding is cropping, which is padding by the negative amount. Reflect, edge and wrap
    are matrices along each axis."""
    b, rank = v.b, rank_of(v.x)
    if v.needed(2):
        raise v.unsupported("its fill value depends on the tensor to differentiate for")
    pads = v.const_ints(1)
    axes = list(range(rank))
    mode = v.str_attr("mode", "constant")
    if v.optional(3) is not None:
        given = v.const_ints(3)
        if given is None:
            if mode != "constant":
                raise v.unsupported("its axes are computed at run time")
            return [b.op("Pad", v.g, b.op("Neg", v.input(1)), None, v.input(3))]
        axes = [a % rank for a in given]
    if mode == "constant":
        axes_input = [b.ints(axes)] if len(axes) != rank else []
        if pads is not None and min(pads, default=0) >= 0:
            cut = [(a, pads[i], pads[len(axes) + i]) for i, a in enumerate(axes) if pads[i] or pads[len(axes) + i]]
            if not cut:
                return [v.g]
            ends = [-after if after else 2**62 for _, _, after in cut]
            cropped = b.op("Slice", v.g, b.ints([c[1] for c in cut]), b.ints(ends), b.ints([c[0] for c in cut]))
            return [b.enter_blocked_layout(cropped, v.x)]
        negative = b.op("Neg", v.input(1))
        return [b.op("Pad", v.g, negative, *([None] if axes_input else []), *axes_input)]
    if pads is None:
        raise v.unsupported(f"its pads are computed at run time (mode {mode})")
    gradient = v.g
    for i, axis in enumerate(axes):
        amount = [0, pads[i], 0, pads[len(axes) + i]]
        if any(amount):

            def extend(identity: ir.Value, amount: list[int] = amount) -> ir.Value:
                return b.op("Pad", identity, b.ints(amount), mode=mode)

            gradient = apply_adjoint(v, gradient, axis, extend)
    return [gradient]


@register("Tile")
def tile(v: Vjp) -> Sequence[Gradient]:
    """Summed over the copies: (r0 d0, r1 d1, ...) -> (r0, d0, r1, d1, ...), summed over the r."""
    b, rank = v.b, rank_of(v.x)
    pairs = b.op(
        "Concat", b.op("Unsqueeze", v.input(1), b.ints([1])), b.op("Unsqueeze", b.shape(v.x), b.ints([1])), axis=1
    )
    blocks = b.op("Reshape", v.g, b.op("Reshape", pairs, b.ints([-1])))
    return [b.op("ReduceSum", blocks, b.ints(range(0, 2 * rank, 2)), keepdims=0)]


@register("DepthToSpace")
def depth_to_space(v: Vjp) -> ir.Value:
    b, block = v.b, v.int_attr("blocksize", 1)
    if v.str_attr("mode", "DCR") == "DCR":
        return b.op("SpaceToDepth", v.g, blocksize=block)
    height, width = (b.op("Shape", v.x, start=axis, end=axis + 1) for axis in (2, 3))
    split = b.op("Concat", b.ints([0, -1]), height, b.ints([block]), width, b.ints([block]), axis=0)
    blocks = b.op("Transpose", b.op("Reshape", v.g, split), perm=[0, 1, 3, 5, 2, 4])
    return b.reshape_like(blocks, v.x)


@register("SpaceToDepth")
def space_to_depth(v: Vjp) -> ir.Value:
    mode = v.str_attr("mode", "DCR")
    return v.b.op("DepthToSpace", v.g, blocksize=v.int_attr("blocksize", 1), mode=mode)


@register("CenterCropPad")
def center_crop_pad(v: Vjp) -> Sequence[Gradient]:
    """Cropped and padded back about the same centre."""
    b, rank = v.b, rank_of(v.x)
    axes = v.ints_attr("axes", list(range(rank)))
    have, want = static_shape(v.x), static_shape(v.y)
    if have is None or want is None:  # the size may be an input: half of what was cut off, towards zero, is in front
        cut = b.op("Sub", b.shape(v.x), b.shape(v.y))
        half = b.op("Div", cut, b.ints([2]))
        return [b.op("Pad", v.g, b.op("Concat", half, b.op("Sub", cut, half), axis=0))]
    pads = [0] * 2 * rank
    for axis in (a % rank for a in axes):
        difference = have[axis] - want[axis]  # positive: it was cropped, so the gradient is padded
        before = difference // 2 if difference >= 0 else -(-difference // 2)
        pads[axis], pads[rank + axis] = before, difference - before
    return [b.op("Pad", v.g, b.ints(pads))]
