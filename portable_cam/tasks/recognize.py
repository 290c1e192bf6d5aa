# SPDX-License-Identifier: Apache-2.0
"""Which task a model does, where the user does not name it."""

from __future__ import annotations

from collections.abc import Collection

from portable_cam.errors import Error, HeadError, TargetError
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Class, Target
from portable_cam.export.targets.scores import named_tensor
from portable_cam.spelling import option
from portable_cam.tasks.evidence import against_classes
from portable_cam.tasks.outputs import possible_tasks
from portable_cam.tasks.registry import TASKS, task_named


def recognize(
    model: AnyModel, task: str | None = None, output: str | None = None, row: int | None = None
) -> tuple[str, Target]:
    """The task, and the target that it explains.

    Args:
        model: The model.
        task: A name from :data:`~portable_cam.tasks.registry.TASKS`; None: what the model's description says, else by
            its inputs and outputs.
        output: The tensor that holds the scores, if the user named it.
        row: Of several rows of scores the one that the user chose: those of a classifier.

    Raises:
        OptionError: There is no such task.
        TargetError: The model's outputs are not those of the task that was named, or of none known here; a
            :class:`~portable_cam.errors.HeadError` where it is a detector that has to be described.
        ModelError, InputError: The model cannot be read, or has no image input.
    """
    known = normalized(model)
    task = task or known.description.task
    said = known.described({})
    output = output or said.get("output")
    row = said.get("row") if row is None else row
    if task == "classify" or (task is None and row is not None):
        return "classify", Class(row=row)
    if task is not None:
        return task, task_named(task).recognize(known, output).target
    image_input(known.graph)
    if output is not None:
        named_tensor(known.graph, output)
    for name, known_task in sorted(TASKS.items(), key=lambda item: item[1].general):
        try:
            found = known_task.recognize(known, output)
        except HeadError:  # its rows of boxes might pass for rows of classes
            raise
        except Error:
            continue
        against = (against_classes(scores) for scores in found.scores)
        if known_task.general and output is None and any(why is not None for why in against):
            continue  # these are no scores of classes, whatever their shape
        return name, found.target
    listing = "; ".join(map(possible_tasks, known.graph.outputs))
    raise TargetError(
        f"which task this model does is not recognised. By their shapes its outputs could be: {listing}. Name the task "
        f"with {option('task')}, and the tensor of scores with {option('output')} where several could be meant"
    )


def implied_task(options: Collection[str]) -> str | None:
    """The task that options imply, where the model is only a part of one: a caption by its decoder."""
    return next((name for name, row in TASKS.items() if row.implied_by & set(options)), None)
