# SPDX-License-Identifier: Apache-2.0
"""How each task is recognised by a model's inputs and outputs.

A recogniser takes a normalised model and the tensor of scores that a user named, or None. It returns the target that
the task explains, and raises one of the project's errors where the model does another task.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.methods.tokens import embeddings
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Class, Dense, Target, Tokens
from portable_cam.export.targets.score_axes import score_axes
from portable_cam.export.targets.scores import PASS_THROUGH, Scores, cut_before
from portable_cam.spelling import option
from portable_cam.tasks.detect.families import find_head, head_from
from portable_cam.tasks.evidence import against_classes
from portable_cam.ultralytics import read_ultralytics

#: The metadata in which PaddleOCR's recognisers carry their characters, one a line.
CHARACTERS = "character"


_SIDE = 640  # of a detector that takes images of any size


class Recognized(NamedTuple):
    """What a task explains of a model, and the tensors that it found there."""

    target: Target
    scores: list[Scores]


def detector(model: NormalizedModel, output: str | None) -> Recognized:
    """A detector by its head, as the model's description says or of a family known here."""
    if output is not None:
        raise TargetError(f"a detector's tensors are named in its head ({option('head')}), not with {option('output')}")
    file = read_ultralytics(model.metadata)
    usual = (_SIDE, _SIDE) if file is None or file.size is None else file.size
    height, width = (side or other for side, other in zip(_image_size(model.graph), usual, strict=True))
    said = model.description.task_options.get("head")
    head = find_head(model, (height, width), file) if said is None else head_from(said, model, (height, width), file)
    return _checked(head.target, model, output)


def classifier(model: NormalizedModel, output: str | None) -> Recognized:
    """A classifier by one score per class and image."""
    image_input(model.graph)
    return _checked(Class(), model, output)


def segmenter(model: NormalizedModel, output: str | None) -> Recognized:
    """A segmentation by one score per class and pixel."""
    image_input(model.graph)
    return _checked(Dense(channels=model.description.task_options.get("channels")), model, output)


def question_answerer(model: NormalizedModel, output: str | None) -> Recognized:
    """A model of questions by an image and token ids that are embedded, and one score per answer."""
    image_input(model.graph)
    embeddings(model.graph)
    return _checked(Class(), model, output)


def captioner(model: NormalizedModel, output: str | None) -> Recognized:
    """A model of captions by an image and token ids that are embedded, and scores (N, T, V)."""
    image_input(model.graph)
    embeddings(model.graph)
    return _checked(Tokens(), model, output)


def line_reader(model: NormalizedModel, output: str | None) -> Recognized:
    """A recogniser of text lines by PaddleOCR's metadata; or by an image as the only input and scores as the only
    output, (N, T, V) or (T, N, V), its steps along the columns of the image or of no known place, made by a linear
    layer or a softmax."""
    graph = model.graph
    image_input(graph)
    found = _checked(Tokens(), model, output)
    (scores,) = found.scores
    if CHARACTERS in model.metadata or output is not None:
        return found
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1 or len(graph.outputs) != 1:
        raise TargetError("a recogniser of text lines has one input and one output")
    width = _image_size(graph)[1]
    axes, axis = score_axes(graph, scores.value), Tokens().axis_of_steps(scores.value)
    role = axes.roles[axis] if axes.roles is not None else "unknown"
    steps = (known_dims(scores.value) or [None] * 3)[axis]
    many = steps is not None and width is not None and steps > width
    if role in {"rows", "steps", "images", "mixed"} or many or not _scores_by_step(graph.outputs[0]):
        raise TargetError(f"output '{graph.outputs[0].name}' does not hold a score per step and character")
    return found


def possible_tasks(value: ir.Value) -> str:
    """What an output could be, by its shape, for a message."""
    dims = known_dims(value)
    text = f"'{value.name}' {value.dtype}{value.shape if value.shape is not None else '[?]'}"
    if value.dtype not in FLOATS:
        return f"{text}: not floating point, so no scores"
    if dims is None:
        return f"{text}: of unknown shape"
    if (against := against_classes(cut_before(value))) is not None:
        return f"{text}: no scores of classes, for {against}; an embedding is compared with another image's"
    by_rank = {
        2: "classify, or vqa where token ids go in (a score per class or answer)",
        3: "detect (a row per box, with a head that says what its numbers mean), ctc or caption (a score per step and "
        "token)",
        4: "segment (a score per class and pixel)",
    }
    return f"{text}: {by_rank.get(len(dims), 'no task known here')}"


def _checked(target: Target, model: NormalizedModel, output: str | None) -> Recognized:
    found = target.tensors(model.graph, output)
    target.count([scores.value for scores in found])
    return Recognized(target, found)


def _image_size(graph: ir.Graph) -> tuple[int | None, int | None]:
    image = image_input(graph)
    dims, first = known_dims(image) or [None] * 4, 2 if channel_axis(image) == 1 else 1
    return dims[first], dims[first + 1]


def _scores_by_step(value: ir.Value) -> bool:
    """Whether a softmax over them or a linear layer of as many outputs makes the last numbers of a tensor, its bias and
    what only rearranges looked through: coordinates (N, 68, 2) are cut from a linear layer of 136."""
    node, last = value.producer(), (known_dims(value) or [None])[-1]
    while node is not None:
        if node.op_type in {"Softmax", "LogSoftmax", "MatMul", "Gemm"}:
            made = (known_dims(node.outputs[0]) or [None])[-1]
            return made is None or last is None or made == last
        if node.op_type == "Add":
            sources = [v for v in node.inputs if v is not None and v.const_value is None]
            if len(sources) != 1:
                return False
            node = sources[0].producer()
        elif node.op_type in PASS_THROUGH and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        else:
            return False
    return False
