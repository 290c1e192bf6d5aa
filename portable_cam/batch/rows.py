# SPDX-License-Identifier: Apache-2.0
"""A row of the table for each input, and the way back from a row to an explanation."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from portable_cam.batch.inputs import Input
from portable_cam.explanation import Character, Detail, Explanation
from portable_cam.image.geometry import Geometry
from portable_cam.image.marks import Mark

_LIST = pa.list_
#: The fields of an explanation that are text or a switch, which the record has as they are.
_PLAIN = tuple(
    f.name for f in fields(Explanation) if f.type in {"str", "bool", "dict[str, str]"} and f.name != "source"
)
#: Where a map is: entries ``offset`` to ``offset + count`` of an NPY file, one for each target. The value of a cell is
#: ``low + stored * scale``. ``flat``: the map of the target is zero everywhere, whatever is stored.
_MAP = pa.struct(
    {
        "name": pa.string(),
        "file": pa.string(),
        "offset": pa.int64(),
        "count": pa.int32(),
        "low": _LIST(pa.float32()),
        "scale": _LIST(pa.float32()),
        "flat": _LIST(pa.bool_()),
    }
)
#: The columns of the table; ``docs/batch.md`` describes them.
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "preprocessing": pa.string(),
        "targets": _LIST(pa.int64()),
        "labels": _LIST(pa.string()),
        "scores": _LIST(pa.float32()),
        "probabilities": _LIST(pa.float32()),
        "flags": _LIST(_LIST(pa.string())),
        "peaks": _LIST(_LIST(pa.float32())),
        "boxes": _LIST(_LIST(pa.float32())),
        "shares": _LIST(pa.float32()),
        "maps": _LIST(_MAP),
        "overlays": _LIST(pa.string()),
        "record": pa.string(),
    }
)


def failed_row(given: Input, reason: str) -> dict[str, Any]:
    """The row of an input that could not be explained."""
    return {"key": given.key, "status": "failed", "error": reason}


def done_row(
    given: Input, explanation: Explanation, maps: Sequence[Mapping[str, Any]], overlays: Sequence[str]
) -> dict[str, Any]:
    """The row of an input that was explained.

    Args:
        given: The input.
        explanation: Of it.
        maps: Where its maps are.
        overlays: Its pictures.
    """
    height, width = explanation.geometry.photo
    details = explanation.details or [Detail()] * explanation.scores.shape[1]
    return {
        "key": given.key,
        "status": "done",
        "width": width,
        "height": height,
        "preprocessing": explanation.preprocessing.describe(),
        "targets": explanation.targets[0].tolist(),
        "labels": list(explanation.labels[0]),
        "scores": explanation.scores[0].tolist(),
        "probabilities": probabilities(explanation, details),
        "flags": [list(flags) for flags in explanation.flags[0]],
        "peaks": peaks(explanation),
        "boxes": [None if d.box is None else list(d.box) for d in details],
        "shares": [d.share for d in details],
        "maps": list(maps),
        "overlays": list(overlays),
        "record": json.dumps(_record(explanation), ensure_ascii=False),
    }


def probabilities(explanation: Explanation, details: Sequence[Detail]) -> list[float | None]:
    """For each target how sure the model is: of a box its score, of a class its probability."""
    return [d.probability if d.detection is None else d.detection for d in details]


def peaks(explanation: Explanation) -> list[list[float]]:
    """For each target the pixel of the photo, (x, y), that the first method's map is largest at."""
    method = next(iter(explanation), None)
    if method is None or not explanation.scores.size:
        return []
    values = np.abs(explanation[method][0])
    if values.ndim == 4:
        values = values.sum(1 if explanation.result.channel_axis == 1 else 3)
    return [_on_photo(explanation.geometry, of_target) for of_target in values]


def _on_photo(geometry: Geometry, values: NDArray[Any]) -> list[float]:
    row, column = np.unravel_index(int(np.nanargmax(values)) if np.isfinite(values).any() else 0, values.shape)
    height, width = geometry.size
    x, y = (column + 0.5) * width / values.shape[1], (row + 0.5) * height / values.shape[0]
    left, top = geometry.to_photo((x, y, x, y))[:2]
    return [float(left), float(top)]


def _record(explanation: Explanation) -> dict[str, Any]:
    """What the columns leave out."""
    other = explanation.counterpart
    attribution = explanation.token_attribution
    found = {
        **{name: getattr(explanation, name) for name in _PLAIN},
        "details": [asdict(detail) for detail in explanation.details],
        "marks": [_packed(mark) for mark in explanation.marks],
        "top": explanation.top,
        "words": explanation.words,
        "characters": [asdict(character) for character in explanation.characters],
        "token_attribution": None if attribution is None else attribution.tolist(),
        "notes": explanation.notes,
        "checks": explanation.checks,
        "row": None if explanation.result.row is None else [explanation.result.row],
        "layer": explanation.layer,
        "placed": explanation.result.placed,
        "unseen": {name: float(share[0]) for name, share in explanation.result.unseen.items()},
        "preprocessing": explanation.preprocessing.to_json(),
        "counterpart": None
        if other is None
        else {"scores": other.scores[0].tolist(), "targets": other.targets[0].tolist(), "flags": other.flags[0]},
    }
    return {name: value for name, value in found.items() if value not in (None, "", [], (), {}, False)}


def _packed(mark: Mark) -> dict[str, Any]:
    mask = mark.mask
    bits = None if mask is None else base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()
    return {"box": mark.box, "point": mark.point, "mask": bits, "shape": None if mask is None else mask.shape}


def _unpacked(packed: Mapping[str, Any]) -> Mark:
    mask = None
    if packed["mask"] is not None:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(packed["mask"])), np.uint8)
        shape = tuple(packed["shape"])
        mask = np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)
    box, point = packed["box"], packed["point"]
    return Mark(None if box is None else tuple(box), mask, None if point is None else tuple(point))


def record_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an explanation that the record has."""
    found: dict[str, Any] = {name: record[name] for name in _PLAIN if name in record}
    attribution = record.get("token_attribution")
    return {
        **found,
        "details": [_detail(detail) for detail in record.get("details", ())],
        "marks": [_unpacked(mark) for mark in record.get("marks", ())],
        "top": [(label, score) for label, score in record.get("top", ())],
        "words": tuple(record.get("words", ())),
        "characters": tuple(Character(**c) for c in record.get("characters", ())),
        "token_attribution": None if attribution is None else np.asarray(attribution, np.float32),
        "notes": tuple(record.get("notes", ())),
        "checks": list(record.get("checks", ())),
    }


def _detail(content: Mapping[str, Any]) -> Detail:
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return Detail(**given)
