# SPDX-License-Identifier: Apache-2.0
"""What the doctor asks ONNX Runtime: whether it takes the graphs of the methods, and what the model answers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable_cam.errors import Error, PortableCamWarning, TargetError

if TYPE_CHECKING:
    from portable_cam.export import DoctorReport
    from portable_cam.export.passes.normalized import NormalizedModel
    from portable_cam.export.targets import Target
    from portable_cam.tasks.base import TaskExplainer
    from portable_cam.tasks.presets import Answer


def tried(
    model: NormalizedModel,
    report: DoctorReport,
    task: str | None,
    target: Target | None,
    output: str | None,
    row: int | None = None,
) -> tuple[DoctorReport, TaskExplainer | None]:
    """The report with what ONNX Runtime says of it, and the explainer of the task where there is one.

    A method that the graph allows works only where ONNX Runtime takes its graph.

    Args:
        model: The model.
        report: What its graph allows.
        task: The task, if it is known.
        target: What is explained.
        output: The tensor of scores, if the user named it.
        row: Of several rows of scores the one, likewise.
    """
    working = tuple(name for name, answer in report.methods.items() if answer == "yes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PortableCamWarning)  # what is guessed stands in the report
        explainer = _task_explainer(model, task, working, output, row)
        refused = {} if explainer is not None else _refused(model, working, target, output)
    if refused:
        report = replace(report, methods={**report.methods, **refused})
    if not report.explainable and (why := _why_not(model)) is not None:
        report = replace(report, problems=[*report.problems, why])
    return report, explainer


def answers_on(explainer: TaskExplainer | None, image: Path) -> list[Answer]:
    """What the model answers on a photo under each preset.

    Raises:
        ImageError: It cannot be read.
        TargetError: The task cannot be done without more options.
    """
    from portable_cam.image.decode import read_image
    from portable_cam.tasks.presets import try_presets

    read_image(image)
    if explainer is None:
        raise TargetError(
            f"what the model answers on {image} cannot be shown: its task is not recognised, or needs options "
            "that only the command explain takes"
        )
    return list(try_presets(explainer, image))


def _task_explainer(
    model: NormalizedModel, task: str | None, methods: tuple[str, ...], output: str | None, row: int | None
) -> TaskExplainer | None:
    from portable_cam.tasks.registry import own_options, task_named

    if task is None or not methods:
        return None
    try:
        own, _ = own_options(task, {}, described=model.description.task_options)
        named = {name: value for name, value in (("output", output), ("row", row)) if value is not None}
        made: Any = task_named(task).explainer()(model, methods, **own, **named)
    except Error:
        return None  # methods are then tried one by one, and it is told which are refused
    explainer: TaskExplainer = made
    return explainer


def _refused(
    model: NormalizedModel, methods: tuple[str, ...], target: Target | None, output: str | None
) -> dict[str, str]:
    """Why methods do not work, by method."""
    from portable_cam.explainer import Explainer

    found = {}
    for method in methods:
        try:
            Explainer(model, (method,), target=target, output=output)
        except Error as error:
            found[method] = str(error)
    return found


def _why_not(model: NormalizedModel) -> str | None:
    """What ONNX Runtime says against the model itself; None where it takes it."""
    from portable_cam.runtime.session import Session

    try:
        Session(model.original(), as_written=True)
    except Error as error:
        return str(error)
    return None
