"""Which axis of the image holds its channels, from the operators that read it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from portable_cam.errors import InputError
from portable_cam.export.graph.values import known_dims, reads
from portable_cam.export.layers.axes import Axis
from portable_cam.export.layers.axis_rules import At, AxesOf, follow
from portable_cam.export.layers.axis_rules.at import spatial_of
from portable_cam.export.layers.axis_rules.sizes import named_sizes
from portable_cam.export.layers.derive import DECLARED, SCORE_AXES, image_axes
from portable_cam.spelling import option

#: Operators whose second axis is that of the channels by definition.
_CHANNELS_SECOND = frozenset(
    """
    AveragePool BatchNormalization Conv ConvInteger ConvTranspose DeformConv DepthToSpace GlobalAveragePool GlobalLpPool
    GlobalMaxPool GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool RoiAlign SpaceToDepth
    """.split()
)
_SCORES = [sorted(letters) for letters in ("NC", "NHW", "NTC")]
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "Gemm", "Einsum"})


def channel_axis(image: ir.Value) -> int:
    """1 for (N, C, H, W), 3 for (N, H, W, C): what was declared; else what the operators say that read the image first
    (the axis that a convolution or product sums over, the second of a pooling, the one that a resizing leaves); where
    none does, the axis of one, three or four entries.

    Raises:
        InputError: No operator tells, and the sizes allow both.
    """
    declared = image.meta.get(DECLARED)
    if declared is not None:
        return str(declared).index("C")
    found = _from_operators(image)
    if found is not None:
        return found
    dims = known_dims(image)
    assert dims is not None
    likely = [axis for axis in (1, 3) if dims[axis] in {1, 3, 4}]
    if len(likely) == 1:
        return likely[0]
    raise InputError(
        f"which axis of the image '{image.name}' {image.shape} holds its channels cannot be told from the operators "
        f"that read it: declare it with {option('axes', {image.name: 'NCHW'})}, or NHWC"
    )


def _from_operators(image: ir.Value) -> int | None:
    """Walks on, the three axes told apart by nothing, until an operator treats them differently."""
    graph = image.graph
    if graph is None:
        return None
    known: AxesOf = {image: image_axes(image, {1: 1, 2: 2, 3: 3})}
    likely: int | None = None
    for node in graph:
        if not any(value in known for value in reads(node)):
            continue
        at = At(node, known)
        axis = _told(at)
        if axis is not None and axis != 2:
            return axis
        likely = likely or _per_channel(at)
        follow([node], known)
    return likely


def _told(at: At) -> int | None:
    """The axis of the image that the node treats as channels."""
    axes = at.axes(0)
    kind = at.node.op_type
    if axes is None or len(axes) < 2:
        return None
    if kind in _CHANNELS_SECOND and len(axes) == 4:
        return _alone(spatial_of(axes[1]), axes[2:])
    if kind in _PRODUCTS and at.axes(1) is None:
        gone = [0] if kind == "Gemm" and at.int_attr("transA", 0) else [len(axes) - 1]
        if kind == "Einsum":
            term, _, result = at.str_attr("equation", "").replace(" ", "").partition(",")
            gone = [i for i, letter in enumerate(term) if letter not in result.partition("->")[2]]
        inside: frozenset[int] = frozenset().union(*(spatial_of(axes[i]) for i in gone if i < len(axes)))
        return _alone(inside, [axis for i, axis in enumerate(axes) if i not in gone])
    if kind in {"Resize", "ReduceMean", "ReduceMax"} and len(axes) == 4:
        out = named_sizes(at.node.outputs[0])
        if kind != "Resize":
            reduced = at.const(1) or []
            changed = {a % 4 for a in reduced}
        else:
            changed = {i for i, (n, m) in enumerate(zip(at.dims(0), out or at.dims(0), strict=True)) if n != m}
        rest = [i for i in (1, 2, 3) if i not in changed]
        if len(changed - {0}) == 2 and len(rest) == 1:
            others = [axes[i] for i in changed]
            return _alone(spatial_of(axes[rest[0]]), others)
    return None


def _alone(inside: frozenset[int], others: list[Axis] | tuple[Axis, ...]) -> int | None:
    """The one axis of the image in ``inside`` and in none of the others, which hold both that are left."""
    kept: frozenset[int] = frozenset().union(*(spatial_of(axis) for axis in others))
    rest = inside - kept
    return next(iter(rest)) if len(rest) == 1 and len(kept) == 2 else None


def _per_channel(at: At) -> int | None:
    """The axis along which a constant differs, as means and deviations of channels do."""
    axes = at.axes(0)
    if at.node.op_type not in {"Sub", "Mul", "Div", "Add"} or axes is None or len(axes) != 4 or at.axes(1) is not None:
        return None
    dims = named_sizes(at.node.inputs[1]) or []
    lead = 4 - len(dims)
    wide = [i + lead for i, size in enumerate(dims) if size != 1]
    found = spatial_of(axes[wide[0]]) if len(wide) == 1 else frozenset()
    axis = next(iter(found)) if len(found) == 1 else None
    return axis if axis in {1, 3} else None


def declare_axes(graph: ir.Graph, axes: Mapping[str, str] | None) -> None:
    """Say what the axes of the image or of layers are, for what is read of the graph afterwards.

    Args:
        graph: The graph.
        axes: By the name of the image, of a layer of four axes, or of scores their letters in order: N images, C
            channels or classes, H rows, W columns, T steps.

    Raises:
        InputError: There is no such tensor, it has not so many axes, or the letters are others.
    """
    if not axes:
        return
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    for name, layout in axes.items():
        value = values.get(name)
        if value is None:
            raise InputError(f"axes are declared of '{name}', which is no tensor of the model")
        dims = known_dims(value)
        of_image = any(value is given for given in graph.inputs)
        if of_image:
            right = layout in {"NCHW", "NHWC"}
        else:  # a layer of four axes, or scores
            right = sorted(layout) == sorted("NCHW") or (len(layout) < 4 and sorted(layout) in _SCORES)
        if not right or dims is None or len(dims) != len(layout):
            raise InputError(
                f"'{layout}' does not name the axes of '{name}' {value.shape}: an image is NCHW or NHWC, a layer of "
                "four axes has the letters N, C, H and W in some order, scores are NC, NHW or NTC (T being steps)"
            )
        value.meta[DECLARED] = layout
    for value in values.values():
        value.meta.pop(SCORE_AXES, None)
