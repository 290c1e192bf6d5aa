# SPDX-License-Identifier: Apache-2.0
"""Files with many images: tar files as WebDataset writes them, Parquet and Arrow with image bytes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from portable_cam.batch.inputs import Input
from portable_cam.batch.libraries import library
from portable_cam.errors import ImageError, OptionError

#: Names that columns of images go by, the surest first.
_IMAGES = ("image", "img", "jpg", "png", "webp", "bytes", "image_bytes")
_NPY = b"\x93NUMPY"


#: In front of a path that is not UTF-8, escaped byte by byte.
_ESCAPED = "escaped:"


def address(path: str) -> str:
    """A path or address as text that a table can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _ESCAPED + quote_from_bytes(os.fsencode(path))
    return path


def readable(path: str) -> str:
    """A path for people: bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def opened(url: str) -> AbstractContextManager[Any]:
    """A file, or an address that fsspec knows, for reading bytes.

    Raises:
        OptionError: It cannot be opened.
    """
    if url.startswith(_ESCAPED):
        url = os.fsdecode(unquote_to_bytes(url.removeprefix(_ESCAPED)))
    try:
        return open(url, "rb") if "://" not in url else library("fsspec").open(url, "rb").open()
    except OSError as error:
        raise OptionError(f"cannot read {url}: {error.strerror or error}; check the path") from None


def tar_members(url: str, suffixes: Collection[str]) -> Iterator[dict[str, Any]]:
    """The images of a tar file: a key is the name in front of its first dot, as WebDataset has it."""
    with opened(url) as handle:
        try:
            with tarfile.open(fileobj=handle, mode="r:") as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if member.isfile() and path.suffix.lower() in suffixes and not path.name.startswith("."):
                        key = str(path.with_name(path.name.split(".")[0]))
                        yield {"key": key, "url": url, "offset": member.offset_data, "length": member.size}
        except tarfile.TarError as error:
            raise OptionError(f"{url} is no tar file, or is damaged ({error}): pack it again") from None


def image_column(schema: pa.Schema) -> str | None:
    """The column of image bytes, bare or as ``datasets`` has them (bytes and path); None where there is none."""

    def holds(name: str) -> bool:
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fitting = [name for name in schema.names if holds(name)]
    return next((name for name in _IMAGES if name in fitting), fitting[0] if len(fitting) == 1 else None)


def arrow_rows(url: str, key: str) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow file with images."""
    table = _arrow(url)
    column = image_column(table.schema)
    if column is None:
        raise OptionError(f"{url} has no column of images; its columns are {', '.join(table.schema.names)}")
    yield from ({"key": f"{key}/{i:07d}", "url": url, "offset": i, "column": column} for i in range(len(table)))


@lru_cache(maxsize=2)
def _arrow(url: str) -> pa.Table:
    try:
        mapped = pa.memory_map(url)
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(mapped).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise OptionError(f"{url} is no Arrow file: {error}") from None


@lru_cache(maxsize=2)
def _row_group(url: str, group: int, column: str) -> pa.ChunkedArray:
    with opened(url) as handle:
        return pq.ParquetFile(handle).read_row_group(group, columns=[column])[column]


@lru_cache(maxsize=8)
def _row_groups(url: str) -> tuple[int, ...]:
    """The first row of each group, and one behind the last."""
    with opened(url) as handle:
        known = pq.ParquetFile(handle).metadata
    sizes = [known.row_group(i).num_rows for i in range(known.num_row_groups)]
    return tuple(int(n) for n in np.cumsum([0, *sizes]))


def _cell(given: Input, column: str) -> Any:
    row = given.offset or 0
    if given.url.endswith(".arrow"):
        return _arrow(given.url)[column][row].as_py()
    starts = _row_groups(given.url)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    return _row_group(given.url, group, column)[row - starts[group]].as_py()


def read(given: Input, root: Path) -> Any:
    """The image as :func:`~portable_cam.image.decode.read_image` takes it: a file's bytes, or an array.

    Args:
        given: The input.
        root: What a relative path begins at.

    Raises:
        ImageError: It cannot be read.
    """
    url = given.url
    if "://" not in url and not url.startswith(("/", _ESCAPED)):
        url = str(root / url)
    try:
        if given.column is not None:
            cell = _cell(given, given.column)
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            if data is None and isinstance(cell, dict) and cell.get("path"):
                data = Path(url).with_name(cell["path"]).read_bytes()
        else:
            with opened(url) as handle:
                if given.offset is not None:
                    handle.seek(given.offset)
                data = handle.read(-1 if given.length is None else given.length)
    except (OSError, OptionError, pa.ArrowInvalid) as error:
        raise ImageError(f"cannot read {given.key}: {error}") from None
    if not data:
        raise ImageError(f"{given.key} is empty: save or download it again")
    if given.length is not None and len(data) < given.length:
        raise ImageError(f"{given.key} is cut off: the file {url} ends before it does")
    return _array(data, given.key) if data[:6] == _NPY else data


def _array(data: bytes, key: str) -> Any:
    import io

    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise ImageError(f"{key} is a damaged array: {error}") from None
