# SPDX-License-Identifier: Apache-2.0
"""Which task a model does, and so what of it is explained, where nobody says so."""

from __future__ import annotations

from portable_cam.errors import Error, OptionError
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import channel_axis, image_input
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Class, Dense, Target
from portable_cam.tasks.detect import find_head

TASKS = ("classify", "detect", "segment")
_SIDE = 640  # of a detector that takes pictures of any size


def recognize(model: AnyModel, task: str | None = None, output: str | None = None) -> tuple[str, Target]:
    """The task and its target.

    Args:
        model: The model.
        task: One of :data:`TASKS`, or None: the one whose scores the model has.
        output: The tensor that holds the scores, if it was named.

    Raises:
        OptionError: There is no such task here.
        TargetError: The model's outputs are not those of the task that was asked for.
        ModelError, InputError: The model cannot be read, or has no image input.
    """
    if task is not None and task not in TASKS:
        raise OptionError(f"task '{task}' is not known here; the tasks are {', '.join(TASKS)}")
    if task == "classify" or (task is None and output is not None):
        return "classify", Class()
    graph = normalized(model).graph
    # the heads of detectors are known by more than shapes, and what none of them has may be a classifier
    for name in ("detect", "classify", "segment") if task is None else (task,):
        try:
            target: Target = Class() if name == "classify" else Dense()
            if name == "detect":
                image = image_input(graph)
                dims, first = known_dims(image) or [], 2 if channel_axis(image) == 1 else 1
                height, width = (d or _SIDE for d in dims[first : first + 2])
                target = find_head(graph, (height, width)).target
            target.count([scores.value for scores in target.tensors(graph, output)])
        except Error:
            if task is not None:
                raise
        else:
            return name, target
    return "classify", Class()
