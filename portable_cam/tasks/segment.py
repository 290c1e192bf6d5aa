# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: why this class on its own mask, on a user's mask, a region or a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Contrast, Dense
from portable_cam.export.targets.protocol import scores_of
from portable_cam.image.geometry import Geometry, Size
from portable_cam.image.marks import Mark
from portable_cam.methods.explainer import Explainer as MethodsExplainer
from portable_cam.result import Result
from portable_cam.tasks.base import AnyLabels, AnyPreprocessing, LabelledExplainer, Photo, Targets, class_in_range
from portable_cam.tasks.counterfactual import Counterfactual
from portable_cam.tasks.labels import parse_targets
from portable_cam.tasks.preprocessing import at_photo_size, preprocessing_of
from portable_cam.tasks.raw_outputs import raw_session, session_options
from portable_cam.tasks.regions import given_weights, resized

_BACKGROUND = frozenset({"background", "__background__", "unlabeled", "void"})
_LEAST = 0.005  # a class on less of the image is explained only when it is named


@dataclass(frozen=True)
class _Part:
    """A class over some of the pixels: weights float32 (h, w), and whether the model sees the class at all."""

    label: int
    weights: NDArray[np.float32]
    found: bool = True


class SegmentExplainer(LabelledExplainer):
    """Explains the classes of a semantic segmentation; targets are classes, by default those that the model sees.

    Args:
        model: The path of the model, or the model itself; its output is logits, a softmax, or class numbers.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for LayerCAM, which did best: ``docs/tasks.md``
            has the figures.
        channels: Where the classes are in the logits, ``first`` or ``last``; None: found.
        threshold: The probability above which a pixel belongs to a class that has a sigmoid of its own; None: the
            model's own where it has one, else 0.5.
        most: At most so many classes, the largest first.
        labels: Labels, or a file of them; Pascal VOC's names where there are 21 classes.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`.
        rather_than: A class: why this class there rather than that one.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    A call takes one of ``mask``, ``region`` and ``pixel``: the part of the photo that is explained; see
    :func:`~portable_cam.tasks.regions.given_weights`.
    """

    task = "segment"
    default_methods = ("layercam",)
    takes = frozenset({"labels", "rather_than", "channels", "threshold", "most"})
    asks = frozenset({"mask", "region", "pixel"})

    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        channels: str | None = None,
        threshold: float | None = None,
        most: int = 6,
        labels: AnyLabels = None,
        preprocessing: AnyPreprocessing = None,
        rather_than: int | str | None = None,
        **options: Any,
    ) -> None:
        model = at_photo_size(normalized(model), preprocessing)
        options = model.described(options)
        methods = self.default_methods if methods is None else methods
        graph = model.graph
        dense = Dense("mask", channels, threshold)  # type: ignore[arg-type]
        (scores,) = scores_of(dense, graph, options.get("output"), as_is=options.get("as_is", False))
        self._first = dense.channel_axis(scores.value) == 1
        #: The logit above which a pixel belongs to a class; None where the highest class has it.
        self._level = dense.level(scores.value) if dense.independent(scores.value) else None
        self._image = str(image_input(graph).name)
        self._most = most
        options["target"] = dense if rather_than is None else Contrast(dense)
        self.explainer = MethodsExplainer(model, methods, **options)
        self._counterfactual = Counterfactual(model, methods, options)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        self.labels = self._known_labels(labels, self.explainer.classes)
        self._rival = None if rather_than is None else self.number(rather_than)
        self._raw = raw_session(model, [str(scores.value.name)], **session_options(options))

    @property
    def notes(self) -> tuple[str, ...]:
        if self.labels is not None or self.explainer.cut is not None:
            return super().notes
        unsaid = "that the maps put out are scores of classes is assumed: no softmax, sigmoid or labels say so"
        return (*super().notes, unsaid)

    def logits(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(C, h, w) for one prepared photo."""
        (values,) = self._raw.run({self._image: x}).values()
        found: NDArray[np.float32] = values[0] if self._first else values[0].transpose(2, 0, 1)
        return found

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        numbers = parse_targets(targets, self.labels)
        logits = self.logits(photo.x)
        given = given_weights(photo.geometry, (logits.shape[1], logits.shape[2]), asked)
        parts = self._over(logits, given, numbers) if given is not None else self._predicted(logits, numbers)
        extra: dict[str, Any] = {"mask": np.stack([part.weights for part in parts])[None]}
        if self._rival is not None:
            extra["rather_than"] = self._rival

        def explain(explainer: Explainer) -> Result:
            return explainer(photo.x, [[part.label for part in parts]], **extra)

        missed = not all(part.found for part in parts)
        return self._explanation(
            photo,
            explain(self.explainer),
            [self._label(part) for part in parts],
            details=[self._detail(part, photo.geometry) for part in parts],
            marks=[_mark_of(part.weights, photo.geometry.size) for part in parts],
            counterpart=self._counterfactual(explain) if missed else None,
        )

    def _label(self, part: _Part) -> str:
        than = "" if self._rival is None else f" rather than {self.name(self._rival)}"
        return f"{self.name(part.label)}{than}{'' if part.found else ' (not found)'}"

    def _detail(self, part: _Part, geometry: Geometry) -> Detail:
        """The share of the image, and where it is if that is a single pixel."""
        pixel = None
        if np.count_nonzero(part.weights) == 1:
            x, y = _centre(part.weights, geometry.size)
            column, row, *_ = geometry.to_photo((x, y, x, y))
            pixel = int(column), int(row)
        return Detail(
            share=float((part.weights > 0).mean()),
            found=part.found,
            pixel=pixel,
            rather_than=None if self._rival is None else self.name(self._rival),
        )

    def _over(
        self, logits: NDArray[np.float32], weights: NDArray[np.float32], asked: list[int] | int | None
    ) -> list[_Part]:
        """Classes over given pixels; if none is named, that which the model sees on most of them."""
        if isinstance(asked, list):
            return [_Part(class_in_range(label, len(logits)), weights) for label in asked]
        votes = (self._masks(logits) * weights).sum(axis=(1, 2))
        most = 1 if asked is None else -asked
        chosen = [int(label) for label in np.argsort(-votes, kind="stable")[:most] if votes[label] > 0]
        if not chosen:
            raise InputError("the model gives no pixel there to a class: name a class to see why it was missed")
        return [_Part(label, weights) for label in chosen]

    def _masks(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(C, h, w): which pixels the model gives to each class; several may have one where classes are independent."""
        if self._level is not None:
            above: NDArray[np.bool_] = logits > np.float32(self._level)
            return above
        highest: NDArray[np.bool_] = logits.argmax(axis=0) == np.arange(len(logits))[:, None, None]
        return highest

    def _predicted(self, logits: NDArray[np.float32], asked: list[int] | int | None) -> list[_Part]:
        """Classes over the pixels that the model gives to them; one without any over its best pixel."""
        masks = self._masks(logits)
        area = masks.mean(axis=(1, 2))
        if isinstance(asked, list):
            labels = [class_in_range(label, len(logits)) for label in asked]
        else:
            order = [int(label) for label in np.argsort(-area, kind="stable") if area[label] >= _LEAST]
            labels = [label for label in order if self.name(label).casefold() not in _BACKGROUND]
            labels = labels[: self._most if asked is None else -asked]
            if not labels:
                raise InputError("the model sees nothing but background here: name a class to see why it was missed")
        return [self._own(logits, masks[label], label) for label in labels]

    def _own(self, logits: NDArray[np.float32], mask: NDArray[np.bool_], label: int) -> _Part:
        found = bool(mask.any())
        if not found:
            mask = np.zeros_like(mask)
            mask.reshape(-1)[int(logits[label].argmax())] = True
        return _Part(label, mask.astype(np.float32), found)


def _mark_of(weights: NDArray[np.float32], size: Size) -> Mark:
    """The outline of what counts, or a point where that is too small to have one."""
    mask = resized(weights, size) >= 0.5
    if np.count_nonzero(weights) == 1 or not mask.any():
        return Mark(point=_centre(weights, size))
    return Mark(mask=mask)


def _centre(weights: NDArray[np.float32], size: Size) -> tuple[float, float]:
    """The centre of mass (x, y) in pixels of the input, whose size is (height, width)."""
    rows, columns = np.nonzero(weights)
    weight = weights[rows, columns]
    y, x = np.average(rows + 0.5, weights=weight), np.average(columns + 0.5, weights=weight)
    return float(x * size[1] / weights.shape[1]), float(y * size[0] / weights.shape[0])
