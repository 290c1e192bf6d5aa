"""Rules for operators that compute entry by entry, or mix the entries of axes: sums, products, normalisations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portable_cam.export.layers.axes import ONE, Axis, Known, channels, digits_of, free
from portable_cam.export.layers.axis_rules.at import At, rule, spatial_of
from portable_cam.export.layers.axis_rules.join import joined, made_of_all, unknown_views
from portable_cam.export.layers.axis_rules.sizes import named_sizes

#: Operators whose output entry is made of the same entry of each input, broadcast to each other.
ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    Cast Ceil Celu Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish
    Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu
    Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
    Swish
""".split()

#: Operators that compute from the same entry of their first input; the others are parameters.
OF_FIRST = """
    BatchNormalization CastLike Clip DequantizeLinear LRN QuantizeLinear Trilu
""".split()

#: Operators whose outputs are constants of sizes and random numbers.
NO_IMAGE = """
    Constant ConstantOfShape EyeLike RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range SequenceLength
    Shape Size StringConcat StringNormalizer StringSplit TfIdfVectorizer
""".split()


@rule(*ELEMENTWISE)
def elementwise(at: At) -> list[Known]:
    """Unchanged; of several operands equal relations, one broadcast, or the hull of two that differ by less than a
    step. Others are lost."""
    found = []
    for i, output in enumerate(at.node.outputs):
        dims = named_sizes(output)
        ranks = [len(at.dims(k)) for k in range(len(at.node.inputs))]
        rank = max(ranks, default=0) if dims is None else len(dims)
        found.append(Known(tuple(made_of_all(at, rank, at.out(i) or [None] * rank)), at.wide | unknown_views(at)))
    return found


@rule(*OF_FIRST, "DynamicQuantizeLinear")
def of_first(at: At) -> list[Known | None]:
    """The first output as the first input."""
    axes = at.axes(0)
    first = at.all_lost(why="only its parameters hold the image") if axes is None else Known(axes, at.wide)
    return [first, *([None] * (len(at.node.outputs) - 1))]


@rule(*NO_IMAGE)
def no_image(at: At) -> list[None]:
    """Nothing of the image's content."""
    return [None] * len(at.node.outputs)


def _mixed(at: At, axes: Sequence[Axis], mixed: Iterable[int]) -> Known:
    """All entries along some axes are read for each entry."""
    gone = frozenset().union(*(spatial_of(axes[a]) for a in mixed))
    return Known(tuple(axes), at.wide | gone)


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum")
def along_axis(at: At) -> Known:
    """Unchanged; along its axis each entry depends on all."""
    given = at.const(1) if at.node.op_type == "CumSum" else None
    axis = given[0] if given else at.int_attr("axis", -1)
    return _mixed(at, at.first, [axis % len(at.first)])


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(at: At) -> list[Known | None]:
    """Unchanged; from its axis on each entry depends on all."""
    axes = at.axes(0)
    if axes is None:
        return [at.all_lost(), *([None] * (len(at.node.outputs) - 1))]
    start = at.int_attr("axis", -1) % len(axes)
    first = _mixed(at, axes, range(start, len(axes)))
    small = Known((*axes[:start], *(ONE for _ in axes[start:])), first.wide)
    return [first, *([small] * (len(at.node.outputs) - 1))]


@rule("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
def over_positions(at: At) -> Known:
    """Unchanged; each entry depends on the whole image."""
    return _mixed(at, at.first, range(1, len(at.first)))


@rule(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "ArgMax",
    "ArgMin",
)
def reduce(at: At) -> Known:
    """The axes vanish; what keeps them has one entry that means nothing."""
    axes = at.first
    if at.node.op_type.startswith("Arg"):
        given: list[int] | None = [at.int_attr("axis", 0)]
    else:
        given = at.const(1) if at.given(1) else None
        if given is None and at.given(1):
            return at.all_lost(why="its axes are computed at run time")
        if not given and at.int_attr("noop_with_empty_axes", 0):
            return Known(axes, at.wide)
    if not axes:
        return Known(axes, at.wide)
    gone = {a % len(axes) for a in given} if given else set(range(len(axes)))
    keep = at.int_attr("keepdims", 1)
    kept = [ONE if a in gone else axis for a, axis in enumerate(axes) if a not in gone or keep]
    return Known(tuple(kept), at.wide | _vanished(axes, gone))


def _vanished(axes: Sequence[Axis], gone: Iterable[int]) -> frozenset[int]:
    """The spatial axes that an output depends on everywhere once these axes are gone: not those of which only the
    inside of windows goes, whose outer digits are still there."""
    gone = set(gone)
    kept = {d.source for i, axis in enumerate(axes) if i not in gone for d in digits_of(axis) if d.kind == "position"}
    lost_digits = [d for i in gone for d in digits_of(axes[i]) if d.kind == "position"]
    return frozenset(d.source.spatial for d in lost_digits if d.source not in kept)


@rule("MatMul", "MatMulInteger")
def matmul(at: At) -> Known:
    """The axes that are kept keep their meaning, the contracted ones vanish."""
    a, b = at.axes(0), at.axes(1)
    dims_a, dims_b = named_sizes(at.node.inputs[0]), named_sizes(at.node.inputs[1])
    if dims_a is None or dims_b is None:
        return at.all_lost(why="the rank of an input is not known")
    wide, varies = at.wide, a is not None and b is not None
    if a is not None:
        wide |= _all_of(a, [len(a) - 1]) if varies else _vanished(a, [len(a) - 1])
    if b is not None:
        inner = max(len(b) - 2, 0)
        wide |= _all_of(b, [inner]) if varies else _vanished(b, [inner])
    rows = [] if len(dims_a) == 1 else [a[-2] if a is not None else channels(dims_a[-2])]
    columns = [] if len(dims_b) == 1 else [b[-1] if b is not None else channels(dims_b[-1])]
    ends = [*rows, *columns]
    rank = max(len(dims_a), len(dims_b), 2) - 2
    lead: list[Axis] = [ONE] * rank
    for axes, dims in ((a, dims_a), (b, dims_b)):
        given = list(axes[:-2]) if axes is not None else [channels(d) if d != 1 else ONE for d in dims[:-2]]
        for i, axis in enumerate(given):
            k = i + rank - len(given)
            lead[k] = joined(at, lead[k], axis)
    return Known((*lead, *ends), wide)


def _all_of(axes: Sequence[Axis], gone: Iterable[int]) -> frozenset[int]:
    return frozenset().union(*(spatial_of(axes[a]) for a in gone))


@rule("Gemm")
def gemm(at: At) -> Known:
    """As MatMul of matrices, perhaps transposed."""
    a, b, out = at.axes(0), at.axes(1), at.out() or [None, None]
    rows, columns = channels(out[0]), channels(out[1])
    wide = at.wide
    if a is not None:
        kept = 1 if at.int_attr("transA", 0) else 0
        rows, wide = a[kept], wide | (_vanished(a, [1 - kept]) if b is None else _all_of(a, [1 - kept]))
    if b is not None:
        kept = 0 if at.int_attr("transB", 0) else 1
        columns, wide = b[kept], wide | (_vanished(b, [1 - kept]) if a is None else _all_of(b, [1 - kept]))
    return Known((rows, columns), wide)


@rule("Einsum")
def einsum(at: At) -> Known:
    """As MatMul: a letter of the result is made of all operands that have it."""
    equation = at.str_attr("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if "." in equation or not arrow:
        return at.all_lost(why=f"of the equation {equation}")
    letters: dict[str, Axis] = {}
    wide = at.wide
    varying = sum(at.axes(i) is not None for i in range(len(at.node.inputs)))
    for i, term in enumerate(terms.split(",")):
        dims, axes = at.dims(i), at.axes(i)
        given = axes if axes is not None else tuple(channels(d) if d != 1 else ONE for d in dims)
        for letter, axis in zip(term, given, strict=True):
            letters[letter] = joined(at, letters.get(letter, ONE), axis)
        if axes is not None:
            gone = [k for k, letter in enumerate(term) if letter not in result]
            wide |= _all_of(axes, gone) if varying > 1 else _vanished(axes, gone)
    return Known(tuple(letters[letter] for letter in result), wide)


@rule("Det")
def det(at: At) -> Known:
    """The last two axes vanish."""
    axes = at.first
    return Known(axes[:-2], at.wide | _all_of(axes, [len(axes) - 2, len(axes) - 1]))


@rule("TopK")
def top_k(at: At) -> list[Known]:
    """A ranking in place of an axis; the others stay."""
    axes = at.first
    axis, found = at.int_attr("axis", -1) % len(axes), []
    for i in range(2):
        size = (at.out(i) or [None] * len(axes))[axis]
        new = channels(size) if free(axes[axis]) else at.lost(size, "its entries are ranked")
        found.append(Known((*axes[:axis], new, *axes[axis + 1 :]), at.wide | spatial_of(axes[axis])))
    return found


@rule("OneHot")
def one_hot(at: At) -> Known:
    """A new axis of channels."""
    axes, out = at.first, at.out()
    axis = at.int_attr("axis", -1) % (len(axes) + 1)
    return Known((*axes[:axis], channels(out[axis] if out else None), *axes[axis:]), at.wide)


@rule("RNN", "GRU", "LSTM")
def recurrent(at: At) -> list[Known]:
    """The sequence stays, each step of it seen from all; the last states have no sequence."""
    axes = at.axes(0)
    if axes is None:
        return [at.all_lost(i) for i in range(len(at.node.outputs))]
    steps, images = (1, 0) if at.int_attr("layout", 0) else (0, 1)
    wide = at.wide | _all_of(axes, [steps, 2])
    found = []
    for i in range(len(at.node.outputs)):
        out = at.out(i) or [None] * (4 if i == 0 else 3)
        directions = channels(None)
        if i == 0:
            order = [axes[images], axes[steps], directions] if steps else [axes[steps], directions, axes[images]]
        else:
            order = [axes[images], directions] if steps else [directions, axes[images]]
        found.append(Known((*order, channels(out[-1])), wide))
    return found
