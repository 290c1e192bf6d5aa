# SPDX-License-Identifier: Apache-2.0
"""From a photo to the model's input array, and how to find out what the model wants.

The arithmetic is ``(pixel * scale - mean) / std``, pixels 0 to 255, with mean and std in the model's channel order (for
BGR: blue first). An ONNX file says the input's layout, size and type at most; the rest comes from a JSON file beside
the model, its metadata, or options, and what none of them says is guessed and named in ``guessed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from portable_cam.errors import InputError, PreprocessError
from portable_cam.image.geometry import (
    INTERPOLATIONS,
    PAD_POSITIONS,
    RESIZES,
    Geometry,
    Interpolation,
    PadPosition,
    Resize,
    Size,
    fit,
)
from portable_cam.image.model_input import (
    Color,
    Dim,
    Layout,
    dtype_name,
    input_size,
    parse_size,
    per_channel,
    read_shape,
)
from portable_cam.image.presets import PRESET_FIELDS, PRESETS
from portable_cam.image.sidecar import find_sidecar, parse_json, read_sidecar

__all__ = ["METADATA_KEY", "PRESETS", "Geometry", "Preprocessing", "find_sidecar", "resolve"]

Values: TypeAlias = float | Sequence[float]

#: Where a model's ``metadata_props`` may hold its preprocessing, as JSON.
METADATA_KEY = "portable_cam.preprocessing"


_VALUES = frozenset({"scale", "mean", "std"})

# fewer steps of brightness than this in an integer input mean that the values were meant for a float model
_LEAST_LEVELS = 16


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the model's input.

    Attributes:
        size: (H, W) of the model's input, in pixels.
        resize: ``stretch`` to the size; ``shortest+crop``, the shorter side to ``resize_to`` and the centre cropped, as
            torchvision; ``letterbox``, the whole photo within the size and the rest padded.
        resize_to: The shorter side before the crop, in pixels; if not given, 256/224 of the size, as is usual.
        pad_value: What letterbox pads with, 0 to 255; ``pad_position`` says where the photo then lies.
        interpolation: Pillow's filter, antialiased when it shrinks.
        color: The order of the channels; ``gray`` is one channel, ITU-R 601 luma.
        scale: With mean and std, ``(pixel * scale - mean) / std``.
        mean: One number per channel, in the model's order; likewise std.
        layout: ``nchw`` or ``nhwc``.
        dtype: The array's type, as numpy names it. Integer types are rounded and saturated.
        quantization: Scale and zero point of an integer input, if the above gives the numbers that its integers stand
            for: the input is then ``number / scale + zero point``.
        guessed: Names of the fields that nothing but a guess stands for.

    Raises:
        PreprocessError: A field has an impossible value, or two contradict each other.
    """

    size: Size
    resize: Resize = "stretch"
    resize_to: int | None = None
    pad_value: int = 114
    pad_position: PadPosition = "center"
    interpolation: Interpolation = "bilinear"
    color: Color = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nchw"
    dtype: str = "float32"
    quantization: tuple[float, int] | None = None
    guessed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        channels = 1 if self.color == "gray" else 3
        normal: dict[str, Any] = {
            "size": parse_size(self.size),
            "scale": per_channel("scale", self.scale, 1)[0],
            "mean": per_channel("mean", self.mean, channels),
            "std": per_channel("std", self.std, channels),
            "dtype": dtype_name(self.dtype),
            "guessed": tuple(self.guessed),
            "quantization": _quantization(self.quantization, self.dtype),
        }
        if self.resize == "shortest+crop" and self.resize_to is None:
            normal["resize_to"] = round(min(normal["size"]) * 256 / 224)
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        _check(self)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """The model's input for one photo.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            (1, C, H, W) or (1, H, W, C) of ``dtype``.

        Raises:
            InputError: The image is not uint8 (H, W, 3).
        """
        pixels = self.view(image)
        if self.color == "gray":
            # the weights and the rounding of Pillow's convert("L")
            luma = (pixels.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
            values = luma[:, :, None].astype(np.float64)
        else:
            values = (pixels[:, :, ::-1] if self.color == "bgr" else pixels).astype(np.float64)
        values = (values * self.scale - np.asarray(self.mean)) / np.asarray(self.std)
        if self.quantization is not None:
            values = values / self.quantization[0] + self.quantization[1]
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            values = np.clip(np.rint(values), limits.min, limits.max)
        batch = values.astype(kind)[None]
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2) if self.layout == "nchw" else batch)

    def geometry(self, image_size: Size) -> Geometry:
        """Where the input lies in a photo of ``image_size`` (H, W)."""
        return fit(image_size, self.size, self.resize, self.resize_to, self.pad_position)

    def view(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the model sees of a photo, as a picture: uint8 (H, W, 3) RGB at the input's size.

        Raises:
            InputError: The image is not uint8 (H, W, 3).
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"a photo is uint8 of shape (H, W, 3), not {image.dtype} {image.shape}: see read_image")
        return self.geometry((image.shape[0], image.shape[1])).apply(image, self.interpolation, self.pad_value)

    def describe(self) -> str:
        """One line for people."""
        how = {
            "stretch": "stretched",
            "letterbox": f"letterboxed on {self.pad_value} ({self.pad_position})",
            "shortest+crop": f"resize {self.resize_to} + centre crop",
        }[self.resize]
        parts = [f"{'grey' if self.color == 'gray' else self.color.upper()} {self.size[0]}x{self.size[1]}", how]
        if self.interpolation != "bilinear":
            parts.append(self.interpolation)
        if self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}:
            parts.append("values 0-255")
        if self.scale != 1:
            parts.append(f"/{1 / self.scale:g}" if 0 < self.scale < 1 else f"x{self.scale:g}")
        if any(self.mean):
            parts.append(f"mean {_listed(self.mean)}")
        if set(self.std) != {1.0}:
            parts.append(f"std {_listed(self.std)}")
        steps = "" if self.quantization is None else " by scale {:g} and zero point {}".format(*self.quantization)
        return ", ".join([*parts, f"{self.layout.upper()} {self.dtype}{steps}"])

    def to_json(self) -> dict[str, Any]:
        """As a dict that ``json`` can write and :meth:`from_json` and :func:`resolve` read."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: str | Mapping[str, Any]) -> Preprocessing:
        """From :meth:`to_json`, as a dict or as text.

        Raises:
            PreprocessError: It is not JSON, lacks the size, or holds an unknown key or a wrong value.
        """
        given = dict(parse_json(content, "the preprocessing") if isinstance(content, str) else content)
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown or "size" not in given:
            raise PreprocessError(
                f"the preprocessing has unknown keys: {', '.join(unknown)}"
                if unknown
                else "the preprocessing lacks 'size', the (H, W) of the model's input"
            )
        return cls(**read_sidecar(given, "the preprocessing"))


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
    stands_for: tuple[float, int] | None = None,
    sidecar: str | Path | Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Preprocessing:
    """What the model's input wants.

    Layout and size are read from the shape. The rest comes from ``sidecar`` (see :func:`find_sidecar`), else from
    ``metadata``; a preset replaces colour, values and resizing of either; options replace single fields. What is still
    open is guessed: for three channels of floats ``imagenet``, for one channel ``unit``, for uint8 ``raw``, for int8
    the pixels minus 128, or ``imagenet`` where that is what the model's quantisation covers; 224x224 for a model
    without a fixed size. With ``mean`` or ``std`` but no ``scale``, pixels are taken as 0 to 1 if the numbers are at
    most 1, else as 0 to 255.

    Args:
        input_shape: The model's image input, batch first; None or a name where a dimension is open.
        input_dtype: A numpy dtype or its name; ONNX Runtime's ``tensor(float)`` form is understood too.
        preset: A name from :data:`PRESETS`.
        quantization: Scale and zero point of an integer input; the other options then give the numbers that its
            integers stand for, not the integers.
        stands_for: The same as the model itself says it. Taken where the values would leave next to nothing of the
            picture as integers, as those of ``imagenet`` do.
        metadata: The model's ``metadata_props``.

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
    if name is not None:
        known = _preset(name, known.get("color"), channels) | known
    _guess(known, channels, guessed, stands_for)
    if stands_for is not None and known.get("quantization") is None and _too_few_levels(known):
        known["quantization"] = stands_for
    known |= {field: per_channel(field, known[field], channels) for field in ("mean", "std")}
    return Preprocessing(**known, guessed=tuple(sorted(guessed)))


def _quantization(given: Any, dtype: str) -> tuple[float, int] | None:
    if given is None:
        return None
    try:
        scale, zero = (float(number) for number in given)
    except (TypeError, ValueError):
        scale = zero = float("nan")
    if not (np.isfinite(scale) and scale > 0 and zero == round(zero)):
        raise PreprocessError(f"quantization {given!r} is not a scale above 0 and a whole zero point, as [0.0186, -14]")
    if np.dtype(dtype_name(dtype)).kind not in "iu":
        raise PreprocessError(f"quantization {given!r} is for an input of integers; the model's takes {dtype}")
    return scale, int(zero)


def _too_few_levels(known: Mapping[str, Any]) -> bool:
    """Whether an integer input would hold next to nothing of the picture, for the values are a float model's."""
    widest = float(np.abs(np.asarray(known["std"], np.float64)).max())
    return np.dtype(known["dtype"]).kind in "iu" and 255 * abs(known["scale"]) < _LEAST_LEVELS * widest


def _covers_imagenet(dtype: str, stands_for: tuple[float, int] | None) -> bool:
    """Whether the integers stand for just the numbers that ``imagenet`` gives, -2.12 to 2.64."""
    if stands_for is None or np.dtype(dtype).kind not in "iu":
        return False
    limits, (step, zero) = np.iinfo(np.dtype(dtype)), stands_for
    mean, std = np.asarray(PRESETS["imagenet"]["mean"]), np.asarray(PRESETS["imagenet"]["std"])
    low, high = (-mean / std).min(), ((1 - mean) / std).max()
    ends = (limits.min - zero) * step, (limits.max - zero) * step
    return bool(abs(ends[0] - low) < 0.1 and abs(ends[1] - high) < 0.1)


def _guess(
    known: dict[str, Any], channels: int, guessed: set[str], stands_for: tuple[float, int] | None = None
) -> None:
    """Fill in colour, values and resizing where nothing says them."""
    if "color" not in known:
        known["color"] = "rgb" if channels == 3 else "gray"
        guessed |= {"color"} if channels == 3 else set()
    if not _VALUES & known.keys():
        dtype = known["dtype"]
        if channels == 3 and _covers_imagenet(dtype, stands_for):
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


def _listed(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(f'{v:g}' for v in values)})"


def _check(p: Preprocessing) -> None:
    choices = (
        ("resize", RESIZES),
        ("interpolation", INTERPOLATIONS),
        ("pad_position", PAD_POSITIONS),
        ("color", ("rgb", "bgr", "gray")),
        ("layout", ("nchw", "nhwc")),
    )
    for name, allowed in choices:
        if getattr(p, name) not in allowed:
            raise PreprocessError(f"{name} {getattr(p, name)!r} is unknown: choose one of {', '.join(allowed)}")
    if not p.scale or not all(p.std):
        raise PreprocessError(f"{f'std {p.std}' if p.scale else 'scale'} is zero: give a number other than 0")
    top = 255 * abs(p.scale)
    if max(map(abs, p.mean)) > top * (1 + 1e-6):
        raise PreprocessError(
            f"mean {_listed(p.mean)} lies beyond the pixels, which the scale makes 0 to {top:g}: "
            "give the mean in the unit of the scaled pixels, or another scale"
        )
    levels = top / max(map(abs, p.std)) / (p.quantization[0] if p.quantization else 1)
    if np.dtype(p.dtype).kind in "iu" and levels < _LEAST_LEVELS:
        raise PreprocessError(
            f"scale and std leave {levels:.1f} steps of brightness in the model's {p.dtype} input: "
            "give the values of the quantised input, or none to pass the pixels on"
        )
    if type(p.pad_value) is not int or not 0 <= p.pad_value <= 255:
        raise PreprocessError(f"pad_value {p.pad_value!r} is not a pixel, 0 to 255")
    if p.resize_to is not None:
        if p.resize != "shortest+crop":
            raise PreprocessError(f"resize_to {p.resize_to!r} goes with resize 'shortest+crop', not with {p.resize!r}")
        if type(p.resize_to) is not int or p.resize_to < min(p.size):
            raise PreprocessError(
                f"resize_to {p.resize_to!r} is less than the crop of {min(p.size)} pixels: give at least as much"
            )
