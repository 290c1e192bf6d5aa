"""Photos in, explanations out: the explainer with preprocessing and labels around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.explainer import Explainer
from portable_cam.export.builder import known_dims
from portable_cam.export.layers import image_input
from portable_cam.export.normalize import normalize
from portable_cam.geometry import Geometry
from portable_cam.image import read_image
from portable_cam.labels import Labels, parse_targets, read_labels
from portable_cam.preprocess import Preprocessing, resolve
from portable_cam.result import Result
from portable_cam.sidecar import find_sidecar


@dataclass(frozen=True)
class PhotoExplanation:
    """One photo's explanation: ``photo`` uint8 (h, w, 3) as decoded, ``view`` uint8 (H, W, 3) the part that the model
    sees at its input's size, ``geometry`` between the two, ``top`` the five best classes with their scores, ``color``
    the order of the model's channels."""

    result: Result
    photo: NDArray[np.uint8]
    view: NDArray[np.uint8]
    geometry: Geometry
    top: list[tuple[str, float]]
    color: str = "rgb"


def known_preprocessing(model: str | Path) -> str | None:
    """The preprocessing in a JSON file beside a model, as JSON for an explanation file's metadata; None if there is no
    such file."""
    sidecar = find_sidecar(model)
    if sidecar is None:
        return None
    image = image_input(normalize(model).graph)
    assert image.dtype is not None
    return json.dumps(resolve(known_dims(image) or [], image.dtype.numpy(), sidecar=sidecar).to_json())


def preprocessing_of(
    explainer: Explainer, model: Any, wanted: Preprocessing | str | Mapping[str, Any] | None = None
) -> Preprocessing:
    """How a photo becomes the input of an explainer.

    Args:
        explainer: Says the input's shape and type, and the model's metadata.
        model: Where it is a path, a JSON file beside it is read.
        wanted: A :class:`Preprocessing`, a preset's name, a mapping of ``resolve``'s options, or None.
    """
    if isinstance(wanted, Preprocessing):
        return wanted
    options = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
    sidecar = find_sidecar(model) if isinstance(model, str | Path) else None
    return resolve(
        explainer.input_shape(), explainer.input_dtype(), sidecar=sidecar, metadata=explainer.metadata, **options
    )


class PhotoExplainer:
    """Decodes, preprocesses, explains and names.

    Args:
        model: The path of the model, or the model itself.
        methods: As for :class:`~portable_cam.explainer.Explainer`.
        labels: Labels, or a file of them; ImageNet's names where the model has 1000 classes and none are given.
        preprocessing: A :class:`Preprocessing`, a preset's name, a mapping of ``resolve``'s options, or None: read
            from a JSON file beside the model or the model's metadata, and guessed where they say nothing.
        **options: As for :class:`~portable_cam.explainer.Explainer`.
    """

    def __init__(
        self,
        model: Any,
        methods: Sequence[str] = ("gradcam",),
        *,
        labels: Labels | str | Path | None = None,
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.explainer = Explainer(model, methods, **options)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        if isinstance(labels, str | Path):
            labels = read_labels(labels)
        self.labels = labels.check(self.explainer.classes) if labels else Labels.default(self.explainer.classes)

    def __call__(self, image: Any, targets: str | int | Sequence[int | str] | None = None) -> PhotoExplanation:
        """Explain one photo: a path, bytes, PIL image or uint8 array (H, W, 3).

        Args:
            image: The photo.
            targets: A class number or name, several, ``"top3"``, or None for the top class.

        Raises:
            ImageError, LabelError, TargetError: What does not fit.
        """
        asked = parse_targets(targets, self.labels)
        photo = read_image(image)
        x = self.preprocessing(photo)
        if isinstance(asked, int):
            result = self.explainer.top(x, -asked)
        else:
            result = self.explainer(x, None if asked is None else [asked])
        result = replace(result, labels=[[self.name(int(t)) for t in row] for row in result.targets])
        geometry = self.preprocessing.geometry((photo.shape[0], photo.shape[1]))
        return PhotoExplanation(
            result,
            photo,
            self.preprocessing.view(photo),
            geometry,
            self._top(result),
            self.preprocessing.color,
        )

    def name(self, target: int) -> str:
        """The label of a class, or its number."""
        return self.labels[target] if self.labels else f"class {target}"

    def _top(self, result: Result, count: int = 5) -> list[tuple[str, float]]:
        """The best classes by the model's own output, where that is one number per class."""
        for values in result.outputs.values():
            if values.size == self.explainer.classes and values.dtype.kind == "f":
                flat = values.reshape(-1)
                return [(self.name(int(i)), float(flat[i])) for i in np.argsort(-flat)[:count]]
        return []
