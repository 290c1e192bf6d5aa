"""Classification: one class, a set of classes, the difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.targets.pick import pick
from portable_cam.export.targets.protocol import Extra, Target, single_output, vector_size
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.export.targets.scores import Scores, find_scores


@dataclass(frozen=True)
class Class(Target):
    """The score of one class per image: scores (N, M), or (N, M, 1, 1) as fully convolutional classifiers end.

    Classes are independent, so that a multi-label head (a sigmoid per class) is explained like a single-label one.
    Scores (1, M) of all images together, as of the frames of a clip or the tiles of a slide, are every image's own.
    """

    name = "class"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        return [find_scores(graph, single_output(output), shared=True)]

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        (value,) = scores
        return value.graph is not None and score_axes(value.graph, value).is_shared

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        (value,) = scores
        return vector_size(value, "a class needs one score per class and image, (N, classes)")

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        (value,) = scores
        dims = known_dims(value)
        if dims is not None and len(dims) == 2:
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


@dataclass(frozen=True)
class Contrast(Target):
    """Why A rather than B: the score of the index minus that of ``rather_than`` int64 (N, K), both of ``of``.

    What both have in common cancels, and the map shows what distinguishes them.
    """

    of: Target = field(default_factory=Class)

    name = "contrast"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        return self.of.tensors(graph, output)

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        return self.of.layers(graph, scores)

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        what = "what the target is contrasted with, an index such as those of the targets"
        return (*self.of.inputs(scores), Extra("rather_than", ir.DataType.INT64, (), what))

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        return self.of.count(scores)

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        return self.of.shared(scores)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value | None:
        return self.of.ranking(b, scores)

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        other = self.of.score(b, scores, extra["rather_than"], extra)
        return b.op("Sub", self.of.score(b, scores, index, extra), other)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name, "of": self.of.describe()}


def _members(b: Builder, rows: ir.Value, members: Sequence[int]) -> ir.Value:
    chosen = b.op("Gather", rows, b.ints(members), axis=1)
    chosen.shape = ir.Shape([None, len(members)])
    return chosen
