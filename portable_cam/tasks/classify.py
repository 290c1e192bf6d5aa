"""Photos in, explanations out: the explainer with preprocessing and labels around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from portable_cam.errors import OptionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.export.autodiff.dequantized import input_quantization
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Class, ClassSet, Contrast
from portable_cam.image.decode import read_image
from portable_cam.image.geometry import Geometry
from portable_cam.image.preprocess import METADATA_KEY, Preprocessing, resolve
from portable_cam.image.sidecar import find_sidecar
from portable_cam.report.annotate import Mark
from portable_cam.result import Result
from portable_cam.runtime.session import Session
from portable_cam.tasks.labels import Labels, parse_targets, read_labels


@dataclass(frozen=True)
class PhotoExplanation:
    """One photo's explanation.

    Attributes:
        result: Scores, targets and labels (1, K), and the maps.
        photo: uint8 (h, w, 3) as decoded.
        view: uint8 (H, W, 3), the part that the model sees at its input's size.
        geometry: Between the two.
        top: The five best classes with their scores, of a classifier.
        color: The order of the model's channels.
        marks: For each target what it is about, a box or a mask in pixels of the view; empty for a classifier.
        facts: For each target what a record says of it beside its score, as the box in pixels of the photo.
        scale: What the scores in ``top`` are: ``probability``, or ``score``.
        sign: ``negative`` where the maps show what speaks against the targets.
    """

    result: Result
    photo: NDArray[np.uint8]
    view: NDArray[np.uint8]
    geometry: Geometry
    top: list[tuple[str, float]] = field(default_factory=list)
    color: str = "rgb"
    marks: list[Mark] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    scale: str = "score"
    sign: str = "positive"


@dataclass(frozen=True)
class Answer:
    """What a task says of one photo: see :class:`PhotoExplanation`."""

    result: Result
    top: list[tuple[str, float]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    scale: str = "score"


def known_preprocessing(model: AnyModel) -> str | None:
    """The preprocessing in a JSON file beside a model, as JSON for an explanation file's metadata; None if there is no
    such file."""
    model = normalized(model)
    sidecar = None if model.path is None else find_sidecar(model.path)
    if sidecar is None:
        return None
    image = image_input(model.graph)
    assert image.dtype is not None
    own = input_quantization(image)
    known = resolve(known_dims(image) or [], image.dtype.numpy(), sidecar=sidecar, stands_for=own)
    return json.dumps(known.to_json())


def preprocessing_of(
    explainer: Explainer,
    model: AnyModel,
    wanted: Preprocessing | str | Mapping[str, Any] | None = None,
    usual: str | None = None,
) -> Preprocessing:
    """How a photo becomes the input of an explainer.

    Args:
        explainer: Says the input's shape and type, and the model's metadata.
        model: Where it is a path, a JSON file beside it is read.
        wanted: A :class:`Preprocessing`, a preset's name, a mapping of ``resolve``'s options, or None.
        usual: The preset of the model's family, where nothing else says how.
    """
    if isinstance(wanted, Preprocessing):
        return wanted
    options = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
    path = normalized(model).path
    sidecar = None if path is None else find_sidecar(path)
    silent = sidecar is None and METADATA_KEY not in explainer.metadata
    # quantised inputs have another scale than the family's photos
    if usual is not None and silent and explainer.input_dtype().startswith("float"):
        options.setdefault("preset", usual)
    return resolve(
        explainer.input_shape(),
        explainer.input_dtype(),
        sidecar=sidecar,
        metadata=explainer.metadata,
        stands_for=explainer.input_quantization,
        **options,
    )


class PhotoExplainer:
    """Decodes, preprocesses, explains and names: the classes of a classifier.

    Args:
        model: The path of the model, or the model itself.
        methods: As for :class:`~portable_cam.explainer.Explainer`.
        labels: Labels, or a file of them; ImageNet's names where the model has 1000 classes and none are given.
        preprocessing: A :class:`Preprocessing`, a preset's name, a mapping of ``resolve``'s options, or None: read
            from a JSON file beside the model or the model's metadata, and guessed where they say nothing.
        rather_than: A class number or name: why the target rather than this one.
        sets: Sets of classes by name, as ``{"cat": ["tabby", "tiger cat", 285]}``: targets are then these names.
        **options: As for :class:`~portable_cam.explainer.Explainer`.
    """

    def __init__(
        self,
        model: Any,
        methods: Sequence[str] = ("gradcam",),
        *,
        labels: Labels | str | Path | None = None,
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        rather_than: int | str | None = None,
        sets: Mapping[str, Sequence[int | str]] | None = None,
        **options: Any,
    ) -> None:
        labels = read_labels(labels) if isinstance(labels, str | Path) else labels
        if sets:
            members = tuple(_members(names, labels or Labels.default(1000)) for names in sets.values())
            options["target"] = ClassSet(members)
            labels = Labels(tuple(sets), "the sets of classes")
        if rather_than is not None:
            options["target"] = Contrast(options.get("target") or Class())
        model = normalized(model)
        self.explainer = Explainer(model, methods, **options)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        self.labels = labels.check(self.explainer.classes) if labels else Labels.default(self.explainer.classes)
        self._other = None if rather_than is None else self.number(rather_than)

    def __call__(
        self, image: Any, targets: str | int | Sequence[int | str] | None = None, **where: Any
    ) -> PhotoExplanation:
        """Explain one photo: a path, bytes, PIL image or uint8 array (H, W, 3).

        Args:
            image: The photo.
            targets: A class number or name, several, ``"top3"``, or None for the top class.
            **where: What the task takes beside; a classifier takes nothing.

        Raises:
            ImageError, LabelError, TargetError: What does not fit.
        """
        asked = parse_targets(targets, self.labels)
        photo = read_image(image)
        geometry = self.preprocessing.geometry((photo.shape[0], photo.shape[1]))
        answer = self._answer(self.preprocessing(photo), geometry, asked, **where)
        view = self.preprocessing.view(photo)
        return PhotoExplanation(
            answer.result,
            photo,
            view,
            geometry,
            answer.top,
            self.preprocessing.color,
            answer.marks,
            answer.facts,
            answer.scale,
            self.explainer.sign,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""
        if self.labels is None or not self.labels.guessed:
            return self.explainer.notes
        guess = f"class names assumed: {self.labels.source}'s, by the number of classes; give the model's own as labels"
        return (*self.explainer.notes, guess)

    def name(self, target: int) -> str:
        """The label of a class, or its number."""
        return self.labels[target] if self.labels else f"class {target}"

    def number(self, target: int | str) -> int:
        """The number of a class by its name or number."""
        return _members([target], self.labels)[0]

    def _answer(self, x: NDArray[Any], geometry: Geometry, asked: list[int] | int | None, **where: Any) -> Answer:
        """Explain the array ``x``; ``asked`` are class numbers, minus k for the k best, or None."""
        if where:
            raise OptionError(f"a classifier is asked for classes; it takes no {', '.join(where)}")
        other = {} if self._other is None else {"rather_than": self._other}
        if isinstance(asked, int):
            result = self.explainer.top(x, -asked, **other)
        else:
            result = self.explainer(x, None if asked is None else [asked], **other)
        top, scale = self._top(result)
        names = [self.name(int(target)) for target in result.targets[0]]
        rival = None if self._other is None else self.name(self._other)
        facts = [] if rival is None else [{"name": name, "rather_than": rival} for name in names]
        return Answer(replace(result, labels=[self._labels(result.targets[0])]), top, facts=facts, scale=scale)

    def _labels(self, targets: NDArray[np.int64]) -> list[str]:
        than = "" if self._other is None else f" rather than {self.name(self._other)}"
        return [self.name(int(target)) + than for target in targets]

    def _top(self, result: Result, count: int = 5) -> tuple[list[tuple[str, float]], str]:
        """The best classes by the model's own output, where that is one number per class; and what the numbers are."""
        for values in result.outputs.values():
            if values.size == self.explainer.classes and values.dtype.kind in "fiu":
                flat = values.reshape(-1).astype(np.float64)
                top = [(self.name(int(i)), float(flat[i])) for i in np.argsort(-flat)[:count]]
                return top, "probability" if _sums_to_one(flat) else "score"
        return [], "score"


def raw_session(model: AnyModel, names: Sequence[str], **options: Any) -> Session:
    """A session that gives these tensors of a model, whether they are its outputs or not.

    Args:
        model: The model.
        names: The tensors.
        **options: As for :class:`~portable_cam.runtime.session.Session`.
    """
    plain = normalized(model).copy()
    graph = plain.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    passes.RemoveUnusedNodesPass()(plain)
    apply_ort_workarounds(graph)
    return Session(plain, **options)


def _members(names: Sequence[int | str], labels: Labels | None) -> tuple[int, ...]:
    asked = parse_targets(list(names), labels)
    if not isinstance(asked, list):
        raise TargetError(f"'{names[0]}' is no class: give its number or name")
    return tuple(asked)


def _sums_to_one(values: NDArray[np.float64]) -> bool:
    """Whether these are probabilities; loosely, as eight bits hold those of a quantised softmax."""
    return len(values) > 1 and bool((values >= 0).all() and (values <= 1).all() and abs(values.sum() - 1) < 0.02)
