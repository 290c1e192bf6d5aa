# SPDX-License-Identifier: Apache-2.0
"""A folder of results, read: the table, and an explanation for each key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from portable_cam.batch import containers
from portable_cam.batch.inputs import Input, Inputs
from portable_cam.batch.job import Job
from portable_cam.batch.layout import Layout
from portable_cam.batch.maps import OTHER, RAW, decode, heat_maps, of_method
from portable_cam.batch.progress import Progress
from portable_cam.batch.rows import SCHEMA, record_fields
from portable_cam.errors import ImageError, InputError, OptionError
from portable_cam.explanation import Explanation
from portable_cam.image.decode import read_image
from portable_cam.image.geometry import ImageArray, Size
from portable_cam.image.look import look_of
from portable_cam.image.preprocess import Preprocessing
from portable_cam.report.write import ReportWriter
from portable_cam.result import Result


def open_results(out: str | os.PathLike[str]) -> Results:
    """The results in a folder, also while they are being made.

    Raises:
        OptionError: It is no folder of results.
    """
    return Results(Layout(os.fspath(out)))


class Results:
    """The results of a batch: ``results["cat.jpg"]`` is an :class:`~portable_cam.explanation.Explanation`.

    Args:
        layout: The folder.
        progress: The counts of the run that has just ended.

    Attributes:
        job: What was asked for.
        progress: As given.

    Raises:
        OptionError: It is no folder of results.
    """

    def __init__(self, layout: Layout, progress: Progress | None = None) -> None:
        self._layout = layout
        self.job = Job.read(layout)
        self.progress = progress
        self.inputs = Inputs(layout.inputs)
        self._part = lru_cache(maxsize=8)(self._read_part)
        self._array = lru_cache(maxsize=8)(self._open_array)

    def __repr__(self) -> str:
        return f"Results({str(self._layout.root)!r}: {len(self._layout.finished())} of {self.inputs.shards} shards)"

    @property
    def complete(self) -> bool:
        """Whether all inputs are in the table."""
        return len(self._layout.finished()) == self.inputs.shards

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table, a row for each input that is finished (``docs/batch.md`` describes the columns)."""
        names = list(columns) if columns is not None else SCHEMA.names
        parts = list(self.parts(names))
        return pa.concat_tables(parts) if parts else SCHEMA.empty_table().select(names)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The table, shard by shard."""
        for shard in sorted(self._layout.finished()):
            read = pq.read_table(self._layout.part(shard), columns=columns, partitioning=None)
            yield read.replace_schema_metadata(None)

    def __len__(self) -> int:
        """Inputs that are finished."""
        return sum(self.inputs.size(shard) for shard in self._layout.finished())

    def __iter__(self) -> Iterator[str]:
        """Their keys."""
        for shard in sorted(self._layout.finished()):
            yield from self.inputs.keys(shard)

    def __contains__(self, key: object) -> bool:
        found = self.inputs.find(key) if isinstance(key, str) else None
        return found is not None and self._layout.part(found[0]).exists()

    def failed(self) -> dict[str, str]:
        """The inputs that could not be explained, and why."""
        table = self.table(["key", "status", "error"])
        wrong = table.filter(pc.equal(table["status"], "failed"))
        return dict(zip(wrong["key"].to_pylist(), wrong["error"].to_pylist(), strict=True))

    def row(self, key: str) -> dict[str, Any]:
        """A row of the table.

        Raises:
            OptionError: There is no such input, or it is not finished.
        """
        return self._found(key)[1]

    def _found(self, key: str) -> tuple[Input, dict[str, Any]]:
        found = self.inputs.find(key)
        if found is None:
            raise OptionError(f"there is no input '{key}': list(results) has the keys")
        shard, place = found
        if not self._layout.part(shard).exists():
            raise OptionError(f"'{key}' is not finished yet: give the command again, it goes on")
        row: dict[str, Any] = self._part(shard).slice(place, 1).to_pylist()[0]
        return self.inputs.shard(shard)[place], row

    def _read_part(self, shard: int) -> pa.Table:
        return pq.read_table(self._layout.part(shard))

    def _open_array(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._layout.root / name, mmap_mode="r")
        return array

    @lru_cache(maxsize=1)  # noqa: B019
    def facts(self) -> dict[str, Any]:
        """What was found and chosen: task, layer, methods, preprocessing, notes."""
        found: dict[str, Any] = json.loads(self._layout.facts.read_text(encoding="utf-8"))
        return found

    def image(self, key: str) -> ImageArray:
        """The image itself, from where it was.

        Raises:
            ImageError: It is not there any more, or cannot be decoded.
        """
        return read_image(containers.read(self._found(key)[0], self._layout.root))

    def __getitem__(self, key: str) -> Explanation:
        """The explanation of an input.

        Raises:
            OptionError: There is no such input, or it is not finished.
            InputError: It could not be explained; the message says why.
        """
        given, row = self._found(key)
        if row["status"] != "done":
            raise InputError(f"{key} could not be explained: {row['error']}")
        record = json.loads(row["record"])
        preprocessing = Preprocessing.from_json(record["preprocessing"])
        size = row["height"], row["width"]
        image, missing = self._image(given, size)
        own = record_fields(record)
        notes = (*own.pop("notes"), *missing)
        other = record.get("counterpart")
        return Explanation(
            result=self._result(row, record, preprocessing.size, row),
            image=image,
            view=preprocessing.view(image),
            geometry=preprocessing.geometry(size),
            preprocessing=preprocessing,
            labels=[row["labels"]],
            writer=ReportWriter(),
            source=given.url if given.offset is None else "",
            notes=notes,
            look=look_of(self.facts()["profile"]),
            counterpart=None if other is None else self._result(row, record, preprocessing.size, other, OTHER),
            **own,
        )

    def _image(self, given: Input, size: Size) -> tuple[ImageArray, tuple[str, ...]]:
        try:
            image = read_image(containers.read(given, self._layout.root))
        except ImageError as error:
            return np.full((*size, 3), 128, np.uint8), (f"the image is not where it was: {error}",)
        if image.shape[:2] != size:
            return np.full((*size, 3), 128, np.uint8), ("the image is another one now: it has another size",)
        return image, ()

    def _result(
        self, row: dict[str, Any], record: dict[str, Any], size: Size, numbers: dict[str, Any], prefix: str = ""
    ) -> Result:
        raw, maps = self._maps(row, size, record.get("placed", {}), prefix)
        layout = Preprocessing.from_json(record["preprocessing"]).layout
        return Result(
            scores=np.asarray([numbers["scores"]], np.float32),
            targets=np.asarray([numbers["targets"]], np.int64),
            layer=record["layer"],
            maps=maps,
            raw=raw,
            flags=[[tuple(flags) for flags in numbers["flags"]]],
            guided_nodes=list(self.facts()["guided_nodes"]),
            outputs={},
            notes=tuple(record.get("notes", ())),
            row=record.get("row", [None])[0],
            channel_axis=1 if layout == "nchw" else 3,
            placed=record.get("placed", {}),
            unseen={name: np.asarray([share], np.float32) for name, share in record.get("unseen", {}).items()},
        )

    def _maps(
        self, row: dict[str, Any], size: Size, placed: dict[str, Any], prefix: str
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """The low-resolution maps and those at the image's size, each (1, K, ...)."""
        raw, whole, flat = {}, {}, {}
        for place in row["maps"]:
            name = place["name"]
            if name.startswith(OTHER) != bool(prefix):
                continue
            name = name.removeprefix(prefix)
            stored = self._array(place["file"])[place["offset"] : place["offset"] + place["count"]]
            values = decode(stored, place["low"], place["scale"])
            if name.startswith(RAW):
                raw[name.removeprefix(RAW)] = values
                flat[name.removeprefix(RAW)] = np.asarray(place["flat"])
            else:
                whole[name] = values[None]
        maps = {}
        for method in self.facts()["methods"]:
            own = {name: values for name, values in raw.items() if of_method(name, method)}
            if method in whole:
                maps[method] = whole[method]
            elif not row["targets"]:  # nothing was found
                maps[method] = np.zeros((1, 0, *size), np.float32)
            elif own:
                found = heat_maps(own, size, self.facts()["profile"], placed)
                found[flat[next(iter(own))]] = 0
                maps[method] = found[None]
        return {name: values[None] for name, values in raw.items()}, maps
