"""``portable-cam export``: the portable explainer, one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portable_cam.cli.common import (
    ChannelsOption,
    HeadOption,
    ModelArgument,
    SizeOption,
    TaskOption,
    note,
    say,
    takes_options,
)
from portable_cam.cli.policy import with_policy
from portable_cam.cli.reading import read_model
from portable_cam.errors import OptionError

if TYPE_CHECKING:
    from portable_cam.export.options import Options


@takes_options
def run(
    model: ModelArgument,
    target_file: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    task: TaskOption = None,
    size: SizeOption = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    single_target: Annotated[bool, typer.Option(help="One target per image; no loop operator in the file.")] = False,
    check: Annotated[bool, typer.Option(help="Let the graph prove itself, and say so in its metadata.")] = True,
    *,
    options: dict[str, Any],
) -> None:
    """The portable explainer: one ONNX file that any ONNX Runtime runs. Exit status 1 if it fails its own check."""
    from portable_cam.export.assemble.explanation import explanation_model
    from portable_cam.export.deploy.strip_shapes import strip_inner_shapes
    from portable_cam.export.options import Options
    from portable_cam.export.read.description import METADATA_KEY, description_path
    from portable_cam.export.read.weights import save_model
    from portable_cam.tasks.draft import draft, write_description
    from portable_cam.tasks.preprocessing import known_preprocessing
    from portable_cam.tasks.recognize import recognize
    from portable_cam.verify.selfcheck import record, self_check

    if target_file.is_dir():
        raise OptionError(f"-o {target_file} is a folder: name the file to write in it, as explainer.onnx")
    known = read_model(model, axes=options.get("axes"), size=size, head=head, channels=channels)
    asked = (task, options.get("output"), options.get("row"))
    target = recognize(known, *asked)[1]
    options = with_policy(known, task, options.get("methods"), options)
    chosen = Options.of(known.described({**options, "target": target}))
    built = explanation_model(
        known, chosen, targets_per_image=1 if single_target else None, preprocessing=known_preprocessing(known)
    )
    strip_inner_shapes(built)
    content = draft(known, *asked) | _choices(chosen, built.metadata_props)
    built.metadata_props[METADATA_KEY] = json.dumps(content)
    if check:
        proof = self_check(known, built, chosen)
        record(built, proof)
        note(f"self-check: {proof.describe()}")
    written = save_model(built, target_file)
    write_description(content, description_path(target_file))
    files, megabytes = " and ".join(map(str, written)), sum(file.stat().st_size for file in written) / 1e6
    inputs, outputs = (", ".join(str(v.name) for v in side) for side in (built.graph.inputs, built.graph.outputs))
    say(f"{files}: {megabytes:.1f} MB, inputs {inputs}, outputs {outputs}")
    if check and not proof.passed:
        raise typer.Exit(1)


def _choices(chosen: Options, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file explains and how, as its description says it: who explains the model inside again gets the same."""
    from dataclasses import fields

    named = {field.name: getattr(chosen, field.name) for field in fields(chosen) if field.metadata.get("allowed")}
    defaults = {field.name: field.default for field in fields(chosen)}
    options = {name: value for name, value in named.items() if value != defaults[name]}
    layers = json.loads(metadata.get("portable_cam.layer", "[]"))
    found = {"methods": list(chosen.methods), "layer": layers, "options": options}
    return {name: value for name, value in found.items() if value}
