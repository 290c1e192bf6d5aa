# SPDX-License-Identifier: Apache-2.0
"""From a photo to the model's input array.

The arithmetic is ``(pixel * scale - mean) / std``, pixels 0 to 255, with mean and std in the model's channel order (for
BGR: blue first). :func:`~portable_cam.image.resolve.resolve` finds out what a model expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import check, checked
from portable_cam.errors import InputError, PreprocessError
from portable_cam.image.geometry import (
    INTERPOLATIONS,
    PAD_POSITIONS,
    RESIZES,
    Geometry,
    ImageArray,
    Interpolation,
    PadPosition,
    Resize,
    Size,
    fit,
)
from portable_cam.image.model_input import ChannelOrder, Layout, dtype_name, parse_size, per_channel
from portable_cam.image.sidecar import parse_json, read_sidecar
from portable_cam.spelling import either, option

#: An integer input with fewer steps of brightness than this was given the values of a float model.
LEAST_LEVELS = 16


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
        quantization: Scale and zero point of an integer input, if scale, mean and std give the dequantised values: the
            input is then ``value / scale + zero point``.
        guessed: Names of the fields that are only guessed.

    Raises:
        PreprocessError: A field has an impossible value, or two contradict each other.
    """

    size: Size
    resize: Resize = "stretch"
    resize_to: int | None = None
    pad_value: int = 114
    pad_position: PadPosition = "center"
    interpolation: Interpolation = "bilinear"
    color: ChannelOrder = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nchw"
    dtype: str = "float32"
    quantization: tuple[float, int] | None = None
    guessed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("resize", "interpolation", "pad_position", "color", "layout"):
            check(name, getattr(self, name), str)
        check("guessed", self.guessed, Sequence[str])
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

    def __call__(self, image: ImageArray, photo: Size | None = None) -> NDArray[Any]:
        """The model's input for one photo.

        Args:
            image: uint8 (H, W, 3), RGB.
            photo: The photo's own size (H, W), where it was decoded at a smaller one.

        Returns:
            (1, C, H, W) or (1, H, W, C) of ``dtype``.

        Raises:
            InputError: The image is not uint8 (H, W, 3).
        """
        return self.values(self.view(image, photo))

    def prepared(self, image: ImageArray, view: ImageArray) -> NDArray[Any]:
        """As a call, where :meth:`view` was made of the photo already."""
        return self.values(view)

    def values(self, view: ImageArray) -> NDArray[Any]:
        """The model's input for what it sees of a photo.

        Args:
            view: What :meth:`view` gives.

        Returns:
            As a call.
        """
        if self.color == "gray":
            # the weights and the rounding of Pillow's convert("L")
            luma = (view.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
            pixels = luma[:, :, None]
        else:
            pixels = view[:, :, ::-1] if self.color == "bgr" else view
        planes = [table[pixels[:, :, i]] for i, table in enumerate(self._tables)]
        return np.ascontiguousarray(np.stack(planes, 0 if self.layout == "nchw" else 2)[None])

    @cached_property
    def _tables(self) -> NDArray[Any]:
        """What becomes of each of the 256 values of a pixel, for each channel: (C, 256) of ``dtype``."""
        values = np.arange(256, dtype=np.float64)[:, None] * self.scale
        values = (values - np.asarray(self.mean)) / np.asarray(self.std)
        if self.quantization is not None:
            values = values / self.quantization[0] + self.quantization[1]
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return np.ascontiguousarray(values.astype(kind).T)

    def geometry(self, image_size: Size) -> Geometry:
        """Where the input lies in a photo of ``image_size`` (H, W)."""
        return fit(image_size, self.size, self.resize, self.resize_to, self.pad_position)

    def notes(self, image_size: Size) -> tuple[str, ...]:
        """What a reader of the maps of a photo of this size (H, W) should know."""
        return ()

    def recorded(self) -> Preprocessing:
        """What an explanation keeps of it."""
        return self

    def following(self, photo: Size, longest: int, step: int) -> Preprocessing:
        """The same for a model that takes images of any size, at a photo's own: its longer side at most ``longest``
        pixels, both multiples of ``step``, so that strides divide them."""
        height, width = photo
        if self.resize == "shortest+crop":
            return self
        ratio = min(1.0, longest / max(height, width))
        height, width = (max(step, min(longest, round(side * ratio / step) * step)) for side in (height, width))
        return replace(self, size=(height, width))

    def view(self, image: ImageArray, photo: Size | None = None) -> ImageArray:
        """What the model sees of a photo: uint8 (H, W, 3) RGB at the input's size. The arguments are those of a call.

        Raises:
            InputError: The image is not uint8 (H, W, 3).
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"a photo is uint8 of shape (H, W, 3), not {image.dtype} {image.shape}: see read_image")
        size = photo or (image.shape[0], image.shape[1])
        return self.geometry(size).apply(image, self.interpolation, self.pad_value)

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

    def guess_note(self) -> str | None:
        """What a reader of the maps must know where something is guessed; None where nothing is."""
        if not self.guessed:
            return None
        tries = either("portable_cam.tasks.presets.answers_by_preset(model, image)", "portable-cam doctor MODEL PHOTO")
        return (
            f"preprocessing guessed ({', '.join(self.guessed)}): if the model expects another, its answer and the maps "
            f"are wrong. A JSON file beside the model says it, or {option('preprocessing')}; "
            f"{tries} shows the answers under each preset"
        )

    def to_json(self) -> dict[str, Any]:
        """As a dict that ``json`` can write; :meth:`from_json` and :mod:`portable_cam.image.resolve` read it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    @checked
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
    if np.dtype(p.dtype).kind in "iu" and levels < LEAST_LEVELS:
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
