# SPDX-License-Identifier: Apache-2.0
"""Results as pictures and files: coloured maps, overlays, side-by-side sheets, PNG, NPY and JSON.

Drawing uses matplotlib's objects on an Agg canvas, never ``pyplot``: no global state, no display, safe in threads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
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

# beyond this quantile gradients are outliers, a few pixels that would leave the rest of the picture grey
_ROBUST = 99.5

#: Methods by the names that papers use.
TITLES: Mapping[str, str] = {
    "cam": "CAM", "gradcam": "Grad-CAM", "guided_backprop": "Guided Backprop", "guided_gradcam": "Guided Grad-CAM",
    "gradient": "gradient", "deconvnet": "DeconvNet", "layercam": "LayerCAM", "hirescam": "HiResCAM",
}  # fmt: skip

_INK, _FAINT, _BAR, _BAR_HERE = "#1a1a1a", "#6b6b6b", "#c3c9d4", "#b5367a"


class Row(TypedDict):
    """One target of a sheet: what is explained, its score (None: not shown), and a picture for each method."""

    title: str
    score: float | None
    panels: Sequence[tuple[str, Picture]]


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
    return np.rint((1 - alpha) * image + alpha * colorize(map01)).astype(np.uint8)


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


def sheet(
    image: Picture,
    rows: Sequence[Row],
    path: str | Path,
    heading: str = "",
    top: Sequence[tuple[str, float]] = (),
) -> Path:
    """A side-by-side sheet: the photo and the top classes on the left, then for each target a row of methods.

    Args:
        image: The photo, uint8 (H, W, 3).
        rows: One per target.
        path: Where to save it; the suffix says the format (PNG, JPEG, PDF, SVG).
        heading: A line above everything.
        top: The top classes and their scores, best first; those of ``rows`` are set off.

    Returns:
        The path.

    Raises:
        OptionError: There is nothing to show, or the file cannot be written.
    """
    if not rows or not all(row["panels"] for row in rows):
        raise OptionError("a sheet needs at least one target with at least one method")
    columns = max(len(row["panels"]) for row in rows)
    first = rows[0]["panels"][0][1]
    # inches: a column of pictures, the strip of titles above each row, the heading, the margin, gaps
    side, strip, head, margin, gap = 2.3, 0.66, 0.62 if heading else 0.16, 0.22, 0.1
    tall = min(1.5, max(0.45, first.shape[0] / first.shape[1])) * side
    left = side * 1.18
    photo_tall = min(1.5, max(0.3, image.shape[0] / image.shape[1])) * left
    bars = (0.24 * len(top) + 0.4) if top else 0.0
    key = 0.55
    width = 2 * margin + left + 0.35 + columns * side + (columns - 1) * gap
    body = max(len(rows) * (strip + tall) + 0.1 * (len(rows) - 1), strip + photo_tall + bars + key)
    height = head + body + margin
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes with their top-left corner at (x, y) inches from the sheet's."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def write(x: float, y: float, text: str, room: float, **style: Any) -> None:
        artist = figure.text(x / width, 1 - y / height, text, parse_math=False, va="baseline", color=_INK, **style)
        _fit(artist, room * figure.dpi)

    if heading:
        write(margin, 0.4, heading, width - 2 * margin, fontsize=13, fontweight="bold")
    write(margin, head + strip - 0.1, "photo", left, fontsize=9)
    _show(place(margin, head + strip, left, photo_tall), image)
    if top:
        _bars(place(margin, head + strip + photo_tall + 0.28, left, bars - 0.4), top, {row["title"] for row in rows})
    _key(place(margin, height - margin - 0.12, left, 0.12))
    write(margin, height - margin - 0.2, "evidence: none to most  (signed maps: grey is 0)", left, fontsize=7.5)
    start = margin + left + 0.35
    for r, row in enumerate(rows):
        y = head + r * (strip + tall + 0.1)
        score = "" if row["score"] is None else f"   score {_short(row['score'])}"
        write(start, y + 0.24, f"{row['title']}{score}", width - margin - start, fontsize=11, fontweight="bold")
        for c, (name, picture) in enumerate(row["panels"]):
            x = start + c * (side + gap)
            write(x, y + strip - 0.1, TITLES.get(name, name), side, fontsize=9)
            _show(place(x, y + strip, side, tall), picture)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write the sheet {path}: {error}; choose another place or format") from None
    return path


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
            Image.fromarray(picture).save(file(name, ".png"))
        for name, array in (arrays or {}).items() if "npy" in formats else ():
            np.save(file(name, ".npy"), array, allow_pickle=False)
        if document is not None and "json" in formats:
            text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
            file("", ".json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write to {folder}: {error}; choose another folder") from None
    return written


@cache
def _palette() -> Picture:
    colours: NDArray[np.float64] = matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)


def _check_map(map01: NDArray[Any]) -> None:
    if map01.ndim != 2:
        raise InputError(f"a map has shape (H, W), not {map01.shape}")


def _show(axes: Axes, picture: Picture) -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set_axis_off()
    axes.set_anchor("NW")


def _key(axes: Axes) -> None:
    axes.imshow(_palette()[None], aspect="auto", interpolation="nearest")
    axes.set_axis_off()


def _fit(artist: Text, pixels: float) -> None:
    """Cut a text's end off until it is no wider than this."""
    text = artist.get_text()
    keep = len(text)
    while keep > 1 and (wide := artist.get_window_extent().width) > pixels:
        keep = min(keep - 1, int(keep * pixels / wide))
        artist.set_text(f"{text[:keep].rstrip()}…")


def _bars(axes: Axes, top: Sequence[tuple[str, float]], explained: set[str]) -> None:
    """The top classes as bars, the name above the bar's line, the score at the right."""
    scores = [score for _, score in top]
    longest = max(max(scores), 1e-12)
    for i, (name, score) in enumerate(top):
        here = name in explained
        axes.barh(
            i, max(score, 0) / longest, height=0.82, color=_BAR_HERE if here else _BAR, alpha=0.38 if here else 0.6
        )
        label = axes.text(0.015, i, name, va="center", fontsize=8.5, color=_INK,
                          fontweight="bold" if here else "normal", parse_math=False)  # fmt: skip
        _fit(label, 0.82 * axes.get_window_extent().width)
        axes.text(1.0, i, _short(score), va="center", ha="right", fontsize=8.5, color=_INK if here else _FAINT)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(top) - 0.5, -0.5)
    axes.set_axis_off()


def _short(score: float) -> str:
    """As many digits as a score is worth; never 1.2e-05."""
    return f"{score:.2f}" if abs(score) < 100 else f"{score:.0f}"


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
