# SPDX-License-Identifier: Apache-2.0
"""Which preprocessing a model expects, from its path, its metadata and its explainer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portable_cam.errors import PortableCamWarning
from portable_cam.explainer import Explainer
from portable_cam.export.assemble.at_size import at_size, sides
from portable_cam.export.autodiff.dequantized import input_quantization
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.image.by_function import ByFunction
from portable_cam.image.geometry import Resize
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.resolve import METADATA_KEY, resolve
from portable_cam.image.sidecar import find_sidecar
from portable_cam.tasks.base import AnyPreprocessing

#: How tasks that explain places anywhere in a photo see all of it, where neither the model nor the user says how.
WHOLE: Mapping[str, Resize] = {"segment": "stretch", "detect": "letterbox"}


def preprocessing_of(
    explainer: Explainer,
    model: AnyModel,
    wanted: AnyPreprocessing = None,
    usual: str | None = None,
    whole: Resize | None = None,
) -> Preprocessing:
    """How a photo becomes the input of an explainer.

    Args:
        explainer: Knows the input's shape and type, and the model's metadata.
        model: Where it is a path, a JSON file beside it is read.
        wanted: What the user gave.
        usual: The preset of the model's family, where nothing else is known.
        whole: As for :func:`~portable_cam.image.resolve.resolve`.

    Warns:
        PortableCamWarning: Something is guessed.
    """
    if isinstance(wanted, Preprocessing):
        return wanted
    if callable(wanted):
        return ByFunction.of(wanted, explainer.input_shape(), explainer.input_dtype())
    options = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
    sidecar = beside(normalized(model))
    silent = sidecar is None and METADATA_KEY not in explainer.metadata
    # quantised inputs have another scale than the family's photos
    if usual is not None and silent and explainer.input_dtype().startswith("float"):
        options.setdefault("preset", usual)
    return told(
        resolve(
            explainer.input_shape(),
            explainer.input_dtype(),
            sidecar=sidecar,
            metadata=explainer.metadata,
            own_quantization=explainer.input_quantization,
            whole=whole,
            **options,
        )
    )


def at_photo_size(model: NormalizedModel, wanted: AnyPreprocessing = None, *, guess: bool = True) -> NormalizedModel:
    """The model with an open height and width fixed at the size that photos are brought to, so that its scores and
    layers are read at the size explained.

    Args:
        model: The model.
        wanted: As for :func:`preprocessing_of`.
        guess: Whether a size that nobody said is taken, too.
    """
    if None not in sides(model):
        return model
    prepared: Any = wanted
    if not isinstance(wanted, Preprocessing) and callable(wanted):
        image = image_input(model.graph)
        prepared = ByFunction.of(wanted, known_dims(image) or [], dtype_of(image).numpy().name)
    elif not isinstance(wanted, Preprocessing):
        options = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
        prepared = expected_preprocessing(model, **options)
    return model if not guess and "size" in prepared.guessed else at_size(model, prepared.size)


def told(prepared: Preprocessing) -> Preprocessing:
    """The preprocessing as it is, with a warning where it is guessed."""
    if (note := prepared.guess_note()) is not None:
        warnings.warn(note, PortableCamWarning, stacklevel=3)
    return prepared


def expected_preprocessing(model: NormalizedModel, task: str | None = None, **options: Any) -> Preprocessing:
    """How a photo becomes the input of a model that does this task, as far as options and its files say; the rest is
    guessed, and named as such."""
    image = image_input(model.graph)
    return resolve(
        known_dims(image) or [],
        dtype_of(image).numpy(),
        sidecar=beside(model),
        metadata=model.metadata,
        own_quantization=input_quantization(image),
        whole=WHOLE.get(task or ""),
        **options,
    )


def beside(model: NormalizedModel) -> Path | Mapping[str, Any] | None:
    """What the model's description says of its input, else the JSON file beside it that says it."""
    return model.description.preprocessing or (None if model.path is None else find_sidecar(model.path))
