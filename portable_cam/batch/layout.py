# SPDX-License-Identifier: Apache-2.0
"""Where everything lies in a folder of results, and how files come to be there: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from portable_cam.errors import OptionError

#: Of a file's or a disk's room, of writing rights, of hardware: the images are not at fault.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Layout:
    """The paths of one folder of results.

    Args:
        root: The folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def job(self) -> Path:
        """What was asked for."""
        return self.root / "job.json"

    @property
    def facts(self) -> Path:
        """What the explainer found and chose: task, layer, preprocessing."""
        return self.root / "facts.json"

    @property
    def inputs(self) -> Path:
        """The list of inputs, a row group for each shard."""
        return self.root / "inputs.parquet"

    @property
    def given(self) -> Path:
        """Tar files with images that came as objects."""
        return self.root / "given"

    @property
    def table(self) -> Path:
        """A Parquet part for each finished shard."""
        return self.root / "table.parquet"

    @property
    def maps(self) -> Path:
        """NPY files with maps."""
        return self.root / "maps"

    @property
    def overlays(self) -> Path:
        """Pictures, a folder for each shard."""
        return self.root / "overlays"

    def part(self, shard: int) -> Path:
        """The rows of a shard; it is finished when this file is there."""
        return self.table / f"{shard:06d}.parquet"

    def work(self, shard: int) -> Path:
        """Where a shard is made."""
        return self.root / "tmp" / f"{shard:06d}"

    def finished(self) -> set[int]:
        """The shards that are finished."""
        if not self.table.is_dir():
            return set()
        return {int(entry.name[:-8]) for entry in os.scandir(self.table) if entry.name.endswith(".parquet")}

    def relative(self, path: Path) -> str:
        """As it is written into the table."""
        return path.relative_to(self.root).as_posix()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a missing right raises into an error that says how to go on.

    Raises:
        OptionError: A file could not be written.
    """
    try:
        yield
    except OSError as error:
        why = "there is no room left" if error.errno in _NO_ROOM else (error.strerror or str(error))
        raise OptionError(
            f"cannot write to {folder}: {why}. What is finished is kept: mend it and give the same command again, it "
            "goes on where it stopped"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(path: Path, data: bytes) -> None:
    """Write a file under another name, and then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        passing.write_bytes(data)
        sync(passing)
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
    sync(path.parent)


def put_if_absent(path: Path, data: bytes) -> bytes:
    """As :func:`put`, unless the file is there; what is in it in either case. Of several at once one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        passing.write_bytes(data)
        sync(passing)
        os.link(passing, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        passing.unlink(missing_ok=True)
    sync(path.parent)
    return data


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON for people, the same for the same content."""
    return (json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
