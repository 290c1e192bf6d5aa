"""Class activation mapping (Zhou et al. 2016, arXiv 1512.04150): read from the graph, no gradient needed.

Two shapes of classifier end have a CAM:

* A -> global average pool -> (flatten, dropout) -> Gemm, MatMul or 1x1 Conv -> scores: the map is sum_c W[k, c] A_c;
* A -> global average pool -> scores, where A has a channel per class (1x1 convolution, perhaps ReLU, before it, as in
  SqueezeNet): the map is channel k of A.

The pool is any mean over all positions of the image, in whatever layout: GlobalAveragePool, an AveragePool as large as
its input, ReduceMean over rows and columns at once, one after the other or flattened, or their sum divided by their
number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import LayerError, OptionError
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.autodiff.residuals import Residuals
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, element_count, known_dims
from portable_cam.export.layers.candidates import layer_axes
from portable_cam.export.layers.placement import Placement, ViewPlacement
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.methods.gradcam import weighted_sum
from portable_cam.export.methods.method import Method
from portable_cam.export.targets import Class, Target
from portable_cam.export.targets.scores import PASS_THROUGH


@dataclass(frozen=True)
class CamEnd:
    """The activation A, its axes that are averaged, and the classifier's weights as a constant of shape (M, C), or
    (C, M) if ``transposed``; no weights where A has a channel per class."""

    activation: ir.Value
    axes: tuple[int, ...]
    weights: ir.Value | None
    transposed: bool


@dataclass(frozen=True)
class CamLayer:
    """What CAM reads: ``map`` is the activation as (N, C, h, w)."""

    end: CamEnd
    axes: SpatialAxes
    map: ir.Value
    places: list[Placement | ViewPlacement | None]


def find_cam_end(score: ir.Value) -> CamEnd:
    """Recognise the end of the classifier.

    Raises:
        LayerError: Something else stands between the pooling and the scores; the message names it.
    """
    weights: ir.Value | None = None
    transposed = False
    current = score
    while True:
        node = current.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            raise LayerError(f"CAM: no global average pool leads to the scores '{score.name}'; use gradcam")
        if (mean := _mean(node)) is not None:
            return CamEnd(*mean, weights, transposed)
        if node.op_type in PASS_THROUGH and (node.op_type != "Transpose" or _keeps_order(node)):
            current = node.inputs[0]
        elif node.op_type == "Gemm" and weights is None and _is_plain(node):
            weights, transposed = node.inputs[1], not node.attributes.get_int("transB", 0)
            current = node.inputs[0]
        elif node.op_type == "MatMul" and weights is None and len(known_dims(node.inputs[1]) or []) == 2:
            weights, transposed = node.inputs[1], True
            current = node.inputs[0]
        elif node.op_type == "Conv" and weights is None and _is_linear(node):
            weights, transposed = node.inputs[1], False
            current = node.inputs[0]
        elif node.op_type == "Add" and weights is None and _bias_free_input(node) is not None:
            current = _bias_free_input(node)  # type: ignore[assignment]
        else:
            raise LayerError(
                f"CAM needs a global average pool followed by at most one linear layer; between them and the scores "
                f"'{score.name}' stands {node.op_type} node '{node.name}'. Use gradcam, which needs no such structure"
            )


def _mean(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | None:
    """The tensor that a node averages, and the axes it does so over; None if it computes something else."""
    data = node.inputs[0]
    dims = known_dims(data)
    if data is None or dims is None:
        return None
    if node.op_type == "GlobalAveragePool":
        return data, tuple(range(2, len(dims)))
    if node.op_type == "AveragePool":
        kernel, pads = node.attributes.get_ints("kernel_shape", ()), node.attributes.get_ints("pads", ())
        whole = list(kernel or ()) == dims[2:] and not any(pads or ())
        return (data, tuple(range(2, len(dims)))) if whole else None
    if node.op_type in {"Mul", "Div"}:
        return _scaled_sum(node)
    return _reduced(node, "ReduceMean")


def _reduced(node: ir.Node, op_type: str) -> tuple[ir.Value, tuple[int, ...]] | None:
    """The tensor and the axes of a reduction over some of them, and of one of the same kind before it: rows, then
    columns."""
    data, dims = node.inputs[0], known_dims(node.inputs[0])
    given = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type != op_type or data is None or dims is None or given is None or not given.size:
        return None
    axes = tuple(sorted(int(axis) % len(dims) for axis in given.reshape(-1)))
    before = data.producer()
    inner = None if before is None else _reduced(before, op_type)
    if before is None or inner is None:
        return data, axes
    source, first = inner
    rank = len(known_dims(source) or [])
    left = list(range(rank)) if len(dims) == rank else [axis for axis in range(rank) if axis not in first]
    return source, tuple(sorted({*first, *(left[axis] for axis in axes)}))


def _scaled_sum(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | None:
    """A sum over some axes that is divided by the number of what was added."""
    for total, factor in ((0, 1), (1, 0)) if node.op_type == "Mul" else ((0, 1),):
        value, number = node.inputs[total], constant_of(node.inputs[factor])
        producer = None if value is None else value.producer()
        found = None if producer is None else _reduced(producer, "ReduceSum")
        if found is None or number is None or number.size != 1:
            continue
        sizes = [(known_dims(found[0]) or [])[axis] for axis in found[1]]
        count = element_count(sizes)
        share = float(number.reshape(-1)[0])
        if count is not None and math.isclose(
            share * count if node.op_type == "Mul" else share / count, 1, rel_tol=1e-3
        ):
            return found
    return None


def _keeps_order(transpose: ir.Node) -> bool:
    """Whether a Transpose only moves axes of one entry, as behind a pooling that keeps them."""
    dims = known_dims(transpose.inputs[0])
    perm = transpose.attributes.get_ints("perm", None)
    moved = [axis for axis in perm or () if dims is None or dims[axis] != 1]
    return dims is not None and perm is not None and moved == sorted(moved)


def _bias_free_input(node: ir.Node) -> ir.Value | None:
    """The input of an Add whose other input is a constant vector."""
    for i in (0, 1):
        mine, other = node.inputs[i], node.inputs[1 - i]
        if mine is not None and is_constant(other):
            return mine
    return None


def cam_maps(b: Builder, end: CamEnd, activation: ir.Value, targets: ir.Value) -> ir.Value:
    """The maps before the ReLU, (N, K, h, w), for ``targets`` int64 (N, K); ``activation`` as a map (N, C, h, w)."""
    if end.weights is None:
        flat = b.op("Reshape", activation, b.ints([0, 0, -1]))
        shape = b.op("Concat", b.op("Shape", targets), b.op("Shape", flat, start=2), axis=0)
        index = b.op("Expand", b.op("Unsqueeze", targets, b.ints([2])), shape)
        chosen = b.op("GatherElements", flat, index, axis=1)
        space = b.op("Shape", activation, start=2)
        return b.op("Reshape", chosen, b.op("Concat", b.ints([0, 0]), space, axis=0))
    return weighted_sum(b, _rows(b, end.weights, targets, transposed=end.transposed), activation)


def cam_weights(b: Builder, end: CamEnd, targets: ir.Value) -> ir.Value | None:
    """The classifier's rows of the targets, (N, K, C); None where A has a channel per class."""
    return None if end.weights is None else _rows(b, end.weights, targets, transposed=end.transposed)


def _rows(b: Builder, weights: ir.Value, targets: ir.Value, *, transposed: bool) -> ir.Value:
    matrix = Residuals(b, (), ())(weights)
    if len(known_dims(weights) or []) > 2:
        matrix = b.op("Flatten", matrix, axis=1)
    rows = b.op("Transpose", matrix, perm=[1, 0]) if transposed else matrix
    return b.op("Gather", rows, targets, axis=0)


def _is_linear(conv: ir.Node) -> bool:
    """A convolution of one element: on a pooled tensor it is a linear layer."""
    dims = known_dims(conv.inputs[1]) if conv.inputs[1] is not None else None
    padded = any(conv.attributes.get_ints("pads", ()) or ())
    return bool(dims) and set(dims[2:]) == {1} and conv.attributes.get_int("group", 1) == 1 and not padded  # type: ignore[index]


def _is_plain(gemm: ir.Node) -> bool:
    return not gemm.attributes.get_int("transA", 0) and gemm.attributes.get_float("alpha", 1.0) == 1.0


def cam_end(target: Target, scores: Sequence[ir.Value]) -> CamEnd:
    """The end of a classifier that CAM reads its weights from.

    Raises:
        OptionError: The target is no class.
        LayerError: The model has no such end.
    """
    if target.name != Class.name:
        raise OptionError(f"the method cam explains the classes of a classifier, not the target '{target.name}'")
    if target.rows(scores) is not None:
        raise OptionError("the method cam explains the only row of scores of an image, not one of several: use gradcam")
    return find_cam_end(scores[0])


def cam_axes(graph: ir.Graph, end: CamEnd) -> SpatialAxes:
    """Where the activation has its rows and columns.

    Raises:
        LayerError: They are not known, or not those that are averaged.
    """
    (spatial,) = layer_axes(graph, [end.activation])
    if spatial.several:
        raise LayerError(f"CAM needs one map for each image; '{end.activation.name}' has several views. Use gradcam")
    if tuple(sorted(spatial.axes)) != end.axes or spatial.prefix or spatial.suffix:
        raise LayerError(
            f"CAM needs a mean over the positions of the image alone; of '{end.activation.name}', laid out as "
            f"{spatial.layout}, the axes {list(end.axes)} are averaged. Use gradcam"
        )
    return spatial


cam = Method(
    "cam",
    title="CAM",
    summary="the classifier's weights applied to the last feature map; needs a global average pool at the end",
    paper="Zhou et al. 2016, arXiv 1512.04150",
    classifier=True,
    kernel="weights",
)
