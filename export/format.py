# SPDX-License-Identifier: Apache-2.0
"""What was decided when an explanation was built: written into the file's metadata, and read from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import onnx_ir as ir

from portable_cam.errors import ModelError

_PREFIX = "portable_cam."


@dataclass(frozen=True)
class ExplanationMetadata:
    """The metadata of an explanation, under ``portable_cam.<field>``: text as it is, everything else as JSON, nothing
    where a field is None."""

    version: str
    """Of the package that built it."""
    source_sha256: str
    """Of the model file."""
    layer: list[str]
    """The tensors whose maps are made."""
    target: dict[str, Any]
    """What the target says of itself."""
    methods: list[str]
    profile: str
    sign: str
    relu_policy: str
    saturation: str
    guided_nodes: list[str]
    """The nodes that the guided methods rectify at."""
    scores: str
    """The tensors with the scores."""
    inputs: dict[str, str]
    """The further inputs that the target takes, and what each is."""
    output: str
    """The model's outputs that the scores belong to."""
    image: str
    """The input explained."""
    channel_axis: int
    """Its axis of channels."""
    precision: str
    float_types: list[str]
    """The float types of the source's tensors."""
    classes: int | None = None
    """How many classes the scores have; None if known only at run time."""
    cut: str | None = None
    """The operator behind the scores that was left out."""
    batch: str | None = None
    """``freed`` where a fixed batch of one was made symbolic."""
    input_quantization: Sequence[float] | None = None
    """Scale and zero point of an integer image."""
    preprocessing: str | None = None
    """JSON, as it was given."""
    renamed: dict[str, str] | None = None
    """The model's names by the ones they have in the file."""
    kernels: dict[str, Any] | None = None
    """Where the graph stops for the kernels: their layers, and CAM's."""
    widened: str | None = None
    """The type that the model had where it is always computed in float32 (written by ``normalize``)."""

    def write(self, model: ir.Model) -> None:
        """Into the model's metadata."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                model.metadata_props[_PREFIX + field.name] = value if isinstance(value, str) else json.dumps(value)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> ExplanationMetadata:
        """From a model's metadata.

        Raises:
            ModelError: It is no explanation, or its metadata is damaged.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            text = metadata.get(_PREFIX + field.name)
            if text is not None:
                try:
                    found[field.name] = text if str(field.type) in {"str", "str | None"} else json.loads(text)
                except ValueError:
                    raise ModelError(
                        f"the explanation's metadata '{_PREFIX}{field.name}' is damaged: build it again"
                    ) from None
        try:
            return cls(**found)
        except TypeError:
            raise ModelError("the model is not an explanation that portable_cam has built: build one of it") from None
