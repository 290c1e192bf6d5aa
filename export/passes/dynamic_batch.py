"""A fixed batch size made symbolic, where the graph itself proves that images do not mix."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, input_of, known_dims, optional_input, reads
from portable_cam.export.passes.fold import infer_model_shapes

_ELEMENTWISE = frozenset(
    """
    Abs Add BatchNormalization Cast Celu Clip Conv ConvTranspose DepthToSpace DequantizeLinear Div Dropout Elu Erf Exp
    Gelu GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity InstanceNormalization LRN LeakyRelu Log MaxPool
    AveragePool Max Min Mish Mul Neg PRelu Pow QuantizeLinear Reciprocal Relu Selu Sigmoid Softplus Softsign
    SpaceToDepth Sqrt Sub Sum Swish Tanh Where GroupNormalization
    """.split()
)


def make_batch_dynamic(model: ir.Model) -> PassResult:
    """Make the first dimension of the model's input symbolic, in place, if it is fixed.

    Done only if every operator that the input reaches works on each image by itself, by its definition and its
    attributes; a Reshape that names the batch size is rewritten to copy it.
    """
    graph, unchanged = model.graph, PassResult(model, False)
    if len(graph.inputs) != 1:
        return unchanged
    image = graph.inputs[0]
    dims = known_dims(image)
    if not dims or dims[0] is None:
        return unchanged
    carries = {image}
    reshapes: list[tuple[ir.Node, list[int]]] = []
    for node in graph:
        if not any(value in carries for value in reads(node)):
            continue
        if not _keeps_images_apart(node, carries, dims[0], reshapes):
            return unchanged
        carries.update(node.outputs)
    if any(value not in carries for value in graph.outputs):
        return unchanged
    for i, (node, shape) in enumerate(reshapes):
        name = f"{input_of(node, 1).name}/batch_{i}"
        value = ir.Value(name=name, const_value=ir.tensor(shape, dtype=ir.DataType.INT64, name=name))
        value.shape, value.dtype = ir.Shape([len(shape)]), ir.DataType.INT64
        graph.register_initializer(value)
        node.replace_input_with(1, value)
        node.attributes.pop("allowzero", None)  # a zero copies the batch; torch's exporter always sets it
    for value in carries:
        value.shape = ir.Shape(["N", *image.shape.dims[1:]]) if value is image and image.shape is not None else None
    infer_model_shapes(model)
    return PassResult(model, True)


def _keeps_images_apart(
    node: ir.Node, carries: set[ir.Value], batch: int, reshapes: list[tuple[ir.Node, list[int]]]
) -> bool:
    if not any(value in carries for value in node.inputs):
        return False  # a subgraph reads it
    op, ranks = node.op_type, []
    for value in node.inputs:
        if value is None:
            continue
        dims = known_dims(value)
        if dims is None:
            return False
        if value in carries:
            if not dims or dims[0] != batch:
                return False
            ranks.append(len(dims))
    rank = ranks[0]
    others = [v for v in node.inputs if v is not None and v not in carries]
    first = node.inputs[0]
    if node.domain not in ONNX_DOMAINS or first is None:
        return False
    if op == "PRelu":
        return first in carries and len(ranks) == 1 and _broadcasts_over_batch(others[0], rank)
    if op in {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization"}:
        return first in carries and len(ranks) == 1
    if op in _ELEMENTWISE:
        return set(ranks) == {rank} and all(_broadcasts_over_batch(v, rank) for v in others)
    if first not in carries and op != "Concat":
        return False
    default: int = -1 if op in {"Softmax", "LogSoftmax", "LayerNormalization"} else 0
    axis = node.attributes.get_int("axis", 0) if "axis" in node.attributes else default
    if op in {"Softmax", "LogSoftmax", "Split", "LayerNormalization"}:
        return axis % rank != 0
    if op == "Concat":
        return axis % rank != 0 and not others and set(ranks) == {rank}
    if op == "Flatten":
        return node.attributes.get_int("axis", 1) == 1
    if op == "Gather":
        return axis % rank != 0 and len(ranks) == 1
    if op == "Gemm":
        return (
            not node.attributes.get_int("transA", 0)
            and len(ranks) == 1
            and all(_broadcasts_over_batch(bias, rank) for bias in others[1:])
        )
    if op == "MatMul":
        by_constant = len(ranks) == 1 and len(known_dims(others[0]) or []) <= 2
        return rank >= 2 and (by_constant or (ranks == [rank, rank] and rank > 2))
    if op == "Transpose":
        perm = node.attributes.get_ints("perm", None)
        return perm is not None and perm[0] == 0
    if op == "Reshape":
        return _reshape_keeps_batch(node, batch, reshapes)
    axes_at = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "Pad": 3}.get(op, 1 if op.startswith("Reduce") else None)
    if op == "Resize":
        dims_in, dims_out = known_dims(first), known_dims(node.outputs[0])
        return dims_in is not None and dims_out is not None and dims_in[:1] == dims_out[:1] and _by_scales(node)
    if op == "Pad" and len(node.inputs) < 4:
        pads = constant_of(node.inputs[1])
        return pads is not None and pads.reshape(-1)[0] == 0 and pads.reshape(-1)[rank] == 0
    if axes_at is not None and len(node.inputs) > axes_at:
        axes = constant_of(node.inputs[axes_at])
        if axes is None:
            return False
        out_rank = rank + axes.size if op == "Unsqueeze" else rank
        return all(int(a) % out_rank != 0 for a in axes.reshape(-1))
    return False


def _by_scales(node: ir.Node) -> bool:
    """Whether a Resize has scales; sizes would fix the batch."""
    return optional_input(node, 3) is None


def _broadcasts_over_batch(value: ir.Value, rank: int) -> bool:
    dims = known_dims(value)
    return dims is not None and (len(dims) < rank or dims[0] == 1)


def _reshape_keeps_batch(node: ir.Node, batch: int, reshapes: list[tuple[ir.Node, list[int]]]) -> bool:
    shape, data, out = constant_of(node.inputs[1]), known_dims(node.inputs[0]), known_dims(node.outputs[0])
    if shape is None or data is None or out is None or None in out:
        return False
    if not out or out[0] != batch:
        return False
    target = [int(d) for d in shape.reshape(-1)]
    if node.attributes.get_int("allowzero", 0) == 1 and 0 in target:  # an empty tensor
        return False
    if target[0] == 0 or target[0] == -1:
        return True
    reshapes.append((node, [0, *target[1:]]))
    return True
