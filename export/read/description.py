"""How a model is to be read and explained, as JSON: ``model.explain.json`` beside it, or inside its metadata.

What the graph does not tell, and what a person corrected, stands there: task, input, scores, labels, head, layer. Its
form is a published JSON Schema, ``explain.schema.json`` beside this module. ``docs/models.md`` says how one is drafted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from portable_cam.errors import OptionError

#: Where a model's ``metadata_props`` may hold it.
METADATA_KEY = "portable_cam.description"
_SUFFIX = ".explain.json"
_MAX_BYTES = 1 << 24  # names of a million classes
#: Keys that are options of single tasks, by the same names.
_OF_TASKS = ("labels", "head", "channels", "threshold", "vocabulary", "blank")
_FILES = ("labels", "vocabulary")


@dataclass(frozen=True)
class Description:
    """What is said of a model; empty where nothing is.

    Attributes:
        content: The JSON object, as the schema says.
        source: Where it was read from, for messages.
        folder: Where the files that it names lie; None where it has no folder.
    """

    content: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    folder: Path | None = None

    def __post_init__(self) -> None:
        found = next(iter(_validator().iter_errors(dict(self.content))), None)
        if found is not None:
            where = "/".join(map(str, found.absolute_path)) or "the whole"
            raise OptionError(f"{self.source or 'the description'}: {where}: {found.message[:300]}")

    @classmethod
    def parse(cls, text: str, source: str, folder: Path | None = None) -> Description:
        """From text.

        Raises:
            OptionError: It is no JSON object, or not what the schema asks for.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{source} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise OptionError(f"{source} is not a JSON object")
        return cls(content, source, folder)

    @classmethod
    def of(cls, path: Path | None, metadata: Mapping[str, str]) -> Description:
        """The one beside a model's file, else that in its metadata, else an empty one.

        Raises:
            OptionError: It cannot be read, or is not what the schema asks for.
        """
        beside = None if path is None else description_path(path)
        if beside is not None and beside.is_file():
            try:
                if beside.stat().st_size > _MAX_BYTES:
                    raise OptionError(f"{beside} is too large for a description of a model")
                return cls.parse(beside.read_text(encoding="utf-8-sig"), str(beside), beside.parent)
            except (OSError, UnicodeDecodeError) as error:
                raise OptionError(f"cannot read {beside}: {error}") from None
        if METADATA_KEY in metadata:
            return cls.parse(metadata[METADATA_KEY], f"the model's metadata {METADATA_KEY}")
        return cls()

    @property
    def task(self) -> str | None:
        """The task that the model does, if it is said."""
        return self.content.get("task")

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How a photo becomes the input, if it is said."""
        found: Mapping[str, Any] | None = self.content.get("input", {}).get("preprocessing")
        return found

    @property
    def methods(self) -> tuple[str, ...] | None:
        """The methods where a user names none."""
        return tuple(self.content["methods"]) if "methods" in self.content else None

    @property
    def options(self) -> dict[str, Any]:
        """What it says of an explanation's options, by their names: output, as_is, layer, axes and others."""
        given, image = self.content, self.content.get("input", {})
        axes = dict(given.get("axes", {}))
        if "axes" in image:
            if "name" not in image:
                raise OptionError(f"{self.source}: input has axes, but no name")
            axes[image["name"]] = image["axes"]
        found = {
            **given.get("options", {}),
            **given.get("scores", {}),
            "axes": axes or None,
            "layer": given.get("layer"),
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def task_options(self) -> dict[str, Any]:
        """What it says of the options of single tasks, by their names; files as paths."""
        found = {name: self.content[name] for name in _OF_TASKS if name in self.content}
        for name in _FILES:
            if isinstance(found.get(name), str):
                if self.folder is None:
                    raise OptionError(f"{self.source} names a file of {name}, but is in no folder: list them")
                found[name] = self.folder / found[name]
        return found


def description_path(model: Path) -> Path:
    """``model.explain.json`` beside ``model.onnx``."""
    return model.with_name(model.stem + _SUFFIX)


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a description."""
    content: dict[str, Any] = json.loads(
        files("portable_cam.export.read").joinpath("explain.schema.json").read_text(encoding="utf-8")
    )
    return content


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())
