"""Records new nodes in a graph: the tape that rules, targets and heads write with."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.operators import HALVES
from portable_cam.export.graph.values import dtype_of, element_count, known_dims, rank_of, static_dim, static_shape

Operand: TypeAlias = ir.Value | float | int | None
Attribute: TypeAlias = int | float | str | Sequence[int] | Sequence[float]

_BOOL = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "IsNaN", "IsInf"})
_INT64 = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
_SECOND_INPUT_DTYPE = frozenset({"Where"})
_TYPE_ATTRIBUTE = {"Cast": "to", "EyeLike": "dtype"}


class Builder:
    """Appends nodes and constants to a graph.

    Numbers among the operands become constants of the first tensor operand's type, equal constants are stored once,
    and the element type of each output is filled in, so that rules work in float16 and float64 too.
    """

    def __init__(self, graph: ir.Graph, prefix: str = "pcam") -> None:
        self.graph = graph
        taken = {value.name for value in _all_values(graph)}
        while any(name is not None and name.startswith(f"{prefix}/") for name in taken):
            prefix += "_"
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._outermost = graph  # constants of nested graphs are stored there too

    def nested(self, inputs: Sequence[ir.Value] = ()) -> Builder:
        """A builder of a new graph with these inputs: the body of a Scan, or a branch. Names stay unique and
        constants shared between the two; the nested graph may read any value of this one."""
        inner = copy.copy(self)
        inner.graph = ir.Graph(
            list(inputs), [], nodes=[], opset_imports=self.graph.opset_imports.copy(), name=self.fresh("body")
        )
        return inner

    def fresh(self, name: str) -> str:
        """A name that no other value or node has."""
        return f"{self._prefix}/{name}_{next(self._numbers)}"

    # -- nodes ---------------------------------------------------------------------------------------------------

    def op(self, op_type: str, *operands: Operand, **attributes: Attribute) -> ir.Value:
        """Append one node and return its first output."""
        return self.op_multi(op_type, operands, 1, **attributes)[0]

    def op_multi(
        self, op_type: str, operands: Sequence[Operand], outputs: int, **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Append one node with several outputs and return them all."""
        first = next((v for v in operands if isinstance(v, ir.Value)), None)
        dtype = first.dtype if first is not None else None
        inputs = [
            v if v is None or isinstance(v, ir.Value) else self.constant(v, dtype or ir.DataType.FLOAT)
            for v in operands
        ]
        name = self.fresh(op_type)
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = name + (f"_{i}" if i else "")
            if (known := _result_dtype(op_type, inputs, attributes)) is not None:
                value.dtype = known
        self.graph.append(node)
        return node.outputs

    def made(self, node: ir.Node) -> bool:
        """Whether this builder appended the node."""
        return node.name is not None and node.name.startswith(f"{self._prefix}/")

    # -- constants -----------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray | float | Sequence[int], dtype: ir.DataType) -> ir.Value:
        """An initialiser with this content; the same content is stored once."""
        numpy_array = np.ascontiguousarray(np.asarray(array, dtype=dtype.numpy()))
        numpy_array = numpy_array.reshape(np.shape(array))  # ascontiguousarray makes a scalar one-dimensional
        key = (dtype.name, numpy_array.shape, numpy_array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}/constant_{len(self._constants)}"
            value = ir.Value(
                name=name,
                shape=ir.Shape(numpy_array.shape),
                type=ir.TensorType(dtype),
                const_value=ir.Tensor(numpy_array, dtype=dtype, name=name),
            )
            self._outermost.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def number(self, number: float, like: ir.Value) -> ir.Value:
        """A scalar constant in the element type of ``like``."""
        return self.constant(number, dtype_of(like))

    def ints(self, values: int | Iterable[int]) -> ir.Value:
        """An int64 constant: a vector, or a scalar for a single int."""
        return self.constant(values if isinstance(values, int) else list(values), ir.DataType.INT64)

    # -- shapes --------------------------------------------------------------------------------------------------

    def shape(self, value: ir.Value) -> ir.Value:
        """The shape of a value as an int64 vector: a constant where it is static, else a Shape node."""
        dims = static_shape(value)
        return self.ints(dims) if dims is not None else self.op("Shape", value)

    def dim(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension as an int64 vector of length 1."""
        size = static_dim(value, axis)
        if size is not None:
            return self.ints([size])
        end = {} if axis == -1 else {"end": axis + 1}
        return self.op("Shape", value, start=axis, **end)

    def length(self, value: ir.Value) -> ir.Value:
        """The number of elements as an int64 vector of length 1. Not by Size, whose scalar the CUDA provider copies to
        the GPU and back to reshape it."""
        return self.op("Shape", self.reshape(value, [-1]))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self.op("Reshape", value, self.ints(shape))

    def reshape_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """``value`` in the shape of ``like``; one unknown dimension costs no Shape node."""
        dims = known_dims(like)
        if dims is not None and dims.count(None) <= 1 and 0 not in dims:
            return self.reshape(value, [-1 if d is None else d for d in dims])
        return self.op("Reshape", value, self.op("Shape", like), allowzero=1)

    def expand_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """``value`` broadcast to the shape of ``like``."""
        out = self.op("Expand", value, self.shape(like))
        out.shape = like.shape
        return out

    def spread(self, small: ir.Value, like: ir.Value) -> ir.Value:
        """As :meth:`expand_like` for a value of the same rank, remembered so that an elementwise consumer can
        multiply with the small one instead (``Vjp.g_broadcast``)."""
        out = self.expand_like(small, like)
        out.meta["spread"] = True
        return out

    def cast_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """``value`` in the element type of ``like``."""
        return value if value.dtype == like.dtype else self.op("Cast", value, to=int(dtype_of(like)))

    def positions(self, like: ir.Value) -> ir.Value:
        """The position of each element of ``like`` in its flattened form: int64 in the shape of ``like``."""
        count = element_count(known_dims(like) or [None])
        size = self.ints(count) if count is not None else self.op("Size", like)
        return self.op("Reshape", self.op("Range", self.ints(0), size, self.ints(1)), self.shape(like), allowzero=1)

    def zeros_like(self, value: ir.Value) -> ir.Value:
        return self.expand_like(self.number(0, value), value)

    def scatter_add(
        self, op_type: str, like: ir.Value, indices: ir.Value, updates: ir.Value, **attributes: Attribute
    ) -> ir.Value:
        """Zeros in the shape of ``like`` with the updates added in, by ScatterElements or ScatterND. In float32 where
        the type is a half: ONNX Runtime's CPU provider has no adding scatter of these, and sums lose less."""
        dtype = dtype_of(like)
        if dtype not in HALVES:
            return self.op(op_type, self.zeros_like(like), indices, updates, reduction="add", **attributes)
        zeros = self.expand_like(self.constant(0, ir.DataType.FLOAT), like)
        wide = self.op("Cast", updates, to=int(ir.DataType.FLOAT))
        return self.op("Cast", self.op(op_type, zeros, indices, wide, reduction="add", **attributes), to=int(dtype))

    def eye(self, size: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The identity matrix, ``size`` an int64 vector of length 1; never stored, always computed at load. In
        float32 first where the type is a half, of which ONNX Runtime's CPU provider has none."""
        square = self.op("ConstantOfShape", self.op("Concat", size, size, axis=0))
        square.dtype = ir.DataType.FLOAT
        if dtype not in HALVES:
            return self.op("EyeLike", square, dtype=int(dtype))
        return self.op("Cast", self.op("EyeLike", square, dtype=int(ir.DataType.FLOAT)), to=int(dtype))

    def swap_last(self, value: ir.Value) -> ir.Value:
        """The last two axes transposed."""
        rank = rank_of(value)
        return self.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])

    def enter_blocked_layout(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """The same content, through a pooling window of one element.

        ONNX Runtime's CPU provider starts its blocked layout only at a convolution or pooling, and an Add of a blocked
        and a plain tensor falls back to plain: one plain gradient on a residual trunk would keep every block behind it
        in the plain layout. A copy where such a gradient starts costs less than the layout changes (ResNet-50, batch 8:
        140 ms of layout changes become 38, guided Grad-CAM 2.65 of plain inference becomes 2.58).
        """
        dims = known_dims(like)
        if dims is None or len(dims) != 4 or like.dtype != ir.DataType.FLOAT:
            return value
        return self.op("MaxPool", value, kernel_shape=[1, 1])

    def unbroadcast(self, gradient: ir.Value, source: ir.Value, result: ir.Value) -> ir.Value:
        """Sum a gradient of ``result``'s shape over the axes along which ``source`` was broadcast to it."""
        if source.shape is not None and result.shape is not None:
            have, want = list(result.shape.dims), list(source.shape.dims)
            if have == want and None not in [getattr(d, "value", d) for d in have]:
                return gradient
            lead = len(have) - len(want)
            pairs = list(zip(have[lead:], want, strict=True))
            # two dimensions without a name are not known to be equal, though they compare so
            if all(isinstance(w, int) or (w.value is not None and w == h) for h, w in pairs):
                axes = [*range(lead), *(lead + i for i, (h, w) in enumerate(pairs) if w == 1 and h != 1)]
                if axes:
                    gradient = self.op("ReduceSum", gradient, self.ints(axes), keepdims=1)
                return self.reshape_like(gradient, source) if lead else gradient
        # Shapes known only at run time: sum over each axis that is 1 in the source (harmless where it is 1 in both).
        source_shape, rank = self.op("Shape", source), self.op("Shape", self.op("Shape", result))
        missing = self.op("Sub", rank, self.op("Shape", source_shape))
        ones = self.op("Expand", self.ints([1]), missing)
        aligned = self.op("Concat", ones, source_shape, axis=0)
        axes_value = self.op("Squeeze", self.op("NonZero", self.op("Equal", aligned, self.ints(1))), self.ints([0]))
        gradient = self.op("ReduceSum", gradient, axes_value, keepdims=1, noop_with_empty_axes=1)
        return self.op("Reshape", gradient, source_shape)


# -- what is known of a value --------------------------------------------------------------------------------------


def _result_dtype(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Attribute]
) -> ir.DataType | None:
    if op_type in _BOOL:
        return ir.DataType.BOOL
    if op_type in _INT64:
        return ir.DataType.INT64
    if op_type in _TYPE_ATTRIBUTE and isinstance(to := attributes.get(_TYPE_ATTRIBUTE[op_type]), int):
        return ir.DataType(to)
    source = inputs[1] if op_type in _SECOND_INPUT_DTYPE else next((v for v in inputs if v is not None), None)
    return None if source is None else source.dtype


def _all_values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
