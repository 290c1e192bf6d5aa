# SPDX-License-Identifier: Apache-2.0
"""What a model answers under each preprocessing that it may have been trained with, for a person to choose."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_cam.errors import Error, PortableCamWarning
from portable_cam.explanation import Explanation
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.image.decode import read_image
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.presets import PRESETS
from portable_cam.image.resolve import resolve
from portable_cam.report.wording import number, percent
from portable_cam.tasks.base import TaskExplainer
from portable_cam.tasks.preprocessing import WHOLE
from portable_cam.tasks.recognize import recognize
from portable_cam.tasks.registry import own_options, task_named

#: Of training recipes; those behind are of families of detectors.
GENERAL = ("imagenet", "tf", "caffe", "unit", "raw")
_SHOWN = 3  # answers


@dataclass(frozen=True)
class Answer:
    """What a model answers on an image that is prepared in one way.

    Attributes:
        preset: Its name; None for the preprocessing in use.
        preprocessing: The whole of it.
        text: The answer, with the certainty of its parts.
        certainty: Of the whole, 0 to 1; None where there is no answer.
    """

    preset: str | None
    preprocessing: Preprocessing
    text: str
    certainty: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "preset": self.preset,
            "preprocessing": self.preprocessing.to_json(),
            "answer": self.text,
            "certainty": self.certainty,
        }


def answers_by_preset(model: AnyModel, image: Any, task: str | None = None, **options: Any) -> list[Answer]:
    """What a model answers on an image under the preprocessing in use, then under each preset that fits its input.

    A model is often surest where the preprocessing is right, but not always: a person sees which answer is true.

    Args:
        model: As for :func:`portable_cam.explain`.
        image: As there.
        task: As there.
        **options: As there, those of the task's explainer.

    Raises:
        Error: A subclass that names what does not fit.
    """
    known = normalized(model)
    chosen = task or recognize(known, None, options.get("output"))[0]
    own, _ = own_options(chosen, {}, described=known.description.task_options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PortableCamWarning)  # what is guessed is what is shown
        explainer: Any = task_named(chosen).explainer()(known, **{**own, **options})
    return list(try_presets(explainer, image))


def try_presets(explainer: TaskExplainer, image: Any) -> Iterator[Answer]:
    """As :func:`answers_by_preset`, with the explainer of a task."""
    decoded = read_image(image)
    chosen = explainer._for((decoded.shape[0], decoded.shape[1]))
    in_use = chosen.preprocessing
    seen: list[Preprocessing] = []
    try:
        for preset in (None, *_presets(chosen.task)):
            try:
                prepared = in_use if preset is None else _under(chosen, preset, in_use)
            except Error:
                continue  # for a model of other images
            if any(replace(other, guessed=()) == replace(prepared, guessed=()) for other in seen):
                continue
            seen.append(prepared)
            chosen.preprocessing = prepared
            try:
                text, certainty = _answer(chosen, chosen(decoded, "top3" if chosen.task == "classify" else None))
            except Error as error:
                text, certainty = f"no answer: {error}", None
            yield Answer(preset, prepared, text, certainty)
    finally:
        chosen.preprocessing = in_use


def _under(explainer: TaskExplainer, preset: str, in_use: Preprocessing) -> Preprocessing:
    """A preset for the same input, at the same size."""
    known = explainer.explainer
    return resolve(
        known.input_shape(),
        known.input_dtype(),
        preset=preset,
        size=in_use.size,
        layout=in_use.layout,
        own_quantization=known.input_quantization,
        whole=WHOLE.get(explainer.task),
    )


def _presets(task: str) -> Sequence[str]:
    return tuple(PRESETS) if task == "detect" else GENERAL


def _answer(explainer: Any, explanation: Explanation) -> tuple[str, float | None]:
    """An explanation's answer in a line, and how sure the model is of it."""
    if not explanation.found:
        return f"nothing found: {explanation.nothing_found.split(':')[0]}", None
    if explanation.top:
        return _of_classes(explanation)
    details, labels = explanation.details, explanation.labels[0]
    if explanation.task == "segment":
        sure = _sureness_of_pixels(explainer.logits(explanation.preprocessing(explanation.image)))
        parts = [f"{label} on {percent(d.share or 0)}" for label, d in zip(labels, details, strict=True)]
        return ", ".join(parts[:_SHOWN]), sure
    if details and details[0].detection is not None:
        parts = [f"{label} {number(d.detection or 0, 2)}" for label, d in zip(labels, details, strict=True)]
        more = f" and {len(parts) - _SHOWN} more" * (len(parts) > _SHOWN)
        return ", ".join(parts[:_SHOWN]) + more, float(details[0].detection)
    if explanation.text:
        chances = [d.probability for d in details if d.probability]
        return explanation.text.strip(), float(np.exp(np.mean(np.log(chances)))) if chances else None
    return ", ".join(labels), None


def _of_classes(explanation: Explanation) -> tuple[str, float | None]:
    """The best classes; their scores are probabilities, or become some by a softmax over all of them."""
    if explanation.top_scale in {"probability", "softmax"}:
        parts = [f"{label} {percent(chance)}" for label, chance in explanation.top[:_SHOWN]]
        return ", ".join(parts), explanation.top[0][1]
    return ", ".join(f"{label} {number(score, 2)}" for label, score in explanation.top[:_SHOWN]), None


def _sureness_of_pixels(logits: np.ndarray[Any, Any]) -> float:
    """How sure a segmentation is of the class of a pixel, on average, (C, h, w) being logits."""
    if len(logits) == 1:
        chance = 1 / (1 + np.exp(-np.abs(logits[0].astype(np.float64))))
        return float(chance.mean())
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=0, keepdims=True))
    return float((exponents.max(axis=0) / exponents.sum(axis=0)).mean())
