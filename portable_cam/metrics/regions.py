# SPDX-License-Identifier: Apache-2.0
"""Where objects are, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from portable_cam.errors import InputError
from portable_cam.image.decode import read_image
from portable_cam.image.sidecar import parse_json
from portable_cam.metrics.pictures import Region


def read_regions(path: Path, photos: Sequence[Path]) -> list[Region]:
    """A region for each photo, from JSON: by the photo's name a box ``[left, top, right, bottom]`` in its pixels, or
    the file of a mask, black where the object is not. None for photos that it does not name.

    Raises:
        InputError: The file cannot be read, names no photo, or a region is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    content = parse_json(text, str(path))
    known = {photo.name for photo in photos}
    if not known & set(content):
        raise InputError(f"{path} names none of the photos: it holds {', '.join(list(content)[:5]) or 'nothing'}")
    return [_region(content.get(photo.name), path) for photo in photos]


def _region(given: object, path: Path) -> Region:
    if given is None:
        return None
    if isinstance(given, str):
        return np.asarray(read_image(path.parent / given).max(axis=2) > 0)
    if isinstance(given, list) and len(given) == 4 and all(isinstance(v, int | float) for v in given):
        return [float(v) for v in given]
    raise InputError(f"{path}: a region is [left, top, right, bottom] or the file of a mask, not {given!r}")
