# SPDX-License-Identifier: Apache-2.0
"""Which preprocessing a model expects.

An ONNX file declares the input's layout, size and type at most. The rest comes from a JSON file beside the model, its
metadata, or options; what is in none of them is guessed and named in ``Preprocessing.guessed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from portable_cam.checked import checked
from portable_cam.errors import PreprocessError
from portable_cam.image.geometry import Resize
from portable_cam.image.model_input import Dim, dtype_name, input_size, per_channel, read_shape
from portable_cam.image.preprocess import LEAST_LEVELS, Preprocessing
from portable_cam.image.presets import PRESET_FIELDS, PRESETS
from portable_cam.image.sidecar import parse_json, read_sidecar

Values: TypeAlias = float | Sequence[float]

#: Where a model's ``metadata_props`` may hold its preprocessing, as JSON.
METADATA_KEY = "portable_cam.preprocessing"

_VALUES = frozenset({"scale", "mean", "std"})


@checked
def resolve(
    input_shape: Sequence[Dim],
    input_dtype: DTypeLike,
    *,
    preset: str | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    scale: float | None = None,
    color: str | None = None,
    layout: str | None = None,
    size: int | Sequence[int] | None = None,
    resize: str | None = None,
    quantization: Sequence[float] | None = None,
    own_quantization: tuple[float, int] | None = None,
    sidecar: str | Path | Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    whole: Resize | None = None,
) -> Preprocessing:
    """How a photo becomes the model's input.

    Layout and size are read from the shape. The rest comes from ``sidecar`` (:mod:`portable_cam.image.sidecar`), else
    from ``metadata``; a preset replaces colour, values and resizing of either; options replace single fields. What is
    still open is guessed: for three channels of floats ``imagenet``, for one channel ``unit``, for uint8 ``raw``, for
    int8 the pixels minus 128, or ``imagenet`` where that is what the model's quantisation covers; 224x224 for a model
    without a fixed size. With ``mean`` or ``std`` but no ``scale``, pixels are taken as 0 to 1 if the numbers are at
    most 1, else as 0 to 255.

    Args:
        input_shape: The model's image input, batch first; None or a name where a dimension is open.
        input_dtype: A numpy dtype or its name; ONNX Runtime's ``tensor(float)`` form is understood too.
        preset: A name from :data:`PRESETS`.
        quantization: Scale and zero point of an integer input; the other options then give the dequantised values, not
            the integers.
        own_quantization: The same as the model itself declares it. Used where the values as integers would have next to
            no steps of brightness, as those of ``imagenet`` have.
        metadata: The model's ``metadata_props``.
        whole: How a photo is resized where only a preset or a guess says so and would crop it: for tasks that explain
            places anywhere in it.

    Raises:
        PreprocessError: The input is not one of images, or sources contradict each other or themselves.
    """
    known: dict[str, Any] = {}
    if sidecar is not None:
        known = read_sidecar(sidecar)
    elif metadata and METADATA_KEY in metadata:
        where = f"the model's metadata {METADATA_KEY}"
        known = read_sidecar(parse_json(metadata[METADATA_KEY], where), where)
    chosen = {
        "mean": mean,
        "std": std,
        "scale": scale,
        "color": color,
        "layout": layout,
        "size": size,
        "resize": resize,
        "quantization": quantization,
    }
    options = {name: value for name, value in chosen.items() if value is not None}
    name = known.pop("preset", None)
    guessed = set(known.pop("guessed", ())) - options.keys()
    if preset is not None:
        name, guessed = preset, guessed - PRESET_FIELDS
        known = {field: value for field, value in known.items() if field not in PRESET_FIELDS}
    if "resize" in options:
        known.pop("resize_to", None)
    known |= options

    channels, found_layout, fixed, sure = read_shape(input_shape, known.get("layout"), known.get("color"))
    guessed |= set() if sure else {"layout"}
    known["layout"] = found_layout
    known["size"], sure = input_size(known.get("size"), fixed)
    guessed |= set() if sure else {"size"}
    dtype = dtype_name(input_dtype)
    if known.setdefault("dtype", dtype) != dtype:
        raise PreprocessError(
            f"the preprocessing says {known['dtype']}, but the model takes {dtype}: correct the former"
        )
    said = "resize" in known and "resize" not in guessed
    if name is not None:
        known = _preset(name, known.get("color"), channels) | known
    _guess(known, channels, guessed, own_quantization)
    if whole is not None and known["resize"] == "shortest+crop" and not said:
        known["resize"] = whole
        known.pop("resize_to", None)
    if own_quantization is not None and known.get("quantization") is None and _too_few_levels(known):
        known["quantization"] = own_quantization
    known |= {field: per_channel(field, known[field], channels) for field in ("mean", "std")}
    return Preprocessing(**known, guessed=tuple(sorted(guessed)))


def _too_few_levels(known: Mapping[str, Any]) -> bool:
    """Whether the values, as integers, would have next to no steps of brightness: they are those of a float model."""
    widest = float(np.abs(np.asarray(known["std"], np.float64)).max())
    return np.dtype(known["dtype"]).kind in "iu" and 255 * abs(known["scale"]) < LEAST_LEVELS * widest


def _covers_imagenet(dtype: str, own_quantization: tuple[float, int] | None) -> bool:
    """Whether the dequantised values of the input cover just the range of ``imagenet``, -2.12 to 2.64."""
    if own_quantization is None or np.dtype(dtype).kind not in "iu":
        return False
    limits, (step, zero) = np.iinfo(np.dtype(dtype)), own_quantization
    mean, std = np.asarray(PRESETS["imagenet"]["mean"]), np.asarray(PRESETS["imagenet"]["std"])
    low, high = (-mean / std).min(), ((1 - mean) / std).max()
    ends = (limits.min - zero) * step, (limits.max - zero) * step
    return bool(abs(ends[0] - low) < 0.1 and abs(ends[1] - high) < 0.1)


def _guess(
    known: dict[str, Any], channels: int, guessed: set[str], own_quantization: tuple[float, int] | None = None
) -> None:
    """Fill in colour, values and resizing where they are not known."""
    if "color" not in known:
        known["color"] = "rgb" if channels == 3 else "gray"
        guessed |= {"color"} if channels == 3 else set()
    if not _VALUES & known.keys():
        dtype = known["dtype"]
        if channels == 3 and _covers_imagenet(dtype, own_quantization):
            guessed |= _VALUES | ({"resize"} - known.keys())
            preset = _preset("imagenet", known["color"], channels)
            known |= {field: value for field, value in preset.items() if field not in known}
            return
        name = "raw" if dtype in ("uint8", "int8") else "imagenet" if channels == 3 else "unit"
        preset = _preset(name, known["color"], channels) | ({"mean": 128.0} if dtype == "int8" else {})
        # unsigned bytes are what pixels are: that much is read, not guessed
        guessed |= (set() if dtype == "uint8" else _VALUES) | ({"resize"} - known.keys())
        known |= {field: value for field, value in preset.items() if field not in known}
    elif "scale" not in known:
        numbers = [float(np.abs(per_channel(f, known.get(f, 0.0), channels)).max()) for f in ("mean", "std")]
        known["scale"] = 1 / 255 if max(numbers) <= 1 else 1.0
        guessed.add("scale")
    if "resize" not in known:
        known["resize"] = "stretch"
        guessed.add("resize")
    known.setdefault("mean", 0.0)
    known.setdefault("std", 1.0)


def _preset(name: str, color: str | None, channels: int) -> dict[str, Any]:
    """A preset's fields for a model of this colour; mean and std keep to their channels where the order turns."""
    if name not in PRESETS:
        raise PreprocessError(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}")
    preset = dict(PRESETS[name])
    if channels == 1:
        preset["color"] = "gray"
    elif color is not None and color != preset["color"]:
        turned = {f: preset[f][::-1] for f in ("mean", "std") if isinstance(preset[f], tuple)}
        preset |= {"color": color, **turned}
    return preset
