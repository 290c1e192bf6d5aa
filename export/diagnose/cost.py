"""What an explanation costs, estimated before anything is built.

Everything here is an estimate, for one image and one target. Multiply-accumulates (MACs) are counted for Conv,
ConvTranspose, Gemm, MatMul and their integer forms, without biases; a gradient of one of them with respect to an
operand costs as many MACs as the node itself. Elementwise work, pooling and memory traffic are not in it, so times may
differ.

Activation memory is the most that is alive at once when the nodes run in the graph's order, with elementwise nodes in
place and without weights; a run time that pads, packs or pools memory needs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnxscript import optimizer

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.diagnose.memory import Memory
from portable_cam.export.diagnose.operations import count_parameters, macs_of, path_between
from portable_cam.export.graph.shapes import complete_shapes
from portable_cam.export.graph.values import reads
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.read.untrusted import may_fold

#: What an open height or width is taken as, in pixels.
SIZE = 224


@dataclass(frozen=True)
class Cost:
    """An estimate for one image and one target.

    ``macs``: multiply-accumulates of the forward pass. ``parameters``: elements of the weights. ``multiples``: for each
    method that works, the MACs of its explanation over those of the forward pass, which is in it. ``forward_mb`` and
    ``gradient_mb``: the peak memory of activations, in units of 10^6 bytes, of the forward pass alone, and with what is
    kept for the gradient with respect to the image (None if there is none). ``assumed``: what open sizes were taken
    as. ``uncounted``: how many nodes of each operator are not in the estimate. ``unknown``: how many tensors' sizes are
    not known.
    """

    macs: int
    parameters: int
    multiples: dict[str, float]
    forward_mb: float
    gradient_mb: float | None
    assumed: list[str] = field(default_factory=list)
    uncounted: dict[str, int] = field(default_factory=dict)
    unknown: int = 0


def estimate(
    model: ir.Model,
    image: str | None,
    scores: Sequence[str],
    layers: Sequence[str],
    methods: Collection[str],
    size_axes: Sequence[int] = (2, 3),
) -> Cost | None:
    """Estimate what explanations of a normalised model cost. The model is left as it is.

    Args:
        model: As :func:`portable_cam.export.passes.normalize.normalize` returns it.
        image: The input that holds the image, if there is one.
        scores: The tensors that hold the scores, as far as they are known.
        layers: The layers of the methods that explain some.
        methods: The methods to estimate, those that work.
        size_axes: The axes of height and width of the image.

    Returns:
        None if the sizes assumed for what is open do not fit the model.
    """
    parameters = count_parameters(model.graph)
    fixed, assumed = _fixed(model, image, size_axes)
    if fixed is None:
        return None
    graph = fixed.graph
    nodes = list(graph)
    values = {str(v.name): v for v in (*graph.inputs, *(o for node in nodes for o in node.outputs))}
    source = values.get(image or "")
    ends, kept = ([values[name] for name in names if name in values] for names in (scores, layers))
    batch = 1
    if source is not None and source.shape is not None and isinstance(source.shape[0], int):
        batch = max(1, source.shape[0])
    counts = {node: macs_of(node) for node in nodes}
    forward = sum(count or 0 for count in counts.values())
    uncounted = Counter(
        node.op_type
        for node, count in counts.items()
        if count is None and any(not is_constant(value) for value in reads(node))
    )

    def gradient(of: Sequence[ir.Value]) -> int:
        affected = depends_on(nodes, of)
        return sum(
            (counts[node] or 0) * sum(value in affected for value in node.inputs[:2])
            for node in path_between(nodes, of, ends)
        )

    of_need = {"input gradient": gradient([] if source is None else [source]), "gradient": gradient(kept)}
    multiples = {
        name: round((forward + sum(of_need.get(need, 0) for need in method.needs)) / forward, 3)
        for name, method in METHODS.items()
        if name in methods and forward
    }
    walk = Memory(nodes, graph.outputs)
    megabyte = batch * 1e6
    reached = source is not None and bool(set(ends) & depends_on(nodes, [source]))
    return Cost(
        macs=forward // batch,
        parameters=parameters,
        multiples=multiples,
        forward_mb=round(walk.forward(graph.inputs) / megabyte, 6),
        gradient_mb=round(walk.gradient(graph.inputs, source, ends) / megabyte, 6)
        if source is not None and reached
        else None,
        assumed=assumed,
        uncounted=dict(sorted(uncounted.items())),
        unknown=walk.unknown,
    )


def _fixed(model: ir.Model, image: str | None, size_axes: Sequence[int]) -> tuple[ir.Model | None, list[str]]:
    """A copy with every input's shape fixed, and shapes behind them inferred; and what open sizes were taken as. A
    first axis is the batch, taken as 1 and not reported."""
    copy = model.clone()
    assumed = []
    for value in copy.graph.inputs:
        if value.shape is None:
            continue
        dims: list[int | ir.SymbolicDim] = []
        for axis, dim in enumerate(value.shape.dims):
            known = dim if isinstance(dim, int) else 1
            if not isinstance(dim, int) and value.name == image and axis > 0:
                known = SIZE if axis in size_axes else 3
            if not isinstance(dim, int) and axis > 0:
                assumed.append(f"'{value.name}' axis {axis} = {known}")
            dims.append(known)
        value.shape = ir.Shape(dims)
    for node in copy.graph:
        for output in node.outputs:
            if any(not isinstance(dim, int) for dim in (output.shape.dims if output.shape is not None else ())):
                output.shape = None
    try:
        optimizer.fold_constants(copy, onnx_shape_inference=True, should_fold=may_fold)
        complete_shapes(copy.graph)
    except Exception:  # an assumed size does not fit, and the libraries have no error of one kind for that
        return None, assumed
    return copy, assumed
