"""Matrix products: MatMul, Gemm, Einsum."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.values import dtype_of, known_dims, rank_of, shape_of

_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@register("MatMul")
def matmul(v: Vjp) -> Sequence[Gradient]:
    """Y = A B, batch dimensions broadcast: dA = dY B^T, dB = A^T dY. A vector is a matrix of one row or column."""
    b, g, left, right = v.b, v.g, v.x, v.input(1)
    row, column = rank_of(left) == 1, rank_of(right) == 1
    a = b.op("Unsqueeze", left, b.ints([0])) if row else left
    c = b.op("Unsqueeze", right, b.ints([1])) if column else right
    a.shape, c.shape = _matrix_shape(left, 0), _matrix_shape(right, 1)
    if row or column:
        g = b.op("Unsqueeze", g, b.ints([axis for axis, added in ((-2, row), (-1, column)) if added]))
    to_left: Gradient = None
    to_right: Gradient = None
    if v.needed(0):
        to_left = b.op("MatMul", g, b.swap_last(c))
        to_left = _sum_batch(v, to_left, a, c)
        to_left = b.reshape_like(to_left, left) if row else to_left
    if v.needed(1):
        to_right = b.op("MatMul", b.swap_last(a), g)
        to_right = _sum_batch(v, to_right, c, a)
        to_right = b.reshape_like(to_right, right) if column else to_right
    return [to_left, to_right]


def _matrix_shape(value: ir.Value, axis: int) -> ir.Shape:
    shape = shape_of(value)
    dims = list(shape.dims)
    return ir.Shape([*dims[:axis], 1, *dims[axis:]]) if len(dims) == 1 else shape


def _sum_batch(v: Vjp, gradient: ir.Value, source: ir.Value, other: ir.Value) -> ir.Value:
    """Undo the broadcasting of the batch dimensions: ``gradient`` has those of both operands together."""
    mine, theirs = list(shape_of(source).dims[:-2]), list(shape_of(other).dims[:-2])
    rank = max(len(mine), len(theirs))
    padded = [1] * (rank - len(mine)) + mine, [1] * (rank - len(theirs)) + theirs
    batch = [m if t == 1 else t for m, t in zip(*padded, strict=True)]
    gradient.shape = ir.Shape([*batch, *shape_of(source).dims[-2:]])
    return v.b.unbroadcast(gradient, source, gradient)


@register("Gemm")
def gemm(v: Vjp) -> Sequence[Gradient]:
    """Y = alpha A' B' + beta C, where ' transposes if transA or transB is set."""
    b, g, a, w = v.b, v.g, v.x, v.input(1)
    alpha, beta = v.float_attr("alpha", 1.0), v.float_attr("beta", 1.0)
    ta, tb = int(v.int_attr("transA", 0) != 0), int(v.int_attr("transB", 0) != 0)
    to_a: Gradient = None
    to_b: Gradient = None
    to_c: Gradient = None
    if v.needed(0):
        to_a = (
            b.op("Gemm", w, g, alpha=alpha, transA=tb, transB=1)
            if ta
            else b.op("Gemm", g, w, alpha=alpha, transB=1 - tb)
        )
    if v.needed(1):
        to_b = (
            b.op("Gemm", g, a, alpha=alpha, transA=1, transB=ta)
            if tb
            else b.op("Gemm", a, g, alpha=alpha, transA=1 - ta)
        )
    if v.needed(2):
        scaled = g if beta == 1 else b.op("Mul", g, beta)
        to_c = b.unbroadcast(scaled, v.input(2), v.y)
    return [to_a, to_b, to_c]


@register("Einsum")
def einsum(v: Vjp) -> Sequence[Gradient]:
    """For one operand: the Einsum of the gradient and the other operands, with the labels permuted to its own;
    labels that only this operand has were summed, so its gradient is repeated along them. Where its size is 1 and was
    broadcast, its gradient is summed."""
    b = v.b
    terms, out = _einsum_labels(v)
    gradients: list[Gradient] = []
    for i, term in enumerate(terms):
        if not v.needed(i):
            gradients.append(None)
            continue
        unique, repeated = _without_repeats(term, set("".join(terms) + out))
        others = [(t, v.input(j)) for j, t in enumerate(terms) if j != i]
        reachable = set(out).union(*(set(t) for t, _ in others))
        broadcast = {label for label, size in zip(term, known_dims(v.input(i)) or [], strict=False) if size == 1}
        kept = "".join(label for label in dict.fromkeys(term) if label in reachable - broadcast)
        equation = ",".join([out, *(t for t, _ in others)]) + "->" + kept
        gradient = b.op("Einsum", v.g, *(x for _, x in others), equation=equation)
        private = [axis for axis, label in enumerate(dict.fromkeys(term)) if label not in kept]
        if private:
            gradient = b.op("Unsqueeze", gradient, b.ints(private))
            gradient = gradient if repeated else b.expand_like(gradient, v.input(i))
        if repeated:
            # back on the diagonal: the identity of the repeated axis, one label of which is the new one
            eyes = [b.eye(b.dim(v.input(i), axis), dtype_of(v.x)) for axis, _, _ in repeated]
            placed = ",".join(["".join(dict.fromkeys(term)), *(old + new for _, old, new in repeated)])
            gradient = b.op("Einsum", gradient, *eyes, equation=f"{placed}->{unique}")
            gradient = b.expand_like(gradient, v.input(i)) if private else gradient
        gradients.append(gradient)
    return gradients


def _without_repeats(term: str, taken: set[str]) -> tuple[str, list[tuple[int, str, str]]]:
    """The labels of an operand with new ones for those that were there before, and for each of these its axis, the
    label that it repeats and the new one."""
    labels, repeated = "", []
    for axis, label in enumerate(term):
        if label in labels:
            new = next(c for c in _LABELS if c not in taken and c not in labels)
            repeated.append((axis, label, new))
            label = new
        labels += label
    return labels, repeated


def _einsum_labels(v: Vjp) -> tuple[list[str], str]:
    """The labels of each operand and of the result, implicit output and ellipsis made explicit."""
    equation = v.str_attr("equation", "").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        out = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if "..." not in equation:
        return terms, out
    free = [c for c in _LABELS if c not in equation]
    widths = [rank_of(v.input(i)) - len(t.replace("...", "")) for i, t in enumerate(terms) if "..." in t]
    width = max(widths, default=0)
    if any(w != width for w in widths):
        raise v.unsupported("its operands broadcast an ellipsis of different ranks")
    return [t.replace("...", "".join(free[:width])) for t in terms], out.replace("...", "".join(free[:width]))


@register("Det")
def det(v: Vjp) -> ir.Value:
    """The cofactors, each the determinant of the matrix with row i replaced by the unit vector e_j: right for singular
    matrices too, where det(A) A^-T is not defined."""
    b = v.b
    n = b.dim(v.x, -1)
    eye = b.eye(n, dtype_of(v.x))
    row = b.op("Cast", b.op("Unsqueeze", eye, b.ints([1, 3])), to=int(ir.DataType.BOOL))  # (n, 1, n, 1)
    unit = b.op("Unsqueeze", eye, b.ints([0, 2]))  # (1, n, 1, n)
    replaced = b.op("Where", row, unit, b.op("Unsqueeze", v.x, b.ints([-3, -4])))  # (..., n, n, n, n)
    return b.op("Mul", b.op("Det", replaced), b.op("Unsqueeze", v.g, b.ints([-1, -2])))
