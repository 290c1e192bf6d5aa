# SPDX-License-Identifier: Apache-2.0
"""The list of inputs: what is to be explained, in a fixed order, divided into shards.

The list is a Parquet file whose row groups are the shards, so that a worker reads its own and nothing else, and a key
is found by the statistics of the row groups.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from portable_cam.errors import OptionError

#: ``url`` is a file. ``offset`` and ``length`` say where in a tar file the image lies; with a ``column``, ``offset`` is
#: a row of a Parquet or Arrow file. ``targets`` and ``asked`` are this image's own, as JSON.
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "url": pa.string(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "column": pa.string(),
        "targets": pa.string(),
        "asked": pa.string(),
    }
)


@dataclass(frozen=True)
class Input:
    """One input; see :data:`SCHEMA`."""

    key: str
    url: str
    offset: int | None = None
    length: int | None = None
    column: str | None = None
    targets: str | None = None
    asked: str | None = None

    @property
    def own_targets(self) -> Any:
        """What is explained of this image, where it was said for it alone."""
        return None if self.targets is None else json.loads(self.targets)

    @property
    def own_asked(self) -> dict[str, Any]:
        """Options of the call for this image alone."""
        return {} if self.asked is None else dict(json.loads(self.asked))


def listing(found: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The list of inputs in its own order, whatever order they were found in: files by key, what lies in a container by
    its place there. A key that comes again gets a number: ``cat.jpg#2``."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    append = [(name, column.append) for name, column in columns.items()]
    for row in found:
        for name, add in append:
            add(row.get(name))
    return in_order(pa.table(columns, schema=SCHEMA))


def in_order(table: pa.Table) -> pa.Table:
    """See :func:`listing`."""
    place = pc.if_else(pc.is_null(table["offset"]), table["key"], table["url"])
    by = ["place", "offset", "key", "targets", "asked", "url"]
    order = pc.sort_indices(table.append_column("place", place), [(name, "ascending") for name in by])
    table = table.take(order).combine_chunks()
    if pc.count_distinct(table["key"]).as_py() == len(table):
        return table
    return table.set_column(0, "key", pa.array(_numbered(table["key"].to_pylist())))


def _numbered(keys: Sequence[str]) -> list[str]:
    taken, seen, found = set(keys), dict[str, int](), []
    for key in keys:
        name, count = key, seen.get(key, 0) + 1
        if count > 1:
            while (name := f"{key}#{count}") in taken:
                count += 1
            taken.add(name)
        seen[key] = count
        found.append(name)
    return found


def digest(table: pa.Table) -> str:
    """Of what is asked for, not of where it lies: a folder may move."""
    found = hashlib.sha256()
    for name in ("key", "offset", "targets", "asked"):
        if table[name].null_count == len(table):
            found.update(b"\x03")
            continue
        for chunk in table[name].cast(pa.string()).fill_null("\x01").chunks:
            for value in chunk.to_pylist():  # each with its end: chunks may begin anywhere
                found.update(value.encode("utf-8", "surrogatepass") + b"\x00")
        found.update(b"\x02")
    return found.hexdigest()


def to_parquet(table: pa.Table, shard_size: int) -> bytes:
    """The file, a row group for each shard."""
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=shard_size,
        compression="zstd",
        use_dictionary=["url", "column"],
        write_statistics=["key"],
        write_page_checksum=True,
    )
    return sink.getvalue()


class Inputs:
    """The list of a job.

    Args:
        path: The Parquet file.

    Raises:
        OptionError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise OptionError(
                f"the list of inputs {path} cannot be read: {error}; begin again in another folder"
            ) from None

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return int(self._file.metadata.num_row_groups)

    def shard(self, index: int) -> list[Input]:
        """The inputs of a shard."""
        return [Input(**row) for row in self._file.read_row_group(index).to_pylist()]

    def keys(self, index: int) -> list[str]:
        """The keys of a shard."""
        return list(self._file.read_row_group(index, columns=["key"])["key"].to_pylist())

    def size(self, index: int) -> int:
        """How many inputs a shard has."""
        return int(self._file.metadata.row_group(index).num_rows)

    def find(self, key: str) -> tuple[int, int] | None:
        """The shard of a key and its place there; None where it is none."""
        for index, (low, high) in enumerate(self._ranges):
            if low <= key <= high:
                keys = self.keys(index)
                if key in keys:
                    return index, keys.index(key)
        return None

    @cached_property
    def _ranges(self) -> list[tuple[str, str]]:
        found = []
        for index in range(self.shards):
            statistics = self._file.metadata.row_group(index).column(0).statistics
            whole = statistics is not None and statistics.has_min_max
            found.append((statistics.min, statistics.max) if whole else ("", "\U0010ffff"))
        return found
