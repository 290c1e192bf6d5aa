# SPDX-License-Identifier: Apache-2.0
"""Images that came as objects: written into tar files first, since other processes and later runs cannot ask again."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from portable_cam.batch.inputs import listing
from portable_cam.batch.layout import Layout
from portable_cam.batch.sources import Found
from portable_cam.errors import ImageError, OptionError
from portable_cam.image.decode import read_image

#: Bytes after which another tar file is begun.
_LARGEST = 1 << 30


def keep(images: Any, layout: Layout) -> Found:
    """The list of inputs of an iterable of images, or of pairs of a key and an image.

    An image is a path, a file's bytes, a PIL image or an array. What is in the folder from a run before counts; the
    iterable is then not looked at.

    Raises:
        OptionError: It is no iterable, or empty.
        ImageError: Something in it is no image.
    """
    if layout.job.exists() and layout.inputs.exists():
        return Found(pq.read_table(layout.inputs))
    if isinstance(images, Mapping):
        images = images.items()
    if not isinstance(images, Iterable) or isinstance(images, bytes):
        raise OptionError(f"a source is paths, or an iterable of images, not a {type(images).__name__}")
    rows = list(_written(images, layout))
    if not rows:
        raise OptionError("the source is empty: it gave no image")
    return Found(listing(rows))


def _written(images: Iterable[Any], layout: Layout) -> Iterator[dict[str, Any]]:
    layout.given.mkdir(parents=True, exist_ok=True)
    tar, count, name = None, 0, ""
    try:
        for i, item in enumerate(images):
            key, image = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
            if isinstance(image, str | os.PathLike):
                yield {"key": str(image if key is None else key), "url": os.path.abspath(image)}
                continue
            data = _bytes(image, i)
            if tar is None or tar.offset > _LARGEST:
                if tar is not None:
                    tar.close()
                name, count = f"{layout.given.name}/{count:05d}.tar", count + 1
                tar = tarfile.open(layout.root / name, "w")  # noqa: SIM115
            member = tarfile.TarInfo(f"{i:08d}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            offset = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield {"key": f"{i:08d}" if key is None else str(key), "url": name, "offset": offset, "length": len(data)}
    finally:
        if tar is not None:
            tar.close()


def _bytes(image: Any, i: int) -> bytes:
    if isinstance(image, bytes):
        return image
    sink = io.BytesIO()
    try:
        np.save(sink, read_image(image), allow_pickle=False)
    except ImageError as error:
        raise ImageError(f"image {i} of the source: {error}") from None
    return sink.getvalue()
