# SPDX-License-Identifier: Apache-2.0
"""The probability of a class, for what measures a model's confidence; maps explain the logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.targets.classes import Class
from portable_cam.export.targets.pick import pick
from portable_cam.export.targets.protocol import Target
from portable_cam.export.targets.scores import Scores


@dataclass(frozen=True)
class Probability(Target):
    """The softmax or the sigmoid of the scores of a :class:`~portable_cam.export.targets.Class`."""

    by: Literal["softmax", "sigmoid"] = "softmax"
    of: Class = field(default_factory=Class)

    name = "probability"

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        return self.of.tensors(graph, output)

    def accept(self, graph: ir.Graph, scores: Scores) -> None:
        self.of.accept(graph, scores)

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        return self.of.layers(graph, scores)

    def count(self, scores: Sequence[ir.Value]) -> int | None:
        return self.of.count(scores)

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        return self.of.shared(scores)

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value:
        return self.of.ranking(b, scores)

    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        rows = as_float32(b, self.of.ranking(b, scores))
        probabilities = b.op("Softmax", rows, axis=1) if self.by == "softmax" else b.op("Sigmoid", rows)
        probabilities.shape = rows.shape
        return pick(b, probabilities, index)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name, "by": self.by, "of": self.of.describe()}
