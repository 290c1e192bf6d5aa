# SPDX-License-Identifier: Apache-2.0
"""Drafts the description of a model: what was derived, for a person to read and correct."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from portable_cam.errors import Error
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import candidates, image_input, layer_axes
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.export.read.description import Description
from portable_cam.export.read.whole_files import write_whole
from portable_cam.export.targets import Target
from portable_cam.export.targets.protocol import scores_of
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.labels import labels_in
from portable_cam.tasks.preprocessing import expected_preprocessing
from portable_cam.tasks.recognize import recognize
from portable_cam.tasks.registry import task_named

_SHORT_LIST = re.compile(r"\[\s+((?:-?[\w.+-]+|\"[^\"\\\n]{0,20}\"|[,\s])+?)\s+\]")  # of numbers or words, for one line
_LAYERS = 5  # that are listed
_UNNAMED = frozenset({"detect"})  # tasks whose tensors are named in a head
_OF_FAMILIES = frozenset({"detect", "ctc"})  # whose families have a preprocessing of their own, better than a guess


def draft(
    model: AnyModel, task: str | None = None, output: str | None = None, row: int | None = None
) -> dict[str, Any]:
    """What is known of a model, as the content of its description: what its present description says, and what was
    derived where that says nothing.

    Args:
        model: The model.
        task: As for :func:`~portable_cam.tasks.recognize.recognize`.
        output: As there.
        row: As there.

    Raises:
        TargetError, OptionError, InputError: As there.
    """
    known = normalized(model)
    name, target = recognize(known, task, output, row)
    image = image_input(known.graph)
    said = known.description.content
    scores = scores_of(target, known.graph, output or known.described({}).get("output"))
    content: dict[str, Any] = {
        "version": 1,
        "task": name,
        "input": {"name": str(image.name), "axes": "NCHW" if channel_axis(image) == 1 else "NHWC"},
        "methods": list(task_named(name).explainer().default_methods),
    }
    prepared = expected_preprocessing(known, name)
    if not prepared.guessed or name not in _OF_FAMILIES:
        content["input"]["preprocessing"] = prepared.to_json()
    if name not in _UNNAMED and len(scores) == 1:
        content["scores"] = {"output": scores[0].output} | ({} if row is None else {"row": row})
    classes = _count(target, scores)
    labels = labels_in(known.metadata, classes)
    if labels is not None:
        content["labels"] = list(labels.names)
    content |= {key: value for key, value in said.items() if key != "derived"}
    content["derived"] = {
        "scores": [_about(known, found.value, found.cut) for found in scores],
        "classes": classes,
        "layers": _layers(known, target, scores),
    }
    return Description(content, "the draft").content  # type: ignore[return-value]


def write_description(content: dict[str, Any], path: Path) -> None:
    """Write a description as JSON, a line for each thing that is said."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_whole(path, _SHORT_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def _count(target: Target, scores: list[Any]) -> int | None:
    try:
        return target.count([found.value for found in scores])
    except Error:
        return None


def _about(model: NormalizedModel, value: Any, cut: str | None) -> dict[str, Any]:
    roles = score_axes(model.graph, value).roles
    return {
        "tensor": str(value.name),
        "shape": known_dims(value),
        "axes": None if roles is None else list(roles),
        "cut before": cut,
    }


def _layers(model: NormalizedModel, target: Target, scores: list[Any]) -> list[dict[str, Any]]:
    """The best candidates, best first, and where each looks at: pixel = step * index + offset."""
    graph, values = model.graph, [found.value for found in scores]
    found = [value for value, _ in candidates(graph, *values)]
    chosen = target.layers(graph, values)
    ordered = list(dict.fromkeys([*(chosen or []), *found]))[:_LAYERS]
    listed = []
    for value, axes in zip(ordered, layer_axes(graph, ordered), strict=True):
        about: dict[str, Any] = {"tensor": str(value.name), "shape": known_dims(value), "axes": _letters(value, axes)}
        if axes.relations is not None:
            about["step"], about["offset"] = ([getattr(r, part) for r in axes.relations] for part in ("step", "offset"))
        listed.append(about)
    return listed


def _letters(value: Any, axes: SpatialAxes) -> str:
    """The axes of a layer, as NCHW, or NTC for tokens."""
    letters = {axes.batch: "N"} | dict(zip(axes.axes, "T" if axes.tokens else "HW", strict=True))
    return "".join(letters.get(i, "C") for i in range(len(known_dims(value) or [])))
