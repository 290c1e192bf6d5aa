"""Names of classes."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable_cam import assets
from portable_cam.errors import LabelError


@dataclass(frozen=True)
class Labels:
    """The names of a model's classes, by number. A name may list synonyms, separated by commas."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        """The first synonym of a class."""
        return self.names[index].split(",")[0].strip()

    def find(self, text: str) -> int:
        """The number of a class by its name: exactly, then without regard to case, then one of its synonyms, then as
        an unambiguous beginning.

        Raises:
            LabelError: No class, or more than one, goes by that name; the message lists close ones.
        """
        wanted = text.strip().casefold().replace("_", " ")
        folded = [name.casefold().replace("_", " ") for name in self.names]
        synonyms = [[part.strip() for part in name.split(",")] for name in folded]
        tests = (
            lambda i: self.names[i] == text,
            lambda i: folded[i] == wanted,
            lambda i: wanted in synonyms[i],
            lambda i: any(part.startswith(wanted) for part in synonyms[i]),
        )
        for test in tests:
            found = [i for i in range(len(self.names)) if test(i)]
            if len(found) == 1:
                return found[0]
            if found:
                some = ", ".join(f"{i} ({self.names[i]})" for i in found[:6])
                raise LabelError(f"'{text}' may mean classes {some}: give the number, or more of the name")
        close = difflib.get_close_matches(wanted, [part for row in synonyms for part in row], n=4)
        raise LabelError(f"no class is called '{text}'" + (f"; near it: {', '.join(close)}" if close else ""))

    def check(self, classes: int | None) -> Labels:
        """Itself, if it has a name for each class; :class:`LabelError` otherwise."""
        if classes is not None and classes != len(self.names):
            more = " (one more than 1000: the first is often a background class)" if classes == 1001 else ""
            raise LabelError(f"the labels name {len(self.names)} classes, but the model has {classes}{more}")
        return self

    @staticmethod
    def default(classes: int | None) -> Labels | None:
        """ImageNet's names for a model with 1000 classes, else None."""
        return read_labels(assets.imagenet_labels()) if classes == 1000 else None


def read_labels(path: str | Path) -> Labels:
    """Read names from a text file (a name a line), a JSON list or object, or a CSV file (number, name).

    Raises:
        LabelError: The file cannot be read or is none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"cannot read the labels {path}: {error}") from None
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            names = _from_json(json.loads(text))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise LabelError(f"{path} is not a JSON list of names or an object from numbers to names: {error}") from None
    elif suffix == ".csv":
        rows = [row for row in csv.reader(text.splitlines()) if len(row) >= 2 and row[0].strip().isdigit()]
        names = _from_pairs({int(row[0]): row[1].strip() for row in rows})
    else:
        names = [line.strip() for line in text.splitlines()]
        while names and not names[-1]:
            names.pop()
    if not names:
        raise LabelError(f"{path} holds no labels")
    return Labels(tuple(names))


def _from_json(content: Any) -> list[str]:
    if isinstance(content, list):
        return [str(name) for name in content]
    # {"0": "tench"} or, as Keras has it, {"0": ["n01440764", "tench"]}
    return _from_pairs({int(k): v if isinstance(v, str) else str(v[1]) for k, v in content.items()})


def _from_pairs(pairs: dict[int, str]) -> list[str]:
    return [pairs.get(i, f"class {i}") for i in range(max(pairs, default=-1) + 1)]


def parse_targets(text: str | int | Sequence[int | str] | None, labels: Labels | None) -> list[int] | int | None:
    """What a user wrote as a target: class numbers or names, several joined by commas, ``top3``, or nothing.

    Returns:
        The class numbers; or minus k for ``topk``; or None for the top class.

    Raises:
        LabelError: A name, but no labels, or no such name.
    """
    if text is None:
        return None
    if isinstance(text, int):
        return [text]
    parts = text.split(",") if isinstance(text, str) else list(text)
    if len(parts) == 1 and isinstance(parts[0], str) and parts[0].startswith("top") and parts[0][3:].isdigit():
        return -int(parts[0][3:])
    numbers = []
    for part in parts:
        if isinstance(part, int) or part.strip().isdigit():
            numbers.append(int(part))
        elif labels is None:
            raise LabelError(f"target '{part}' is a name, but the model's classes have no names: give a labels file")
        else:
            numbers.append(labels.find(part))
    return numbers
