"""Which tensor holds the scores, and where it is cut before a softmax or sigmoid.

The score explained is the logit: a softmax couples every class to every other and flattens the gradient of a sure
answer. A model that ends in one is cut before it, and the explanation notes it; so is one that goes on to decide (the
best class, the first five, a threshold). For scores that are integers, or are quantised before or behind the softmax,
their dequantised values are taken.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.autodiff.dequantized import as_run
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import constant_of, described, known_dims
from portable_cam.export.targets.logits import SQUASHING, is_one_head, kinds_of, probabilities_in, with_logits
from portable_cam.export.targets.rows import may_have_rows, rows_of
from portable_cam.export.targets.score_axes import ScoreAxes, score_axes
from portable_cam.spelling import either, option

#: Operators that only rearrange or rename what they get: looked through when the end of a model is read.
PASS_THROUGH = frozenset(
    """
    Cast DequantizeLinear Dropout Flatten Identity QuantizeLinear Reshape Squeeze Transpose Unsqueeze
    """.split()
)
#: What decides by them: which is the best, which are, what is above a threshold.
_ABOVE = frozenset({"Greater", "GreaterOrEqual"})
_DECIDING = frozenset({"ArgMax", "Hardmax", "TopK", "Round"}) | _ABOVE


@dataclass(frozen=True)
class Scores:
    """The tensor that holds the scores.

    Attributes:
        value: The tensor.
        output: The model's output that it belongs to.
        cut: The operator that it was cut before, or None.
        probabilities: What its numbers are moved from, where a sigmoid or softmax made that: the logits take their
            place (:func:`scores_to_explain`).
    """

    value: ir.Value
    output: str
    cut: str | None
    probabilities: tuple[ir.Value, ...] = ()

    @property
    def is_cut(self) -> bool:
        """Whether it was cut before what makes a probability."""
        return bool(self.probabilities) or self.cut in SQUASHING


def scores_to_explain(graph: ir.Graph, found: Sequence[Scores]) -> list[ir.Value]:
    """The tensors themselves, in a graph that is added to where their numbers are probabilities put together."""
    return [with_logits(graph, s.value, s.probabilities) if s.probabilities else s.value for s in found]


def cut_inside(scores: Scores, axis: int, start: int = 0, stop: int | None = None) -> Scores:
    """Scores that were not cut, cut before the sigmoids and softmaxes whose results are put together in them.

    Args:
        scores: As found.
        axis: That of the classes, of which those from ``start`` to ``stop`` are explained.
        start: See ``axis``.
        stop: See ``axis``.
    """
    if scores.is_cut:
        return scores
    found = probabilities_in(scores.value, axis, start, stop)
    return replace(scores, cut=kinds_of(found), probabilities=found) if found else scores


def find_scores(graph: ir.Graph, output: str | None = None, *, shared: bool = False, row: int | None = None) -> Scores:
    """The tensor to explain, cut before a final Softmax, LogSoftmax or Sigmoid, and before what decides behind it.

    Args:
        graph: A normalised graph.
        output: Any tensor of the graph; None for the model's only vector of scores per image.
        shared: One vector for all images together will do.
        row: Of several rows of scores the one that is wanted; None for one row per image.

    Raises:
        TargetError: There is no such tensor, it is not floating point, several outputs could be meant, or its rows
            do not belong to images.
    """
    if output is not None:
        return _cut_classes(graph, cut_if_last(graph, named_tensor(graph, output)), named=True)
    found = [_cut_classes(graph, cut_before(value)) for value in graph.outputs]
    read = {s.value: score_axes(graph, s.value) for s in found if s.value.dtype in FLOATS}
    vectors = [
        s for s in found if s.value in read and (read[s.value].is_vector or (shared and read[s.value].is_shared))
    ]
    if row is not None:
        vectors = [s for s in found if s.value in read and rows_of(graph, s.value) is not None] or vectors
    if vectors and all(s.value is vectors[0].value for s in vectors):  # logits, and their softmax beside them
        return vectors[0]
    if len(found) == 1 and found[0].value in read and read[found[0].value].is_single:  # a yes or no, one sigmoid
        return found[0]
    listing = ", ".join(f"'{o.name}' {described(o)}" for o in graph.outputs)
    if not vectors:
        reasons = [why for value, axes in read.items() if (why := _why_not(graph, value, axes))]
        because = f" ({'; '.join(reasons)})" if reasons else ""
        raise TargetError(
            f"none of the model's outputs is a vector of scores per image: {listing}{because}. Name the tensor that "
            f"holds the scores with {option('output')}; boxes, masks, captions and lines of text are explained "
            + either("by portable_cam.explain, with task=", "with --task")
            + " detect, segment, caption or ctc"
        )
    raise TargetError(f"several outputs could hold the scores: {listing}. Choose one with {option('output')}")


def _cut_classes(graph: ir.Graph, scores: Scores, *, named: bool = False) -> Scores:
    """Scores of classes cut where they are put together; a tensor that was named only if it is the model's answer."""
    dims = known_dims(scores.value)
    if dims is None or len(dims) not in {2, 3} or scores.value.dtype not in FLOATS:
        return scores
    if named and not _is_answer(graph, scores.value):
        return scores
    rows = rows_of(graph, scores.value) if len(dims) == 3 else None
    if len(dims) == 3 and rows is None:
        return scores
    axis = 1 if rows is None else rows.classes
    cut = cut_inside(scores, axis)
    if cut.probabilities and not is_one_head(cut.value, axis, cut.probabilities):
        return replace(cut, cut=f"{cut.cut} of each head")
    return cut


def refuse_rows(graph: ir.Graph, scores: Scores) -> None:
    """Whether there is one row of scores for each image, or for all of them.

    Raises:
        TargetError: There are several, of which one has to be chosen.
    """
    if rows_of(graph, scores.value) is not None:
        raise TargetError(f"the scores {_why_not(graph, scores.value, score_axes(graph, scores.value))}")


def _why_not(graph: ir.Graph, value: ir.Value, axes: ScoreAxes) -> str:
    """Why a tensor is no vector of scores per image; empty where nothing speaks against it."""
    rows = rows_of(graph, value)
    if rows is None and may_have_rows(graph, value):
        return (
            f"'{value.name}' {described(value)} has two axes beside the images, and which counts classes is not known: "
            f"if it holds several rows of scores, declare its axes, as {option('axes', {str(value.name): 'NTC'})} with "
            f"T for the rows, and choose one with {option('row')}"
        )
    if rows is None:
        return f"'{value.name}' {axes.why_no_vector}" if axes.why_no_vector else ""
    which = "" if rows.count is None else f", 0 to {rows.count - 1}"
    return f"'{value.name}' {described(value)} has {rows.describe()}: choose one with {option('row')}{which}"


def named_tensor(graph: ir.Graph, name: str) -> Scores:
    """The tensor that a user named, as it is.

    Raises:
        TargetError: There is no such tensor, or it is not floating point.
    """
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    value = values.get(name)
    if value is None:
        close = difflib.get_close_matches(name, list(values), n=3)
        hint = f"near it: {', '.join(close)}" if close else f"outputs: {', '.join(str(o.name) for o in graph.outputs)}"
        raise TargetError(f"{option('output', name)} is no tensor of the model; {hint}")
    value = as_run(value)
    if value.dtype not in FLOATS and not _decides(value):
        raise TargetError(f"{option('output', name)} is of type {value.dtype}; scores are floating point")
    return Scores(value, name, None)


def cut_if_last(graph: ir.Graph, named: Scores) -> Scores:
    """A tensor that was named, cut as :func:`cut_before` does if it is the model's answer; a sigmoid inside the model,
    as a gate's, is left as it is."""
    if not _is_answer(graph, named.value):
        return named
    cut = cut_before(named.value)
    return Scores(cut.value, named.output, cut.cut) if cut.cut else named


def _is_answer(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether a tensor is put out, or what is decided by it, and nothing else reads it."""
    reached, pending = set(), [value]
    while pending:
        current = pending.pop()
        reached.add(current)
        readers = [node for node, _ in current.uses()]
        if not all(node.op_type in PASS_THROUGH | _DECIDING for node in readers):
            return False
        pending += [out for node in readers for out in node.outputs if out not in reached]
    return bool(reached & set(graph.outputs))


def cut_before(value: ir.Value, also_through: Collection[str] = ()) -> Scores:
    """The tensor before a final softmax or sigmoid, or before what decides where there is none, looking through
    operators that only rearrange, and those of ``also_through``."""
    current, best, cut = value, value, None
    while (node := current.producer()) is not None and node.inputs and node.inputs[0] is not None:
        kind = node.op_type
        if kind in SQUASHING:
            return Scores(as_run(node.inputs[0]), str(value.name), kind)
        if kind in _DECIDING:
            if kind in _ABOVE and constant_of(node.inputs[1]) is None:  # two tensors are compared
                break
            cut, best = cut or kind, node.inputs[0]
        elif not (kind in PASS_THROUGH or kind in also_through or _is_mask(node)):
            break
        current = node.inputs[0]
    return Scores(as_run(best), str(value.name), cut)


def own_threshold(node: ir.Node) -> float | None:
    """The logit above which a node behind a sigmoid says yes: that of a comparison with a number, or of rounding; None
    for any other node."""
    limit = constant_of(node.inputs[1]) if node.op_type in _ABOVE else None
    if node.op_type == "Round":
        limit = np.array(0.5)
    if limit is None or limit.size != 1 or not 0 < float(limit.reshape(-1)[0]) < 1:
        return None
    level = float(limit.reshape(-1)[0])
    return math.log(level / (1 - level))


def _is_mask(node: ir.Node) -> bool:
    """Where(condition, 1, 0), the condition's own meaning."""
    if node.op_type != "Where":
        return False
    yes, no = (constant_of(branch) for branch in node.inputs[1:])
    return yes is not None and no is not None and bool(yes.min() > no.max())


def _decides(value: ir.Value) -> bool:
    """Whether this is a decision, as class numbers or a mask, and the scores are behind it."""
    return cut_before(value).value.dtype in FLOATS
