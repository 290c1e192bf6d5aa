# SPDX-License-Identifier: Apache-2.0
"""Checks that were made before, by model and options: they cost a few inferences and say little new on a second image.

They lie in ``portable_cam`` under the user's cache folder (``XDG_CACHE_HOME``, or ``~/.cache``), or in the folder that
the environment variable ``PORTABLE_CAM_CACHE`` names; if that is empty, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from functools import cache
from pathlib import Path

from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.read.whole_files import write_whole
from portable_cam.spelling import either
from portable_cam.verify.check import Check

ENVIRONMENT = "PORTABLE_CAM_CACHE"


def key_of(metadata: ExplanationMetadata) -> str:
    """The model's content, what is explained of it and how, the version of this package, and the code of its checks,
    which a checkout changes between versions."""
    chosen = {name: getattr(metadata.options, name) for name in Options.stored()}
    decided = [
        metadata.source_sha256,
        metadata.version,
        metadata.layer,
        metadata.target,
        metadata.scores,
        metadata.output,
        metadata.cut,
        metadata.as_is,
        metadata.axes,
        chosen,
        _code(),
        either("Python", "command line"),  # what a check says may name options
    ]
    return hashlib.sha256(json.dumps(decided, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _code() -> str:
    files = sorted(Path(__file__).parent.glob("check*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def read(key: str) -> tuple[Check, ...] | None:
    """The checks that were kept under this key; None where there are none, or none that can be read."""
    folder = _folder()
    if folder is None:
        return None
    try:
        found = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        return tuple(Check.from_dict(check) for check in found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(key: str, checks: tuple[Check, ...]) -> None:
    """Keep checks; where the folder cannot be written to, they are made again next time."""
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        write_whole(folder / f"{key}.json", json.dumps([check.to_dict() for check in checks]))


def _folder() -> Path | None:
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        return Path(named) / "checks" if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portable_cam" / "checks"
