"""Object detection: one box of a detector's raw output, before non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of, element_count, known_dims
from portable_cam.export.layers.columns import is_probability, makers_of
from portable_cam.export.layers.pyramid import pyramid
from portable_cam.export.targets.box_layout import AXES, RANKS, SIDES, BoxPart, Columns, Form, numbers_of, side_of
from portable_cam.export.targets.pick import pick
from portable_cam.export.targets.protocol import LEAST_PROBABILITY, Extra, Target
from portable_cam.export.targets.scores import Scores, cut_inside, named_tensor
from portable_cam.spelling import option


@dataclass(frozen=True)
class Boxes(Target):
    """The score of one class at one box, the index box * classes + class; boxes count over the scales in turn.

    Attributes:
        classes: Where the scores of the classes are, one entry per scale.
        objectness: Likewise where each box has a score of its own, else empty.
        sides: Likewise for the numbers of the box, where its sides are to be explained.
        form: What these numbers are: ``xyxy`` left, top, right, bottom; ``yxyx``; ``cxcywh`` centre and size;
            ``cxcywh_log`` with the size's logarithm (YOLOX); ``ltrb`` distances from the cell to the sides; ``gfl``
            distributions of these (Li et al. 2020, arXiv 2006.04388).
        logits: Whether class and objectness are logits, so that they have to pass a sigmoid before they are multiplied.
        part: What is explained: ``product`` of class and objectness (the class alone where there is no objectness),
            ``class``, ``objectness``, or the position of a side, in the model's own unit.
    """

    classes: tuple[Columns, ...]
    objectness: tuple[Columns, ...] = ()
    sides: tuple[Columns, ...] = ()
    form: Form = "xyxy"
    logits: bool = False
    part: BoxPart = "product"

    name = "boxes"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        if output is not None:
            raise TargetError(
                f"a detector's tensors are named in its head ({option('head')}), not with {option('output')}"
            )
        names = dict.fromkeys(c.tensor for c in (*self.classes, *self.objectness, *self.sides))
        found = [named_tensor(graph, name) for name in names]
        if self.is_product or self.part in SIDES:
            return found
        where = self.objectness if self.part == "objectness" else self.classes
        cut = {c.tensor: _cut(scores, c) for c in where for scores in found if scores.output == c.tensor}
        if len({scores.cut for scores in cut.values()}) > 1:  # a scale of logits beside one of probabilities
            return found
        return [cut.get(scores.output, scores) for scores in found]

    @property
    def is_product(self) -> bool:
        """Whether two scores are multiplied."""
        return bool(self.objectness) and self.part == "product"

    def probability(self, found: Sequence[Scores]) -> str | None:
        if self.part in SIDES:
            return None
        if self.is_product and (self.logits or self._are_probabilities(found, (*self.classes, *self.objectness))):
            return "the score is the product of two probabilities, class and objectness, not a logit"
        where = self.objectness if self.part == "objectness" else self.classes
        if self._are_probabilities(found, where):
            return f"the score is a probability ('{where[0].tensor}'), not a logit"
        return None

    def _are_probabilities(self, found: Sequence[Scores], where: Sequence[Columns]) -> bool:
        """Whether these numbers were left as a sigmoid or softmax made them."""
        of_tensor = {scores.output: scores for scores in found}
        return all(_is_probability(of_tensor[columns.tensor], columns) for columns in where)

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        return pyramid(graph, scores) or None

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        return ()

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        self._check(scores)
        boxes = self._boxes(scores)
        return None if boxes is None else boxes * self.class_count(scores)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        if self.part == "objectness":  # the same for all classes of a box
            size = b.ints([1, 1, self.class_count(scores)])
            tiled = b.op("Tile", self._rows(b, scores, self.objectness), size)
            return self._flat(b, tiled, self.count(scores))
        return self._flat(b, self._scored(b, scores), self.count(scores))

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        box = b.op("Div", index, b.ints(self.class_count(scores)))
        if self.part in SIDES:
            return self._side(b, scores, box)
        factors = []
        if self.part != "objectness":
            factors.append(pick(b, self._flat(b, self._rows(b, scores, self.classes), self.count(scores)), index))
        if self.objectness and self.part != "class":
            factors.append(pick(b, self._flat(b, self._rows(b, scores, self.objectness), self._boxes(scores)), box))
        if self.logits and len(factors) == 2:
            factors = [b.op("Sigmoid", factor) for factor in factors]
        return factors[0] if len(factors) == 1 else b.op("Mul", *factors)

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.tensor for c in (*self.classes, *self.objectness, *self.sides)))

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        scores = numbers_of(values, self.classes)
        box, label = divmod(index, scores.shape[1])
        if self.part in SIDES:
            return side_of(numbers_of(values, self.sides)[box], self.form, self.part), None
        factors = [float(scores[box, label])] if self.part != "objectness" else []
        if self.objectness and self.part != "class":
            factors.append(float(numbers_of(values, self.objectness)[box, 0]))
        if self.logits and len(factors) == 2:
            factors = [1 / (1 + float(np.exp(-factor))) for factor in factors]
        product = float(np.prod(factors))
        if cut is None:
            return product, None
        if not LEAST_PROBABILITY < product < 1 - LEAST_PROBABILITY:
            return "the probability is rounded to zero or one"
        if cut == "Sigmoid":
            return float(np.log(product) - np.log1p(-product)), None
        others = np.delete(np.arange(scores.shape[1]), label)
        if cut != "Softmax" or not len(others):
            return f"the scores are those before {cut}, and there is no other class to compare with"
        rival = int(others[scores[box, others].argmax()])
        if scores[box, rival] < LEAST_PROBABILITY:
            return "the probabilities of all other classes are rounded to zero"
        return float(np.log(product) - np.log(scores[box, rival])), index - label + rival

    def _scored(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        """(N, boxes, classes): class times objectness."""
        wanted = (self.classes,) if self.part == "class" else (self.classes, self.objectness)
        factors = [self._rows(b, scores, where) for where in wanted if where]
        if self.logits and len(factors) == 2:
            factors = [b.op("Sigmoid", factor) for factor in factors]
        return factors[0] if len(factors) == 1 else b.op("Mul", *factors)

    def _rows(self, b: Builder, scores: Sequence[ir.Value], where: Sequence[Columns]) -> ir.Value:
        """(N, boxes, numbers) over all scales."""
        rows = [_as_rows(b, self._tensor(scores, columns), columns) for columns in where]
        return rows[0] if len(rows) == 1 else b.op("Concat", *rows, axis=1)

    def _flat(self, b: Builder, rows: ir.Value, count: int | None) -> ir.Value:
        flat = b.op("Reshape", rows, b.ints([0, -1]))
        flat.shape = ir.Shape([None, count])
        return flat

    def _side(self, b: Builder, scores: Sequence[ir.Value], box: ir.Value) -> ir.Value:
        """The position of one side of the box chosen, (N,), up to a constant that does not depend on the image."""
        rows = self._rows(b, scores, self.sides)
        width = sum(_width(self._tensor(scores, c), c) for c in self.sides[:1])
        rows.shape = ir.Shape([None, self._boxes(scores), width])
        numbers = pick(b, rows, box)
        numbers.shape = ir.Shape([None, width])
        i = SIDES.index(self.part)
        axis, sign = i % 2, -1 if i < 2 else 1

        def number(column: int) -> ir.Value:
            return b.op("Gather", numbers, b.ints(column), axis=1)

        if self.form in {"xyxy", "yxyx"}:
            return number(i if self.form == "xyxy" else (1, 0, 3, 2)[i])
        if self.form in {"cxcywh", "cxcywh_log"}:
            size = number(2 + axis)
            size = b.op("Exp", size) if self.form == "cxcywh_log" else size
            return b.op("Add", number(axis), b.op("Mul", size, sign / 2))
        if self.form == "gfl":
            bins = width // 4
            spread = b.op("Softmax", b.op("Reshape", numbers, b.ints([0, 4, bins])), axis=2)
            steps = b.constant(np.arange(bins)[:, None], dtype_of(numbers))
            distance = b.op("Gather", b.op("Squeeze", b.op("MatMul", spread, steps), b.ints([2])), b.ints(i), axis=1)
        else:
            distance = number(i)
        return distance if sign > 0 else b.op("Neg", distance)

    def _tensor(self, scores: Sequence[ir.Value], columns: Columns) -> ir.Value:
        names = dict.fromkeys(c.tensor for c in (*self.classes, *self.objectness, *self.sides))
        return scores[list(names).index(columns.tensor)]

    def class_count(self, scores: Sequence[ir.Value]) -> int:
        """How many classes each box has a score for."""
        return _width(self._tensor(scores, self.classes[0]), self.classes[0])

    def _boxes(self, scores: Sequence[ir.Value]) -> int | None:
        total = 0
        for columns in self.classes:
            dims = known_dims(self._tensor(scores, columns)) or []
            axis = columns.axis(len(dims))
            batch = {0} if axis == AXES[columns.layout] else set()
            size = element_count([d for i, d in enumerate(dims) if i not in {*batch, axis}])
            if size is None:
                return None
            total += size
        return total

    def _check(self, scores: Sequence[ir.Value]) -> None:
        if not self.classes:
            raise TargetError("a detector's head needs the tensors with the scores of the classes")
        if self.part not in get_args(BoxPart):
            raise TargetError(f"a box is explained by one of {', '.join(get_args(BoxPart))}, not {self.part!r}")
        if self.part == "objectness" and not self.objectness:
            raise TargetError("this head has no objectness: explain the class, or the product")
        if self.part in SIDES and not self.sides:
            raise TargetError("this head does not say where the numbers of a box are: its sides cannot be explained")
        if self.form not in get_args(Form):
            raise TargetError(f"the numbers of a box are one of {', '.join(get_args(Form))}, not {self.form!r}")
        for columns in (*self.classes, *self.objectness, *self.sides):
            value = self._tensor(scores, columns)
            rank = RANKS.get(columns.layout)
            if rank is None:
                raise TargetError(f"the layout of a head is one of {', '.join(AXES)}, not {columns.layout!r}")
            if value.shape is None or not columns.fits(len(value.shape)):
                raise TargetError(
                    f"'{value.name}' has shape {value.shape}, but the layout {columns.layout} has {rank} dimensions"
                )
            if _width(value, columns) < 1:
                raise TargetError(
                    f"'{value.name}' {value.shape} has no numbers {columns.start} to {columns.stop} for each box"
                )


def _width(value: ir.Value, columns: Columns) -> int:
    """How many numbers per box."""
    dims = known_dims(value) or []
    axis = columns.axis(len(dims))
    size = dims[axis] if len(dims) > axis else None
    stop = size if columns.stop is None else columns.stop if size is None else min(columns.stop, size)
    if stop is None:
        raise TargetError(f"'{value.name}' has shape {value.shape}: how many numbers each box has must be known")
    return stop - columns.start


def _as_rows(b: Builder, value: ir.Value, columns: Columns) -> ir.Value:
    """(N, boxes, numbers) of one scale."""
    dims = known_dims(value) or []
    axis = columns.axis(len(dims))
    stop = columns.start + _width(value, columns)
    if columns.start or stop != dims[axis]:
        ends = [b.ints([n]) for n in (columns.start, stop, axis)]
        value = b.op("Slice", value, *ends)
    if axis != AXES[columns.layout]:
        value = b.op("Unsqueeze", value, b.ints([0]))
    width = stop - columns.start
    if columns.layout == "rows":
        return value
    if columns.layout == "cells":
        return b.op("Reshape", value, b.ints([0, -1, width]))
    if columns.layout == "grid":
        value = b.op("Reshape", value, b.ints([0, width, -1]))
    return b.op("Transpose", value, perm=[0, 2, 1])


def _is_probability(scores: Scores, columns: Columns) -> bool:
    rank = len(known_dims(scores.value) or [])
    makers = makers_of(scores.value) if scores.cut is None and columns.fits(rank) else None
    if makers is None:
        return scores.cut is None and is_probability(scores.value)
    chosen = makers.along(columns.axis(rank))[columns.start : columns.stop]
    return all(is_probability(maker) for column in chosen for maker in column)


def _cut(scores: Scores, columns: Columns) -> Scores:
    """Cut before the softmax or sigmoid that makes these columns."""
    rank = len(known_dims(scores.value) or [])
    if not columns.fits(rank):
        return scores
    return cut_inside(scores, columns.axis(rank), columns.start, columns.stop)
