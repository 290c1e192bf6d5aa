# SPDX-License-Identifier: Apache-2.0
"""One call for every task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from portable_cam.checked import checked
from portable_cam.explanation import Explanation
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.tasks.base import AnyPreprocessing, TaskExplainer
from portable_cam.tasks.recognize import implied_task, recognize
from portable_cam.tasks.registry import TASKS, own_options, task_named


@overload
def explain(model: AnyModel, image: list[Any] | tuple[Any, ...], *args: Any, **options: Any) -> list[Explanation]: ...
@overload
def explain(model: AnyModel, image: Iterator[Any], *args: Any, **options: Any) -> Iterator[Explanation]: ...
@overload
def explain(model: AnyModel, image: Any, *args: Any, **options: Any) -> Explanation: ...
@checked
def explain(
    model: AnyModel,
    image: Any,
    methods: Sequence[str] | None = None,
    targets: Any = None,
    *,
    task: str | None = None,
    preprocessing: AnyPreprocessing = None,
    **options: Any,
) -> Any:
    """Decode, preprocess and explain one image, or each of several.

    Args:
        model: The path of the model, or the model itself; a JSON file beside it may say how images are prepared.
        image: A path, bytes, PIL image or uint8 array or tensor (H, W, 3); a list of them gives a list, an iterator an
            iterator that explains each image when it is asked for.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for those that do best for the task.
        targets: What is explained, in the task's own terms: class numbers and labels, ``"top3"``, words of a caption;
            None for what the model finds.
        task: ``classify``, ``detect``, ``segment``, ``caption``, ``vqa`` or ``ctc``; None: what the model's description
            says, else recognised by its inputs and outputs, which ``notes`` then says.
        preprocessing: A preset's name, a :class:`~portable_cam.image.preprocess.Preprocessing`, options of
            :func:`~portable_cam.image.resolve.resolve`, or a function from a photo, uint8 (H, W, 3), to the input.
        **options: Those of the task (``labels``, ``region``, ``vocabulary``, ``question`` ...; see its explainer), and
            those of :class:`~portable_cam.explainer.Explainer`.

    Raises:
        TargetError: The task is not recognised, or there is no such target.
        OptionError: The task does not take an option, or needs one.
        Error: Another subclass, for what else does not fit.
    """
    made = explainer_for(model, methods, task=task, preprocessing=preprocessing, **options)
    found: Any = made.explainer(image, targets, **made.asked)
    if not made.recognized:
        return found
    note = f"task recognised: {made.explainer.task}"
    if isinstance(found, Explanation):
        return _noted(found, note)
    each = (_noted(explanation, note) for explanation in found)
    return list(each) if isinstance(found, list) else each


@dataclass(frozen=True)
class Made:
    """The explainer of a task, the options of a call to it, and whether the task was recognised rather than said."""

    explainer: TaskExplainer
    asked: dict[str, Any]
    recognized: bool


def explainer_for(
    model: AnyModel,
    methods: Sequence[str] | None = None,
    *,
    task: str | None = None,
    preprocessing: AnyPreprocessing = None,
    **options: Any,
) -> Made:
    """What explains a model's images, made once for many.

    Args:
        model: As for :func:`explain`, as are the others.
        methods: See ``model``.
        task: See ``model``.
        preprocessing: See ``model``.
        **options: See ``model``.

    Raises:
        Error: As :func:`explain`.
    """
    known = normalized(model)
    said = known.description.task
    given = [name for name, value in options.items() if value is not None]
    chosen = task or implied_task(given) or said or recognize(known, None, options.get("output"))[0]
    kind = task_named(chosen).explainer()
    of_tasks = {name for row in TASKS.values() for name in row.explainer().takes | row.explainer().asks}
    own, asked = own_options(
        chosen,
        {name: value for name, value in options.items() if name in of_tasks},
        described=known.description.task_options,
    )
    general = {name: value for name, value in options.items() if name not in of_tasks}
    methods = known.description.methods if methods is None else methods
    explainer: Any = kind(known, methods, preprocessing=preprocessing, **own, **general)
    return Made(explainer, asked, recognized=task is None and said is None)


def _noted(explanation: Explanation, note: str) -> Explanation:
    return replace(explanation, notes=(*explanation.notes, note))
