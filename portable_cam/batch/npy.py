# SPDX-License-Identifier: Apache-2.0
"""An NPY file that grows along its first axis, and whose header is written when it is finished."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of the header, in every file: room for the shapes of maps, and a multiple of the 64 that NPY asks for.
HEADER = 192


@dataclass(frozen=True)
class Segment:
    """What was appended at one time: bytes from ``start`` on, behind the header."""

    start: int
    length: int
    crc: int


def header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """An NPY 1.0 header of :data:`HEADER` bytes."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    room = HEADER - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1).encode("latin1") + b"\n"


class GrowingNpy:
    """One file.

    Args:
        path: The file; what is in it beyond ``length`` is cut off.
        tail: The shape of an entry.
        dtype: Of all entries.
        length: Bytes of entries that are in it.
    """

    def __init__(self, path: Path, tail: tuple[int, ...], dtype: np.dtype[Any], length: int = 0) -> None:
        self.path, self._tail, self._dtype, self._length = path, tail, dtype, length
        self._entry = dtype.itemsize * int(np.prod(tail, dtype=np.int64))
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(HEADER + length)
        self._file.seek(HEADER + length)

    @property
    def count(self) -> int:
        """How many entries there are."""
        return self._length // self._entry

    def append(self, values: NDArray[Any]) -> Segment:
        """Entries (count, *tail) behind the others."""
        data = np.ascontiguousarray(values, self._dtype).tobytes()
        self._file.write(data)
        self._file.flush()
        segment = Segment(self._length, len(data), zlib.crc32(data))
        self._length += len(data)
        return segment

    def finish(self) -> None:
        """Write the header."""
        self._file.seek(0)
        self._file.write(header((self.count, *self._tail), self._dtype))
        self.close()

    def close(self) -> None:
        """Leave it as it is."""
        self._file.close()


def holds(path: Path, segments: list[Segment]) -> bool:
    """Whether a file that was left has what was appended to it."""
    if not path.exists():
        return not segments
    with path.open("rb") as file:
        for segment in segments:
            file.seek(HEADER + segment.start)
            data = file.read(segment.length)
            if len(data) != segment.length or zlib.crc32(data) != segment.crc:
                return False
    return True
