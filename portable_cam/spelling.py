# SPDX-License-Identifier: Apache-2.0
"""What a message calls an option: ``output=`` in Python, ``--output`` on the command line.

Messages are worded where they arise, far below both. They name an option by :func:`option` and a command by
:func:`command`; the command line says once that it is what runs (:func:`on_command_line`). ``tests/test_spelling.py``
finds messages that do without. This module imports nothing of the project, as :mod:`portable_cam.errors`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_ON_COMMAND_LINE: ContextVar[bool] = ContextVar("on_command_line", default=False)

#: Flags that are not called as the option is in Python.
FLAGS = {"targets": "target", "sets": "set", "preprocessing": "preset"}
#: What the commands are in Python.
FUNCTIONS = {
    "layers": "portable_cam.export.list_layers(model)",
    "doctor": "portable_cam.export.doctor(model)",
    "export": "portable_cam.export.save_explanation(model, path)",
}
_OPEN = object()


@contextmanager
def on_command_line() -> Iterator[None]:
    """Messages that arise meanwhile are for a user of the command line."""
    token = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(token)


def either(python: str, command_line: str) -> str:
    """The one text or the other, for where a name is not all that differs."""
    return command_line if _ON_COMMAND_LINE.get() else python


def option(name: str, value: Any = _OPEN) -> str:
    """An option, as ``output=`` or ``--output``; with a value as ``axes={'x': 'NCHW'}`` or ``--axes x=NCHW``.

    Args:
        name: Its name in Python.
        value: What it is to be set to.
    """
    if not _ON_COMMAND_LINE.get():
        return f"{name}=" if value is _OPEN else f"{name}={value!r}"
    flag = f"--{FLAGS.get(name, name).replace('_', '-')}"
    if value is _OPEN or value is True:
        return flag
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {shlex.quote(f'{key}={one}')}" for key, one in value.items())
    return f"{flag} {shlex.quote(str(value))}"


def by_arrays() -> str:
    """The way out where a photo cannot become all that a model takes."""
    return either(
        "give its arrays to portable_cam.Explainer", "from Python it can be explained, on arrays that you prepare"
    )


def installing(extra: str) -> str:
    """How the project is installed with one of its extras: from its sources, as it is on no package index yet."""
    return f'pip install ".[{extra}]" in a checkout of portable_cam'


def command(name: str) -> str:
    """A command as a user types it, or the function that does the same: ``portable-cam layers MODEL``."""
    return either(FUNCTIONS[name], f"portable-cam {name} MODEL")
