# SPDX-License-Identifier: Apache-2.0
"""The tasks, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from portable_cam.errors import OptionError
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.spelling import option
from portable_cam.tasks import outputs

if TYPE_CHECKING:
    from portable_cam.tasks.base import TaskExplainer


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        module: Where its explainer is; imported when it is used.
        name: The explainer's class there.
        recognize: See :mod:`portable_cam.tasks.outputs`.
        general: Recognised by shapes that models of other tasks may have, and so tried after those.
        implied_by: Options that a model needs which is only a part of one of this task, or does not tell its task.
    """

    module: str
    name: str
    recognize: Callable[[NormalizedModel, str | None], outputs.Recognized]
    general: bool = False
    implied_by: frozenset[str] = frozenset()

    def explainer(self) -> type[TaskExplainer]:
        """The class of its explainer."""
        kind: type[TaskExplainer] = getattr(import_module(self.module), self.name)
        return kind


_HERE = "portable_cam.tasks"
TASKS: Mapping[str, Task] = {
    "classify": Task(
        f"{_HERE}.classify", "PhotoExplainer", outputs.classifier, general=True, implied_by=frozenset({"row"})
    ),
    "detect": Task(f"{_HERE}.detect.explainer", "DetectExplainer", outputs.detector, implied_by=frozenset({"head"})),
    "segment": Task(f"{_HERE}.segment", "SegmentExplainer", outputs.segmenter, general=True),
    "caption": Task(
        f"{_HERE}.language.caption", "CaptionExplainer", outputs.captioner, implied_by=frozenset({"decoder"})
    ),
    "vqa": Task(f"{_HERE}.language.question", "QuestionExplainer", outputs.question_answerer),
    "ctc": Task(f"{_HERE}.language.line", "LineExplainer", outputs.line_reader),
}


def task_named(name: str) -> Task:
    """The row of a task.

    Raises:
        OptionError: There is no such task.
    """
    if name not in TASKS:
        raise OptionError(f"task '{name}' does not exist; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


def own_options(
    task: str, given: Mapping[str, Any], described: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of single tasks, divided into those of the constructor and those of a call.

    Args:
        task: The task they are given to.
        given: By name; None where an option is not given.
        described: What the model's description says, for those that the task takes and that are not given.

    Raises:
        OptionError: The task needs another option, or does not take one of these.
    """
    kind = task_named(task).explainer()
    chosen = {name: value for name, value in (described or {}).items() if name in kind.takes | kind.asks}
    chosen |= {name: value for name, value in given.items() if value is not None}
    for name in kind.needs:
        if name not in chosen:
            raise OptionError(f"the task {task} needs {option(name)}")
    for name in chosen:
        if name not in kind.takes | kind.asks:
            raise OptionError(f"the task {task} takes no {option(name)}")
    return (
        {name: value for name, value in chosen.items() if name in kind.takes},
        {name: value for name, value in chosen.items() if name in kind.asks},
    )
