"""Semantic segmentation: a class over a part of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import described, known_dims
from portable_cam.export.layers.candidates import candidates
from portable_cam.export.targets.classes import pick
from portable_cam.export.targets.protocol import Extra, Target, single_output
from portable_cam.export.targets.scores import Scores, cut_before, find_scores


@dataclass(frozen=True)
class Dense(Target):
    """The sum of one class's logits over a part of the image: logits (N, C, h, w) or (N, h, w, C).

    Attributes:
        over: ``predicted``: the pixels that the model itself gives to the class (for a single channel, those above 0).
            ``mask``: those of ``mask`` float32 (N, K, h, w), at the size of the logits, each pixel with its weight. A
            region and a single pixel are masks, too.
        channels: Where the classes are, ``first`` or ``last``; None: by the axis of the ArgMax or softmax behind the
            logits, else by their shape.
    """

    over: Literal["predicted", "mask"] = "predicted"
    channels: Literal["first", "last"] | None = None

    name = "dense"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        named = single_output(output)
        if named is not None:
            return [find_scores(graph, named)]
        found = [cut_before(value) for value in graph.outputs]
        maps = [s for s in found if s.value.dtype in FLOATS and _is_map(s.value)]
        if maps and all(s.value is maps[0].value for s in maps):
            return maps[:1]
        listing = ", ".join(f"'{o.name}' {described(o)}" for o in graph.outputs)
        what = "several outputs could hold" if maps else "none of the model's outputs holds"
        raise TargetError(
            f"{what} a score per class and pixel, (N, classes, height, width): {listing}. This target explains "
            "segmentation; name the tensor with `output`"
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
        return dims[self.channel_axis(scores[0])]

    def channel_axis(self, logits: ir.Value) -> int:
        """The axis of the classes, 1 or 3."""
        if self.channels is not None:
            return 1 if self.channels == "first" else 3
        for use in logits.uses():
            if use.node.op_type in {"ArgMax", "Softmax", "LogSoftmax"}:
                default = 0 if use.node.op_type == "ArgMax" else -1
                return 1 if use.node.attributes.get_int("axis", default) % 4 == 1 else 3
        dims = known_dims(logits) or [None] * 4
        first, last = dims[1], dims[3]
        return 3 if last is not None and (first is None or last < first) else 1

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        """How many pixels the model gives to each class."""
        flat = self._flat(b, scores[0])
        classes = self.count(scores)
        if classes == 1:
            members = b.op("Greater", flat, 0)
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
        if self.over == "mask":
            weights = b.op("Reshape", extra["mask"], b.ints([0, -1, 1]))
        else:
            weights = b.op("Unsqueeze", self._predicted(b, flat, index), b.ints([2]))
        return pick(b, b.op("Squeeze", b.op("MatMul", flat, weights), b.ints([2])), index)

    def _predicted(self, b: Builder, flat: ir.Value, index: ir.Value) -> ir.Value:
        """(N, pixels): 1 where the model gives a pixel to the class."""
        if (known_dims(flat) or [None] * 2)[1] == 1:
            members = b.op("Squeeze", b.op("Greater", flat, 0), b.ints([1]))
        else:
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


def _is_map(value: ir.Value) -> bool:
    """Four axes, at most one of them (a single channel) of size 1."""
    dims = known_dims(value)
    return dims is not None and len(dims) == 4 and dims[1:].count(1) <= 1
