"""Classification: one class, a set of classes, the difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import described, known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.targets.pick import pick
from portable_cam.export.targets.protocol import LEAST_PROBABILITY, Extra, Target, single_output, vector_size
from portable_cam.export.targets.rows import Rows, pick_row, rows_to_choose
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.export.targets.scores import Scores, find_scores, refuse_rows
from portable_cam.spelling import option


@dataclass(frozen=True)
class Class(Target):
    """The score of one class per image: scores (N, M), or (N, M, 1, 1) as fully convolutional classifiers end.

    Classes are independent, so that a multi-label head (a sigmoid per class) is explained like a single-label one.
    Scores (1, M) of all images together, as of the frames of a clip or the tiles of a slide, are every image's own.

    Attributes:
        row: Of several rows of scores the one that is explained, as of crops, regions or queries (N, rows, M) or
            (rows of all images, M); None where there is one for each image, or for all of them.
    """

    row: int | None = field(default=None, kw_only=True)

    name = "class"

    def __post_init__(self) -> None:
        if self.row is not None and (isinstance(self.row, bool) or not isinstance(self.row, int) or self.row < 0):
            raise TargetError(f"row is a whole number from 0, not {self.row!r}")

    def of_row(self, row: int) -> Class:
        return replace(self, row=row)

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        found = find_scores(graph, single_output(output), shared=True, row=self.row)
        self.accept(graph, found)
        return [found]

    def accept(self, graph: ir.Graph, scores: Scores) -> None:
        if self.row is None:
            refuse_rows(graph, scores)

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        (value,) = scores
        if self.row is not None:
            return not self._rows(value).of_images
        return value.graph is not None and score_axes(value.graph, value).is_shared

    def rows(self, scores: Sequence[ir.Value]) -> str | None:
        (value,) = scores
        return None if self.row is None else self._rows(value).describe()

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        (value,) = scores
        if self.row is not None:
            rows = self._rows(value)
            rows.check(self.row, str(value.name))
            return (known_dims(value) or [])[rows.classes]
        return vector_size(value, "a class needs one score per class and image, (N, classes)")

    def _rows(self, value: ir.Value) -> Rows:
        rows = None if value.graph is None else rows_to_choose(value.graph, value)
        if rows is None:
            raise TargetError(
                f"row is given, but which axis of '{value.name}' {described(value)} counts rows and which classes is "
                f"not known: declare it, as {option('axes', {str(value.name): 'NTC'})} (T being the rows)"
            )
        return rows

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        (value,) = scores
        dims = known_dims(value)
        if self.row is not None:
            flat = pick_row(b, value, self._rows(value), self.row)
        elif dims is not None and len(dims) == 2:
            flat = value
        else:
            flat = b.op("Flatten", value, axis=1)
            flat.shape = ir.Shape([None, self.count(scores)])
        if not self.shared(scores):
            return flat
        count = b.dim(image_input(b.graph), 0)
        rows = b.op("Expand", flat, b.op("Concat", count, b.ints([1]), axis=0))
        rows.shape = ir.Shape([None, self.count(scores)])
        return rows

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        return pick(b, self.ranking(b, scores), index)

    def chosen(self, values: NDArray[Any], scores: Sequence[ir.Value]) -> NDArray[Any]:
        """The row that is explained, where there are several; nothing where there is not one number for each class, as
        behind a choice of the best."""
        (value,) = scores
        if self.row is not None and values.ndim == len(known_dims(value) or []):
            values = values.take(self.row, axis=self._rows(value).axis)
        count = Class.count(self, scores)
        return values if count in {None, values.size} else values.reshape(-1)[:0]

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        """Behind a softmax the difference to another class in log-probability, behind a sigmoid the log-odds."""
        if len(values) != 1:
            return "the output of the scores is not one"
        ((name, output),) = values.items()
        if output.dtype.kind != "f":
            return f"output '{name}' holds integers"
        wide = [d for d in output.shape if d != 1]
        if len(wide) > 1 or index >= output.size or output.size == 1 != index + 1:
            return f"output '{name}' is not one number for each class"
        flat = output.reshape(-1).astype(np.float64)
        if cut is None:
            return float(flat[index]), None
        if cut == "Sigmoid":
            if not LEAST_PROBABILITY < flat[index] < 1 - LEAST_PROBABILITY:
                return "the probability is rounded to zero or one"
            return float(np.log(flat[index]) - np.log1p(-flat[index])), None
        if cut not in {"Softmax", "LogSoftmax"} or flat.size < 2:
            return f"the output is behind {cut}"
        rival = int(np.argsort(-flat)[0 if int(flat.argmax()) != index else 1])
        if cut == "LogSoftmax":
            return float(flat[index] - flat[rival]), rival
        if min(flat[index], flat[rival]) < LEAST_PROBABILITY / 10:
            return "the probability is rounded to zero"
        return float(np.log(flat[index]) - np.log(flat[rival])), rival

    def describe(self) -> dict[str, Any]:
        said = super().describe()
        return said if self.row is not None else {name: value for name, value in said.items() if name != "row"}


@dataclass(frozen=True)
class ClassSet(Class):
    """Sets of classes, as the dogs among ImageNet's: the index says which set, its score combines its members'.

    Attributes:
        sets: For each set the class numbers.
        combine: ``sum`` of the scores; ``mean``; or ``logsumexp``, which for logits is the logit of the set as one
            class: the softmax of the whole set is the sum of its members' softmax.
    """

    sets: tuple[tuple[int, ...], ...]
    combine: Literal["sum", "mean", "logsumexp"] = "sum"

    name = "class_set"

    def count(self, scores: Sequence[ir.Value]) -> int:
        classes = super().count(scores)
        for members in self.sets:
            if not members or len(set(members)) != len(members):
                raise TargetError(f"a set of classes names each of at least one class once, not {list(members)}")
            for member in members:
                if member < 0 or (classes is not None and member >= classes):
                    raise TargetError(f"class {member} of a set is out of range: the model has {classes} classes")
        if not self.sets:
            raise TargetError("ClassSet needs at least one set of classes")
        if self.combine not in {"sum", "mean", "logsumexp"}:
            raise TargetError(f"classes combine by sum, mean or logsumexp, not {self.combine!r}")
        return len(self.sets)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        reduce = {"sum": "ReduceSum", "mean": "ReduceMean", "logsumexp": "ReduceLogSumExp"}[self.combine]
        rows = super().ranking(b, scores)
        values = [b.op(reduce, _members(b, rows, members), b.ints([1]), keepdims=1) for members in self.sets]
        joined = b.op("Concat", *values, axis=1)
        joined.shape = ir.Shape([None, len(self.sets)])
        return joined

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        """From each member's score, where that is determined alone."""
        found = []
        for member in self.sets[index]:
            said = super().stated(values, member, cut)
            if isinstance(said, str):
                return said
            if said[1] is not None:
                return f"behind {cut} no class's score is determined alone"
            found.append(said[0])
        scores = np.array(found)
        if self.combine == "logsumexp":
            return float(scores.max() + np.log(np.exp(scores - scores.max()).sum())), None
        return float(scores.sum() if self.combine == "sum" else scores.mean()), None


@dataclass(frozen=True)
class Contrast(Target):
    """Why A rather than B: the score of the index minus that of ``rather_than`` int64 (N, K), both of ``of``.

    What both have in common cancels, and the map shows what distinguishes them.
    """

    of: Target = field(default_factory=Class)

    name = "contrast"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        return self.of.tensors(graph, output)

    def accept(self, graph: ir.Graph, scores: Scores) -> None:
        self.of.accept(graph, scores)

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        return self.of.layers(graph, scores)

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        what = "what the target is contrasted with, an index such as those of the targets"
        return (*self.of.inputs(scores), Extra("rather_than", ir.DataType.INT64, (), what))

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        return self.of.count(scores)

    def probability(self, found: Sequence[Scores]) -> str | None:
        return self.of.probability(found)

    def of_row(self, row: int) -> Contrast:
        return replace(self, of=self.of.of_row(row))

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        return self.of.shared(scores)

    def rows(self, scores: Sequence[ir.Value]) -> str | None:
        return self.of.rows(scores)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value | None:
        return self.of.ranking(b, scores)

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        other = self.of.score(b, scores, extra["rather_than"], extra)
        return b.op("Sub", self.of.score(b, scores, index, extra), other)

    def reads(self) -> tuple[str, ...]:
        return self.of.reads()

    def chosen(self, values: NDArray[Any], scores: Sequence[ir.Value]) -> NDArray[Any]:
        return self.of.chosen(values, scores)

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        rest = {name: value for name, value in values.items() if name != "rather_than"}
        of_pair = self.of.difference(rest, index, int(values["rather_than"]), cut)
        return of_pair if isinstance(of_pair, str) else (of_pair, None)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name, "of": self.of.describe()}


def _members(b: Builder, rows: ir.Value, members: Sequence[int]) -> ir.Value:
    chosen = b.op("Gather", rows, b.ints(members), axis=1)
    chosen.shape = ir.Shape([None, len(members)])
    return chosen
