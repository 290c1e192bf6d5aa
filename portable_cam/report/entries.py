# SPDX-License-Identifier: Apache-2.0
"""What a page shows of one photo: the JSON record's numbers in words, and the images that the browser puts together."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.explanation import Explanation
from portable_cam.image.geometry import ImageArray
from portable_cam.report.annotate import draw
from portable_cam.report.bars import words_reach
from portable_cam.report.figures import facts_of, heading_of, note_of, title_of_target
from portable_cam.report.maps import ShownMaps, at_input_size, map_image, shown_maps
from portable_cam.report.record import record_of
from portable_cam.report.scene import Scene, scene_of
from portable_cam.report.wording import number, top_is

_ENOUGH = 200  # pixels of the longer side below which a photo is shown larger, its pixels square
#: Where a target would be if there were one, and what it lacks.
_NOTHING = "nothing found"
_EMPTY: Mapping[str, Any] = {"flags": [], "numbers": [], "words": [], "marks": None, "maps": {}}


class Sizes(NamedTuple):
    """The longer sides of the photos, of the maps and of signed pictures of a page, in pixels."""

    photo: int
    map: int
    signed: int


def sizes_for(count: int) -> Sizes:
    """What a page of so many photos can hold: a photo takes some 300 kB if it is alone, 20 to 40 kB among thousands."""
    if count == 1:
        return Sizes(1200, 400, 900)
    return Sizes(640, 200, 400) if count <= 24 else Sizes(400, 112, 240) if count <= 400 else Sizes(280, 72, 110)


def entry_of(explanation: Explanation, sizes: Sizes) -> dict[str, Any]:
    """One photo of a page, as JSON can hold it."""
    record, scene = record_of(explanation), scene_of(explanation, sizes.photo, _ENOUGH)
    shown = shown_maps(explanation)
    height, width = scene.pixels.shape[:2]
    frame = scene.frame
    targets = [_target(explanation, k, line, shown, scene, sizes) for k, line in enumerate(record["explained"])]
    if not explanation.found:
        targets = [{"name": _NOTHING, "title": _NOTHING, "note": explanation.nothing_found, **_EMPTY}]
    photo = explanation.geometry.photo
    text = explanation.text.strip()
    return {
        "name": Path(explanation.source).name or heading_of(explanation) or explanation.task,
        "said": f"“{text}”" if text else explanation.question,
        "size": [photo[1], photo[0]],
        "drawn": [width, height],
        "image": data_url(scene.pixels, "JPEG"),
        "seen": None if frame is None else [frame[0] / width, frame[1] / height, frame[2] / width, frame[3] / height],
        "targets": targets,
        "reach": words_reach([target["words"] for target in targets]),
        "top": [[entry["label"], number(entry["score"])] for entry in record["top"]],
        "top_is": top_is(record["top_is"]),
        "facts": [["task", record["task"]], ["how", facts_of(explanation)], ["checks", checks_of(explanation)]],
        "notes": record["notes"],
    }


def checks_of(explanation: Explanation) -> str:
    """The checks in a line."""
    # occlusion is another way of asking: that it differs proves nothing
    words = {True: "passed", False: "failed"}
    differs = {True: "passed", False: "disagrees"}
    found = [
        f"{c['name']} {(differs if c['name'] == 'occlusion' else words).get(c['passed'], 'not tested')}: {c['detail']}"
        for c in explanation.checks
    ]
    return "; ".join(found) or "not tested"


def data_url(pixels: NDArray[np.uint8], form: str = "PNG") -> str:
    """An image as a data URL; JPEG for what is only looked at."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"quality": 84} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _target(
    explanation: Explanation, k: int, line: Mapping[str, Any], shown: Sequence[ShownMaps], scene: Scene, sizes: Sizes
) -> dict[str, Any]:
    shown_numbers = [(name, value) for name, value in line.items() if name not in {"words", "flags"}]
    numbers = {name: line.get(name) for name in ("score", "probability", "detection", "share")}
    words = [[word, value if np.isfinite(value) else None] for word, value in line.get("words", ())]
    return {
        "name": line.get("name", line["label"]),
        "title": title_of_target(explanation, dict(line)),
        "note": note_of(dict(line)),
        "flags": line["flags"],
        **{name: value if value is not None and np.isfinite(value) else None for name, value in numbers.items()},
        "numbers": [[name.replace("_", " "), _said(value)] for name, value in shown_numbers],
        "words": words,
        "marks": _marks(explanation, k, scene),
        "maps": {maps.name: _map(explanation, maps, k, sizes) for maps in shown},
    }


def _map(explanation: Explanation, maps: ShownMaps, k: int, sizes: Sizes) -> dict[str, Any]:
    """A map as an image of values: red is the value, green where it is no number. Signed values as they look."""
    scene = scene_of(explanation, sizes.signed if maps.signed else sizes.map)
    if maps.signed:
        pixels = map_image(explanation, maps, k, replace(scene, hatched=False))
        return {"signed": True, "image": data_url(pixels, "JPEG"), "remark": maps.remark(k)}
    values = scene.geometry.on_photo(at_input_size(explanation, maps, maps.result[maps.method][0, k]))
    missing = np.isnan(values)
    red = np.rint(255 * np.clip(np.where(missing, 0, values), 0, 1))
    pixels = np.stack([red, 255 * missing, np.zeros_like(red)], axis=2).astype(np.uint8)
    return {"signed": False, "image": data_url(pixels), "remark": maps.remark(k)}


def _marks(explanation: Explanation, k: int, scene: Scene) -> str | None:
    """The outline of what a target is about, on nothing."""
    if not explanation.marks:
        return None
    empty: ImageArray = np.full_like(scene.pixels, 1)  # of no mark's colour
    drawn = draw(empty, [*[None] * k, explanation.marks[k].on_photo(scene.geometry)])
    opaque = np.where((drawn != 1).any(axis=2), 255, 0).astype(np.uint8)
    return data_url(np.dstack([drawn, opaque]))


def _said(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ", ".join(_said(part) for part in value) if isinstance(value, list) else str(value)
