# SPDX-License-Identifier: Apache-2.0
"""Results as pictures and files: coloured maps, overlays, PNG, NPY and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import InputError, OptionError

Picture: TypeAlias = NDArray[np.uint8]

#: Perceptually uniform, like magma and viridis: equal steps of the map look equally large, and lightness only rises (it
#: survives grey print and colour blindness), where jet and turbo draw edges that are not in the data. Of these, inferno
#: has the widest range of lightness, and its dark end leaves the unimportant part of a photo its own colours.
COLORMAP = "inferno"

#: Neither end of the colour map: a value that is not a number must not look like an unimportant one.
NOT_A_NUMBER = (0, 170, 190)

FORMATS = ("png", "npy", "json")

#: zlib's level for PNG. On photos under maps and sheets, 0.2 to 2.3 megapixels, Pillow's default of 6 takes 2.2 to 2.8
#: times as long for files 1 to 5 % smaller; level 1 saves another 40 %, but its files are 9 to 15 % larger.
PNG_LEVEL = 4

# beyond this quantile gradients are outliers, a few pixels that would leave the rest of the picture grey
_ROBUST = 99.5


def colorize(map01: NDArray[np.floating]) -> Picture:
    """A map (H, W) of 0 to 1 as uint8 (H, W, 3) RGB; values outside are clipped, NaN shows in a colour of its own.

    Raises:
        InputError: The map is not (H, W).
    """
    _check_map(map01)
    values = np.nan_to_num(map01, nan=0.0, posinf=1.0, neginf=0.0)
    picture: Picture = _palette()[np.rint(np.clip(values, 0, 1) * 255).astype(np.intp)]
    picture[np.isnan(map01)] = NOT_A_NUMBER
    return picture


def overlay(image: Picture, map01: NDArray[np.floating], alpha: float = 0.5) -> Picture:
    """A map over the photo: ``(1 - alpha) * photo + alpha * colour``.

    Args:
        image: uint8 (H, W, 3), RGB.
        map01: Float (H, W) of 0 to 1, of the same size.
        alpha: How opaque the map is, 0 to 1.

    Raises:
        InputError: The sizes differ.
        OptionError: ``alpha`` is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha {alpha} is not between 0 and 1")
    _check_map(map01)
    if image.shape != (*map01.shape, 3):
        raise InputError(f"the map is {map01.shape}, the photo {image.shape}: bring both to one size first")
    # float32: a photo of 12 megapixels takes 150 MB so, a third of the time, and no value of 0 to 255 needs more
    mixed = image * np.float32(1 - alpha)
    mixed += colorize(map01) * np.float32(alpha)
    blended: Picture = np.rint(mixed, out=mixed).astype(np.uint8)
    return blended


def signed_picture(
    gradients: NDArray[np.floating], layout: Literal["nchw", "nhwc"] | None = None, color: str = "rgb"
) -> Picture:
    """Signed values per channel as a picture: grey is 0, brighter is positive, darker negative.

    The scale is one robust percentile of the magnitudes for all channels, so that hues keep their meaning and a few
    outliers do not leave everything else grey. A picture without any gradient is grey; so are NaNs in it.

    Args:
        gradients: Float (C, H, W) or (H, W, C), with 1 or 3 channels.
        layout: Which of the two; None: by where the channels are, first axis first.
        color: ``bgr`` if the channels are in this order; the picture is RGB.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: There is no axis of 1 or 3 channels.
    """
    shape = gradients.shape
    if layout is None and gradients.ndim == 3:
        layout = "nchw" if shape[0] in (1, 3) else "nhwc"
    if gradients.ndim != 3 or shape[0 if layout == "nchw" else 2] not in (1, 3):
        raise InputError(f"gradients of one image are (C, H, W) or (H, W, C) with 1 or 3 channels, not {shape}")
    values = np.nan_to_num(gradients.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = values.transpose(1, 2, 0) if layout == "nchw" else values
    magnitude = np.abs(values)
    # a sparse gradient may be zero at that percentile: then its maximum is the scale
    scale = float(np.percentile(magnitude, _ROBUST)) or float(magnitude.max(initial=0.0))
    signed = np.clip(values / scale, -1, 1) if scale > 0 else values
    picture = np.rint(127.5 + 127.5 * signed).astype(np.uint8)
    if color == "bgr":
        picture = picture[:, :, ::-1]
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def save(
    folder: str | Path,
    stem: str,
    *,
    pictures: Mapping[str, Picture] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    document: Mapping[str, Any] | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Save one image's results: ``stem.<name>.png`` per picture, ``stem.<name>.npy`` per array, and ``stem.json``.

    Args:
        folder: Made if it is not there.
        stem: What all file names begin with, as the photo's name without suffix.
        pictures: uint8 (H, W, 3), by name.
        arrays: By name, saved as they are.
        document: Everything else; numpy numbers and arrays in it are written as lists, NaN as null.
        formats: Which of :data:`FORMATS` to write.

    Returns:
        The files written.

    Raises:
        OptionError: A format is unknown, or a file cannot be written.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise OptionError(f"format {unknown[0]!r} is unknown: choose from {', '.join(FORMATS)}")
    folder, written = Path(folder), []

    def file(name: str, suffix: str) -> Path:
        # names come from classes and tensors, which may hold separators
        parts = [re.sub(r"[^\w.+-]+", "_", part).strip(".") for part in (stem, name) if part]
        written.append(folder / (".".join(parts) + suffix))
        return written[-1]

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in (pictures or {}).items() if "png" in formats else ():
            Image.fromarray(picture).save(file(name, ".png"), compress_level=PNG_LEVEL)
        for name, array in (arrays or {}).items() if "npy" in formats else ():
            np.save(file(name, ".npy"), array, allow_pickle=False)
        if document is not None and "json" in formats:
            text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
            file("", ".json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write to {folder}: {error}; choose another folder") from None
    return written


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix says the format (PNG, JPEG, PDF, SVG).

    Raises:
        OptionError: The file cannot be written.
    """
    path = Path(path)
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": PNG_LEVEL}} if path.suffix.lower() == ".png" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, **options)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write the picture {path}: {error}; choose another place or format") from None
    return path


@cache
def _palette() -> Picture:
    colours: NDArray[np.float64] = matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)


def _check_map(map01: NDArray[Any]) -> None:
    if map01.ndim != 2:
        raise InputError(f"a map has shape (H, W), not {map01.shape}")


def _plain(value: Any) -> Any:
    """numpy to what JSON has; JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
