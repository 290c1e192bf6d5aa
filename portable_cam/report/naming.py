# SPDX-License-Identifier: Apache-2.0
"""Names of the files of a photo's results: no two results share one, and the same result always has the same.

A name is made of parts with points between them: the photo's, then what it is about. A part holds no character that a
file system or a shell's pattern gives a meaning; such a one is written as in a URL, ``%2F``. Labels hold no point
either, and none of the words that the scheme itself uses, so that no label looks like another file of the scheme.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from portable_cam.export.methods.registry import METHODS

#: What follows ``against.`` shows what speaks against a target, likewise ``for.``; the sheet is a figure.
WORDS = frozenset({"against", "for", "sheet"})

_SPECIAL = frozenset('/\\:*?"<>|%~')
_LONGEST_STEM, _LONGEST_LABEL = 120, 80  # bytes; a name has at most 255, and the method and suffix need some
_DIGITS = 12  # of a digest

_Key: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # the folder, and the parts of the name


def stems_of(photos: Sequence[tuple[Path, PurePath]]) -> list[str]:
    """What the names of each photo's files begin with, below the folder of the results.

    That is the photo's name without suffix, in the same folders below the one that was given. Where two photos would
    meet, both keep their suffix, then the folder that they are in, then a digest of where they lie. The order of the
    photos does not matter.

    Args:
        photos: Each with its path relative to what the user named: the folder, or the file itself. No path twice.
    """
    levels = [0] * len(photos)
    while True:
        keys = [_key(path, relative, level) for (path, relative), level in zip(photos, levels, strict=True)]
        meeting = _meeting(keys)
        if not meeting:
            return ["/".join((*folder, ".".join(name))) for folder, name in keys]
        for i in meeting:
            levels[i] += 1


def stem_of(path: PurePath) -> str:
    """What the names of a single photo's files begin with: its name without suffix."""
    return ".".join(_key(Path(path), PurePath(path.name), 0)[1])


def parts_of(labels: Sequence[str]) -> list[str]:
    """The part of a file's name for each label of a photo, a number behind one that repeats."""
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        part = _encoded(label, _SPECIAL | {"."}, _LONGEST_LABEL)
        if part.casefold() in WORDS | METHODS.keys():
            part = f"%{ord(part[0]):02X}{part[1:]}"
        seen[part] = seen.get(part, 0) + 1
        found.append(part if seen[part] == 1 else f"{part}~{seen[part]}")
    return found


def _key(path: Path, relative: PurePath, level: int) -> _Key:
    """Where a photo's results go: by its name without suffix, with it, with its folder, and with a digest."""
    folder = tuple(part for part in relative.parent.parts if part not in {"/", "..", "."})
    if level == 2:
        folder = Path(os.path.abspath(path)).parent.parts[-1:] + folder
    name = relative.name if level else relative.stem
    digest = f"~{_digest(os.path.abspath(path))}" if level > 2 else ""
    stem = _encoded(name, _SPECIAL, _LONGEST_STEM) + digest
    return tuple(_encoded(part, _SPECIAL, _LONGEST_STEM) for part in folder), tuple(stem.split("."))


def _meeting(keys: Sequence[_Key]) -> list[int]:
    """The keys that are the beginning of another, or that another is the beginning of; without regard to case, as some
    file systems have none."""
    folded = [(tuple(map(str.casefold, folder)), tuple(map(str.casefold, name))) for folder, name in keys]
    order = sorted(range(len(keys)), key=lambda i: folded[i])
    found: set[int] = set()
    above: list[int] = []  # each the beginning of the next
    for i in order:
        while above and not _begins(folded[above[-1]], folded[i]):
            above.pop()
        if above:
            found |= {above[-1], i}
        above.append(i)
    return sorted(found)


def _begins(first: _Key, other: _Key) -> bool:
    return first[0] == other[0] and first[1] == other[1][: len(first[1])]


def _encoded(text: str, special: frozenset[str], longest: int) -> str:
    """A text as a part of a name: reversible, unless it is longer than that; then with a digest of all of it."""
    last = len(text) - 1
    part = "".join(
        _percent(c)
        if not c.isprintable() or c in special or (i in {0, last} and c in " .") or (i == 0 and c == "-")
        else c
        for i, c in enumerate(text)
    )
    if not part:
        return "%"  # which no other text becomes
    size = part.encode()
    if len(size) <= longest:
        return part
    return size[: longest - _DIGITS - 1].decode(errors="ignore") + "~" + _digest(text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
