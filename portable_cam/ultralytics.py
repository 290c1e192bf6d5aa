# SPDX-License-Identifier: Apache-2.0
"""What Ultralytics' exporter writes into a file's metadata: the task, the names of the classes, the size, key points.

The values are Python literals as text. They come with the file and are not trusted: they are parsed as literals, and
what they say is held against the graph.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 1_000_000  # characters: names of far more classes than any detector has
_TASKS = frozenset({"detect", "segment", "pose", "obb", "classify"})


@dataclass(frozen=True)
class Ultralytics:
    """What the metadata says; None for what it does not.

    Attributes:
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        names: Of the classes, by number.
        size: Height and width of the input.
        key_points: How many numbers the key points of a box have.
        family: The first words of the description, as "Ultralytics YOLO11n model".
    """

    task: str | None = None
    names: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    key_points: int | None = None
    family: str = ""


def read_ultralytics(metadata: Mapping[str, str]) -> Ultralytics | None:
    """From ``metadata_props``; None where they are not Ultralytics'. A value that is not what it should be counts as
    not there."""
    task = metadata.get("task")
    names = _names(_literal(metadata.get("names")))
    if task not in _TASKS and names is None:
        return None
    shape = _whole_numbers(_literal(metadata.get("kpt_shape")))
    size = _whole_numbers(_literal(metadata.get("imgsz")))
    return Ultralytics(
        task=task if task in _TASKS else None,
        names=names,
        size=(size[0], size[1]) if size is not None and len(size) == 2 else None,
        key_points=shape[0] * shape[1] if shape is not None and len(shape) == 2 else None,
        family=metadata.get("description", "")[:80],
    )


def _literal(text: str | None) -> Any:
    if text is None or len(text) > _MOST:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _names(found: Any) -> tuple[str, ...] | None:
    """From ``{0: 'person', 1: 'bicycle'}`` or a list."""
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    if not isinstance(found, dict) or sorted(found, key=str) != sorted(range(len(found)), key=str) or not found:
        return None
    names = tuple(found[i] for i in range(len(found)))
    return names if all(isinstance(name, str) for name in names) else None


def _whole_numbers(found: Any) -> list[int] | None:
    if not isinstance(found, list | tuple) or not all(type(n) is int and 0 < n < 2**16 for n in found):
        return None
    return list(found)
