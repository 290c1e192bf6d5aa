# SPDX-License-Identifier: Apache-2.0
"""The format of an explanation file: the names of its inputs and outputs, and its metadata.

N images, K targets, C channels; (h, w) the layer's size, (H, W) the image's. A graph that stops before the maps, where
kernels go on, has the outputs of the lower half of :data:`PREFIXES` instead of maps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.loss_scale import LOSS_SCALE
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.options import Options

TARGETS = "targets"
"""Input, int64 (N, K)."""
SCORES = "scores"
"""float32 (N, K)."""
MOST_RANKS = 16
"""How far down the ranking a negative target can point."""
EXPLAINED = "explained"
"""int64 (N, K): the targets, negative ones resolved."""
CLAMPED = "clamped"
"""bool (N, K): the target asked for was out of range, and the nearest one was explained."""
CAM = "cam"
"""An alias of the output ``heatmap.cam``."""

HEAT_MAP = "heatmap."
"""``heatmap.<method>``: (N, K, H, W), normalised as the profile says; other methods' outputs have their bare name."""
RAW = "raw."
"""``raw.<method>``, or ``raw.<method>.<layer>`` for several layers: (N, K, h, w), after the profile's ReLU; of a layer
with V views (N, K, V, h, w), and none where the model says which views are of which image."""
RANGE = "range."
"""``range.<method>``: (N, K, 2), the least and greatest value before the ReLU."""
TOKEN_ATTRIBUTION = "token_attribution."
"""``token_attribution.<input>``: (N, K, T)."""
ACTIVATIONS = "activations."
"""``activations.<layer>``: (N, C, h, w); all views behind one another where a layer has some."""
GRADIENTS = "gradients."
"""``gradients.<layer>``: (N, K, C, h, w); as activations."""
WEIGHTS = "weights."
"""``weights.<layer>`` or ``weights.cam``: (N, K, C), for kernels."""
SUMS = "sums."
"""``sums.cam``: (N, K, h, w) before sign and ReLU, for kernels."""
VIEWS = "views."
"""``views.<layer>``: (N, V, 2, 3), where a layer looks at V views of each image: from a cell (row, column, 1) to a
pixel's row and column, NaN where no affine map says it; (E, 2, 3) where the model says which of E views are whose."""
UNSEEN = "unseen."
"""``unseen.<layer>``: (N,), of a layer with views: the share of each image that none of them looks at."""
EXTENT = "extent."
"""``extent.<method>``: (N, K, 2), the least and greatest value of a finished map; never in a file."""

#: What the names of outputs that are ours begin with.
PREFIXES = (HEAT_MAP, RAW, RANGE, TOKEN_ATTRIBUTION, ACTIVATIONS, GRADIENTS, WEIGHTS, SUMS, VIEWS, UNSEEN, EXTENT)
#: Of these, what a graph hands to kernels and no result holds.
_FOR_KERNELS = (WEIGHTS, SUMS)
_KEY = "portable_cam."

T = TypeVar("T")


def is_ours(name: str) -> bool:
    """A tensor of this name is an input or output of an explanation, so that the model's own may not have it."""
    return name in {TARGETS, "target", SCORES, EXPLAINED, CLAMPED, LOSS_SCALE, *METHODS} or name.startswith(PREFIXES)


def is_internal(name: str) -> bool:
    """An output that only kernels read."""
    return name.startswith(_FOR_KERNELS)


def output_of(method: str) -> str:
    """The output that holds what a method gives."""
    return f"{HEAT_MAP}{method}" if METHODS[method].is_heat_map else method


def raw_output(method: str, layer: str | None = None) -> str:
    """The output with a method's low-resolution map; ``layer`` where several are explained."""
    return f"{RAW}{method}" if layer is None else f"{RAW}{method}.{layer}"


def depends_on_loss_scale(name: str) -> bool:
    """An output that is infinite or zero where the gradient left the range of its type."""
    return name.startswith((RANGE, GRADIENTS, WEIGHTS, TOKEN_ATTRIBUTION)) or (
        name in METHODS and not METHODS[name].is_heat_map
    )


@dataclass(frozen=True)
class ExplanationMetadata:
    """What was decided when an explanation was built, under ``portable_cam.<field>``: text as it is, everything else as
    JSON, nothing where a field is None. The fields of ``options`` that are stored have keys of their own."""

    options: Options
    """The methods, and how they were to be computed; layer, target and output are below as they were found."""
    version: str
    """Of the package that built it."""
    source_sha256: str
    """Of the model file."""
    layer: list[str]
    """The tensors whose maps are made."""
    target: dict[str, Any]
    """What the target says of itself."""
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
    float_types: list[str]
    """The float types of the source's tensors."""
    classes: int | None = None
    """How many classes the scores have; None if known only at run time."""
    cut: str | None = None
    """The operator behind the scores that was left out."""
    batch: str | None = None
    """``freed`` where a fixed batch of one was made symbolic; ``ranged`` where the whole batch's range quantises."""
    input_quantization: Sequence[float] | None = None
    """Scale and zero point of an integer image."""
    preprocessing: str | None = None
    """JSON, as it was given."""
    renamed: dict[str, str] | None = None
    """The model's names by the ones they have in the file."""
    kernels: dict[str, Any] | None = None
    """Where the graph stops for the kernels: their layers, and CAM's."""
    axes: dict[str, str] | None = None
    """What the axes of tensors were declared to be."""
    shared: bool | None = None
    """True where the model gives one row of scores for all images together."""
    probability: str | None = None
    """What the score is, where it is a probability and not its logit."""
    as_is: bool | None = None
    """True where the tensor that was named is explained as it is."""
    row: int | None = None
    """Of several rows of scores the one that is explained."""
    rows: str | None = None
    """What these rows are, in words."""
    unseen: dict[str, float] | None = None
    """The share of the image that a layer did not see, where its map does not cover the image."""
    placed: dict[str, Any] | None = None
    """Of low-resolution maps that are not to be stretched over the image, by the names of ``raw``: for rows and for
    columns step and offset (cell i is centred at pixel step i + offset), or None where they are. Where an axis has
    several parts, they follow as pairs of a number of entries and what these are, and the former count in the axis."""
    ranked: bool | None = None
    """True where a negative target -r is the one of rank r."""
    plain: dict[str, str] | None = None
    """The names of inputs and outputs that are not letters, digits and underscores, by those they have in the file."""
    runtime: dict[str, Any] | None = None
    """What the file was written for: ``name``, ``least`` its least version, ``notes`` what is not certain there."""
    widened: str | None = None
    """The type that the model had where it is always computed in float32 (written by ``normalize``)."""

    def write(self, model: ir.Model) -> None:
        """Write all of it into the model's metadata."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "options"}
        chosen = {name: getattr(self.options, name) for name in Options.stored()}
        for name, value in {**own, **chosen}.items():
            if value is not None:
                model.metadata_props[_KEY + name] = value if isinstance(value, str) else json.dumps(value)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> ExplanationMetadata:
        """Read it from a model's metadata.

        Raises:
            ModelError: It is no explanation, or its metadata is damaged.
        """
        own = {field.name: str(field.type) for field in fields(cls) if field.name != "options"}
        chosen = dict.fromkeys(Options.stored(), "str") | {"methods": "list"}
        found = {
            name: _read(name, kind, metadata[_KEY + name])
            for name, kind in {**own, **chosen}.items()
            if _KEY + name in metadata
        }
        required = {*chosen, *(field.name for field in fields(cls) if field.default is MISSING)} - {"options"}
        if not required <= found.keys():
            raise ModelError("the model is not an explanation that portable_cam has built: build one of it")
        options = Options(**{name: found.pop(name) for name in chosen})
        return cls(options=options, **found)


def _read(name: str, kind: str, text: str) -> Any:
    if kind in {"str", "str | None"}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ModelError(f"the explanation's metadata '{_KEY}{name}' is damaged: build it again") from None


def named(values: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The outputs whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def split(values: Mapping[str, T], metadata: ExplanationMetadata) -> tuple[dict[str, T], dict[str, T], dict[str, T]]:
    """The outputs of an explanation by what they are.

    Returns:
        The methods' maps by method, the low-resolution maps by ``<method>`` or ``<method>.<layer>``, and the model's
        own outputs by the names that they have in the model.
    """
    maps = {method: values[output_of(method)] for method in metadata.options.methods}
    raw = named(values, RAW)
    renamed = metadata.renamed or {}
    own = {
        renamed.get(name, name): value
        for name, value in values.items()
        if name not in {SCORES, EXPLAINED, CLAMPED, CAM, *maps} and not name.startswith(PREFIXES)
    }
    return maps, raw, own
