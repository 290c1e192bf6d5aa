# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: why this class on its own mask, on a user's mask, a region or a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import checked
from portable_cam.explainer import Explainer
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Contrast, Dense
from portable_cam.export.targets.protocol import scores_of
from portable_cam.image.geometry import Geometry, Size
from portable_cam.image.marks import Mark
from portable_cam.image.preprocess import Preprocessing
from portable_cam.labels import AnyLabels, parse_targets
from portable_cam.methods.explainer import Explainer as MethodsExplainer
from portable_cam.result import Result
from portable_cam.tasks.base import AnyPreprocessing, LabelledExplainer, Photo, Targets, class_in_range, finite
from portable_cam.tasks.counterfactual import Counterfactual
from portable_cam.tasks.preprocessing import WHOLE, at_photo_size, preprocessing_of
from portable_cam.tasks.raw_outputs import raw_session, session_options
from portable_cam.tasks.regions import given_weights, marked_share, resized

_BACKGROUND = frozenset({"background", "__background__", "unlabeled", "void"})
_LONGEST, _STEP = 1024, 32  # pixels of a photo that goes to a model which takes any size; what strides divide
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

    @checked
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
        model = at_photo_size(normalized(model), preprocessing, guess=False)  # photos at their own
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
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing, whole=WHOLE[self.task])
        #: Whether each photo is explained at its own size.
        self._follows = "size" in self.preprocessing.guessed and not any(_sides(self.explainer.input_shape()))
        if self._follows:
            guessed = tuple(name for name in self.preprocessing.guessed if name != "size")
            self.preprocessing = replace(self.preprocessing, guessed=guessed)
        self.labels = self._known_labels(labels, self.explainer.classes)
        self._rival = None if rather_than is None else self.number(rather_than)
        self._raw = raw_session(model, [str(scores.value.name)], **session_options(options))

    @property
    def notes(self) -> tuple[str, ...]:
        notes = super().notes
        if self.labels is None and self.explainer.cut is None:
            unsaid = (
                "that the maps put out are scores of classes is assumed: no softmax, sigmoid or labels say so, and "
                "heat maps of key points look alike"
            )
            notes = (*notes, unsaid)
        if self._follows:
            notes = (
                *notes,
                f"the model takes any size: each photo at its own, the longer side up to {_LONGEST} pixels",
            )
        return notes

    def _preprocessing_for(self, size: Size) -> Preprocessing:
        """At the photo's own size, where the model takes any and none is given."""
        return self.preprocessing.following(size, _LONGEST, _STEP) if self._follows else self.preprocessing

    def logits(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(C, h, w) for one prepared photo."""
        (values,) = self._raw.run({self._image: x}).values()
        found: NDArray[np.float32] = values[0] if self._first else values[0].transpose(2, 0, 1)
        return found

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        numbers = parse_targets(targets, self.labels)
        logits = finite(self.logits(photo.x), "the scores")
        given = given_weights(photo.geometry, (logits.shape[1], logits.shape[2]), asked)
        parts = self._over(logits, given, numbers) if given is not None else self._predicted(logits, numbers)
        if not parts:
            seen = "no pixel there to a class" if given is not None else "nothing but background"
            return self._nothing(photo, f"the model sees {seen}: name a class to see why it was missed")
        marked = None if given is None else marked_share(photo.geometry, asked)
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
            details=[self._detail(part, photo.geometry, marked) for part in parts],
            marks=[_mark_of(part.weights, photo.geometry.size) for part in parts],
            counterpart=self._counterfactual(explain) if missed else None,
        )

    def _label(self, part: _Part) -> str:
        than = "" if self._rival is None else f" rather than {self.name(self._rival)}"
        return f"{self.name(part.label)}{than}{'' if part.found else ' (not found)'}"

    def _detail(self, part: _Part, geometry: Geometry, marked: tuple[str, float | None] | None) -> Detail:
        """The share of the photo, and where it is if that is a single pixel; ``marked`` is what the user did."""
        pixel = None
        if np.count_nonzero(part.weights) == 1:
            x, y = _centre(part.weights, geometry.size)
            column, row, *_ = geometry.to_photo((x, y, x, y))
            pixel = int(column), int(row)
        return Detail(
            share=marked[1] if marked is not None and marked[1] else geometry.share_of_photo(part.weights > 0),
            given=None if marked is None else marked[0],
            class_number=part.label,
            found=part.found,
            pixel=pixel,
            rather_than=None if self._rival is None else self.name(self._rival),
        )

    def _over(self, logits: NDArray[np.float32], weights: NDArray[np.float32], asked: list[int] | None) -> list[_Part]:
        """Classes over given pixels; if none is named, that which the model sees on most of them."""
        votes = (self._masks(logits) * weights).sum(axis=(1, 2))
        order = [int(label) for label in np.argsort(-votes, kind="stable") if votes[label] > 0]
        chosen = _labels(asked or [-1], order, len(logits))
        return [_Part(label, weights) for label in chosen]

    def _masks(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(C, h, w): which pixels the model gives to each class; several may have one where classes are independent."""
        if self._level is not None:
            above: NDArray[np.bool_] = logits > np.float32(self._level)
            return above
        highest: NDArray[np.bool_] = logits.argmax(axis=0) == np.arange(len(logits))[:, None, None]
        return highest

    def _predicted(self, logits: NDArray[np.float32], asked: list[int] | None) -> list[_Part]:
        """Classes over the pixels that the model gives to them; one without any over its best pixel."""
        masks = self._masks(logits)
        area = masks.mean(axis=(1, 2))
        order = [int(label) for label in np.argsort(-area, kind="stable") if area[label] >= _LEAST]
        order = [label for label in order if self.name(label).casefold() not in _BACKGROUND]
        labels = order[: self._most] if asked is None else _labels(asked, order, len(logits))
        return [self._own(logits, masks[label], label) for label in labels]

    def _own(self, logits: NDArray[np.float32], mask: NDArray[np.bool_], label: int) -> _Part:
        found = bool(mask.any())
        if not found:
            mask = np.zeros_like(mask)
            mask.reshape(-1)[int(logits[label].argmax())] = True
        return _Part(label, mask.astype(np.float32), found)


def _labels(asked: list[int], order: list[int], classes: int) -> list[int]:
    """The classes asked for, negative numbers being ranks in an order of those that were found."""
    found = []
    for number in asked:
        if number >= 0:
            found.append(class_in_range(number, classes))
        elif -number <= len(order):
            found.append(order[-number - 1])
    return list(dict.fromkeys(found))


def _sides(shape: Sequence[Any]) -> tuple[bool, bool]:
    """Which of height and width of the image a model fixes."""
    first = 2 if shape[1] in {1, 3} or shape[3] not in {1, 3} else 1
    return isinstance(shape[first], int), isinstance(shape[first + 1], int)


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
