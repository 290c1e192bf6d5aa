"""Semantic segmentation: a class over a part of the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import described, known_dims
from portable_cam.export.layers.candidates import candidates
from portable_cam.export.targets.pick import pick
from portable_cam.export.targets.protocol import LEAST_PROBABILITY, Extra, Target, single_output
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.export.targets.scores import PASS_THROUGH, Scores, cut_before, find_scores, own_threshold
from portable_cam.spelling import option

#: Between a sigmoid per pixel and the output a model may resize: its logits are then smaller than its output.
_RESIZING = frozenset({"Resize", "Upsample"})


@dataclass(frozen=True)
class Dense(Target):
    """The sum of one class's logits over a part of the image: logits (N, C, h, w) or (N, h, w, C).

    Classes exclude each other where a softmax or ArgMax follows, or nothing: a pixel belongs to the highest. Where a
    sigmoid follows each is a yes or no of its own: a pixel may belong to several classes, or to none.

    Attributes:
        over: ``predicted``: the pixels that the model itself gives to the class. ``mask``: those of ``mask`` float32
            (N, K, h, w), at the size of the logits, each pixel with its weight. A region and a single pixel are masks,
            too.
        channels: Where the classes are, ``first`` or ``last``; None: by the axes that the graph tells
            (:mod:`portable_cam.export.targets.score_axes`), or the axis of the ArgMax or softmax behind the logits.
        threshold: The probability above which a pixel belongs to a class with a sigmoid of its own; None: the model's
            own threshold where it has one, else 0.5.
    """

    over: Literal["predicted", "mask"] = "predicted"
    channels: Literal["first", "last"] | None = None
    threshold: float | None = None

    name = "dense"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        named = single_output(output)
        if named is not None:
            return [find_scores(graph, named)]
        found = [cut_before(value, _RESIZING) for value in graph.outputs]
        maps = [s for s in found if s.value.dtype in FLOATS and _is_map(graph, s.value)]
        if maps and all(s.value is maps[0].value for s in maps):
            return maps[:1]
        listing = ", ".join(f"'{o.name}' {described(o)}" for o in graph.outputs)
        what = "several outputs could hold" if maps else "none of the model's outputs holds"
        raise TargetError(
            f"{what} a score per class and pixel, (N, classes, height, width): {listing}. This target explains "
            f"segmentation; name the tensor with {option('output')}"
        )

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        """The input of the last convolution; behind it there are only the logits, one channel per class."""
        classes = self.count(scores)
        for value, layer in candidates(graph, scores[0]):
            if classes is None or layer.channels != classes:
                return [value]
        return None

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        if self.over == "predicted":
            return ()
        dims = known_dims(scores[0]) or [None] * 4
        height, width = dims[2:] if self.channel_axis(scores[0]) == 1 else dims[1:3]
        what = "the weight of each pixel, at the size of the model's logits"
        return (Extra("mask", ir.DataType.FLOAT, (height or "height", width or "width"), what),)

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        dims = known_dims(scores[0])
        if dims is None or len(dims) != 4:
            raise TargetError(
                f"'{scores[0].name}' has shape {scores[0].shape}: segmentation needs (N, classes, height, width) or "
                "(N, height, width, classes)"
            )
        if self.over not in {"predicted", "mask"}:
            raise TargetError(f"segmentation is explained over predicted or mask, not {self.over!r}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise TargetError(f"threshold is a probability between 0 and 1, not {self.threshold}")
        return dims[self.channel_axis(scores[0])]

    def channel_axis(self, logits: ir.Value) -> int:
        """The axis of the classes, 1 or 3.

        Raises:
            TargetError: The graph does not tell.
        """
        if self.channels is not None:
            return 1 if self.channels == "first" else 3
        found = None if logits.graph is None else score_axes(logits.graph, logits).class_axis_of_map
        if found in {1, 3}:
            return found
        for node in _readers(logits):
            if node.op_type in {"ArgMax", "Softmax", "LogSoftmax"}:
                default = 0 if node.op_type == "ArgMax" else -1
                return 1 if node.attributes.get_int("axis", default) % 4 == 1 else 3
        dims = known_dims(logits) or [None] * 4
        if 1 in {dims[1], dims[3]}:
            return 1 if dims[1] == 1 else 3
        raise TargetError(
            f"'{logits.name}' {described(logits)}: which axis holds the classes is not known. Say so with "
            f"{option('channels', 'first')} or 'last', or declare it: {option('axes', {logits.name: 'NCHW'})}"
        )

    def independent(self, logits: ir.Value) -> bool:
        """Whether each class has a sigmoid of its own, or there is but one."""
        return self.count([logits]) == 1 or any(node.op_type == "Sigmoid" for node in _readers(logits))

    def level(self, logits: ir.Value) -> float:
        """The logit above which a pixel belongs to a class, where classes are independent."""
        if self.threshold is not None:
            return math.log(self.threshold / (1 - self.threshold))
        return next((level for node in _readers(logits) if (level := own_threshold(node)) is not None), 0.0)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        """How many pixels the model gives to each class."""
        flat = self._flat(b, scores[0])
        classes = self.count(scores)
        if self.independent(scores[0]):
            members = b.op("Greater", flat, self.level(scores[0]))
        else:
            many = (
                b.ints(range(classes))
                if classes is not None
                else b.op("Range", b.ints(0), b.op("Squeeze", b.op("Shape", flat, start=1, end=2)), b.ints(1))
            )
            winner = b.op("ArgMax", flat, axis=1, keepdims=1)
            members = b.op("Equal", winner, b.op("Unsqueeze", many, b.ints([1])))
        area = b.op("ReduceSum", b.op("Cast", members, to=int(ir.DataType.FLOAT)), b.ints([2]), keepdims=0)
        area.shape = ir.Shape([None, classes])
        return area

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        flat = self._flat(b, scores[0])
        if self.over == "predicted" and self.independent(scores[0]):
            members = b.op("Cast", b.op("Greater", flat, self.level(scores[0])), to=int(ir.DataType.FLOAT))
            sums = b.op("ReduceSum", b.op("Mul", flat, members), b.ints([2]), keepdims=0)
            sums.shape = ir.Shape([None, self.count(scores)])
            return pick(b, sums, index)
        weights = extra["mask"] if self.over == "mask" else self._predicted(b, flat, index)
        sums = b.op("Squeeze", b.op("MatMul", flat, b.op("Reshape", weights, b.ints([0, -1, 1]))), b.ints([2]))
        sums.shape = ir.Shape([None, self.count(scores)])
        return pick(b, sums, index)

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        found = [value for name, value in values.items() if name != "mask" and value.dtype.kind == "f"]
        if "mask" not in values or len(found) != 1:
            return "the pixels that count, or the numbers of the output, are not known"
        mask, maps = values["mask"].astype(np.float64), found[0].astype(np.float64)
        maps = maps[0] if maps.ndim == 4 else maps
        if (maps.shape[-2:] == mask.shape) == (maps.shape[:2] == mask.shape):
            return "the output has another size than the scores"
        maps = maps if maps.shape[-2:] == mask.shape else np.moveaxis(maps, -1, 0)
        counted = maps[:, mask > 0]
        weights = mask[mask > 0]
        if cut is None:
            return float((weights * counted[index]).sum()), None
        if cut == "Sigmoid":
            if not ((counted[index] > LEAST_PROBABILITY) & (counted[index] < 1 - LEAST_PROBABILITY)).all():
                return "some probabilities are rounded to zero or one"
            return float((weights * (np.log(counted[index]) - np.log1p(-counted[index]))).sum()), None
        if cut not in {"Softmax", "LogSoftmax"} or len(counted) == 1:
            return f"the scores are those before {cut}"
        rival = int(np.argsort(-counted.mean(axis=1))[0 if int(counted.mean(axis=1).argmax()) != index else 1])
        pair = counted[[index, rival]]
        if cut == "Softmax":
            if pair.min() < LEAST_PROBABILITY:
                return "some probabilities are rounded to zero"
            pair = np.log(pair)
        return float((weights * (pair[0] - pair[1])).sum()), rival

    def _predicted(self, b: Builder, flat: ir.Value, index: ir.Value) -> ir.Value:
        """(N, pixels): 1 where the class is the highest."""
        members = b.op("Equal", b.op("ArgMax", flat, axis=1, keepdims=0), b.op("Unsqueeze", index, b.ints([1])))
        return b.op("Cast", members, to=int(ir.DataType.FLOAT))

    def _flat(self, b: Builder, logits: ir.Value) -> ir.Value:
        """(N, C, pixels) in float32: sums over an image are beyond float16's range."""
        classes = self.count([logits])
        if self.channel_axis(logits) == 3:
            logits = b.op("Transpose", logits, perm=[0, 3, 1, 2])
        if logits.dtype != ir.DataType.FLOAT:
            logits = b.op("Cast", logits, to=int(ir.DataType.FLOAT))
        flat = b.op("Reshape", logits, b.ints([0, 0, -1]))
        flat.shape = ir.Shape([None, classes, None])
        return flat


def _is_map(graph: ir.Graph, value: ir.Value) -> bool:
    """Four axes, two of them rows and columns of the image; where that is not known, at most one (a single channel) of
    size 1."""
    dims = known_dims(value)
    if dims is None or len(dims) != 4:
        return False
    known = score_axes(graph, value).is_map
    return dims[1:].count(1) <= 1 if known is None else known


def _readers(logits: ir.Value) -> Iterator[ir.Node]:
    """The nodes that read a tensor, also behind a sigmoid and operators that only rearrange or resize it."""
    for node, _ in logits.uses():
        yield node
        if node.op_type in PASS_THROUGH | _RESIZING | {"Sigmoid"}:
            for output in node.outputs:
                yield from _readers(output)
