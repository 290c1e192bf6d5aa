# SPDX-License-Identifier: Apache-2.0
"""A finished table as files that other programs read: COCO-style JSON, CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from portable_cam.batch.results import Results
from portable_cam.batch.rows import SCHEMA

#: Columns that hold more than text has room for.
_LEFT_OUT = ("maps", "record")
#: Rows in hand at a time.
_ROWS = 4096


def write_coco(results: Results, path: Path) -> Path:
    """COCO-style JSON: images, categories, and an annotation for each target, with ``bbox`` (left, top, width, height)
    where it has a box, ``score``, and ``peak`` (x, y), the pixel that the map is largest at."""
    categories: dict[str, int] = {}
    images, count = [], 0
    passing = path.with_name(f".{path.name}")
    with passing.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        for number, row in enumerate(_rows(results)):
            images.append(
                {"id": number, "file_name": row["key"], "width": row["width"], "height": row["height"]}
                | ({} if row["status"] == "done" else {"error": row["error"]})
            )
            for annotation in _annotations(row):
                name = annotation.pop("name")
                whole = {
                    "id": count,
                    "image_id": number,
                    "category_id": categories.setdefault(name, len(categories)),
                    **annotation,
                }
                file.write((",\n" if count else "\n") + json.dumps(whole, ensure_ascii=False))
                count += 1
        names = [{"id": i, "name": name} for name, i in categories.items()]
        file.write('],\n"categories": ' + json.dumps(names, ensure_ascii=False))
        file.write(',\n"images": ' + json.dumps(images, ensure_ascii=False) + "}\n")
    return passing.replace(path)


def _annotations(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if row["status"] != "done":
        return
    details = json.loads(row["record"]).get("details") or [{}] * len(row["labels"])
    for k, label in enumerate(row["labels"]):
        box, detail = row["boxes"][k], details[k]
        found = {"name": detail.get("name") or label, "target": row["targets"][k], "score": row["scores"][k]}
        if detail.get("class_number") is not None:
            found["class"] = detail["class_number"]
        if row["probabilities"][k] is not None:
            found["probability"] = row["probabilities"][k]
        if box is not None:
            found["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found["area"] = (box[2] - box[0]) * (box[3] - box[1])
        yield {**found, "peak": row["peaks"][k] if row["peaks"] else None, "flags": row["flags"][k]}


def write_csv(results: Results, path: Path) -> Path:
    """The table as CSV, lists as JSON; without the places of maps."""
    names = [name for name in SCHEMA.names if name not in _LEFT_OUT]
    passing = path.with_name(f".{path.name}")
    with passing.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in _rows(results):
            cells = (row[name] for name in names)
            writer.writerow(json.dumps(c, ensure_ascii=False) if isinstance(c, list) else c for c in cells)
    return passing.replace(path)


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    for part in results.parts():
        for batch in part.to_batches(max_chunksize=_ROWS):
            yield from batch.to_pylist()
