# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: What is being written and not renamed yet.
_pending: set[Path] = set()


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Where to write a file that is to appear at ``path``, replacing what is there, once all of it is written.

    The place is in the same folder, which is made where it is missing, and has the same suffix, by which libraries
    tell formats. What is written is removed where the block ends in an exception. A link is followed, and what is no
    regular file, such as ``/dev/stdout``, is written to as it is.

    Args:
        path: Of the file.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not final.is_file():
        yield final
        return
    short = hashlib.sha256(os.fsencode(final.name)).hexdigest()[:12]
    place = final.with_name(f".{short}-{os.getpid()}.part{final.suffix}")
    _pending.add(place)
    try:
        yield place
        os.replace(place, final)
    except OSError as error:
        # of the file that was asked for, not of the place that nobody knows
        if error.filename is not None and Path(error.filename) == place:
            error.filename = str(path)
        raise
    finally:
        _pending.discard(place)
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(beside: str | Path) -> Iterator[Path]:
    """A new folder in that of a file, for what libraries write under names of their own; it is removed afterwards.

    Args:
        beside: The file that is to be written.

    Raises:
        OSError: The folder cannot be made.
    """
    parent = Path(os.path.realpath(beside)).parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=parent))
    _pending.add(folder)
    try:
        yield folder
    finally:
        _pending.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that is complete or absent; text as UTF-8.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path) as place:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def discard_unfinished() -> None:
    """Remove what is being written, for a program that ends without leaving the blocks of :func:`whole_file`."""
    for place in list(_pending):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
