"""What an explanation costs, estimated before anything is built.

Everything here is an estimate, for one image and one target. Multiply-accumulates (MACs) are counted for Conv,
ConvTranspose, Gemm, MatMul and their integer forms, without biases; a gradient of one of them with respect to an
operand costs as many MACs as the node itself. Elementwise work, pooling and memory traffic are not in it, so times may
differ.

Activation memory is the most that is alive at once when the nodes run in the graph's order, with elementwise nodes in
place and without weights; a run time that pads, packs or pools memory needs more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnxscript import optimizer

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.autodiff.rules import has_no_gradient
from portable_cam.export.graph.operators import FLOATS, ONNX_DOMAINS
from portable_cam.export.graph.shapes import complete_shapes
from portable_cam.export.graph.values import constant_of, element_count, known_dims, reads
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.read.untrusted import may_fold

#: What an open height or width is taken as, in pixels.
SIZE = 224

#: Operators that multiply and accumulate much, but are not counted: the estimate says so.
_UNCOUNTED = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"})
#: Inputs that are no parameters, although their content is floating point: bounds, scales, statistics.
_NO_PARAMETER = {
    "BatchNormalization": {3, 4}, "Clip": {1, 2}, "DequantizeLinear": {1, 2}, "Pad": {2}, "QuantizeLinear": {1, 2},
    "Resize": {1, 2}, "Range": {0, 1, 2},
}  # fmt: skip
_INTEGER_PARAMETER = {"ConvInteger": {1}, "DequantizeLinear": {0}, "MatMulInteger": {0, 1}}
#: Operators whose output is their input's memory under another shape.
_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
#: Operators that may write over an input of the same size, as ONNX Runtime does, or that it fuses into the node before.
_IN_PLACE = frozenset(
    """
    Abs Add BatchNormalization Ceil Celu Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log LogSoftmax
    Mish Mul Neg Reciprocal Relu Selu Sigmoid Softmax Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu
    """.split()
)
#: Operators whose gradient needs no tensor of the forward pass beside constants, and those that need only the output.
_LINEAR = _VIEWS | frozenset(
    """
    Add AveragePool BatchNormalization Cast Concat DepthToSpace DequantizeLinear Expand Gather GlobalAveragePool Neg Pad
    ReduceMean ReduceSum Resize Slice SpaceToDepth Split Sub Sum Tile Transpose
    """.split()
)
_BY_OUTPUT = frozenset({"Exp", "LogSoftmax", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh"})


@dataclass(frozen=True)
class Cost:
    """An estimate for one image and one target.

    ``macs``: multiply-accumulates of the forward pass. ``parameters``: elements of the weights. ``multiples``: for each
    method that works, the MACs of its explanation over those of the forward pass, which is in it. ``forward_mb`` and
    ``gradient_mb``: the peak memory of activations, in units of 10^6 bytes, of the forward pass alone, and with what is
    kept for the gradient with respect to the picture (None if there is none). ``assumed``: what open sizes were taken
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
        image: The input that holds the picture, if there is one.
        scores: The tensors that hold the scores, as far as they are known.
        layers: The layers of the methods that explain some.
        methods: The methods to estimate, those that work.
        size_axes: The axes of height and width of the picture.

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
    walk = _Walk(nodes, graph.outputs)
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


def macs_of(node: ir.Node) -> int | None:
    """The multiply-accumulates of a node; None if they are not known. 0 for operators that hardly multiply."""
    if node.domain not in ONNX_DOMAINS:
        return None
    if node.op_type in _UNCOUNTED:
        return None
    if node.op_type not in {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"}:
        return 0
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    left, right, out = (_dims(v) for v in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if not left or not right or out is None:
        return None
    if node.op_type in {"Conv", "ConvInteger"}:
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    depth, other = left[-1], right[-2] if len(right) > 1 else right[0]
    if node.op_type == "Gemm":
        depth = left[0] if node.attributes.get_int("transA", 0) else left[-1]
        other = right[-1] if node.attributes.get_int("transB", 0) else right[0]
    return math.prod(out) * depth if depth == other else None  # a size assumed for the picture may not fit


def count_parameters(graph: ir.Graph) -> int:
    """The elements of the weights of a normalised graph, quantised ones included; scales, zero points, bounds, running
    statistics and single numbers are none."""
    return sum(
        value.const_value.size
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.shape.rank() > 0 and _is_parameter(value)
    )


def path_between(nodes: Sequence[ir.Node], sources: Sequence[ir.Value], ends: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that a gradient passes from the ``ends`` back to the ``sources``, in the graph's order."""
    affected = depends_on(nodes, sources)
    behind = set(ends)
    path: list[ir.Node] = []
    for node in reversed(nodes):
        before = [value for value in reads(node) if value in affected]  # none: it made a source
        if before and any(o in behind for o in node.outputs) and not has_no_gradient(node):
            path.append(node)
            behind.update(before)
    return path[::-1]


def _is_parameter(value: ir.Value) -> bool:
    if value.const_value is not None and value.const_value.dtype in FLOATS:
        return any(use.idx not in _NO_PARAMETER.get(use.node.op_type, ()) for use in value.uses())
    return any(use.idx in _INTEGER_PARAMETER.get(use.node.op_type, ()) for use in value.uses())


def _fixed(model: ir.Model, image: str | None, size_axes: Sequence[int]) -> tuple[ir.Model | None, list[str]]:
    """A copy with every input's shape fixed, and shapes behind them inferred; and what open sizes were taken as. A
    first axis is the batch, taken as 1, which is not said."""
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


def _dims(value: ir.Value) -> list[int] | None:
    """The whole shape; None if any of it is open."""
    array = constant_of(value) if value.shape is None else None
    dims = known_dims(value) if array is None else list(array.shape)
    return None if dims is None or None in dims else [d for d in dims if d is not None]


@dataclass(frozen=True)
class _Step:
    """What one node reads and writes: the memory of tensors, or of their gradients."""

    reads: Collection[tuple[str, ir.Value]]
    writes: Collection[tuple[str, ir.Value]]
    in_place: bool


class _Walk:
    """How much memory is alive at each step of a graph."""

    def __init__(self, nodes: Sequence[ir.Node], outputs: Iterable[ir.Value]) -> None:
        self._nodes = nodes
        self._outputs = list(outputs)
        self._bytes: dict[ir.Value, int] = {}
        self._elements: dict[ir.Value, int] = {}
        self._memory: dict[ir.Value, ir.Value] = {}
        self.unknown = 0
        for node in nodes:
            first = node.inputs[0] if node.inputs else None
            for output in node.outputs:
                if node.op_type in _VIEWS and first is not None and output is node.outputs[0]:
                    self._memory[output] = self._of(first)
        for value in (v for node in nodes for v in node.outputs if v.name and (v.uses() or v.is_graph_output())):
            self.unknown += self._measure(value) is None

    def forward(self, inputs: Iterable[ir.Value]) -> int:
        """The peak of the forward pass in bytes; the inputs are alive all the time."""
        return self._peak([self._forward_step(node) for node in self._nodes], inputs)

    def gradient(self, inputs: Iterable[ir.Value], source: ir.Value, ends: Sequence[ir.Value]) -> int:
        """The peak of the forward pass and of the gradient of the ``ends`` with respect to ``source``, in bytes."""
        affected = depends_on(self._nodes, [source])
        steps = [self._forward_step(node) for node in self._nodes]
        steps += [
            _Step(
                [
                    *(("gradient", o) for o in node.outputs if o in affected),
                    *(("value", self._of(v)) for v in _residuals(node, affected)),
                ],
                [("gradient", v) for v in node.inputs if v is not None and v in affected],
                node.op_type in _IN_PLACE or node.op_type in _VIEWS,
            )
            for node in reversed(path_between(self._nodes, [source], ends))
        ]
        return self._peak(steps, inputs, [("gradient", source)])

    def _forward_step(self, node: ir.Node) -> _Step:
        values = [self._of(v) for v in reads(node) if not is_constant(v)]
        written = [] if all(is_constant(v) for v in reads(node)) else [self._of(o) for o in node.outputs if o.name]
        return _Step(
            [("value", v) for v in values],
            [("value", o) for o in written if o not in values],
            node.op_type in _IN_PLACE,
        )

    def _peak(
        self, steps: Sequence[_Step], inputs: Iterable[ir.Value], ends: Iterable[tuple[str, ir.Value]] = ()
    ) -> int:
        kept = {("value", self._of(v)) for v in (*inputs, *self._outputs)} | set(ends)
        last: Mapping[tuple[str, ir.Value], int] = {
            key: i for i, step in enumerate(steps) for key in (*step.reads, *step.writes)
        }
        alive = {("value", self._of(v)) for v in inputs}
        now = peak = sum(self._size(key) for key in alive)
        for i, step in enumerate(steps):
            ending = {key for key in (*step.reads, *step.writes) if last[key] == i and key not in kept}
            new = {key for key in step.writes if key not in alive}
            over = now + sum(map(self._size, new))
            if step.in_place and len(new) > 0:
                written = self._size(next(iter(new)))
                over -= max((s for key in ending if key in alive and (s := self._size(key)) == written), default=0)
            peak = max(peak, over)
            alive |= new
            now += sum(map(self._size, new))
            gone = ending & alive
            alive -= gone
            now -= sum(map(self._size, gone))
        return peak

    def _of(self, value: ir.Value) -> ir.Value:
        """The tensor whose memory it is."""
        return self._memory.get(value, value)

    def _size(self, key: tuple[str, ir.Value]) -> int:
        kind, value = key
        self._measure(value)
        if kind == "value":
            return self._bytes[value]
        width = value.dtype.itemsize if value.dtype is not None and value.dtype in FLOATS else 4
        return math.ceil(self._elements[value] * width)

    def _measure(self, value: ir.Value) -> int | None:
        dims = _dims(value)
        count = None if dims is None else element_count(dims)
        self._elements[value] = count or 0
        width = 4.0 if value.dtype in {None, ir.DataType.STRING} else value.dtype.itemsize
        self._bytes[value] = math.ceil((count or 0) * width)
        return count


def _residuals(node: ir.Node, affected: Collection[ir.Value]) -> list[ir.Value]:
    """The tensors of the forward pass that the gradient of a node reads, constants aside."""
    if node.op_type in _LINEAR:
        return []
    if node.op_type in _BY_OUTPUT:
        return [node.outputs[0]]
    operands = [value for value in node.inputs if value is not None and not is_constant(value)]
    if macs_of(node) != 0 or node.op_type == "Mul":  # the gradient of one operand is read with the other
        return (
            operands
            if sum(value in affected for value in operands) > 1
            else [value for value in operands if value not in affected]
        )
    return operands
