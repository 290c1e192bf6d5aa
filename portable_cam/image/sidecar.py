# SPDX-License-Identifier: Apache-2.0
"""How a model's input is prepared, read from a JSON file beside it.

Two dialects: our own, whose keys are the fields of :class:`portable_cam.image.preprocess.Preprocessing`, and Hugging
Face's ``preprocessor_config.json`` (transformers image processors). Both become a plain dict of our fields; what a
file does not say stays out of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portable_cam.errors import PreprocessError

FIELDS = frozenset(
    {
        "size",
        "resize",
        "resize_to",
        "pad_value",
        "pad_position",
        "interpolation",
        "color",
        "scale",
        "mean",
        "std",
        "layout",
        "dtype",
        "quantization",
        "guessed",
        "preset",
    }
)

_WORDS = ("resize", "pad_position", "interpolation", "color", "layout", "dtype", "preset")

_HF_MARKS = frozenset(
    {
        "image_mean",
        "image_std",
        "do_rescale",
        "rescale_factor",
        "crop_size",
        "do_center_crop",
        "do_resize",
        "do_normalize",
        "image_processor_type",
        "feature_extractor_type",
    }
)
_HF_ALSO = frozenset(
    {
        "size",
        "resample",
        "crop_pct",
        "do_convert_rgb",
        "processor_class",
        "default_to_square",
        "data_format",
        "input_data_format",
        "return_tensors",
        "device",
        "disable_grouping",
        "image_seq_length",
        "do_pad",
        "pad_size",
        "size_divisor",
        "_valid_processor_keys",
        "use_fast",
        "auto_map",
    }
)
_PIL_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box")
# a sidecar is some hundred bytes; anything much larger is another kind of file
_MAX_BYTES = 1 << 20


def find_sidecar(model: str | Path) -> Path | None:
    """The JSON beside ``model.onnx``: ``model.preprocess.json``, ``model.json``, else ``preprocessor_config.json``.

    ``model.json`` is a common name; it counts only if it holds one of our keys.
    """
    model = Path(model)
    sure, maybe, shared = (
        model.with_suffix(".preprocess.json"),
        model.with_suffix(".json"),
        model.with_name("preprocessor_config.json"),
    )
    if sure.is_file():
        return sure
    if maybe.is_file():
        try:
            content = _load(maybe)
        except PreprocessError:
            content = {}
        if content.keys() & (FIELDS | _HF_MARKS):
            return maybe
    return shared if shared.is_file() else None


def read_sidecar(source: str | Path | Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """The fields that a sidecar (a file, or its content) sets, in our own terms.

    Raises:
        PreprocessError: It cannot be read, is not a JSON object, or has an unknown key.
    """
    if isinstance(source, Mapping):
        content, name = dict(source), name or "the given preprocessing"
    else:
        content, name = _load(Path(source)), name or str(source)
    if content.keys() & _HF_MARKS:
        return _from_hugging_face(content, name)
    _known(content, FIELDS, name)
    for key in _WORDS:
        if key in content and not isinstance(content[key], str):
            raise PreprocessError(f"{name}: {key} {content[key]!r} is not a word")
    guessed = content.get("guessed", [])
    if not isinstance(guessed, list) or not set(map(str, guessed)) <= FIELDS:
        raise PreprocessError(f"{name}: guessed {guessed!r} is not a list of fields")
    return content


def parse_json(text: str, name: str) -> dict[str, Any]:
    """A JSON object from text.

    Raises:
        PreprocessError: It is not one.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PreprocessError(f"{name} is not JSON ({error}): correct or remove it") from None
    if not isinstance(content, dict):
        raise PreprocessError(
            f"{name} is a JSON {type(content).__name__}; an object with preprocessing fields is wanted"
        )
    return content


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PreprocessError(f"{path} is too large for a preprocessing file ({path.stat().st_size} bytes)")
        return parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, ValueError) as error:
        raise PreprocessError(f"cannot read the preprocessing {path}: {error}") from None


def _known(content: Mapping[str, Any], known: frozenset[str], name: str) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise PreprocessError(f"{name} has unknown keys: {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _from_hugging_face(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """transformers: pixels are RGB, times ``rescale_factor``, minus ``image_mean``, over ``image_std``."""
    _known(content, _HF_MARKS | _HF_ALSO, name)
    fields: dict[str, Any] = {"color": "rgb", "scale": 1.0, "mean": 0.0, "std": 1.0}
    if content.get("do_rescale", True):
        fields["scale"] = content.get("rescale_factor", 1 / 255)
    if content.get("do_normalize", True):
        # transformers' own defaults differ from model to model, so that none can be assumed
        if "image_mean" not in content or "image_std" not in content:
            raise PreprocessError(f"{name} normalises, but lacks image_mean or image_std: add them")
        fields |= {"mean": content["image_mean"], "std": content["image_std"]}
    if (resample := content.get("resample")) is not None:
        if type(resample) is not int or resample not in range(len(_PIL_FILTERS)):
            raise PreprocessError(f"{name}: resample {resample!r} is not one of Pillow's filters 0 to 4")
        fields["interpolation"] = _PIL_FILTERS[resample]
    if content.get("do_pad"):
        raise PreprocessError(
            f"{name} pads (do_pad), which is not understood here: write resize, size and "
            "pad_value in a .preprocess.json"
        )
    return fields | _hf_size(content, name)


def _hf_size(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not content.get("do_resize", True) and not content.get("do_center_crop"):
        return {}
    size, crop = content.get("size"), content.get("crop_size")
    cropped = bool(content.get("do_center_crop"))
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size if cropped else None
    crop_pct = content.get("crop_pct", 1)
    if not isinstance(shortest, int | None) or not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 1:
        raise PreprocessError(f"{name}: size {size!r} or crop_pct {crop_pct!r} is not what transformers writes")
    if cropped and crop is not None:
        if isinstance(size, Mapping) and shortest is None and _square(size, name) != _square(crop, name):
            raise PreprocessError(
                f"{name} stretches to {dict(size)} and then crops, which is not understood here: "
                "give size as shortest_edge"
            )
        fields: dict[str, Any] = {"size": _square(crop, name), "resize": "shortest+crop"}
        return fields | ({"resize_to": shortest} if shortest is not None else {})
    if isinstance(size, Mapping) and shortest is not None:
        # ConvNeXt: below 384 pixels the photo is resized to size / crop_pct and cropped, from there on stretched
        if shortest < 384 and "crop_pct" in content:
            return {"size": shortest, "resize": "shortest+crop", "resize_to": int(shortest / crop_pct)}
        return {
            "size": shortest,
            "resize": "stretch" if "crop_pct" in content else "shortest+crop",
            **({} if "crop_pct" in content else {"resize_to": shortest}),
        }
    return {} if size is None else {"size": _square(size, name), "resize": "stretch"}


def _square(size: Any, name: str) -> Any:
    if not isinstance(size, Mapping):
        return size
    if size.keys() >= {"height", "width"}:
        return [size["height"], size["width"]]
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    raise PreprocessError(f"{name}: size {dict(size)} is not understood: give height and width, or shortest_edge")
