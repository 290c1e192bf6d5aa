# SPDX-License-Identifier: Apache-2.0
"""Whether a folder of results is whole: every input once, every file as it was written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from portable_cam.batch.inputs import Inputs, digest
from portable_cam.batch.job import Job
from portable_cam.batch.layout import Layout
from portable_cam.batch.shard_files import files_of, sum_of


@dataclass
class Verdict:
    """What was found.

    Attributes:
        inputs: How many the job has.
        done: Rows of images that were explained.
        failed: Rows of images that could not be.
        missing: Inputs of shards that are not finished.
        wrong: What is not as it was written, each with the file's name.
    """

    inputs: int
    done: int = 0
    failed: int = 0
    missing: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Every input is in the table once, and all files are as they were written."""
        return not self.wrong and not self.missing and self.done + self.failed == self.inputs


def verify(out: str | os.PathLike[str]) -> Verdict:
    """Check a folder of results.

    Raises:
        OptionError: It is no folder of results.
    """
    layout = Layout(os.fspath(out))
    job, inputs = Job.read(layout), Inputs(layout.inputs)
    found = Verdict(job.inputs)
    if len(inputs) != job.inputs or digest(pq.read_table(layout.inputs)) != job.digest:
        found.wrong.append(f"{layout.inputs.name}: not the list that the folder was begun with")
    finished = layout.finished()
    for shard in range(inputs.shards):
        if shard not in finished:
            found.missing += inputs.size(shard)
            continue
        part = layout.part(shard)
        try:
            table = pq.read_table(part, page_checksum_verification=True)
            wrong = list(_wrong_files(layout, shard))
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            found.wrong.append(f"{layout.relative(part)}: {error}")
            continue
        if table["key"].to_pylist() != inputs.keys(shard):
            wrong.append(f"{layout.relative(part)}: its keys are not those of the list")
        states = table["status"].to_pylist()
        found.done += states.count("done")
        found.failed += states.count("failed")
        wrong += _wrong_places(layout, table) if not wrong else []
        found.wrong += wrong
    for shard in sorted(finished - set(range(inputs.shards))):
        found.wrong.append(f"{layout.relative(layout.part(shard))}: of no shard of the list")
    return found


def _wrong_files(layout: Layout, shard: int) -> Iterator[str]:
    for name, wanted in files_of(layout.part(shard)).items():
        path = layout.root / name
        if not path.exists():
            yield f"{name}: is missing"
        elif sum_of(path) != wanted:
            yield f"{name}: is not as it was written"


def _wrong_places(layout: Layout, table: pa.Table) -> Iterator[str]:
    """Rows whose maps lie outside of their files, or share entries with others."""
    taken: dict[str, list[tuple[int, int]]] = {}
    for row in table.select(["key", "status", "maps"]).to_pylist():
        for place in row["maps"] or ():
            taken.setdefault(place["file"], []).append((place["offset"], place["count"]))
    for name, places in taken.items():
        entries: Any = np.load(layout.root / name, mmap_mode="r")
        ends = sorted(places)
        starts = np.cumsum([0, *(count for _, count in ends)])
        if [offset for offset, _ in ends] != starts[:-1].tolist() or starts[-1] != len(entries):
            yield f"{name}: the rows do not fill it exactly once"


def remedy(verdict: Verdict) -> str:
    """What to do about what is wrong; empty where nothing is."""
    if verdict.wrong:
        return "remove the part of each shard named from table.parquet, and give the command again: they are made anew"
    return "give the command again: it goes on" if verdict.missing else ""
