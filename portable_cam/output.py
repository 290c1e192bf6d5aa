"""One photo's explanation to files: a sheet, a picture and an array per method, a JSON record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam import report
from portable_cam.errors import OptionError
from portable_cam.export.methods import MAP_METHODS
from portable_cam.kernels.reference import minmax, upsample_bilinear
from portable_cam.photo import PhotoExplanation
from portable_cam.report import FORMATS, Picture, Row


def write_explanation(
    explained: PhotoExplanation, folder: str | Path, stem: str, formats: Sequence[str], heading: str
) -> dict[str, Any]:
    """Write the formats asked for and return the JSON record.

    PNG: ``stem.sheet.png`` with everything side by side, and ``stem.<class>.<method>.png``, maps laid over the whole
    photo. NPY: ``stem.<method>.npy``, the first image of ``result[method]``.
    """
    result = explained.result
    record = describe(explained)
    pictures: dict[str, Picture] = {}
    if "png" in formats:
        for k, label in enumerate(result.labels[0]):
            for method in result:
                pictures[f"{label}.{method}"] = picture_of(explained, method, k, whole_photo=True)
        Path(folder).mkdir(parents=True, exist_ok=True)
        report.sheet(
            explained.view, rows_of(explained), Path(folder) / f"{stem}.sheet.png", heading=heading, top=explained.top
        )
    arrays: dict[str, NDArray[Any]] = {method: result[method][0] for method in result}
    report.save(folder, stem, pictures=pictures, arrays=arrays, document=record, formats=formats)
    return record


def describe(explained: PhotoExplanation) -> dict[str, Any]:
    """What was explained, as plain data."""
    result = explained.result
    return {
        "layer": result.layer,
        "methods": list(result),
        "notes": list(result.notes),
        "guided_nodes": len(result.guided_nodes),
        "top": [{"label": label, "score": score} for label, score in explained.top],
        "explained": [
            {
                "target": int(target),
                "label": result.labels[0][k],
                "score": float(result.scores[0, k]),
                "flags": list(result.flags[0][k]),
            }
            for k, target in enumerate(result.targets[0])
        ],
    }


def rows_of(explained: PhotoExplanation, methods: Iterable[str] | None = None) -> list[Row]:
    """A row of the sheet for each target."""
    result = explained.result
    return [
        Row(
            title=label,
            score=float(result.scores[0, k]),
            panels=[(report.TITLES.get(m, m), picture_of(explained, m, k)) for m in methods or result],
        )
        for k, label in enumerate(result.labels[0])
    ]


def picture_of(explained: PhotoExplanation, method: str, k: int, *, whole_photo: bool = False) -> Picture:
    """One method's picture for target ``k``: a map laid over what the model sees (or over the whole photo), or the
    signed input gradient with grey as zero."""
    result = explained.result
    values = result[method][0, k]
    if method not in MAP_METHODS:
        layout = "nchw" if result.channel_axis == 1 else "nhwc"
        return report.signed_picture(values, layout, explained.color)  # type: ignore[arg-type]
    if values.shape != explained.view.shape[:2]:  # a profile that leaves the map at the layer's size
        values = minmax(upsample_bilinear(np.maximum(values, 0), explained.view.shape[:2])).astype(np.float32)
    if not whole_photo:
        return report.overlay(explained.view, values)
    return report.overlay(explained.photo, explained.geometry.on_photo(values))


def check_formats(text: str) -> tuple[str, ...]:
    """The formats in a comma-separated list; :class:`OptionError` for one that does not exist."""
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in formats:
        if name not in FORMATS:
            raise OptionError(f"format '{name}' does not exist; the formats are {', '.join(FORMATS)}")
    return formats


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """What each photo's files begin with: its name without suffix, and a number where that would repeat."""
    stems: dict[str, None] = {}
    for path in paths:
        stem, count = path.stem, 1
        while stem in stems:
            count += 1
            stem = f"{path.stem}-{count}"
        stems[stem] = None
    return list(stems)
