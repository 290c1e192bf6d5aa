# SPDX-License-Identifier: Apache-2.0
"""Detection: what a box rests on, for each box that is found, named or marked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import checked
from portable_cam.errors import OptionError, PortableCamWarning, RegionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Contrast
from portable_cam.image.by_function import ByFunction
from portable_cam.image.geometry import Geometry, Size
from portable_cam.image.marks import Mark
from portable_cam.image.preprocess import Preprocessing
from portable_cam.labels import AnyLabels, Labels, as_labels, parse_targets
from portable_cam.methods.explainer import Explainer as MethodsExplainer
from portable_cam.result import Result
from portable_cam.spelling import option
from portable_cam.tasks.base import AnyPreprocessing, LabelledExplainer, Photo, Targets, class_in_range, finite
from portable_cam.tasks.counterfactual import Counterfactual
from portable_cam.tasks.detect.families import find_head, head_from
from portable_cam.tasks.detect.head import Floats, Head
from portable_cam.tasks.detect.nms import Detection, best, boxes_of, iou, suppress
from portable_cam.tasks.preprocessing import WHOLE, preprocessing_of
from portable_cam.tasks.raw_outputs import raw_session, session_options
from portable_cam.tasks.regions import check_region
from portable_cam.ultralytics import read_ultralytics

_ROUNDING = 1e-3  # of a score in half precision, or quantised
_TINY = 16  # pixels
_SIDE, _STEP = 640, 32  # pixels of a photo that goes to a model which takes any size; what strides divide
_KEPT = 4  # sizes of photos at most, whose graphs are kept


class DetectExplainer(LabelledExplainer):
    """Finds the boxes of a photo and explains each; targets are classes, whose boxes are explained.

    Args:
        model: The path of the model, or the model itself.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for LayerCAM, which did best: ``docs/tasks.md``
            has the figures.
        head: What the outputs mean, where no family is recognised: a :class:`~portable_cam.tasks.detect.Head`, or JSON
            as :func:`~portable_cam.tasks.detect.read_head` takes it.
        part: What of a box is explained: ``product`` of objectness and class, ``class``, ``objectness``, or the side
            ``left``, ``top``, ``right`` or ``bottom``.
        threshold: The least score of a detection; None for the family's.
        overlap: The IoU above which the weaker of two boxes of a class is dropped; None for the family's.
        most: At most so many boxes.
        labels: Labels, or a file of them; else what the file's metadata or the family says, else COCO's names where
            there are 80 classes. Their number tells the classes among the numbers of a box where the graph does not.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`; where nothing is known, the preset
            of the family.
        rather_than: A class: why this class in this box rather than that one.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    A call takes ``region``, left, top, right, bottom in pixels of the photo: the box that fits it best is explained.

    Raises:
        TargetError: The outputs are not those of a detector known here.
    """

    task = "detect"
    default_methods = ("layercam",)
    takes = frozenset({"labels", "rather_than", "head", "part", "threshold", "overlap", "most"})
    asks = frozenset({"region"})

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        head: Head | str | Path | Mapping[str, Any] | None = None,
        part: str = "product",
        threshold: float | None = None,
        overlap: float | None = None,
        most: int = 8,
        labels: AnyLabels = None,
        preprocessing: AnyPreprocessing = None,
        rather_than: int | str | None = None,
        **options: Any,
    ) -> None:
        model = normalized(model)
        methods = self.default_methods if methods is None else methods
        self._image = image_input(model.graph)
        file = read_ultralytics(model.metadata)
        dims, axis = known_dims(self._image) or [], channel_axis(self._image)
        own = _input_size(dims, axis, preprocessing, None if file is None else file.size)
        size = own or (_SIDE, _SIDE)
        self._siblings: dict[Size, DetectExplainer] = {}
        #: Builds the same for another size, where the model takes any and each photo has its own.
        chosen: dict[str, Any] = {"head": head, "part": part, "threshold": threshold, "overlap": overlap, "most": most}
        chosen |= {"labels": labels, "rather_than": rather_than, **options}
        self._at = None if own else partial(DetectExplainer, model, methods, **chosen)
        self._wanted = preprocessing
        model = at_size(model, size)  # layers and heads are read at the size explained
        graph = model.graph
        said = model.description.task_options
        given = as_labels(labels) or as_labels(said.get("labels"), "the model's description")
        head = said.get("head") if head is None else head
        named = None if given is None else len(given)
        if isinstance(head, Head):
            self.head = head
        elif head is not None:
            self.head = head_from(head, model, size, file, named)
        else:
            self.head = find_head(model, size, file, named)
        for name, value in (("threshold", threshold), ("overlap", overlap)):
            if value is not None and not 0 < value < 1:
                raise OptionError(f"{option(name)} is between 0 and 1, not {value}")
        self._threshold = self.head.threshold if threshold is None else threshold
        self._overlap = self.head.overlap if overlap is None else overlap
        self._most = most
        self._part = part
        boxes = self.head.explaining(part)
        self._classes = boxes.class_count([scores.value for scores in boxes.tensors(graph, None)])
        options["target"] = boxes if rather_than is None else Contrast(boxes)
        self.explainer = MethodsExplainer(model, methods, **options)
        self._counterfactual = Counterfactual(model, methods, options)
        self.preprocessing = preprocessing_of(
            self.explainer, model, _at_size(preprocessing, size, None in dims[1:]), self.head.preset, WHOLE[self.task]
        )
        if given is None and self.head.labels is not None:
            given = Labels(self.head.labels, "the model's metadata" if file is not None else self.head.family)
        self.labels = self._known_labels(given, self._classes)
        self._rival = None if rather_than is None else class_in_range(self.number(rather_than), self._classes)
        self._raw = raw_session(model, self.head.tensors, self.head.without, **session_options(options))

    @property
    def notes(self) -> tuple[str, ...]:
        notes = (f"detector head: {self.head.family}, boxes scoring {self._threshold:g} or more", *super().notes)
        if self._at is None:
            return notes
        return (*notes, f"the model takes any size: each photo at its own, the longer side up to {_SIDE} pixels")

    def _for(self, photo: Size) -> DetectExplainer:
        """At the photo's own size, where the model takes any and none is given."""
        size = self.preprocessing.following(photo, _SIDE, _STEP).size
        if self._at is None or size == self.preprocessing.size:
            return self
        if size not in self._siblings:
            if len(self._siblings) == _KEPT:
                self._siblings.pop(next(iter(self._siblings)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PortableCamWarning)  # of this explainer, where they are its own
                self._siblings[size] = self._at(preprocessing=_at_size(self._wanted, size, True))
        return self._siblings[size]

    def detect(self, x: NDArray[Any]) -> tuple[Floats, Floats]:
        """All raw boxes (A, 4), or (A, C, 4), in pixels of the input and their scores (A, C), for one prepared photo.

        Raises:
            TargetError: The head does not fit the outputs: scores are not between 0 and 1, or boxes no pixels.
            InputError: Scores are NaN or infinite.
        """
        outputs = self._raw.run({str(self._image.name): x})
        boxes, scores = self.head.decode(outputs, self.preprocessing.size)
        self._check_decoded(boxes, scores)
        return boxes, scores

    def _check_decoded(self, boxes: Floats, scores: Floats) -> None:
        where = ", ".join(f"'{columns.tensor}'" for columns in self.head.explaining("product").classes)
        if not scores.size:
            return
        finite(scores, f"the scores in {where}")
        low, high = float(scores.min()), float(scores.max())
        if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
            raise TargetError(
                f"the scores that head '{self.head.family}' reads from {where} lie between {low:.3g} and {high:.3g}, "
                "but scores are 0 to 1: these numbers are no classes (key points, angles, coefficients of masks?), or "
                f"logits. Say in a JSON file which they are ({option('head')}); docs/tasks.md shows how"
            )
        if float(np.nanmax(np.abs(boxes))) <= 2 and min(self.preprocessing.size) > _TINY:
            raise TargetError(
                f"the boxes that head '{self.head.family}' decodes lie within 2 pixels of the input: they are "
                f'fractions of it. Say so in a JSON file ({option("head")}), with "unit": "fraction"; docs/tasks.md '
                "shows how"
            )

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        numbers = parse_targets(targets, self.labels)
        boxes, scores = self.detect(photo.x)
        missed: list[Detection] = []
        if not scores.size:
            return self._nothing(photo, "the model gives no boxes at all")
        if "region" in asked:
            chosen = [self._nearest(boxes, scores, asked["region"], numbers, photo.geometry)]
        else:
            best_only, across = self.head.best_only, self.head.across_classes
            found = suppress(boxes, scores, self._threshold, self._overlap, best_only=best_only, across_classes=across)
            chosen, missed = self._choose(boxes, scores, found, numbers)
        if not chosen:
            label = int(scores.max(axis=0).argmax())
            return self._nothing(
                photo,
                f"no box scores {self._threshold:g} or more (the best is {self.name(label)}, {scores.max():.2f}): "
                "lower the threshold, check the preprocessing, or name a class to see why it was missed",
            )
        rival = {} if self._rival is None else {"rather_than": [[d.raw * self._classes + self._rival for d in chosen]]}

        def explain(explainer: Explainer) -> Result:
            return explainer(photo.x, [[d.index for d in chosen]], **rival)

        return self._explanation(
            photo,
            explain(self.explainer),
            [self._label(d, d in missed) for d in chosen],
            details=[self._detail(d, photo.geometry, d not in missed) for d in chosen],
            marks=[Mark(box=d.box) for d in chosen],
            counterpart=self._counterfactual(explain) if missed else None,
        )

    def _label(self, detection: Detection, missed: bool) -> str:
        than = "" if self._rival is None else f" rather than {self.name(self._rival)}"
        return f"{self.name(detection.label)}{than}{' (not found)' if missed else ''}"

    def _detail(self, detection: Detection, geometry: Geometry, found: bool) -> Detail:
        left, top, right, bottom = (round(edge, 1) for edge in geometry.to_photo(detection.box))
        return Detail(
            box=(left, top, right, bottom),
            detection=detection.score,
            class_number=detection.label,
            part=self._part,
            found=found,
            rather_than=None if self._rival is None else self.name(self._rival),
        )

    def _choose(
        self, boxes: Floats, scores: Floats, found: list[Detection], asked: list[int] | None
    ) -> tuple[list[Detection], list[Detection]]:
        """The detections to explain, and those of them that the model did not make."""
        if asked is not None and (found or max(asked) >= 0):
            chosen, missed = [], []
            for number in asked:
                label = class_in_range(number, self._classes) if number >= 0 else None
                own = found[-number - 1 : -number] if label is None else [d for d in found if d.label == label]
                if label is not None and not own:
                    own = [best(boxes, scores, label)]
                    missed += own
                chosen += [d for d in own if d not in chosen]
            return chosen[: max(self._most, len(asked))], missed
        return found[: self._most], []

    def _nearest(
        self, boxes: Floats, scores: Floats, marked: Sequence[float], asked: list[int] | None, geometry: Geometry
    ) -> Detection:
        """The raw box that fits a region of the photo best, weighted with its score."""
        region = check_region(marked, geometry)
        shared = iou(np.array(geometry.to_input(region)), boxes.reshape(-1, 4).astype(np.float64))
        shared = shared.reshape(len(boxes), -1)  # of each class, or of all
        if shared.max() < 0.1:
            raise RegionError(f"no box of the model overlaps the region {region}: name one around an object")
        named = [number for number in asked or () if number >= 0] or range(self._classes)
        labels = [class_in_range(label, self._classes) for label in named]
        fit = (shared if shared.shape[1] == 1 else shared[:, labels]) * scores[:, labels]
        raw, column = np.unravel_index(int(fit.argmax()), fit.shape)
        label = labels[int(column)]
        box = tuple(float(v) for v in boxes_of(boxes, raw, label))
        return Detection(box, label, float(scores[raw, label]), int(raw), self._classes)  # type: ignore[arg-type]


def _at_size(wanted: AnyPreprocessing, size: Size, open_size: bool) -> AnyPreprocessing:
    """The preprocessing at the size at which the boxes are read."""
    if not open_size or callable(wanted):
        return wanted
    options = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
    return {**options, "size": size}


def _input_size(dims: list[int | None], axis: int, wanted: Any, usual: Size | None) -> Size | None:
    """(H, W) of the model's input, whose pixels a detector's boxes are in; ``usual`` is what its file says. None where
    it takes any."""
    height, width = (dims[2], dims[3]) if axis == 1 else (dims[1], dims[2])
    if height is not None and width is not None:
        return height, width
    size = None
    if isinstance(wanted, Preprocessing):
        size = wanted.size
    elif callable(wanted):
        size = ByFunction.of(wanted, dims, "float32").size
    elif not isinstance(wanted, str):
        size = dict(wanted or {}).get("size")
    if size is None:
        return usual
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
