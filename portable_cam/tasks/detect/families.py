"""Which family of detectors a model belongs to, read from its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from portable_cam.errors import TargetError
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.image.geometry import Size
from portable_cam.spelling import either, option
from portable_cam.tasks.detect import apart, centernet, detr, fastestdet, inner_nms, nanodet, ssd, yolo, yolox, yunet
from portable_cam.tasks.detect.described import check_form, content_of, read_head
from portable_cam.tasks.detect.head import BoxForm, Head, OutputSummary, Unit, summarize_outputs
from portable_cam.ultralytics import Ultralytics

# the surest first: each looks at the shapes of the outputs and at the operators behind them
_FAMILIES: dict[str, Callable[[OutputSummary], Head | None]] = {
    "inner_nms": inner_nms.recognize_head,
    "end_to_end": inner_nms.recognize_end_to_end,
    "yunet": yunet.recognize_head,
    "nanodet": nanodet.recognize_head,
    "yolox": yolox.recognize_head,
    "fastestdet": fastestdet.recognize_head,
    "ssd": ssd.recognize_head,
    "centernet": centernet.recognize_head,
    "detr": detr.recognize_head,
    "apart": apart.recognize_head,
    "yolo": yolo.recognize_head,
}


_CHOOSING = {name: _FAMILIES[name] for name in ("inner_nms", "end_to_end")}
_LAYOUTS: Mapping[str, yolo.Layout] = {"yolov5": "rows", "yolov8": "columns"}


def find_head(
    model: AnyModel,
    size: Size,
    file: Ultralytics | None = None,
    classes: int | None = None,
    form: tuple[BoxForm, Unit] | None = None,
) -> Head:
    """The head of a model whose image is of ``size`` (H, W).

    Args:
        model: The model.
        size: Of its image; where the model leaves it open, it is looked at as at this size.
        file: What the metadata of the file says, if they are Ultralytics'.
        classes: How many labels the user gave.
        form: What the numbers of a box are and their unit, where the model chooses boxes itself and the user says it.

    Raises:
        TargetError: It is none of those known; or it is one, and what is missing is said.
    """
    summary = replace(_summary(normalized(model), size, file, classes), form=form)
    for recognize_head in _FAMILIES.values():
        head = recognize_head(summary)
        if head is not None:
            return _as_file_says(head, file)
    listing = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    known = ", ".join(_FAMILIES)
    raise TargetError(
        f"the outputs {listing} are not those of a detector known here ({known}): say in a JSON file what they mean "
        f"({option('head')}){either(', or give a Head with a decode function of your own', '')}; docs/tasks.md shows "
        "how"
    )


def head_from(
    source: str | Path | Mapping[str, Any],
    model: AnyModel,
    size: Size,
    file: Ultralytics | None = None,
    classes: int | None = None,
) -> Head:
    """A head from JSON, fitted to the model: which of the numbers of a box are classes, or what a choice of boxes in it
    is made from.

    Args:
        source: As :func:`~portable_cam.tasks.detect.described.read_head` takes it.
        model: As for :func:`find_head`, and so are ``size``, ``file`` and ``classes``.

    Raises:
        OptionError: It cannot be read, or does not say enough.
        TargetError: It does not fit the model.
    """
    known = normalized(model)
    given = content_of(source)
    family = given.get("family")
    if family in _CHOOSING:
        fields = {name: given[name] for name in ("preset", "threshold", "overlap") if name in given}
        form = check_form(given.get("form"), given.get("unit", "pixels"))
        found = _CHOOSING[family](replace(_summary(known, size, file, classes), form=form))
        if found is None:
            raise TargetError(f"the head says {family}, but the model does not choose boxes that way")
        return replace(_as_file_says(found, file), **fields)
    head = read_head(source)
    layout = _LAYOUTS.get(str(family))
    name = head.target.classes[0].tensor
    if layout is None or name not in {value.name for value in known.graph.outputs}:
        return head
    fitted = yolo.of_output(_summary(known, size, file, classes), name, layout, objectness=family == "yolov5")
    if fitted is None:
        raise TargetError(
            f"'{name}' does not begin with centre and size of boxes that the graph decodes, as family {family} has: "
            "describe its tensors instead; docs/tasks.md shows how"
        )
    return _as_file_says(replace(head, target=fitted.target, decode=fitted.decode, family=fitted.family), file)


def _summary(model: NormalizedModel, size: Size, file: Ultralytics | None, classes: int | None) -> OutputSummary:
    if classes is None and file is not None and file.names is not None:
        classes = len(file.names)
    return summarize_outputs(model, size, file, classes)


def _as_file_says(head: Head, file: Ultralytics | None) -> Head:
    """The head with the file's names, and the preprocessing of Ultralytics' models where the family has none."""
    if file is None:
        return head
    return replace(head, labels=file.names or head.labels, preset=head.preset or "yolo")
