"""Photos in, explained boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError, OptionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import channel_axis, image_input
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets import Contrast
from portable_cam.image.geometry import Box, Geometry
from portable_cam.image.preprocess import Preprocessing
from portable_cam.report.annotate import Mark
from portable_cam.result import Result
from portable_cam.tasks.classify import Answer, PhotoExplainer, preprocessing_of, raw_session
from portable_cam.tasks.counterfactual import Counterfactual
from portable_cam.tasks.detect.described import read_head
from portable_cam.tasks.detect.head import Floats, Head, Size
from portable_cam.tasks.detect.nms import Detection, best, iou, suppress
from portable_cam.tasks.detect.recognize import find_head
from portable_cam.tasks.labels import Labels, read_labels


class DetectExplainer(PhotoExplainer):
    """Finds the boxes of a photo and explains each.

    Args:
        model: The path of the model, or the model itself.
        methods: As for :class:`~portable_cam.explainer.Explainer`. LayerCAM is the default because it did best:
            ``docs/tasks.md`` has the figures.
        head: What the outputs mean, where no family is recognised: a :class:`~portable_cam.tasks.detect.Head`, or JSON
            as :func:`~portable_cam.tasks.detect.read_head` takes it.
        part: What of a box is explained: ``product`` of objectness and class, ``class``, ``objectness``, or the side
            ``left``, ``top``, ``right`` or ``bottom``.
        threshold: The least score of a detection; None for the family's.
        overlap: The IoU above which the weaker of two boxes of a class is dropped; None for the family's.
        most: At most so many boxes.
        labels: Labels, or a file of them; COCO's names where there are 80 classes.
        preprocessing: As for :class:`PhotoExplainer`; if nothing says how, the preset of the family.
        rather_than: A class: why this class in this box rather than that one.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    Raises:
        TargetError: The outputs are not those of a detector known here.
    """

    def __init__(
        self,
        model: Any,
        methods: Sequence[str] = ("layercam",),
        *,
        head: Head | str | Path | Mapping[str, Any] | None = None,
        part: str = "product",
        threshold: float | None = None,
        overlap: float | None = None,
        most: int = 8,
        labels: Labels | str | Path | None = None,
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        rather_than: int | str | None = None,
        **options: Any,
    ) -> None:
        model = normalized(model)
        graph = model.graph
        self._image = image_input(graph)
        size = _input_size(known_dims(self._image) or [], channel_axis(self._image), preprocessing)
        if head is not None and not isinstance(head, Head):
            head = read_head(head)
        self.head = head or find_head(graph, size)
        for name, value in (("threshold", threshold), ("overlap", overlap)):
            if value is not None and not 0 < value < 1:
                raise OptionError(f"{name} is between 0 and 1, not {value}")
        self._threshold = self.head.threshold if threshold is None else threshold
        self._overlap = self.head.overlap if overlap is None else overlap
        self._most = most
        self._part = part
        boxes = self.head.explaining(part)
        self._classes = boxes.class_count([scores.value for scores in boxes.tensors(graph, None)])
        options["target"] = boxes if rather_than is None else Contrast(boxes)
        self.explainer = Explainer(model, methods, **options)
        flipped = {**options, "sign": "positive" if options.get("sign") == "negative" else "negative"}
        self._against = Counterfactual(lambda: Explainer(model, methods, **flipped))
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing, self.head.preset)
        labels = read_labels(labels) if isinstance(labels, str | Path) else labels
        self.labels = labels.check(self._classes) if labels else Labels.default(self._classes, "detect")
        self._other = None if rather_than is None else self._in_range(self.number(rather_than))
        device = {name: options[name] for name in ("device", "providers", "threads") if name in options}
        self._raw = raw_session(model, self.head.tensors, **device)

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"detector head: {self.head.family}, boxes scoring {self._threshold:g} or more", *super().notes)

    def detect(self, x: NDArray[Any]) -> tuple[Floats, Floats]:
        """All raw boxes (A, 4) in pixels of the input and their scores (A, C), for one prepared photo."""
        outputs = self._raw.run({str(self._image.name): x})
        return self.head.decode(outputs, self.preprocessing.size)

    def _answer(self, x: NDArray[Any], geometry: Geometry, asked: list[int] | int | None, **where: Any) -> Answer:
        region = where.pop("region", None)
        if where:
            raise OptionError(f"a detector explains boxes; it takes a region, but no {', '.join(where)}")
        boxes, scores = self.detect(x)
        found = suppress(boxes, scores, self._threshold, self._overlap)
        chosen, missed = self._choose(boxes, scores, found, asked, region, geometry)
        indices = [[d.index for d in chosen]]
        other = {} if self._other is None else {"rather_than": [[d.raw * self._classes + self._other for d in chosen]]}

        def explain(explainer: Explainer) -> Result:
            return explainer(x, indices, **other)

        result = explain(self.explainer)
        if missed:
            result = self._against.add(result, explain)
        names = self._labels(np.array([d.label for d in chosen]))
        names = [f"{name} (not found)" if d in missed else name for name, d in zip(names, chosen, strict=True)]
        rival = {} if self._other is None else {"rather_than": self.name(self._other)}
        facts = [
            {
                "box": [round(v, 1) for v in geometry.to_photo(d.box)],
                "detection": d.score,
                "class": d.label,
                "part": self._part,
                "found": d not in missed,
                **rival,
            }
            for d in chosen
        ]
        return Answer(replace(result, labels=[names]), marks=[Mark(box=d.box) for d in chosen], facts=facts)

    def _choose(
        self,
        boxes: Floats,
        scores: Floats,
        found: list[Detection],
        asked: list[int] | int | None,
        region: Box | None,
        geometry: Geometry,
    ) -> tuple[list[Detection], list[Detection]]:
        """The detections to explain, and those of them that the model did not make."""
        if region is not None:
            return [self._nearest(boxes, scores, check_region(region, geometry), asked, geometry)], []
        if isinstance(asked, list):
            chosen, missed = [], []
            for label in map(self._in_range, asked):
                own = [d for d in found if d.label == label]
                if not own:
                    own = [best(boxes, scores, label)]
                    missed += own
                chosen += own
            return chosen[: max(self._most, len(asked))], missed
        if not found:
            label = int(scores.max(axis=0).argmax())
            raise InputError(
                f"no box scores {self._threshold:g} or more (the best is {self.name(label)}, {scores.max():.2f}): "
                "lower the threshold, check the preprocessing, or name a class to see why it was missed"
            )
        return found[: self._most if asked is None else -asked], []

    def _nearest(
        self, boxes: Floats, scores: Floats, region: Box, asked: list[int] | int | None, geometry: Geometry
    ) -> Detection:
        """The raw box that fits a region best, weighed with its score."""
        shared = iou(np.array(geometry.to_input(region)), boxes.astype(np.float64))
        if shared.max() < 0.1:
            raise TargetError(f"no box of the model overlaps the region {region}: name one around an object")
        labels = list(map(self._in_range, asked)) if isinstance(asked, list) else list(range(self._classes))
        fit = shared[:, None] * scores[:, labels]
        raw, column = np.unravel_index(int(fit.argmax()), fit.shape)
        box = tuple(float(v) for v in boxes[raw])
        label = labels[int(column)]
        return Detection(box, label, float(scores[raw, label]), int(raw), self._classes)  # type: ignore[arg-type]

    def _in_range(self, label: int) -> int:
        if not 0 <= label < self._classes:
            raise TargetError(
                f"class {label} is out of range: the model has {self._classes} classes, 0 to {self._classes - 1}"
            )
        return label


def check_region(region: Box, geometry: Geometry) -> Box:
    """A box within the photo.

    Raises:
        TargetError: It is empty, or lies outside.
    """
    x0, y0, x1, y1 = region
    height, width = geometry.photo
    if not (x0 < x1 and y0 < y1):
        raise TargetError(f"the region {region} is empty: give left, top, right, bottom in pixels of the photo")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise TargetError(f"the region {region} lies outside the photo of {width} x {height} pixels")
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def _input_size(dims: list[int | None], axis: int, wanted: Any) -> Size:
    """(H, W) of the model's input: a detector's boxes are counted on it."""
    height, width = (dims[2], dims[3]) if axis == 1 else (dims[1], dims[2])
    if height is not None and width is not None:
        return height, width
    size = (
        wanted.size
        if isinstance(wanted, Preprocessing)
        else dict(wanted or {}).get("size")
        if not isinstance(wanted, str)
        else None
    )
    if size is None:
        raise OptionError("the model takes pictures of any size: say with --size at which it is to detect, as 640x640")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
