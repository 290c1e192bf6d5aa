"""Which family of detectors a model belongs to, read from its graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.layers.candidates import image_input
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect import centernet, detr, fastestdet, inner_nms, nanodet, ssd, yolo, yolox, yunet
from portable_cam.tasks.detect.head import Head, OutputSummary, summarize_outputs
from portable_cam.tasks.ultralytics import Ultralytics

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
    "yolo": yolo.recognize_head,
}


def find_head(graph: ir.Graph, size: Size, file: Ultralytics | None = None, classes: int | None = None) -> Head:
    """The head of a normalised graph whose input is ``size`` (H, W).

    Args:
        graph: The graph.
        size: Of its image; where the graph leaves it open, it is looked at as at this size.
        file: What the metadata of the file says, if they are Ultralytics'.
        classes: How many labels the user gave.

    Raises:
        TargetError: It is none of those known; or it is one, and what is missing is said.
    """
    named = len(file.names) if file is not None and file.names is not None else None
    summary = summarize_outputs(graph, image_input(graph), size, file, named if classes is None else classes)
    for recognize_head in _FAMILIES.values():
        head = recognize_head(summary)
        if head is not None:
            return _as_file_says(head, file)
    listing = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    known = ", ".join(_FAMILIES)
    raise TargetError(
        f"the outputs {listing} are not those of a detector known here ({known}): say in a JSON file what they mean "
        "(--head), or give a Head with a decode function of your own; docs/tasks.md shows both"
    )


def _as_file_says(head: Head, file: Ultralytics | None) -> Head:
    """The head with the file's names, and the preprocessing of Ultralytics' models where the family has none."""
    if file is None:
        return head
    return replace(head, labels=file.names or head.labels, preset=head.preset or "yolo")


def fit_head(head: Head, graph: ir.Graph, size: Size, file: Ultralytics | None, classes: int | None) -> Head:
    """A head that names a family and an output, fitted to the graph: which of the numbers are classes."""
    layouts = {"yolov5": "rows", "yolov8": "columns"}
    name = head.target.classes[0].tensor
    if head.family not in layouts or name not in {value.name for value in graph.outputs}:
        return head
    named = len(file.names) if file is not None and file.names is not None else None
    summary = summarize_outputs(graph, image_input(graph), size, file, named if classes is None else classes)
    objectness = head.family == "yolov5"
    found = yolo.of_output(summary, name, layouts[head.family], objectness=objectness)  # type: ignore[arg-type]
    if found is None:
        raise TargetError(
            f"'{name}' does not begin with centre and size of boxes that the graph decodes, as family "
            f"{head.family} has: describe its tensors instead; docs/tasks.md shows how"
        )
    return _as_file_says(replace(head, target=found.target, decode=found.decode, family=found.family), file)
