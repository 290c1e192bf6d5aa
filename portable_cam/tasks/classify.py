# SPDX-License-Identifier: Apache-2.0
"""Classification: why this class, this set of classes, or this class rather than that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import checked
from portable_cam.errors import OptionError, TargetError
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Class, ClassSet, Contrast
from portable_cam.labels import AnyLabels, Labels, as_labels, parse_targets
from portable_cam.methods.explainer import Explainer
from portable_cam.result import Result
from portable_cam.spelling import option
from portable_cam.tasks.base import (
    AnyPreprocessing,
    LabelledExplainer,
    Photo,
    Targets,
    class_numbers,
    each_once,
    finite,
)
from portable_cam.tasks.preprocessing import at_photo_size, preprocessing_of

#: How many of the model's best classes are reported.
_TOP = 5


class PhotoExplainer(LabelledExplainer):
    """Explains the classes of a classifier; targets are class numbers or names, ``top3``, or None for the top class.

    Args:
        model: The path of the model, or the model itself.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for Grad-CAM.
        labels: Labels, or a file of them; ImageNet's names where the model has 1000 classes and none are given.
        preprocessing: A :class:`~portable_cam.image.preprocess.Preprocessing`, a preset's name, a mapping of
            ``resolve``'s options, or None: read from a JSON file beside the model or the model's metadata, and guessed
            where they leave something open.
        rather_than: A class number or name: why the target rather than this one.
        sets: Sets of classes by name, as ``{"cat": ["tabby", "tiger cat", 285]}``: targets are then these names.
        **options: As for :class:`~portable_cam.explainer.Explainer`.
    """

    task = "classify"
    default_methods = ("gradcam",)
    takes = frozenset({"labels", "rather_than", "sets"})
    takes_target = True

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        labels: AnyLabels = None,
        preprocessing: AnyPreprocessing = None,
        rather_than: int | str | None = None,
        sets: Mapping[str, Sequence[int | str]] | None = None,
        **options: Any,
    ) -> None:
        if sets:
            if options.get("target") is not None:
                raise OptionError(f"{option('sets')} are a target of their own: leave out {option('target')}")
            known = as_labels(labels)
            members = tuple(class_numbers(names, known or Labels.default(1000)) for names in sets.values())
            options["target"] = ClassSet(members)
            labels = Labels(tuple(sets), "the sets of classes")
        if rather_than is not None:
            options["target"] = Contrast(options.get("target") or Class())
        model = at_photo_size(normalized(model), preprocessing)
        self.explainer = Explainer(model, self.default_methods if methods is None else methods, **options)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        self.labels = self._known_labels(labels, self.explainer.classes)
        self._rival = None if rather_than is None else self.number(rather_than)
        self._sets = bool(sets)

    @property
    def notes(self) -> tuple[str, ...]:
        known = self.explainer
        if self.labels is not None or known.cut is not None or known.classes in {None, 1}:
            return super().notes
        unsaid = f"that these {known.classes} numbers are scores of classes is assumed: no softmax and no labels say so"
        return (*super().notes, unsaid)

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        numbers = parse_targets(targets, self.labels)
        rival = {} if self._rival is None else {"rather_than": self._rival}
        if self._rival is not None and self._rival in (numbers or ()):
            name = self.name(self._rival)
            raise TargetError(f"'{name}' rather than '{name}': name two classes, what tells one from itself is nothing")
        result = each_once(self.explainer.ranked(photo.x, None if numbers is None else [numbers], **rival))
        names = [self.name(int(target)) for target in result.targets[0]]
        values, scale = self._output(result)
        if numbers is None or min(numbers) < 0:  # which are the highest was asked
            finite(values, "the scores")
            finite(result.scores, "the scores")
        top = [(self.name(int(i)), float(values[i])) for i in np.argsort(-values)[:_TOP]]
        if not np.isfinite(values).all():  # what the highest of them are means nothing
            top = []
        if self._rival is None:
            sure = scale in {"probability", "softmax"}
            details = [
                Detail(probability=float(values[target]) if sure else None, class_number=self._class(target))
                for target in result.targets[0]
            ]
            return self._explanation(photo, result, names, details=details, top=top, top_scale=scale)
        other = self.name(self._rival)
        labels = [f"{name} rather than {other}" for name in names]
        details = [
            Detail(name=name, rather_than=other, class_number=self._class(target))
            for name, target in zip(names, result.targets[0], strict=True)
        ]
        return self._explanation(photo, result, labels, details=details, top=top, top_scale=scale)

    def _class(self, target: np.int64) -> int | None:
        """The class that a target is; None where it is a set of them."""
        return None if self._sets else int(target)

    def _output(self, result: Result) -> tuple[NDArray[np.float64], str]:
        """The model's own output where that is one number per class, float scores that no softmax follows in the graph
        as their softmax; and what the numbers are: ``probability``, ``softmax`` or ``score``."""
        for values in result.outputs.values():
            if values.size == self.explainer.classes and values.dtype.kind in "fiu":
                flat = values.reshape(-1).astype(np.float64)
                if _sums_to_one(flat):
                    return flat, "probability"
                if (
                    self.explainer.cut is None
                    and values.dtype.kind == "f"
                    and len(flat) > 1
                    and np.isfinite(flat).all()
                ):
                    exponents = np.exp(flat - flat.max())
                    return exponents / exponents.sum(), "softmax"
                return flat, "score"
        return np.zeros(0), "score"


def _sums_to_one(values: NDArray[np.float64]) -> bool:
    """Whether these are probabilities; with a wide tolerance, for eight bits of a quantised softmax."""
    return len(values) > 1 and bool((values >= 0).all() and (values <= 1).all() and abs(values.sum() - 1) < 0.02)
