"""A detector's head: what its outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.columns import Makers, makers_of
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Boxes
from portable_cam.image.geometry import Size
from portable_cam.ultralytics import Ultralytics

_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})

BoxForm: TypeAlias = Literal["xyxy", "yxyx", "cxcywh"]
Unit: TypeAlias = Literal["pixels", "fraction"]
Floats: TypeAlias = NDArray[np.float32]

#: The tensors of one image by name and the model's input size (H, W), to boxes (A, 4) as left, top, right, bottom in
#: pixels of the input, or (A, C, 4) where each class has a box of its own, and scores (A, C) of 0 to 1, in the order of
#: the target's indices.
Decode: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Size], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Head:
    """What a detector's outputs mean, for one family of models.

    Attributes:
        family: Its name.
        target: Where the scores lie, for the gradient.
        decode: From the outputs to boxes and scores.
        preset: The family's usual preprocessing, a name of ``PRESETS``; None if it has none.
        threshold: The least score of a detection.
        overlap: The IoU from which on the weaker of two boxes of a class is dropped.
        also: Tensors that ``decode`` reads beside those of the target.
        without: Tensors that hold some of the boxes, chosen by their scores. Those of the head are computed as if each
            was all that it was chosen from.
        best_only: A box counts for its best class alone.
        across_classes: Of two boxes the weaker is dropped whichever their classes are.
        labels: The names of the classes, where the family or the file says them.
    """

    family: str
    target: Boxes
    decode: Decode
    preset: str | None = None
    threshold: float = 0.35
    overlap: float = 0.5
    also: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    best_only: bool = False
    across_classes: bool = False
    labels: tuple[str, ...] | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """What ``decode`` reads."""
        target = self.target
        named = (c.tensor for c in (*target.classes, *target.objectness, *target.sides))
        return tuple(dict.fromkeys((*named, *self.also)))

    def explaining(self, part: str) -> Boxes:
        """The target for one part of the score."""
        return replace(self.target, part=part)  # type: ignore[arg-type]


@dataclass(frozen=True)
class OutputSummary:
    """What a family is recognised by.

    Attributes:
        graph: Normalised, at a known size of the image.
        image: The name of the image.
        outputs: The outputs' dimensions by name; -1 where one is not known.
        size: The image's (H, W).
        file: What the file's metadata says, if they are Ultralytics'.
        classes: How many classes the file or the user names, if either does.
        form: What the numbers of a box are and their unit, where the user says it.
    """

    graph: ir.Graph
    image: str
    outputs: Mapping[str, tuple[int, ...]]
    size: Size
    file: Ultralytics | None = None
    classes: int | None = None
    form: tuple[BoxForm, Unit] | None = None

    def makers(self, name: str) -> Makers | None:
        """Which tensors make the numbers of an output."""
        return next((makers_of(value) for value in self.graph.outputs if value.name == name), None)

    def columns(self, name: str, axis: int) -> list[frozenset[ir.Value]] | None:
        """Which tensors make each number of a box, of an output that has these on an axis, images being the first."""
        makers = self.makers(name)
        return None if makers is None else makers.along(axis - (makers.numbers.ndim == 2))

    def rows(self) -> Mapping[str, tuple[int, ...]]:
        """The dimensions of the outputs with numbers of boxes, an axis of images before those that have none."""
        found = {name: (1, *dims) if len(dims) == 2 else dims for name, dims in self.outputs.items()}
        return {name: dims for name, dims in found.items() if len(dims) == 3 and dims[1] > 1}

    def cells(self, strides: Sequence[int]) -> int:
        """How many cells grids of these strides have together."""
        return sum(-(-self.size[0] // s) * -(-self.size[1] // s) for s in strides)

    def behind(self, name: str, stop: frozenset[str] = frozenset({"Conv", "Gemm", "MatMul"})) -> list[ir.Node]:
        """The nodes between the last convolutions and an output, these included, from the output back; without those
        that only quantise."""
        found: dict[ir.Node, None] = {}
        pending = [value for value in self.graph.outputs if value.name == name]
        while pending:
            node = pending.pop().producer()
            if node is None or node in found:
                continue
            found[node] = None
            if node.op_type not in stop:
                pending.extend(value for value in node.inputs if value is not None)
        return [node for node in found if node.op_type not in _QUANTISING]


def computed_by(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a tensor, whether it is quantised on the way or not."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _QUANTISING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def summarize_outputs(
    model: NormalizedModel, size: Size, file: Ultralytics | None = None, classes: int | None = None
) -> OutputSummary:
    """The summary of a model; where sizes are open, of the model for one image of this size."""
    names = [str(value.name) for value in model.graph.outputs]
    image = image_input(model.graph)
    is_open = any(None in (known_dims(value) or [])[1:] for value in (image, *model.graph.outputs))
    graph = (at_size(model, size, images=1) if is_open else model).graph
    outputs = {}
    for name, value in zip(names, graph.outputs, strict=True):
        found = known_dims(value)
        if found is not None:
            outputs[name] = tuple(-1 if d is None else d for d in found)
    return OutputSummary(graph, str(image.name), outputs, size, file, classes)


def grid(size: Size, strides: Sequence[int], anchors: int = 1) -> tuple[Floats, Floats]:
    """Column and row of every cell (A, 2), and its stride (A, 1), scale after scale, row by row."""
    cells, steps = [], []
    for stride in strides:
        h, w = -(-size[0] // stride), -(-size[1] // stride)
        rows, columns = np.indices((h, w))
        cells += [np.stack([columns, rows], axis=-1).reshape(-1, 2)] * anchors
        steps += [np.full((h * w, 1), stride)] * anchors
    return np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)


def corners(center: NDArray[Any], size: NDArray[Any]) -> Floats:
    """Boxes (A, 4) from centres and sizes (A, 2)."""
    boxes: Floats = np.concatenate([center - size / 2, center + size / 2], axis=1).astype(np.float32)
    return boxes


def sigmoid(x: NDArray[Any]) -> Floats:
    """Without overflow for large negative values."""
    y: Floats = np.exp(-np.logaddexp(0, -x.astype(np.float64))).astype(np.float32)
    return y
