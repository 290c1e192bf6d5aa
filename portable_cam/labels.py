# SPDX-License-Identifier: Apache-2.0
"""Names of classes."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from portable_cam import assets
from portable_cam.checked import checked
from portable_cam.errors import LabelError, TargetError
from portable_cam.spelling import option
from portable_cam.targets import Target
from portable_cam.ultralytics import read_ultralytics

# far more classes than any model has; a stray number in a file must not become a list of gigabytes
_MOST_CLASSES = 1_000_000

_RANKS = re.compile(r"top\d+", re.ASCII)

# a line of synset_words.txt, "n01440764 tench, Tinca tinca"
_WORDNET = re.compile(r"n\d{8}\s+(?=\S)")


@dataclass(frozen=True)
class Labels:
    """The names of a model's classes, by number. A name may list synonyms, separated by commas. ``guessed``: taken for
    the model's by the number of its classes."""

    names: tuple[str, ...]
    source: str = "the labels"
    guessed: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        """The first synonym of a class."""
        return self.names[index].split(",")[0].strip()

    def find(self, text: str) -> int:
        """The number of a class by its name: exactly, then without regard to case, then by one of its synonyms, then
        by whole words of one that no other class has. Underscores count as spaces, but for the exact name.

        Raises:
            LabelError: No class, or more than one, goes by that name; the message lists those, or close names.
        """
        wanted = _fold(text)
        if not wanted:
            raise LabelError("a class name is empty: give the name or number of a class")
        steps: tuple[Iterable[int], ...] = (
            (i for i, name in enumerate(self.names) if name == text),
            (i for i, parts in enumerate(self._synonyms) if ", ".join(parts) == wanted),
            (i for i, parts in enumerate(self._synonyms) if wanted in parts),
            (i for i, parts in enumerate(self._synonyms) if any(f" {wanted} " in f" {part} " for part in parts)),
        )
        for step in steps:
            found = list(step)
            if len(found) == 1:
                return found[0]
            if found:
                some = "; ".join(f"{i} ({self.names[i]})" for i in found[:6]) + (" …" if len(found) > 6 else "")
                raise LabelError(f"'{text}' may mean any of the classes {some}: give the number, or more of the name")
        known = {part for parts in self._synonyms for part in parts}
        close = difflib.get_close_matches(wanted, sorted(known), n=4)
        hint = f"close to it are: {', '.join(close)}" if close else "give the number of the class"
        raise LabelError(f"no class of {self.source} is called '{text}'; {hint}")

    def check(self, classes: int | None) -> Labels:
        """Itself, if it has a name for each class.

        Raises:
            LabelError: The numbers differ. The meaning of a further class (often a background class before the
                others) is not guessed: each name would be off by one, silently.
        """
        if classes is not None and classes != len(self.names):
            one = classes - len(self.names) == 1
            more = "; if the model's first class is a background class, add a first line for it" if one else ""
            raise LabelError(
                f"{self.source} names {len(self.names)} classes, but the model has {classes}: give the labels that "
                f"belong to the model{more}"
            )
        return self

    @staticmethod
    def default(classes: int | None, task: str = "classify") -> Labels | None:
        """The names that a model of a task with so many classes most likely has: ImageNet's for a classifier with 1000,
        the same behind "background" for one with 1001, as TensorFlow's have, COCO's for a detector with 80, Pascal
        VOC's for a segmentation with 21, else None."""
        usual = {
            ("classify", 1000): ("ImageNet", assets.imagenet_labels),
            ("detect", 80): ("COCO", assets.coco_labels),
            ("classify", 1001): ("ImageNet", assets.imagenet_labels),
            ("segment", 21): ("VOC", assets.voc_labels),
        }
        found = usual.get((task, classes or 0))
        if found is None:
            return None
        source, path = found
        known = read_labels(path()).names
        return Labels(("background", *known) if classes == 1001 else known, source, guessed=True)

    @cached_property
    def _synonyms(self) -> list[list[str]]:
        return [[_fold(part) for part in name.split(",")] for name in self.names]


def text_of(path: Path, what: str, formats: str) -> str:
    """The text of a file of ``what``, in one of these ``formats``.

    Raises:
        LabelError: The file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabelError(f"cannot read the {what} {path}: {reason}; give a UTF-8 {formats} file") from None


@checked
def read_labels(path: str | Path) -> Labels:
    """Read names from a file.

    By its suffix: ``.json``, a list of names or an object from numbers to names (also Keras's ``{"0": ["n01440764",
    "tench"]}``, and a Hugging Face config with ``id2label``); ``.csv``, rows of number and name; anything else is text
    with a name a line, with or without WordNet's number before it. A number without a name becomes ``class 12``.

    Raises:
        LabelError: The file cannot be read or is none of these.
    """
    path = Path(path)
    text = text_of(path, "labels", "text, JSON or CSV")
    readers = {".json": _from_json, ".csv": _from_csv}
    names = readers.get(path.suffix.lower(), _from_text)(text, path)
    if not any(names):
        raise LabelError(f"{path} holds no labels: put a name a line")
    return Labels(tuple(name or f"class {i}" for i, name in enumerate(names)), str(path))


def as_labels(given: Labels | str | Path | Sequence[str] | None, source: str = "the labels") -> Labels | None:
    """Labels as they are, from a file, or from a list of names.

    Raises:
        LabelError: The file cannot be read, or holds none.
    """
    if given is None or isinstance(given, Labels):
        return given
    return read_labels(given) if isinstance(given, str | Path) else Labels(tuple(given), source)


AnyLabels: TypeAlias = Labels | str | Path | Sequence[str] | None

#: Keys under which exporters write the names of the classes into a file's metadata.
_KEYS = ("labels", "classes", "class_names", "id2label", "categories", "character")


def labels_in(metadata: Mapping[str, str], classes: int | None) -> Labels | None:
    """The names of the classes in a model's metadata: JSON as a labels file has it, a name a line or between commas, or
    as Ultralytics writes them; None where there are none, or not one for each class."""
    file = read_ultralytics(metadata)
    if file is not None and file.names is not None and len(file.names) == classes:
        return Labels(file.names, "the metadata 'names'")
    for key in _KEYS:
        text = metadata.get(key, "").strip()
        try:
            names = _from_json(text, Path(key)) if text[:1] in {"[", "{"} else _between(text)
        except LabelError:
            continue
        if classes is not None and len(names) == classes > 1:
            return Labels(tuple(name or f"class {i}" for i, name in enumerate(names)), f"the metadata '{key}'")
    return None


def _between(text: str) -> list[str]:
    return [name.strip() for name in (text.splitlines() if "\n" in text else text.split(","))]


def _from_text(text: str, path: Path) -> list[str]:
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if names and all(_WORDNET.match(name) for name in names):
        return [_WORDNET.sub("", name, count=1) for name in names]
    return names


def _from_csv(text: str, path: Path) -> list[str]:
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if rows and not rows[0][0].strip().isdecimal():
        rows = rows[1:]  # the names of the columns
    wrong = next((row for row in rows if len(row) < 2 or not row[0].strip().isdecimal()), None)
    if wrong is not None:
        raise LabelError(f"{path}: the row {','.join(wrong)!r} is not a class number and a name")
    return _in_order([(row[0].strip(), row[1].strip()) for row in rows], path)


def _from_json(text: str, path: Path) -> list[str]:
    wanted = 'a list of names, or an object such as {"0": "tench"}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path} is not JSON ({error}): the labels are {wanted}") from None
    if isinstance(content, Mapping):
        content = content.get("id2label", content)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [name.strip() for name in content]
    if isinstance(content, Mapping) and all(key.strip().isdecimal() for key in content):
        return _in_order([(key, _keras(value, path)) for key, value in content.items()], path)
    raise LabelError(f"{path} does not hold labels: they are {wanted}")


def _keras(value: Any, path: Path) -> str:
    if isinstance(value, list) and len(value) == 2:
        value = value[1]
    if not isinstance(value, str):
        raise LabelError(f'{path}: {value!r} is not a class name, nor a pair such as ["n01440764", "tench"]')
    return value.strip()


def _in_order(pairs: Sequence[tuple[str, str]], path: Path) -> list[str]:
    numbered: dict[int, str] = {}
    for number, name in pairs:
        if len(number) > 7 or int(number) >= _MOST_CLASSES:
            raise LabelError(f"{path}: class number {number} is too large")
        if int(number) in numbered:
            raise LabelError(f"{path} names class {number} twice: keep one of the two")
        numbered[int(number)] = name
    return [numbered.get(i, "") for i in range(max(numbered, default=-1) + 1)]


def parse_targets(given: Any, labels: Labels | None) -> list[int] | None:
    """Targets as a user writes them: class numbers, names, ``top3``, several of them in a list or joined by commas.

    Returns:
        The class numbers, and -1 for the top class, -2 for the second, each once; None for None.

    Raises:
        LabelError: A name, but no labels, or no such name.
        TargetError: It is none of these.
    """
    if given is None:
        return None
    found = [number for part in _parts(given) for number in _numbers(part, labels)]
    if not found:
        raise TargetError(f"no target is given: leave out {option('targets')} for what the model finds")
    return list(dict.fromkeys(found))


def holds_names(given: Any) -> bool:
    """Whether targets are named, not numbered: text, or a list that holds some."""
    if isinstance(given, list | tuple):
        return any(map(holds_names, given))
    return isinstance(given, str) or (getattr(getattr(given, "dtype", None), "kind", "") in {"U", "O"})


def parse_rows(given: Any, labels: Labels | None, count: int) -> list[list[int]]:
    """Targets of several images, as :func:`parse_targets` takes them: text for all images alike, or a list with what
    is explained of each.

    Raises:
        LabelError, TargetError: As there, or the images have not equally many targets.
    """
    if isinstance(given, str):
        return [parse_targets(given, labels) or []] * count
    rows = [parse_targets(row, labels) or [] for row in given]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise TargetError(f"the images have {' and '.join(map(str, sorted(widths)))} targets: give as many for each")
    return rows


def _parts(given: Any) -> list[Any]:
    if isinstance(given, str):
        return given.split(",")
    if hasattr(given, "tolist"):  # of numpy or torch
        given = given.tolist()
    if isinstance(given, list | tuple):
        return list(given)
    return [given]


def _numbers(part: Any, labels: Labels | None) -> list[int]:
    """One number or name, or the ranks that ``top3`` is."""
    if isinstance(part, Target):
        raise TargetError(
            f"{type(part).__name__} says what kind of thing is explained: that is {option('target')} of the explainer; "
            f"{option('targets')} says which, as a class number or name"
        )
    if hasattr(part, "item") and getattr(part, "ndim", 1) == 0:
        part = part.item()
    if isinstance(part, int) and not isinstance(part, bool):
        if part < 0:
            raise TargetError(f"target {part} is negative: classes count from 0")
        return [part]
    if not isinstance(part, str):
        raise TargetError(f"a target is a class number or name, not {part!r}")
    text = part.strip()
    if text.isdecimal():
        return [int(text)]
    if _RANKS.fullmatch(text):
        if not 0 < int(text[3:]) <= _MOST_CLASSES:
            raise TargetError(f"{text}: at least 1 top class can be explained")
        return [-rank for rank in range(1, int(text[3:]) + 1)]
    if labels is None:
        raise LabelError(f"target '{part}' is a name, but the model's classes have no names: give {option('labels')}")
    return [labels.find(part)]


def _fold(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())
