# SPDX-License-Identifier: Apache-2.0
"""From what a user names to the list of inputs: folders, globs, lists, tables, containers of images."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from portable_cam.batch import containers
from portable_cam.batch.inputs import listing
from portable_cam.batch.libraries import library
from portable_cam.errors import OptionError
from portable_cam.image.decode import READABLE_FORMATS

#: Columns of a table that hold the image's path, its key, and what is explained of it, by the names they go by.
_PATHS = ("path", "file", "filename", "file_name", "image_path", "url", "uri")
_KEYS = ("key", "id", "image_id")
_TARGETS = ("targets", "target")

Row = dict[str, Any]


@dataclass
class Found:
    """What a source holds.

    Attributes:
        table: The list of inputs (:data:`~portable_cam.batch.inputs.SCHEMA`).
        skipped: Files of folders that are no images, by suffix.
    """

    table: pa.Table
    skipped: Counter[str] = field(default_factory=Counter)


class Sources:
    """Finds inputs.

    Args:
        asks: The task's options of a call, which may be columns of a table.
        without: A folder that is left out, as that of the results.
    """

    def __init__(self, asks: Iterable[str] = (), without: str | os.PathLike[str] | None = None) -> None:
        self._asks = frozenset(asks)
        self._without = None if without is None else os.path.abspath(without)
        self.skipped: Counter[str] = Counter()

    def find(self, sources: Iterable[str | os.PathLike[str]]) -> Found:
        """All inputs of what is named.

        Raises:
            OptionError: Something named is not there or cannot be read, or holds no input.
        """
        table = listing(row for source in sources for row in self._of(str(source)))
        if not len(table):
            skipped = f" ({_described(self.skipped)} were passed over)" if self.skipped else ""
            raise OptionError(f"no image was found{skipped}: name images, folders, or tables of them")
        return Found(table, +self.skipped)

    def _of(self, source: str) -> Iterator[Row]:
        if "://" in source:
            yield from self._remote(source)
            return
        path = Path(source)
        if path.is_dir():
            yield from self._folder(path)
        elif path.is_file():
            yield from self._file(str(path.absolute()), path.name)
        elif glob.has_magic(source):
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise OptionError(f"no file fits {source}")
            root = _before_magic(source)
            for name in found:
                if Path(name).is_file():
                    yield from self._file(str(Path(name).absolute()), os.path.relpath(name, root))
        else:
            raise OptionError(f"there is no file or folder {source}: check the path")

    def _folder(self, folder: Path) -> Iterator[Row]:
        if (folder / "state.json").is_file() and any(folder.glob("*.arrow")):  # Hugging Face's save_to_disk
            for path in sorted(folder.glob("*.arrow")):
                yield from containers.arrow_rows(str(path.absolute()), path.name)
            return
        root = os.path.abspath(folder)
        yield from self._named((f"{root}/{name}", name) for name in sorted(self._below(root)))

    def _below(self, root: str) -> Iterator[str]:
        """The files in a folder and its folders, but for hidden ones."""

        def fail(error: OSError) -> None:
            raise OptionError(f"cannot read the folder {error.filename}: {error.strerror}; check your rights")

        for where, inner, files in os.walk(root, onerror=fail):
            inside = where[len(root) :].lstrip("/")
            linked = [name for name in inner if os.path.islink(os.path.join(where, name))]
            self.skipped["linked folder"] += len(linked)  # not followed: a link may lead back
            inner[:] = [
                name
                for name in inner
                if name not in linked
                and not name.startswith(".")
                and os.path.abspath(os.path.join(where, name)) != self._without
            ]
            for name in files:
                if not name.startswith("."):
                    yield f"{inside}/{name}" if inside else name

    def _remote(self, source: str) -> Iterator[Row]:
        system, path = library("fsspec").core.url_to_fs(source)
        try:
            names = system.glob(path) if glob.has_magic(path) else system.find(path)
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot read {source}: {error}; check the address and your rights") from None
        if not names:
            raise OptionError(f"nothing was found at {source}")
        root = _before_magic(path)
        if names == [path]:
            yield from self._file(source, PurePosixPath(path).name)
            return
        yield from self._named((system.unstrip_protocol(name), os.path.relpath(name, root)) for name in sorted(names))

    def _named(self, files: Iterable[tuple[str, str]]) -> Iterator[Row]:
        """What a folder holds: images and tar files; the rest is counted and passed over."""
        for url, key in files:
            suffix = _suffix(key)
            if suffix in SUFFIXES:
                yield _single(url, key)
            elif suffix == ".tar":
                yield from self._file(url, key)
            else:
                self.skipped[suffix or "no suffix"] += 1

    def _file(self, url: str, key: str) -> Iterator[Row]:
        """A file that was named, by its suffix."""
        suffix = _suffix(key)
        if suffix == ".tar":
            yield from containers.tar_members(url, SUFFIXES)
        elif suffix in {".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip"}:
            raise OptionError(
                f"{url} is compressed, so that no image in it can be read by itself: unpack it, or pack "
                "the images into a plain .tar"
            )
        elif suffix == ".arrow":
            yield from containers.arrow_rows(url, key)
        elif suffix == ".parquet":
            yield from self._parquet(url, key)
        elif suffix in {".csv", ".tsv"}:
            yield from self._csv(url, "\t" if suffix == ".tsv" else ",")
        elif suffix in {".txt", ".lst"}:
            yield from (self._listed({"path": line}, url) for line in _text(url).splitlines() if line.strip())
        else:
            yield _single(url, key)

    def _csv(self, url: str, delimiter: str) -> Iterator[Row]:
        for row in csv.DictReader(_text(url).splitlines(), delimiter=delimiter):
            yield self._listed({k: v for k, v in row.items() if k is not None and v not in (None, "")}, url)

    def _parquet(self, url: str, key: str) -> Iterator[Row]:
        with containers.opened(url) as handle:
            file = pq.ParquetFile(handle)
            column = containers.image_column(file.schema_arrow)
            wanted = {*_KEYS, *_TARGETS, *self._asks, *(() if column else _PATHS)} & set(file.schema_arrow.names)
            if column is None and not wanted & set(_PATHS):
                raise OptionError(
                    f"{url} has neither a column of images nor one of paths ({', '.join(_PATHS)}); its columns are "
                    f"{', '.join(file.schema_arrow.names)}"
                )
            rows = (row for part in file.iter_batches(columns=sorted(wanted)) for row in part.to_pylist())
            if column is None:
                yield from (self._listed(row, url) for row in rows)
                return
            if not wanted:
                rows = ({} for _ in range(file.metadata.num_rows))
            for i, row in enumerate(rows):
                own = self._own(row)
                yield {"key": f"{key}/{i:07d}", "url": url, "offset": i, "column": column, **own}

    def _listed(self, row: Mapping[str, Any], table: str) -> Row:
        """A row of a table of paths."""
        named = next((row[name] for name in _PATHS if row.get(name)), None)
        if named is None:
            raise OptionError(f"{table} has no column of paths: call one of its columns {_PATHS[0]}")
        path = str(named).strip()
        url = path if "://" in path else os.path.join(os.path.dirname(table), path)
        return {"key": path, "url": url, **self._own(row)}

    def _own(self, row: Mapping[str, Any]) -> Row:
        """Key, targets and options of a row's own."""
        found: Row = {}
        key = next((row[name] for name in _KEYS if row.get(name) is not None), None)
        targets = next((row[name] for name in _TARGETS if row.get(name) is not None), None)
        if key is not None:
            found["key"] = str(key)
        if targets is not None:
            found["targets"] = json.dumps(targets, ensure_ascii=False)
        asked = {name: _value(row[name]) for name in sorted(self._asks) if row.get(name) is not None}
        if asked:
            found["asked"] = json.dumps(asked, ensure_ascii=False)
        return found


def _single(url: str, key: str) -> Row:
    """A file with one image; its name need not be UTF-8."""
    if url.isascii():
        return {"key": key, "url": url}
    return {"key": containers.readable(key), "url": containers.address(url)}


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _value(given: Any) -> Any:
    """An option of a call in a table: numbers by comma are a list."""
    if not isinstance(given, str):
        return given
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return given


def _text(url: str) -> str:
    with containers.opened(url) as handle:
        try:
            return str(handle.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise OptionError(f"{url} is not UTF-8 text ({error}): save it as UTF-8") from None


def _before_magic(path: str) -> str:
    """The folder in front of the first wildcard."""
    parts = path.split("/")
    plain = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:plain]) or ("/" if path.startswith("/") else ".")


def _described(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} x {suffix}" for suffix, count in skipped.most_common(5))


def _suffixes() -> frozenset[str]:
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in READABLE_FORMATS)


#: Of files that are taken for images.
SUFFIXES = _suffixes()


def is_names(source: Any) -> bool:
    """Whether a source names files, in place of being images."""
    if isinstance(source, str | os.PathLike):
        return True
    return isinstance(source, Sequence) and bool(source) and all(isinstance(s, str | os.PathLike) for s in source)
