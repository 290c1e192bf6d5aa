# SPDX-License-Identifier: Apache-2.0
"""Sequences: words of a caption, characters of a line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import described, dtype_of, known_dims
from portable_cam.export.targets.protocol import Extra, Target, single_output
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.export.targets.scores import Scores, cut_before, cut_if_last, named_tensor
from portable_cam.spelling import option

Measure: TypeAlias = Literal["log_probability", "logit"]
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})


@dataclass(frozen=True)
class Tokens(Target):
    """The tokens that a model predicts at some steps of a sequence: scores (N, T, V) over V tokens at each of T steps.

    A caption by teacher forcing: the caption is the decoder's input, and step t holds the scores of the token that
    follows it. The further input ``said`` (N, K, T) names a token for each step that counts, and -1 for each that does
    not, so that a word is one step, a phrase several, a caption all of them. A line of text read by CTC (Graves et al.
    2006): ``said`` names a character at the frames where it was read.

    Attributes:
        measure: ``log_probability``, whose sum over steps is that of the phrase; or ``logit``, the score as it is.
        time_axis: 1 for (N, T, V), 0 for (T, N, V); None: by the axes that the graph tells
            (:mod:`portable_cam.export.targets.score_axes`), 1 where it does not.
    """

    measure: Measure = "log_probability"
    time_axis: int | None = None

    name = "tokens"

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise TargetError(f"measure is {' or '.join(get_args(Measure))}, not {self.measure!r}")
        if self.time_axis not in {0, 1, None}:
            raise TargetError(f"time_axis is 0 or 1, not {self.time_axis!r}")

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        """The model's only output of three dimensions, before its softmax."""
        name = single_output(output)
        if name is not None:
            named = named_tensor(graph, name)
            cut = self._before_softmax(named.value)
            return [Scores(cut.value, name, cut.cut) if cut_if_last(graph, named).cut else named]
        found = [self._before_softmax(value) for value in graph.outputs if _is_sequence(value)]
        if len(found) == 1:
            return found
        listing = ", ".join(f"'{o.name}' {described(o)}" for o in graph.outputs)
        what = "several outputs could hold" if found else "no output holds"
        raise TargetError(
            f"{what} scores (N, steps, tokens): {listing}. Name the tensor that does with {option('output')}"
        )

    def axis_of_steps(self, value: ir.Value) -> int:
        """The axis of the steps, 1 or 0."""
        if self.time_axis is not None:
            return self.time_axis
        axes = None if value.graph is None else score_axes(value.graph, value)
        return 0 if axes is not None and axes.axis("images") == 1 else 1

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        dims = known_dims(scores[0])
        steps = dims[self.axis_of_steps(scores[0])] if dims is not None else None
        return (
            Extra(
                "said",
                ir.DataType.INT64,
                ("T" if steps is None else steps,),
                "the token to explain at each step, -1 where none",
            ),
        )

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        """One: the tokens to explain are in the input ``said``."""
        (value,) = scores
        if not _is_sequence(value):
            raise TargetError(
                f"the scores '{value.name}' have shape {value.shape}: a sequence needs (N, steps, tokens). Name "
                f"another tensor with {option('output')}"
            )
        return 1

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        (value,) = scores
        axis, dims = self.axis_of_steps(value), known_dims(value) or [None] * 3
        steps = value if axis == 1 else b.op("Transpose", value, perm=[1, 0, 2])
        steps.shape = ir.Shape([None, dims[axis], dims[2]])
        said = extra["said"]
        tokens = b.op("Unsqueeze", b.op("Max", said, 0), b.ints([2]))
        tokens.shape = ir.Shape([None, None, 1])
        chosen = b.op("GatherElements", steps, tokens, axis=2)
        chosen.shape = ir.Shape([None, None, 1])
        if self.measure == "log_probability":
            # log p = -log(1 + sum of exp(z_j - z) over the others): where p is near 1, the slope 1 - p keeps its digits
            vocabulary = b.op("Range", 0, b.op("Squeeze", b.dim(value, 2), b.ints([0])), 1)
            others = b.op("Where", b.op("Equal", tokens, vocabulary), b.number(-np.inf, value), steps)
            others.shape = steps.shape
            rest = b.op("ReduceLogSumExp", others, b.ints([2]), keepdims=1)
            rest.shape = ir.Shape([None, None, 1])
            odds = b.op("Sub", rest, chosen)
            pair = b.op("Concat", odds, b.op("Mul", odds, 0), axis=2)
            pair.shape = ir.Shape([None, None, 2])
            # not Softplus, for which ONNX Runtime has no float64
            chosen = b.op("Neg", b.op("ReduceLogSumExp", pair, b.ints([2]), keepdims=1))
            chosen.shape = ir.Shape([None, None, 1])
        counts = b.op("Cast", b.op("GreaterOrEqual", said, 0), to=int(dtype_of(value)))
        counted = b.op("Mul", b.op("Squeeze", chosen, b.ints([2])), counts)
        return b.op("ReduceSum", counted, b.ints([1]), keepdims=0)

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        found = [value for name, value in values.items() if name != "said" and value.dtype.kind == "f"]
        if "said" not in values or len(found) != 1 or found[0].ndim != 3:
            return "the steps that count, or the numbers of the output, are not known"
        rows, said = found[0].astype(np.float64), values["said"]
        rows = rows[:, 0] if rows.shape[1] == 1 != rows.shape[0] else rows[0]
        steps = np.flatnonzero(said >= 0)
        if len(rows) != len(said):
            return "the output has another number of steps than the scores"
        chosen = rows[steps, said[steps]]
        if self.measure == "logit":
            return (float(chosen.sum()), None) if cut is None else f"the scores are those before {cut}"
        if cut == "Softmax":
            if chosen.min(initial=1) <= 0:
                return "some probabilities are rounded to zero"
            return float(np.log(chosen).sum()), None
        highest = rows[steps].max(axis=1)
        return float((chosen - highest - np.log(np.exp(rows[steps] - highest[:, None]).sum(axis=1))).sum()), None

    def _before_softmax(self, value: ir.Value) -> Scores:
        """Cut before a final softmax over the last axis, in the output's own layout."""
        cut = cut_before(value)
        before = cut.value
        softmax = next((node for node, _ in before.uses() if node.op_type == cut.cut), None)
        if cut.cut not in _SOFTMAX or softmax is None:
            return Scores(value, str(value.name), None)
        flat, rank = before, len(known_dims(before) or [])
        # before opset 13 a softmax is applied to the flattened tensor
        while not _is_sequence(flat) and (node := flat.producer()) is not None and node.inputs[0] is not None:
            if node.op_type not in {"Flatten", "Reshape"}:
                break
            flat = node.inputs[0]
        over_tokens = softmax.attributes.get_int("axis", -1) in {-1, rank - 1}
        if _is_sequence(flat) and over_tokens and known_dims(flat) == known_dims(value):
            return Scores(flat, cut.output, cut.cut)
        if cut.cut == "Softmax" and self.measure == "log_probability":
            raise TargetError(
                f"output '{value.name}' holds probabilities, and between them and the logits '{before.name}' "
                f"{before.dtype}{before.shape} the layout changes: name the tensor of logits (N, steps, tokens) with "
                f"{option('output')}, or choose the measure logit"
            )
        return Scores(value, str(value.name), None)


def _is_sequence(value: ir.Value) -> bool:
    dims = known_dims(value)
    return value.dtype in FLOATS and dims is not None and len(dims) == 3
