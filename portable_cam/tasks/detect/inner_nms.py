"""Models that choose boxes themselves: by non-maximum suppression, or by TopK behind heads that need none.

The raw head is what goes into the choice: all boxes before it, without what was added to keep classes apart, and a
score for each class. NonMaxSuppression itself is the same for x and y, so that what comes first is read from where the
boxes lie; see :mod:`portable_cam.tasks.detect.at_rest`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import HeadError
from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.layers.columns import is_integer, is_probability
from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.spelling import option
from portable_cam.tasks.detect.at_rest import box_form
from portable_cam.tasks.detect.choices import (
    ClassScores,
    all_boxes,
    box_counts,
    choices_behind,
    class_scores,
    is_shifted,
    is_two_stage,
    labels_of,
)
from portable_cam.tasks.detect.head import BoxForm, Floats, Head, OutputSummary, Unit, corners

_BOX_AND_LABEL = 6  # numbers of a row: four of the box, score, class


def recognize_head(summary: OutputSummary) -> Head | None:
    """A NonMaxSuppression node, with boxes (N, A, 4) and scores (N, C, A).

    Of a detector of two stages (Ren et al. 2015, arXiv 1506.01497) the boxes are those that the second makes of the
    first's proposals, of which there are as many as it chooses.

    Raises:
        HeadError: It is there, but what goes into it is not found, or in which order the numbers of a box stand.
    """
    found = [node for node in summary.graph if node.op_type == "NonMaxSuppression" and node.domain == ""]
    if not found:
        return None
    later = [node for node in found if is_two_stage([v for v in node.inputs[:2] if v is not None])]
    found = later or found  # the second stage's, if there are two
    node = found[-1]
    boxes, scores = node.inputs[:2]
    dims = known_dims(scores)
    if boxes is None or scores is None or dims is None or len(dims) != 3:
        raise HeadError("the non-maximum suppression in the model has no boxes (N, A, 4) and scores (N, C, A)")
    raw = all_boxes(boxes)
    counts = set() if later else box_counts(raw)  # of two stages, an axis of boxes may be that of the classes
    classes = _joined([class_scores(n.inputs[1], 1, counts) for n in found if n.inputs[1] is not None])
    center: BoxForm | None = "cxcywh" if node.attributes.get_int("center_point_box", 0) == 1 else None
    head = raw_head(summary, "inner_nms", raw, classes, center)
    limits = [_scalar(node, i, default) for i, default in ((3, 0.5), (4, 0.0))]
    return replace(
        head, threshold=max(limits[1], 0.05), overlap=limits[0], across_classes=head.best_only and not is_shifted(boxes)
    )


def _joined(found: Sequence[ClassScores | None]) -> ClassScores | None:
    """The scores that one suppression chooses by, or several, each with one class of the same tensor."""
    first = found[0]
    if first is None or any(f is None or f.value is not first.value or f.axis != first.axis for f in found):
        return None
    starts = sorted(f.start for f in found if f is not None)
    if starts != list(range(starts[0], starts[0] + len(found))):
        return first if len(set(starts)) == 1 else None
    return first if len(found) == 1 else replace(first, start=starts[0], stop=starts[-1] + 1)


def recognize_end_to_end(summary: OutputSummary) -> Head | None:
    """The boxes that TopK chose: an output (N, boxes, 6) with score and class, or these as outputs of their own.

    Raises:
        HeadError: It is there, but what it was chosen from is not found.
    """
    together = _together(summary)
    chosen = together or _apart(summary)
    if chosen is None:
        return None
    boxes, scores, labels = chosen
    if len(boxes) != 1 or len(scores) != 1:
        raise HeadError(_describe(summary, None, None, "its boxes are put together behind the choice"))
    raw = all_boxes(next(iter(boxes)))
    classes = class_scores(next(iter(scores)), None, box_counts(raw))
    renamed = next((what for value in labels if (what := labels_of(value)) is not None), None)
    if renamed is not None:
        raise HeadError(
            _describe(summary, None, classes, f"its class numbers pass {renamed}: they are not those of the scores")
        )
    return replace(raw_head(summary, "end_to_end", raw, classes, None), overlap=1.0)


_Chosen: TypeAlias = tuple[frozenset[ir.Value], frozenset[ir.Value], frozenset[ir.Value]]


def _together(summary: OutputSummary) -> _Chosen | None:
    for name, dims in summary.outputs.items():
        makers = summary.makers(name) if len(dims) in {2, 3} and dims[-1] == _BOX_AND_LABEL else None
        if makers is None:
            continue
        columns = makers.along(len(dims) - 1)
        if all(map(is_integer, columns[5])) and all(map(is_probability, columns[4])):
            return frozenset().union(*columns[:4]), columns[4], columns[5]
    return None


def _apart(summary: OutputSummary) -> _Chosen | None:
    """Three outputs, of which one holds whole numbers and one probabilities, with a box of four numbers for each."""
    if len(summary.outputs) != 3:
        return None
    boxes = [(name, dims) for name, dims in summary.outputs.items() if len(dims) in {2, 3} and dims[-1] == 4]
    made = {name: summary.makers(name) for name in summary.outputs}
    if len(boxes) != 1 or any(makers is None for makers in made.values()):
        return None
    name, dims = boxes[0]
    others = {n: m.values for n, m in made.items() if n != name and summary.outputs[n] == dims[:-1] and m is not None}
    labels = [n for n, values in others.items() if all(map(is_integer, values))]
    scores = [n for n, values in others.items() if n not in labels and all(map(is_probability, values))]
    of_boxes = made[name]
    if len(labels) != 1 or len(scores) != 1 or of_boxes is None:
        return None
    return frozenset(of_boxes.values), frozenset(others[scores[0]]), frozenset(others[labels[0]])


def raw_head(
    summary: OutputSummary, family: str, boxes: ir.Value, classes: ClassScores | None, form: BoxForm | None
) -> Head:
    """The head of all boxes (.., boxes, 4) and their scores.

    Args:
        summary: Of the model.
        family: Its name.
        boxes: The boxes.
        classes: Their scores, None if they are not found.
        form: What the four numbers are, where an operator says it.

    Raises:
        HeadError: The scores are not found, or in which order the numbers of a box stand.
    """
    if classes is None:
        raise HeadError(_describe(summary, boxes, None, "which tensor holds a score for each class is not found"))
    names = str(boxes.name), str(classes.value.name)
    # the proposals of a first stage stay chosen: the second is computed of those alone
    chosen = [] if is_two_stage([boxes, classes.value]) else choices_behind([boxes, classes.value])
    without = tuple(str(node.outputs[0].name) for node in chosen)
    rank, axis = len(known_dims(classes.value) or []), classes.axis
    if rank not in {2, 3} or axis not in {rank - 1, rank - 2}:
        raise HeadError(_describe(summary, boxes, classes, f"its scores have shape {classes.value.shape}"))
    layout = "rows" if axis == rank - 1 else "columns"
    told = summary.form or box_form(summary.graph, summary.image, summary.size, names[0], without)
    if told is None or (form is not None and told[0] != form):
        raise HeadError(_ask(summary, family, names[0]))
    of_classes = Columns(names[1], classes.start, classes.stop, layout)  # type: ignore[arg-type]
    per_class = len(known_dims(boxes) or []) == 3 and rank == 2  # a box for each class, as two stages have them
    sides = () if per_class or _chosen_later(boxes, chosen) else (Columns(names[0]),)
    target = Boxes((of_classes,), (), sides, form=told[0])
    also = () if sides else (names[0],)
    decode = _decoder(of_classes, names[0], *told)
    return Head(family, target, decode, None, also=also, without=without, best_only=classes.best_only)


def _chosen_later(boxes: ir.Value, chosen: Sequence[ir.Node]) -> bool:
    """Whether the tensor of boxes has only the chosen ones in the graph, so that its rows are not those of scores."""
    return any(node in set(choices_behind([boxes])) for node in chosen)


def _decoder(classes: Columns, name: str, form: BoxForm, unit: Unit) -> Any:
    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        boxes = outputs[name].reshape(-1, 4).astype(np.float32)
        boxes = boxes[:, [1, 0, 3, 2]] if form == "yxyx" else boxes
        boxes = corners(boxes[:, :2], boxes[:, 2:]) if form == "cxcywh" else boxes
        boxes = boxes * np.array([size[1], size[0]] * 2, np.float32) if unit == "fraction" else boxes
        scores = outputs[classes.tensor]
        scores = scores.reshape(scores.shape[-2:])
        scores = scores if classes.layout == "rows" else scores.T
        scores = scores[:, classes.start : classes.stop].astype(np.float32)
        if len(boxes) == scores.size and scores.shape[1] > 1:
            boxes = boxes.reshape(*scores.shape, 4)
        if len(scores) != len(boxes):
            raise HeadError(
                f"'{name}' holds {len(boxes)} boxes, but '{classes.tensor}' scores for {len(scores)}: the boxes that "
                f"the model chooses from are not found; describe its head in a JSON file ({option('head')})"
            )
        return boxes, scores

    return decode


def _ask(summary: OutputSummary, family: str, boxes: str) -> str:
    outputs = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    return (
        f"the model chooses its boxes itself (outputs {outputs}), but what the four numbers of a box in '{boxes}' are "
        f"is not told by where its boxes lie. Say it in a JSON file ({option('head')}): "
        f'{{"family": "{family}", "form": "xyxy", "unit": "pixels"}}; form is one of xyxy, yxyx and cxcywh (centre and '
        "size), unit pixels of the input or fraction"
    )


def _describe(summary: OutputSummary, boxes: ir.Value | None, classes: ClassScores | None, why: str) -> str:
    """What is not known, and the head to fill in."""
    known = {
        "classes": {"tensor": "..." if classes is None else str(classes.value.name)},
        "boxes": {"tensor": "..." if boxes is None else str(boxes.name)},
        "form": "xyxy, yxyx or cxcywh",
        "unit": "pixels or fraction",
    }
    outputs = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    return (
        f"the model chooses its boxes itself (outputs {outputs}), but {why}. Say in a JSON file ({option('head')}) "
        f"which tensors hold all boxes and their scores, with one row each: {json.dumps(known)}; docs/tasks.md shows "
        "how"
    )


def _scalar(node: ir.Node, index: int, default: float) -> float:
    value = constant_of(node.inputs[index]) if len(node.inputs) > index else None
    return default if value is None else float(np.asarray(value).reshape(-1)[0])
