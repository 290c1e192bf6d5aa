# SPDX-License-Identifier: Apache-2.0
"""The files of a shard while it is made, and the step by which it is finished (``docs/adr/0021-batch-store.md``).

A shard is made in a folder of its own: a journal with a line for each finished batch, and the files of maps, each of
which only grows. A worker that takes the shard over goes on behind the last line whose maps are whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from portable_cam.batch.layout import Layout, sync
from portable_cam.batch.npy import GrowingNpy, Segment, holds
from portable_cam.batch.rows import SCHEMA
from portable_cam.batch.suspects import Suspects

#: Under this key a part's metadata has what belongs to it: files with their sizes and SHA-256.
METADATA = b"portable_cam"


class TakenError(Exception):
    """Another process is making this shard."""


class ShardFiles:
    """A shard while it is made; a context manager.

    Args:
        layout: The folder of results.
        shard: The shard.
        count: How many inputs it has.
        certain: See :class:`~portable_cam.batch.suspects.Suspects`.

    Attributes:
        rows: The rows of finished inputs, by their place in the shard.
        suspects: The images that a worker may have died of.

    Raises:
        TakenError: Another process is making it, or has finished it.
    """

    def __init__(self, layout: Layout, shard: int, count: int, *, certain: bool = False) -> None:
        self.layout, self.shard, self._count = layout, shard, count
        self._folder = layout.work(shard)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._journal = (self._folder / "journal.jsonl").open("a+b")
        except FileNotFoundError:  # another process has just finished it, and removed the folder
            raise TakenError from None
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._journal.close()
            raise TakenError from None
        if layout.part(shard).exists() or not (self._folder / "journal.jsonl").exists():
            self._journal.close()  # finished meanwhile
            raise TakenError
        self.rows: dict[int, dict[str, Any]] = {}
        self._overlays: dict[str, str] = {}
        self._maps: dict[str, GrowingNpy] = {}
        self._kinds: dict[str, tuple[str, list[int], int]] = {}
        self._restore()
        self.suspects = Suspects(self._folder / "suspects", count, certain=certain)

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.suspects.close()
        for file in self._maps.values():
            file.close()
        self._journal.close()

    def _restore(self) -> None:
        """Read the journal up to the first line that is torn or whose maps are not whole, and cut off the rest."""
        self._journal.seek(0)
        good = 0
        for text in self._journal:
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not text.endswith(b"\n") or not self._is_whole(line):
                break
            for name, (dtype, tail, _, start, length, _) in line["maps"].items():
                self._kinds[name] = (dtype, tail, start + length)
            self.rows |= {int(i): row for i, row in line["rows"].items()}
            self._overlays |= line["overlays"]
            good += len(text)
        self._journal.truncate(good)
        self._journal.seek(0, os.SEEK_END)

    def _is_whole(self, line: Mapping[str, Any]) -> bool:
        return all(
            start == self._kinds.get(name, (dtype, tail, 0))[2]
            and holds(self._folder / name, [Segment(start, length, crc)])
            for name, (dtype, tail, _, start, length, crc) in line["maps"].items()
        )

    def count_in(self, name: str, values: NDArray[Any]) -> int:
        """How many entries a file of maps has, to which such values are going to be appended."""
        return self._file(name, values).count

    def _file(self, name: str, values: NDArray[Any]) -> GrowingNpy:
        if name not in self._maps:
            dtype, tail, length = self._kinds.get(name, (values.dtype.str, list(values.shape[1:]), 0))
            self._maps[name] = GrowingNpy(self._folder / name, tuple(tail), np.dtype(dtype), length)
        return self._maps[name]

    def add(
        self,
        rows: Mapping[int, Mapping[str, Any]],
        maps: Mapping[str, Sequence[NDArray[Any]]],
        overlays: Mapping[str, bytes],
    ) -> None:
        """Finished inputs.

        Args:
            rows: By their place in the shard.
            maps: For each file of maps what is appended to it, in order.
            overlays: Pictures by their path in the folder of results.
        """
        appended = {}
        for name, arrays in maps.items():
            values = np.concatenate(arrays)
            segment = self._file(name, values).append(values)
            appended[name] = (
                values.dtype.str,
                list(values.shape[1:]),
                len(values),
                segment.start,
                segment.length,
                segment.crc,
            )
        for path, data in overlays.items():
            place = self.layout.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            passing = self._folder / "overlay"
            passing.write_bytes(data)
            os.replace(passing, place)
        sums = {path: f"{len(data)} {hashlib.sha256(data).hexdigest()}" for path, data in overlays.items()}
        line = {"rows": {str(i): row for i, row in rows.items()}, "maps": appended, "overlays": sums}
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        self.rows |= {i: dict(row) for i, row in rows.items()}
        self._overlays |= sums

    def commit(self) -> None:
        """Give the files their names: those of the maps first, and last the one of the rows, which makes it whole."""
        assert len(self.rows) == self._count
        layout, sums = self.layout, dict(self._overlays)
        layout.maps.mkdir(exist_ok=True)
        layout.table.mkdir(exist_ok=True)
        for name in self._kinds.keys() - self._maps.keys():  # of a worker before this one
            dtype, tail, length = self._kinds[name]
            self._maps[name] = GrowingNpy(self._folder / name, tuple(tail), np.dtype(dtype), length)
        for name, file in self._maps.items():
            file.finish()
            sync(file.path)
            sums[layout.relative(self.place(name))] = sum_of(file.path)
        rows = self._folder / "rows"
        metadata = {METADATA: json.dumps({"shard": self.shard, "files": dict(sorted(sums.items()))})}
        table = pa.Table.from_pylist([self.rows[i] for i in range(self._count)], SCHEMA.with_metadata(metadata))
        pq.write_table(table, rows, compression="zstd", write_page_checksum=True)
        sync(rows)
        for name, file in self._maps.items():
            os.replace(file.path, self.place(name))
        sync(layout.maps)
        os.replace(rows, layout.part(self.shard))
        sync(layout.table)
        shutil.rmtree(self._folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Where a file of maps lies in the end."""
        return self.layout.maps / f"{self.shard:06d}.{name}"


def sum_of(path: Path) -> str:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return f"{path.stat().st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def files_of(part: Path) -> dict[str, str]:
    """What a part's metadata says of the files that belong to it, by their path in the folder of results."""
    metadata = pq.read_schema(part).metadata or {}
    found: dict[str, str] = json.loads(metadata[METADATA])["files"]
    return found
