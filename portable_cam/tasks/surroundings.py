# SPDX-License-Identifier: Apache-2.0
"""What a program that runs a file needs besides the graph: how photos are prepared, what classes are called."""

from __future__ import annotations

from dataclasses import dataclass

from portable_cam.errors import Error
from portable_cam.export.deploy.end_to_end.show import Colors
from portable_cam.export.deploy.end_to_end.view import PhotoInput
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Boxes, Target
from portable_cam.image.colormap import opacities, palette
from portable_cam.image.look import DEFAULT
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.resolve import METADATA_KEY as PREPROCESSING
from portable_cam.labels import Labels, as_labels, labels_in
from portable_cam.tasks.detect.families import find_head, head_from
from portable_cam.tasks.detect.head import Head
from portable_cam.tasks.preprocessing import beside, expected_preprocessing
from portable_cam.ultralytics import read_ultralytics


@dataclass(frozen=True)
class Surroundings:
    """Attributes:
    preprocessing: How a photo becomes the input; None where the input is not one of photos.
    labels: The names of the classes, as far as they are known.
    classes: How many classes share the numbers of a detector's targets, box * classes + class; None elsewhere.
    """

    preprocessing: Preprocessing | None
    labels: Labels | None
    classes: int | None


def surroundings(
    model: NormalizedModel, task: str, target: Target, *, preset: str | None = None, labels: str | None = None
) -> Surroundings:
    """What is known of a model's photos and classes, by the same rules as when a photo is explained.

    Args:
        model: The model.
        task: What it does.
        target: What is explained.
        preset: The preset that the user named.
        labels: The file of labels that he named.

    Raises:
        LabelError: The labels cannot be read, or are not as many as the classes.
        PreprocessError: There is no such preset, or what the files say contradicts itself.
    """
    given = as_labels(labels) or as_labels(model.description.task_options.get("labels"), "the model's description")
    scores = [found.value for found in target.tensors(model.graph, None)] if isinstance(target, Boxes) else []
    classes = target.class_count(scores) if isinstance(target, Boxes) else None
    head = _head(model, given) if task == "detect" else None
    if given is None and head is not None and head.labels is not None:
        given = Labels(head.labels, head.family)
    count = classes if classes is not None else _count(model, target)
    known = given.check(count) if given is not None else labels_in(model.metadata, count) or Labels.default(count, task)
    return Surroundings(_prepared(model, task, preset, None if head is None else head.preset), known, classes)


def _prepared(model: NormalizedModel, task: str, preset: str | None, usual: str | None) -> Preprocessing | None:
    silent = beside(model) is None and PREPROCESSING not in model.metadata
    if preset is None and silent and dtype_of(image_input(model.graph)).numpy().kind == "f":
        preset = usual  # quantised inputs have another scale than the family's photos
    try:
        return expected_preprocessing(model, task, **({} if preset is None else {"preset": preset}))
    except Error:
        if preset is not None:
            raise
        return None  # an input that is no photo


def _head(model: NormalizedModel, given: Labels | None) -> Head | None:
    image, file = image_input(model.graph), read_ultralytics(model.metadata)
    dims, first = known_dims(image) or [], 2 if channel_axis(image) == 1 else 1
    sides = dims[first : first + 2]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    size, named = (sides[0], sides[1]), None if given is None else len(given)
    said = model.description.task_options.get("head")
    return head_from(said, model, size, file, named) if said else find_head(model, size, file, named)


def _count(model: NormalizedModel, target: Target) -> int | None:
    try:
        found = target.tensors(model.graph, model.described({}).get("output"))
        return target.count([scores.value for scores in found])
    except Error:
        return None


def photo_input(prepared: Preprocessing) -> PhotoInput:
    """The preprocessing as the graph of a file from photo to overlay takes it."""
    return PhotoInput(
        size=prepared.size,
        resize=prepared.resize,
        resize_to=prepared.resize_to,
        pad_value=prepared.pad_value,
        centered=prepared.pad_position == "center",
        interpolation=prepared.interpolation,
        color=prepared.color,
        channels_last=prepared.layout == "nhwc",
        values=prepared.tables,
    )


def colors() -> Colors:
    """Those of every overlay, unless a look is chosen."""
    return Colors(palette(DEFAULT.colormap), opacities(DEFAULT), DEFAULT.opacity, DEFAULT.gray)
