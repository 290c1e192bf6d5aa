"""Which family of detectors a model belongs to, read from its graph."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.layers.candidates import image_input
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect import centernet, fastestdet, inner_nms, nanodet, ssd, yolo, yolox
from portable_cam.tasks.detect.head import Head, OutputSummary, summarize_outputs

# the surest first: each looks at the shapes of the outputs and at the operators behind them
_FAMILIES: dict[str, Callable[[OutputSummary], Head | None]] = {
    "inner_nms": inner_nms.recognize_head,
    "nanodet": nanodet.recognize_head,
    "yolox": yolox.recognize_head,
    "fastestdet": fastestdet.recognize_head,
    "ssd": ssd.recognize_head,
    "centernet": centernet.recognize_head,
    "yolo": yolo.recognize_head,
}


def find_head(graph: ir.Graph, size: Size) -> Head:
    """The head of a normalised graph whose input is ``size`` (H, W).

    Raises:
        TargetError: It is none of those known.
    """
    summary = summarize_outputs(graph, image_input(graph), size)
    for recognize_head in _FAMILIES.values():
        head = recognize_head(summary)
        if head is not None:
            return head
    listing = ", ".join(f"'{name}' {list(dims)}" for name, dims in summary.outputs.items())
    known = ", ".join(_FAMILIES)
    raise TargetError(
        f"the outputs {listing} are not those of a detector known here ({known}): say in a JSON file what they mean "
        "(--head), or give a Head with a decode function of your own; docs/tasks.md shows both"
    )
