# SPDX-License-Identifier: Apache-2.0
"""The image files among what a user names, folders with all that is below them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from portable_cam.errors import ImageError
from portable_cam.file_kinds import kind_of
from portable_cam.image.decode import readable_suffixes


@dataclass
class Found:
    """Image files, and what is not taken.

    Attributes:
        photos: Each with its path relative to what was named: the folder, or the file itself. None twice.
        skipped: Files and folders below the folders that were named, and why each is not taken.
    """

    photos: list[tuple[Path, PurePath]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_images(paths: Iterable[str | os.PathLike[str]], without: str | os.PathLike[str] | None = None) -> Found:
    """Files as they are, folders as the image files in them and in their folders, sorted by path.

    A file given by name is kept whatever it is called, also if it is not there, and so is a folder that holds no image
    file: they are reported when they are read. Links to folders are not followed.

    Args:
        paths: Files and folders.
        without: A folder that is left out, as that of the results.

    Raises:
        ImageError: Nothing was given.
    """
    found, seen = Found(), set()
    own = None if without is None else os.path.abspath(without)
    for given in map(Path, paths):
        photos = [(given, PurePath(given.name or given))]
        if given.is_dir():
            # a folder without images is reported when it is read, as an image that cannot be
            photos = _inside(given, own, found.skipped) or photos
        for path, relative in photos:
            if (place := os.path.abspath(path)) not in seen:
                seen.add(place)
                found.photos.append((path, relative))
    if not found.photos:
        raise ImageError("no image was given: name image files or folders of them")
    return found


def _inside(root: Path, without: str | None, skipped: list[tuple[Path, str]]) -> list[tuple[Path, PurePath]]:
    """The image files below a folder."""
    photos = []
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in sorted(folders):
            why = _why_not_into(here / name, without)
            if why is not None:
                skipped.append((here / name, why))
                folders.remove(name)
        folders.sort()
        for path in sorted(here / name for name in files):
            why = _why_not(path)
            if why is None:
                photos.append((path, path.relative_to(root)))
            else:
                skipped.append((path, why))
    return sorted(photos)


def _why_not_into(folder: Path, without: str | None) -> str | None:
    if os.path.abspath(folder) == without:
        return "the folder of the results"
    if folder.name.startswith("."):
        return "hidden"
    return "a link" if folder.is_symlink() else None


def _why_not(path: Path) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() in readable_suffixes():
        return None
    kind = kind_of(path.name)
    if kind is None or not kind.advice["photo"]:
        return "not an image"
    return f"{kind.name}: {kind.advice['photo']}"
