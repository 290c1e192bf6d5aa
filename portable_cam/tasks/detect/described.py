"""Heads in a few lines of JSON, for detectors that no family recognises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect import ssd, yolo, yolox
from portable_cam.tasks.detect.head import BoxForm, Floats, Head, Unit, corners, sigmoid

_KEYS = frozenset(
    {
        "family",
        "output",
        "scores",
        "boxes",
        "priors",
        "variances",
        "classes",
        "objectness",
        "form",
        "unit",
        "logits",
        "preset",
        "threshold",
        "overlap",
    }
)
_FORMS = ("xyxy", "yxyx", "cxcywh")
_UNITS = ("pixels", "fraction")
_LOGITS = (True, False, "sigmoid", "softmax")


def read_head(source: str | Path | Mapping[str, Any]) -> Head:
    """A head from JSON, as a file or as what it holds.

    Either the layout of a known family, ``{"family": "yolov8", "output": "output0"}`` (``yolox``, ``yolov5``,
    ``yolov8``; ``ssd`` with ``scores``, ``boxes`` and perhaps ``priors``, a list of centres and sizes in fractions of
    the input; ``inner_nms`` and ``end_to_end`` with ``form`` and ``unit``, see
    :func:`~portable_cam.tasks.detect.families.head_from`), or what the tensors hold::

        {"classes": {"tensor": "scores", "layout": "rows", "start": 1}, "boxes": {"tensor": "boxes"},
         "form": "xyxy", "unit": "fraction", "preset": "unit", "threshold": 0.4}

    ``layout``, ``start`` and ``stop`` are those of :class:`~portable_cam.export.targets.Columns`; ``form`` is ``xyxy``,
    ``yxyx`` or ``cxcywh``; ``unit`` is ``pixels`` of the input or ``fraction``; ``logits`` says that scores need a
    ``sigmoid`` each (true means the same), or a ``softmax`` over all numbers that the tensor has for a box.

    Raises:
        OptionError: It cannot be read, or does not say enough.
    """
    where = "the head" if isinstance(source, Mapping) else str(source)
    given = content_of(source)
    unknown = sorted(set(given) - _KEYS)
    if unknown:
        raise OptionError(f"{where} has unknown keys {', '.join(unknown)}; it may have {', '.join(sorted(_KEYS))}")
    try:
        head = _family(given) if "family" in given else _tensors(given)
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(f"{where} does not say what the outputs mean ({error!r}); docs/tasks.md shows how") from None
    fields = {name: given[name] for name in ("preset", "threshold", "overlap") if name in given}
    return replace(head, **fields)


def content_of(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What a head's JSON holds.

    Raises:
        OptionError: It cannot be read, or is no object.
    """
    if isinstance(source, Mapping):
        return dict(source)
    try:
        content = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read the head {source}: {error}") from None
    if not isinstance(content, dict):
        raise OptionError(f"{source} is not a JSON object that says what a detector's outputs mean")
    return content


def _family(given: Mapping[str, Any]) -> Head:
    family = given["family"]
    if family in {"yolov5", "yolov8"}:
        return yolo.head(str(given["output"]), "rows" if family == "yolov5" else "columns")
    if family == "yolox":
        return yolox.head(str(given["output"]))
    if family == "ssd" and "priors" in given:
        priors = np.asarray(given["priors"], np.float32).reshape(-1, 4)
        return ssd.with_priors(str(given["scores"]), str(given["boxes"]), priors, given.get("variances", (0.1, 0.2)))
    if family == "ssd":
        return ssd.decoded(str(given["scores"]), str(given["boxes"]))
    raise OptionError(f"family {family!r} is unknown: choose one of yolox, yolov5, yolov8, ssd, inner_nms, end_to_end")


def _tensors(given: Mapping[str, Any]) -> Head:
    classes, boxes = Columns(**given["classes"]), Columns(**given["boxes"])
    objectness = (Columns(**given["objectness"]),) if "objectness" in given else ()
    form, unit, logits = given.get("form", "xyxy"), given.get("unit", "pixels"), given.get("logits", False)
    check_form(form, unit)
    if logits not in _LOGITS or (logits == "softmax" and objectness):
        raise OptionError(
            f"logits is true or false, sigmoid or softmax (without an objectness), not {logits!r}: see docs/tasks.md"
        )
    sigmoids = logits in {True, "sigmoid"}

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        numbers = rows_of(outputs[boxes.tensor], boxes)
        numbers = numbers[:, [1, 0, 3, 2]] if form == "yxyx" else numbers
        found = corners(numbers[:, :2], numbers[:, 2:]) if form == "cxcywh" else numbers
        scale = np.array([size[1], size[0]] * 2, np.float32) if unit == "fraction" else np.float32(1)
        if logits == "softmax":
            every = softmax(rows_of(outputs[classes.tensor], replace(classes, start=0, stop=None)))
            return (found * scale).astype(np.float32), every[:, classes.start : classes.stop]
        factors = [rows_of(outputs[c.tensor], c) for c in (classes, *objectness)]
        factors = [sigmoid(f) for f in factors] if sigmoids else factors
        return (found * scale).astype(np.float32), np.prod(np.broadcast_arrays(*factors), axis=0)

    return Head("described", Boxes((classes,), objectness, (boxes,), form, sigmoids), decode)


def check_form(form: Any, unit: Any) -> tuple[BoxForm, Unit]:
    """The form of a box and its unit.

    Raises:
        OptionError: They are none.
    """
    if form not in _FORMS or unit not in _UNITS:
        raise OptionError(f"form is one of {', '.join(_FORMS)} and unit pixels or fraction, not {form!r} and {unit!r}")
    return form, unit


def softmax(x: NDArray[Any]) -> Floats:
    """Over the last axis."""
    spread = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    y: Floats = (spread / spread.sum(axis=-1, keepdims=True)).astype(np.float32)
    return y


def rows_of(values: NDArray[Any], columns: Columns) -> Floats:
    """(boxes, numbers) of one image's tensor, as the target reads it."""
    rows: Floats = columns.of(values).astype(np.float32)
    return rows
