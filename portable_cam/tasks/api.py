# SPDX-License-Identifier: Apache-2.0
"""One call for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from portable_cam.checked import checked
from portable_cam.explanation import Explanation
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.tasks.base import AnyPreprocessing, Targets
from portable_cam.tasks.recognize import implied_task, recognize
from portable_cam.tasks.registry import TASKS, own_options, task_named


@checked
def explain(
    model: AnyModel,
    image: Any,
    methods: Sequence[str] | None = None,
    targets: Targets = None,
    *,
    task: str | None = None,
    preprocessing: AnyPreprocessing = None,
    **options: Any,
) -> Explanation:
    """Decode, preprocess and explain one image.

    Args:
        model: The path of the model, or the model itself; a JSON file beside it may say how images are prepared.
        image: A path, bytes, PIL image or uint8 array (H, W, 3).
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for those that do best for the task.
        targets: What is explained, in the task's own terms: class numbers and labels, ``"top3"``, words of a caption;
            None for what the model finds.
        task: ``classify``, ``detect``, ``segment``, ``caption``, ``vqa`` or ``ctc``; None: what the model's description
            says, else recognised by its inputs and outputs, which ``notes`` then says.
        preprocessing: A preset's name, a :class:`~portable_cam.image.preprocess.Preprocessing`, or options of
            :func:`~portable_cam.image.resolve.resolve`.
        **options: Those of the task (``labels``, ``region``, ``vocabulary``, ``question`` ...; see its explainer), and
            those of :class:`~portable_cam.explainer.Explainer`.

    Raises:
        TargetError: The task is not recognised, or there is no such target.
        OptionError: The task does not take an option, or needs one.
        Error: Another subclass, for what else does not fit.
    """
    known = normalized(model)
    said = known.description.task
    chosen = task or implied_task(options) or said or recognize(known, None, options.get("output"))[0]
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
    explanation: Explanation = explainer(image, targets, **asked)
    if task is not None or said is not None:
        return explanation
    return replace(explanation, notes=(*explanation.notes, f"task recognised: {chosen}"))
