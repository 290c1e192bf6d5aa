"""Which tokens a node reads: where only a class token goes on, those of the image have no gradient any more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.axis_rules import AxesOf
from portable_cam.export.layers.axis_rules.sizes import computed_array
from portable_cam.export.layers.spatial import KnownAxes, SpatialAxes

#: Operators that compute each place from the same place of their inputs, whatever their attributes.
_POINTWISE = frozenset(
    """
    Abs Add BatchNormalization Cast Celu Clip Cos Div Dropout Elu Erf Exp Expand Gelu HardSigmoid HardSwish Identity
    LeakyRelu Log Max Mean Min Mish Mul Neg PRelu Pow Reciprocal Relu Reshape Flatten Selu Sigmoid Sin Softplus Softsign
    Sqrt Squeeze Sub Sum Swish Tanh Transpose Unsqueeze Where
    """.split()
)


def only_prefix(node: ir.Node, index: int, known: KnownAxes, derived: AxesOf, *, prefix_only: bool) -> bool:
    """Whether the node reads of this input no token of the image, only those before them.

    Args:
        node: The node.
        index: Which input.
        known: What :func:`portable_cam.export.layers.candidates.find_axes` found.
        derived: What is known of all axes, for the sizes that the graph computes.
        prefix_only: Whether of the node's own outputs no token of the image is read either.
    """
    value = node.inputs[index]
    spatial = known.get(value) if value is not None else None
    if spatial is None or not spatial.tokens:
        return False
    if spatial.prefix < 0:
        return False
    (axis,) = spatial.axes
    if index == 0 and node.op_type in {"Gather", "Slice"}:
        read = tokens_read(node, spatial, derived)
        if read is not None and read[1] <= spatial.prefix:
            return True
    if not prefix_only:
        return False
    output = known.get(node.outputs[0])
    if output is None or not output.tokens:
        return False
    rank = len(known_dims(value) or [])
    if node.op_type in _POINTWISE or node.op_type in {"Concat", "Slice", "Gather"}:
        return True
    if node.op_type == "MatMul":
        return index == 0 and axis != rank - 1 and output.axes[0] != len(known_dims(node.outputs[0]) or []) - 1
    if node.op_type in {"Softmax", "LogSoftmax"}:
        return node.attributes.get_int("axis", -1) % rank != axis
    if node.op_type in {"LayerNormalization", "RMSNormalization", "SkipLayerNormalization"}:
        return node.attributes.get_int("axis", -1) % rank > axis
    return False


def tokens_read(node: ir.Node, spatial: SpatialAxes, derived: AxesOf) -> tuple[int, int] | None:
    """The first token that a Gather or Slice reads, and the one behind the last; None if it is not known."""
    (axis,) = spatial.axes
    dims = known_dims(node.inputs[0])
    if dims is None:
        return None
    count = spatial.count if dims[axis] is None else dims[axis]
    if node.op_type == "Gather":
        indices = computed_array(node.inputs[1], derived)
        if indices is None or node.attributes.get_int("axis", 0) % len(dims) != axis or not indices.size:
            return None
        first, last = int(indices.min()), int(indices.max())
        return (first, last + 1) if first >= 0 else None
    starts, ends, given, steps = (
        computed_array(node.inputs[i], derived) if i < len(node.inputs) else None for i in range(1, 5)
    )
    not_told = [
        i for i in (3, 4) if i < len(node.inputs) and node.inputs[i] is not None and (given, steps)[i - 3] is None
    ]
    if starts is None or ends is None or not_told or (steps is not None and (steps != 1).any()):
        return None
    axes = [int(a) % len(dims) for a in (np.arange(starts.size) if given is None else given.reshape(-1))]
    if axis not in axes:
        return 0, 2**62
    start, end = (int(bounds.reshape(-1)[axes.index(axis)]) for bounds in (starts, ends))
    if count is None:
        return (start, end) if start >= 0 and end >= 0 else None
    return (start + count if start < 0 else start, end + count if end < 0 else end)
