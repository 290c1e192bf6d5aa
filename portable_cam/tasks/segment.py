"""Photos in, explained segmentation out: a class over its own mask, a user's mask, a region or a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import InputError, OptionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets import Contrast, Dense
from portable_cam.image.decode import read_image
from portable_cam.image.geometry import Geometry
from portable_cam.image.preprocess import Preprocessing
from portable_cam.report.annotate import Mark
from portable_cam.result import Result
from portable_cam.tasks.classify import Answer, PhotoExplainer, preprocessing_of, raw_session
from portable_cam.tasks.counterfactual import Counterfactual
from portable_cam.tasks.detect.photos import check_region
from portable_cam.tasks.labels import Labels, read_labels

_BACKGROUND = frozenset({"background", "__background__", "unlabeled", "void"})
_LEAST = 0.005  # a class on less of the picture is explained only when it is named


@dataclass(frozen=True)
class _Part:
    """A class over some of the pixels: weights float32 (h, w), and whether the model sees the class at all."""

    label: int
    weights: NDArray[np.float32]
    found: bool = True


class SegmentExplainer(PhotoExplainer):
    """Explains the classes of a semantic segmentation.

    Args:
        model: The path of the model, or the model itself; its output is logits, a softmax, or class numbers.
        methods: As for :class:`~portable_cam.explainer.Explainer`. LayerCAM is the default because it did best:
            ``docs/tasks.md`` has the figures.
        channels: Where the classes are in the logits, ``first`` or ``last``; None: found.
        most: At most so many classes, the largest first.
        labels: Labels, or a file of them; Pascal VOC's names where there are 21 classes.
        preprocessing: As for :class:`PhotoExplainer`.
        rather_than: A class: why this class there rather than that one.
        **options: As for :class:`~portable_cam.explainer.Explainer`.
    """

    def __init__(
        self,
        model: Any,
        methods: Sequence[str] = ("layercam",),
        *,
        channels: str | None = None,
        most: int = 6,
        labels: Labels | str | Path | None = None,
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        rather_than: int | str | None = None,
        **options: Any,
    ) -> None:
        model = normalized(model)
        graph = model.graph
        dense = Dense("mask", channels)  # type: ignore[arg-type]
        (scores,) = dense.tensors(graph, options.get("output"))
        self._first = dense.channel_axis(scores.value) == 1
        self._image = str(image_input(graph).name)
        self._most = most
        options["target"] = dense if rather_than is None else Contrast(dense)
        self.explainer = Explainer(model, methods, **options)
        flipped = {**options, "sign": "positive" if options.get("sign") == "negative" else "negative"}
        self._against = Counterfactual(lambda: Explainer(model, methods, **flipped))
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        labels = read_labels(labels) if isinstance(labels, str | Path) else labels
        classes = self.explainer.classes
        self.labels = labels.check(classes) if labels else Labels.default(classes, "segment")
        self._other = None if rather_than is None else self.number(rather_than)
        device = {name: options[name] for name in ("device", "providers", "threads") if name in options}
        self._raw = raw_session(model, [str(scores.value.name)], **device)

    def logits(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(C, h, w) for one prepared photo."""
        (values,) = self._raw.run({self._image: x}).values()
        found: NDArray[np.float32] = values[0] if self._first else values[0].transpose(2, 0, 1)
        return found

    def _answer(self, x: NDArray[Any], geometry: Geometry, asked: list[int] | int | None, **where: Any) -> Answer:
        logits = self.logits(x)
        given = given_weights(geometry, (logits.shape[1], logits.shape[2]), **where)
        parts = self._over(logits, given, asked) if given is not None else self._predicted(logits, asked)
        extra: dict[str, Any] = {"mask": np.stack([part.weights for part in parts])[None]}
        if self._other is not None:
            extra["rather_than"] = self._other

        def explain(explainer: Explainer) -> Result:
            return explainer(x, [[part.label for part in parts]], **extra)

        result = explain(self.explainer)
        if not all(part.found for part in parts):
            result = self._against.add(result, explain)
        names = self._labels(np.array([part.label for part in parts]))
        names = [name if part.found else f"{name} (not found)" for name, part in zip(names, parts, strict=True)]
        rival = {} if self._other is None else {"rather_than": self.name(self._other)}
        facts = [{**_facts_of(part, geometry), **rival} for part in parts]
        marks = [_mark_of(part.weights, geometry.size) for part in parts]
        return Answer(replace(result, labels=[names]), marks=marks, facts=facts)

    def _over(
        self, logits: NDArray[np.float32], weights: NDArray[np.float32], asked: list[int] | int | None
    ) -> list[_Part]:
        """Classes over given pixels; if none is named, that which the model sees on most of them."""
        if isinstance(asked, list):
            return [_Part(self._in_range(label, len(logits)), weights) for label in asked]
        votes = np.bincount(_winner(logits).ravel(), weights.ravel(), minlength=len(logits))
        most = 1 if asked is None else -asked
        return [_Part(int(label), weights) for label in np.argsort(-votes)[:most] if votes[label] > 0]

    def _predicted(self, logits: NDArray[np.float32], asked: list[int] | int | None) -> list[_Part]:
        """Classes over the pixels that the model gives to them; one without any over its best pixel."""
        winner = _winner(logits)
        area = np.bincount(winner.ravel(), minlength=len(logits))[: len(logits)] / winner.size
        if isinstance(asked, list):
            labels = [self._in_range(label, len(logits)) for label in asked]
        else:
            order = [int(label) for label in np.argsort(-area, kind="stable") if area[label] >= _LEAST]
            labels = [label for label in order if self.name(label).casefold() not in _BACKGROUND]
            labels = labels[: self._most if asked is None else -asked]
            if not labels:
                raise InputError("the model sees nothing but background here: name a class to see why it was missed")
        return [self._own(logits, winner == label, label) for label in labels]

    def _own(self, logits: NDArray[np.float32], mask: NDArray[np.bool_], label: int) -> _Part:
        found = bool(mask.any())
        if not found:
            mask = np.zeros_like(mask)
            mask.reshape(-1)[int(logits[label].argmax())] = True
        return _Part(label, mask.astype(np.float32), found)

    def _in_range(self, label: int, classes: int) -> int:
        if not 0 <= label < classes:
            raise TargetError(f"class {label} is out of range: the model has {classes} classes, 0 to {classes - 1}")
        return label


def _facts_of(part: _Part, geometry: Geometry) -> dict[str, Any]:
    """The share of the picture, and where it is if that is a single pixel."""
    facts: dict[str, Any] = {"share": float((part.weights > 0).mean()), "found": part.found}
    if np.count_nonzero(part.weights) == 1:
        x, y = _centre(part.weights, geometry.size)
        column, row, *_ = geometry.to_photo((x, y, x, y))
        facts["pixel"] = [int(column), int(row)]
    return facts


def _mark_of(weights: NDArray[np.float32], size: tuple[int, int]) -> Mark:
    """The outline of what counts, or a point where that is too small to have one."""
    mask = _resized(weights, size) >= 0.5
    if np.count_nonzero(weights) == 1 or not mask.any():
        return Mark(point=_centre(weights, size))
    return Mark(mask=mask)


def _centre(weights: NDArray[np.float32], size: tuple[int, int]) -> tuple[float, float]:
    """The centre of mass (x, y) in pixels of the input, whose size is (height, width)."""
    rows, columns = np.nonzero(weights)
    weight = weights[rows, columns]
    y, x = np.average(rows + 0.5, weights=weight), np.average(columns + 0.5, weights=weight)
    return float(x * size[1] / weights.shape[1]), float(y * size[0] / weights.shape[0])


def given_weights(
    geometry: Geometry,
    size: tuple[int, int],
    mask: Any = None,
    region: Sequence[float] | None = None,
    pixel: Sequence[float] | None = None,
    **unknown: Any,
) -> NDArray[np.float32] | None:
    """What a user marks in a photo as the weight of each pixel of the logits (h, w); None if he marks nothing.

    Args:
        geometry: Between photo and input.
        size: (h, w) of the logits.
        mask: A picture's path or an array (H, W) at the photo's size; what is not zero counts.
        region: Left, top, right, bottom in pixels of the photo.
        pixel: Column and row in pixels of the photo.

    Raises:
        OptionError: More than one is given, or something else.
        TargetError: It is empty, lies outside the photo or outside what the model sees, or has another size.
    """
    given = [name for name, value in (("mask", mask), ("region", region), ("pixel", pixel)) if value is not None]
    if unknown or len(given) > 1:
        raise OptionError(f"mark a mask, a region or a pixel, one of them, not {', '.join([*given, *unknown])}")
    if not given:
        return None
    height, width = geometry.photo
    if pixel is not None:
        column, row = pixel
        if not (0 <= column < width and 0 <= row < height):
            raise TargetError(f"the pixel ({column}, {row}) lies outside the photo of {width} x {height} pixels")
        x, y, *_ = geometry.to_input((column + 0.5, row + 0.5, column + 1, row + 1))
        weights = np.zeros(size, np.float32)
        i, j = int(y * size[0] // geometry.size[0]), int(x * size[1] // geometry.size[1])
        if 0 <= i < size[0] and 0 <= j < size[1]:
            weights[i, j] = 1
    else:
        marked = np.zeros((height, width), bool)
        if region is not None:
            x0, y0, x1, y1 = check_region((region[0], region[1], region[2], region[3]), geometry)
            marked[int(y0) : max(int(np.ceil(y1)), int(y0) + 1), int(x0) : max(int(np.ceil(x1)), int(x0) + 1)] = True
        else:
            marked = _read_mask(mask)
            if marked.shape != (height, width):
                raise TargetError(f"the mask is {marked.shape[1]} x {marked.shape[0]}, the photo {width} x {height}")
            if not marked.any():
                raise TargetError("the mask is empty: mark at least one pixel with a value other than 0")
        picture = np.repeat(marked.astype(np.uint8)[:, :, None] * 255, 3, axis=2)
        weights = _resized(geometry.apply(picture, "box", 0)[:, :, 0].astype(np.float32) / np.float32(255), size)
    if not weights.any():
        raise TargetError("what is marked lies outside the part of the photo that the model sees")
    return weights


def _read_mask(mask: Any) -> NDArray[np.bool_]:
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2:
            raise TargetError(f"a mask has shape (H, W), not {mask.shape}")
        marked: NDArray[np.bool_] = mask != 0
        return marked
    brightest: NDArray[np.uint8] = read_image(mask).max(axis=2)
    return brightest > 0


def _winner(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of each pixel; for a single channel 0 where it is above 0, else 1, which is no class."""
    return np.where(logits[0] > 0, 0, 1) if len(logits) == 1 else logits.argmax(axis=0)


def _resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX), np.float32)
