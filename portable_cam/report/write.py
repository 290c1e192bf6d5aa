"""One photo's explanation to files: a sheet, a picture and an array per method, a JSON record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.export.methods.registry import MAP_METHODS
from portable_cam.image import colormap as report
from portable_cam.image.colormap import Picture
from portable_cam.kernels.reference import minmax, upsample_bilinear
from portable_cam.report import files
from portable_cam.report.annotate import Mark, draw
from portable_cam.report.files import FORMATS
from portable_cam.report.sheet import TITLES, Panel, Row, sheet
from portable_cam.report.wording import how_much, part_explained, score_is
from portable_cam.result import AGAINST
from portable_cam.runtime.flags import remark
from portable_cam.tasks.classify import PhotoExplanation


def write_explanation(
    explained: PhotoExplanation, folder: str | Path, stem: str, formats: Sequence[str], heading: str
) -> dict[str, Any]:
    """Write the formats asked for and return the JSON record.

    PNG: ``stem.sheet.png`` with everything side by side, and ``stem.<class>.<method>.png``, maps laid over the whole
    photo. NPY: ``stem.<method>.npy``, the first image of ``result[method]``. What speaks against the targets
    (``sign="negative"``) goes to ``stem.against.*``, beside what speaks for them.
    """
    result = explained.result
    record = describe(explained)
    stem = stem_of(stem, explained.sign)
    pictures: dict[str, Picture] = {}
    if "png" in formats:
        for k, label in enumerate(unique(result.labels[0])):
            for method in result:
                # the counterpart of what speaks against a target is what speaks for it
                name = method.replace(AGAINST, "for.") if explained.sign == "negative" else method
                pictures[f"{label}.{name}"] = picture_of(explained, method, k, whole_photo=True)
        view = draw(explained.view, explained.marks, result.labels[0]) if explained.marks else explained.view
        sheet(
            view,
            rows_of(explained),
            Path(folder) / f"{stem}.sheet.png",
            heading,
            explained.top,
            scale=explained.scale,
            explained={line.get("name", line["label"]) for line in record["explained"]},
        )
    arrays: dict[str, NDArray[Any]] = {method: result[method][0] for method in result}
    files.save(folder, stem, pictures=pictures, arrays=arrays, document=record, formats=formats)
    return record


def stem_of(stem: str, sign: str) -> str:
    """What file names begin with: what speaks against a target must not replace what speaks for it."""
    return f"{stem}.against" if sign == "negative" else stem


def describe(explained: PhotoExplanation) -> dict[str, Any]:
    """What was explained, as plain data."""
    result = explained.result
    return {
        "layer": result.layer,
        "methods": list(result),
        "notes": list(result.notes),
        "guided_nodes": len(result.guided_nodes),
        "sign": explained.sign,
        "top": [{"label": label, "score": score} for label, score in explained.top],
        "top_is": explained.scale,
        "explained": [_line(explained, k) for k in range(len(result.labels[0]))],
    }


def _line(explained: PhotoExplanation, k: int) -> dict[str, Any]:
    """One target of a record."""
    result, facts = explained.result, explained.facts[k] if explained.facts else {}
    return {
        "target": int(result.targets[0, k]),
        "label": result.labels[0][k],
        "score": float(result.scores[0, k]),
        "score_is": score_is(facts),
        "flags": list(result.flags[0][k]),
        **facts,
    }


def rows_of(explained: PhotoExplanation, methods: Iterable[str] | None = None) -> list[Row]:
    """A row of the sheet for each target."""
    result, negative = explained.result, explained.sign == "negative"
    return [
        Row(
            title=f"against: {line['label']}" if negative else line["label"],
            note=how_much(line) + part_explained(line),
            panels=[
                Panel(title_of(m, explained.sign), picture_of(explained, m, k), remark(result, m, k, explained.sign))
                for m in methods or result
            ],
        )
        for k, line in ((k, _line(explained, k)) for k in range(len(result.labels[0])))
    ]


def title_of(method: str, sign: str = "positive") -> str:
    """A method by the name that papers use; that of a counterpart says which sign it has."""
    name = method.removeprefix(AGAINST)
    other = f", {'for' if sign == 'negative' else 'against'}"
    return TITLES.get(name, name) + (other if method.startswith(AGAINST) else "")


def picture_of(explained: PhotoExplanation, method: str, k: int, *, whole_photo: bool = False) -> Picture:
    """One method's picture for target ``k``: a map laid over what the model sees (or over the whole photo), or the
    signed input gradient with grey as zero."""
    result = explained.result
    values = result[method][0, k]
    if method.removeprefix(AGAINST) not in MAP_METHODS:
        layout = "nchw" if result.channel_axis == 1 else "nhwc"
        return report.signed_picture(values, layout, explained.color)  # type: ignore[arg-type]
    if values.shape != explained.view.shape[:2]:  # a profile that leaves the map at the layer's size
        values = minmax(upsample_bilinear(np.maximum(values, 0), explained.view.shape[:2])).astype(np.float32)
    mark = explained.marks[k] if explained.marks else None
    before: list[Mark | None] = [None] * k  # the colour of a mark is that of its place, as in the sheet's photo
    if not whole_photo:
        return draw(report.overlay(explained.view, values), [*before, mark])
    laid = report.overlay(explained.photo, explained.geometry.on_photo(values))
    return laid if mark is None else draw(laid, [*before, mark.on_photo(explained.geometry)])


def check_formats(text: str) -> tuple[str, ...]:
    """The formats in a comma-separated list; :class:`OptionError` for one that does not exist."""
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not formats:
        raise OptionError(f"no format was named: choose from {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise OptionError(f"format '{name}' does not exist; the formats are {', '.join(FORMATS)}")
    return formats


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """What each photo's files begin with: its name without suffix, and a number where that would repeat."""
    return unique([path.stem for path in paths])


def unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that would repeat one before it."""
    found: dict[str, None] = {}
    for name in names:
        tried, count = name, 1
        while tried in found:
            count += 1
            tried = f"{name}-{count}"
        found[tried] = None
    return list(found)
