"""Class activation mapping (Zhou et al. 2016, arXiv 1512.04150): read from the graph, no gradient needed.

Two shapes of classifier end have a CAM:

* A -> global average pool -> (flatten, dropout) -> Gemm, MatMul or 1x1 Conv -> scores: the map is sum_c W[k, c] A_c;
* A -> global average pool -> scores, where A has a channel per class (1x1 convolution, perhaps ReLU, before it, as in
  SqueezeNet): the map is channel k of A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import LayerError, OptionError
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.autodiff.residuals import Residuals
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.methods.gradcam import weighted_sum
from portable_cam.export.methods.method import Method
from portable_cam.export.targets import Class, Target
from portable_cam.export.targets.scores import PASS_THROUGH


@dataclass(frozen=True)
class CamEnd:
    """The activation A, and the classifier's weights as a constant of shape (M, C), or (C, M) if ``transposed``; no
    weights where A has a channel per class."""

    activation: ir.Value
    weights: ir.Value | None
    transposed: bool


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
        if _is_global_average(node):
            return CamEnd(node.inputs[0], weights, transposed)
        if node.op_type in PASS_THROUGH and node.op_type != "Transpose":
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


def _is_global_average(node: ir.Node) -> bool:
    dims = known_dims(node.inputs[0]) if node.inputs[0] is not None else None
    if node.op_type == "GlobalAveragePool":
        return True
    if dims is None or len(dims) != 4:
        return False
    if node.op_type == "ReduceMean" and len(node.inputs) > 1:
        axes = constant_of(node.inputs[1])
        return axes is not None and sorted(int(a) % 4 for a in axes.reshape(-1)) == [2, 3]
    if node.op_type == "AveragePool":
        kernel = node.attributes.get_ints("kernel_shape", ())
        pads = node.attributes.get_ints("pads", ())
        return list(kernel or ()) == dims[2:] and not any(pads or ())
    return False


def _bias_free_input(node: ir.Node) -> ir.Value | None:
    """The input of an Add whose other input is a constant vector."""
    for i in (0, 1):
        mine, other = node.inputs[i], node.inputs[1 - i]
        if mine is not None and is_constant(other):
            return mine
    return None


def cam_maps(b: Builder, end: CamEnd, targets: ir.Value) -> ir.Value:
    """The maps before the ReLU, (N, K, h, w), for ``targets`` int64 (N, K)."""
    if end.weights is None:
        flat = b.op("Reshape", end.activation, b.ints([0, 0, -1]))
        shape = b.op("Concat", b.op("Shape", targets), b.op("Shape", flat, start=2), axis=0)
        index = b.op("Expand", b.op("Unsqueeze", targets, b.ints([2])), shape)
        chosen = b.op("GatherElements", flat, index, axis=1)
        space = b.op("Shape", end.activation, start=2)
        return b.op("Reshape", chosen, b.op("Concat", b.ints([0, 0]), space, axis=0))
    return weighted_sum(b, _rows(b, end.weights, targets, transposed=end.transposed), end.activation)


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
    return find_cam_end(scores[0])


cam = Method(
    "cam",
    title="CAM",
    summary="the classifier's weights applied to the last feature map; needs a global average pool at the end",
    paper="Zhou et al. 2016, arXiv 1512.04150",
    classifier=True,
    kernel="weights",
)
