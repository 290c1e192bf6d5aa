# SPDX-License-Identifier: Apache-2.0
"""What was asked for, as plain data: written into the folder of results, and read by every worker on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import onnx

import portable_cam.batch.inputs as lists
from portable_cam.batch.layout import Layout, as_json, put, put_if_absent
from portable_cam.batch.maps import StoredSize, StoredType
from portable_cam.errors import OptionError
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel
from portable_cam.export.read.load import fingerprint
from portable_cam.image.preprocess import Preprocessing
from portable_cam.labels import Labels
from portable_cam.spelling import option
from portable_cam.tasks.api import Made, explainer_for

#: Of the folder's form.
VERSION = 1
OVERLAYS = ("jpg", "webp", "png")


@dataclass(frozen=True)
class Job:
    """What is explained, and what is kept of it.

    Attributes:
        model: The path of its file.
        sha256: Of the model.
        task: As for :func:`~portable_cam.tasks.api.explain`, as are the next ones.
        methods: See ``task``.
        targets: See ``task``.
        preprocessing: See ``task``.
        options: See ``task``; ``threads`` is 1 where it is not given.
        maps: At which size they are stored; see :data:`~portable_cam.batch.maps.StoredSize`.
        dtype: ``float16`` or ``uint8``.
        overlays: The format of pictures of each target and method, or None.
        overlay_size: The longer side of these in pixels, at most.
        shard_size: Inputs in a shard.
        inputs: How many inputs there are.
        digest: Of their list.
    """

    model: str
    sha256: str
    task: str | None = None
    methods: list[str] | None = None
    targets: Any = None
    preprocessing: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    maps: StoredSize = "layer"
    dtype: StoredType = "float16"
    overlays: str | None = None
    overlay_size: int = 1024
    shard_size: int = 256
    inputs: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("maps", get_args(StoredSize)), ("dtype", get_args(StoredType))):
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.overlays is not None and self.overlays not in OVERLAYS:
            raise OptionError(f"overlays are {', '.join(OVERLAYS)}, not {self.overlays!r}")
        for name in ("shard_size", "overlay_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is at least 1, not {getattr(self, name)}")

    def explainer(self) -> Made:
        """What explains the images.

        Raises:
            Error: As :func:`~portable_cam.tasks.api.explain`; OptionError where the file holds another model now.
        """
        if fingerprint(self.model) != self.sha256:
            raise OptionError(
                f"{self.model} is another file than the one this folder was begun with: put it back, or "
                "begin another folder"
            )
        options = {"threads": 1, **self.options}
        return explainer_for(self.model, self.methods, task=self.task, preprocessing=self.preprocessing, **options)

    @classmethod
    def read(cls, layout: Layout) -> Job:
        """From a folder of results.

        Raises:
            OptionError: It is none.
        """
        try:
            content = json.loads(layout.job.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(
                f"{layout.root} is no folder of results ({error}): give the one named with {option('out')}"
            ) from None
        names = [f.name for f in fields(cls)]
        if content.get("version") != VERSION or not set(names) <= set(content):
            raise OptionError(f"{layout.root} was written by another version of this package: begin another folder")
        return cls(**{name: content[name] for name in names})

    def begin(self, layout: Layout) -> None:
        """Write the job into the folder, or go on with what is there.

        Raises:
            OptionError: The folder was begun with another model, other options or other inputs.
        """
        there = put_if_absent(layout.job, as_json({"version": VERSION, **asdict(self)}))
        before, now = json.loads(there), json.loads(as_json({"version": VERSION, **asdict(self)}))
        differing = [name for name in now if name != "model" and before.get(name) != now[name]]
        if "digest" in differing:
            raise OptionError(
                f"{layout.root} was begun with {before['inputs']} inputs, and these are {self.inputs}, or others: give "
                "the same inputs, or another folder"
            )
        if differing:
            name = differing[0]
            raise OptionError(
                f"{layout.root} was begun with {_said(name, before.get(name), now[name])}: give the same model and "
                "options, or another folder"
            )
        if before["model"] != now["model"]:
            put(layout.job, as_json({"version": VERSION, **asdict(self)}))  # the same file, at another place


def _said(name: str, before: Any, now: Any) -> str:
    if name == "sha256":
        return "another model"
    if isinstance(before, dict) and isinstance(now, dict):
        inner = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return _said(inner, before.get(inner), now.get(inner))
    return f"{name} {before!r}, not {now!r}"


def plain(value: Any, name: str) -> Any:
    """A value of an option as JSON has it.

    Raises:
        OptionError: It cannot be written down.
    """
    if isinstance(value, Preprocessing):
        return value.to_json()
    if isinstance(value, Labels):
        return list(value.names)
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {str(key): plain(inner, name) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner, name) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise OptionError(
        f"{name} is a {type(value).__name__}, which other processes and later runs cannot be told: give text, numbers, "
        "lists, or the path of a file"
    )


def model_file(model: AnyModel, layout: Layout) -> Path:
    """The model as a file that workers read; one that is none is written into the folder."""
    source: Any = model.source if isinstance(model, NormalizedModel) else model
    if isinstance(source, str | Path):
        return Path(source).absolute()
    path = layout.root / "model.onnx"
    if isinstance(source, bytes):
        put(path, source)
    elif isinstance(source, onnx.ModelProto):
        put(path, source.SerializeToString(deterministic=True))
    else:
        raise OptionError("a batch takes the path of a model, its bytes or an onnx.ModelProto: other processes read it")
    return path


def write_inputs(layout: Layout, found: Any, shard_size: int) -> tuple[int, str]:
    """Write the list of inputs, unless it is there; how many they are, and their digest."""
    if not layout.inputs.exists():
        put_if_absent(layout.inputs, lists.to_parquet(found, shard_size))
    return len(found), lists.digest(found)
