# SPDX-License-Identifier: Apache-2.0
"""What a program that runs a file needs to know of it, as JSON: in the file's metadata, and beside it.

ONNX Runtime for Node and for the web show no metadata, so that the JSON beside the file is all that a page has. Its
form is a published JSON Schema, ``explainer.schema.json`` beside this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.operators import ONNX_DOMAINS

#: Where a file's ``metadata_props`` holds it.
METADATA_KEY = "portable_cam.explainer"
_CHECK = "portable_cam.self_check"


def describe_file(
    model: ir.Model,
    *,
    task: str,
    preprocessing: Mapping[str, Any] | None,
    labels: Sequence[str] | None,
    labels_guessed: bool = False,
) -> dict[str, Any]:
    """The content of ``explainer.json``.

    Args:
        model: The finished file.
        task: What the model does.
        preprocessing: How a photo becomes its input; None where that is not known, or done in the file.
        labels: The names of the classes, by number.
        labels_guessed: They are taken for the model's by their number.
    """
    known = ExplanationMetadata.read(model.metadata_props)
    runtime = known.runtime or {}
    opset = next(version for domain, version in model.graph.opset_imports.items() if domain in ONNX_DOMAINS)
    return {
        "version": 1,
        "library": known.version,
        "source_sha256": known.source_sha256,
        "task": task,
        "methods": list(known.options.methods),
        "layer": known.layer,
        "target": known.target,
        "runtime": {
            "name": runtime.get("name"),
            "least": runtime.get("least"),
            "notes": list(runtime.get("notes", ())),
            "opset": opset,
            "ir_version": model.ir_version,
        },
        "inputs": [{**_tensor(value), "optional": value.is_initializer()} for value in model.graph.inputs],
        "outputs": [_tensor(value) for value in model.graph.outputs],
        "names": known.plain or {},
        "ranked": bool(known.ranked),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "labels": None if labels is None else list(labels),
        "labels_guessed": labels_guessed,
        "checks": json.loads(model.metadata_props[_CHECK]) if _CHECK in model.metadata_props else None,
    }


def _tensor(value: ir.Value) -> dict[str, Any]:
    dims = value.shape.dims if value.shape is not None else ()
    shape = [d if isinstance(d, int) else d.value for d in dims]
    return {"name": value.name, "type": None if value.dtype is None else value.dtype.name.lower(), "shape": shape}


def about_path(file: Path) -> Path:
    """Where the JSON of a file lies."""
    return file.with_name(f"{file.stem}.explainer.json")
