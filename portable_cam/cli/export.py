"""``portable-cam export``: the portable explainer, one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
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
    warn,
)
from portable_cam.cli.policy import with_policy
from portable_cam.cli.reading import read_model
from portable_cam.errors import OptionError

if TYPE_CHECKING:
    import onnx_ir as ir

    from portable_cam.export.options import Options
    from portable_cam.tasks.surroundings import Surroundings


@takes_options
def run(
    model: ModelArgument,
    target_file: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    task: TaskOption = None,
    size: SizeOption = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--for", help="onnxruntime, web, openvino, opencv, tract, tensorrt, coreml or mobile: where it is to run."
        ),
    ] = "onnxruntime",
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="From the decoded photo to the overlay, in the file.")
    ] = False,
    targets: Annotated[int, typer.Option(help="How many targets per image the file takes.")] = 1,
    any_targets: Annotated[bool, typer.Option("--any-targets", help="Any number of targets, by a loop.")] = False,
    batch: Annotated[
        str | None, typer.Option(help="How many images at a time, or any; by default what suits the runtime.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of the file, 18 to 21; by default the lowest that the graph needs.")
    ] = None,
    names: Annotated[
        str, typer.Option(help="dotted, or plain: outputs named by letters, digits and underscores alone.")
    ] = "dotted",
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or ort: the format of ONNX Runtime's reduced builds.")
    ] = "onnx",
    preset: Annotated[
        str | None, typer.Option(help="How photos are prepared: imagenet, tf, caffe, unit, raw, yolox …")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="A file with the names of the classes.")] = None,
    check: Annotated[bool, typer.Option(help="Let the graph prove itself, and say so in its metadata.")] = True,
    *,
    options: dict[str, Any],
) -> None:
    """The portable explainer: one ONNX file for a runtime. Exit status 1 if it fails its own check."""
    from portable_cam.export.assemble.files import deployed
    from portable_cam.export.deploy.about import METADATA_KEY as ABOUT_KEY
    from portable_cam.export.deploy.about import about_path, describe_file
    from portable_cam.export.deploy.deployment import Deployment, rename_plainly
    from portable_cam.export.format import ExplanationMetadata
    from portable_cam.export.options import Options
    from portable_cam.export.read.description import METADATA_KEY, description_path
    from portable_cam.export.read.weights import save_model
    from portable_cam.runtime.ort_format import save_ort
    from portable_cam.tasks.draft import draft, write_description
    from portable_cam.tasks.recognize import recognize
    from portable_cam.tasks.surroundings import surroundings
    from portable_cam.verify.selfcheck import record, self_check

    if target_file.is_dir():
        raise OptionError(f"-o {target_file} is a folder: name the file to write in it, as explainer.onnx")
    if file_format not in {"onnx", "ort"}:
        raise OptionError(f"--format is onnx or ort, not {file_format!r}")
    count = None if any_targets else targets
    deployment = Deployment(runtime, count, _images(batch), opset, names, end_to_end)  # type: ignore[arg-type]
    known = read_model(model, axes=options.get("axes"), size=size, head=head, channels=channels)
    asked = (task, options.get("output"), options.get("row"))
    found, target = recognize(known, *asked)
    options = with_policy(known, found, options.get("methods"), options)
    around = surroundings(known, found, target, preset=preset, labels=labels)
    prepared = None if around.preprocessing is None else around.preprocessing.to_json()
    chosen = Options.of(known.described({**options, "target": target}))
    built = deployed(
        known, chosen, replace(deployment, names="dotted"), None if prepared is None else json.dumps(prepared)
    )
    content = draft(known, *asked) | _choices(chosen, built.metadata_props)
    if chosen.as_is:
        content["scores"] = {**content.get("scores", {}), "as_is": True}
    if preset is not None and prepared is not None:  # what was asked for, not what would be assumed
        content["input"]["preprocessing"] = prepared
    if labels is not None and around.labels is not None:
        content["labels"] = list(around.labels.names)
    built.metadata_props[METADATA_KEY] = json.dumps(content)
    proof = self_check(known, built, chosen) if check else None
    if proof is not None:
        record(built, proof)
        note(f"self-check: {proof.describe()}")
    if end_to_end:
        _take_photos(built, around, optional=deployment.wanted.defaults)
    if deployment.names == "plain":
        rename_plainly(built)
    about = describe_file(
        built,
        task=found,
        preprocessing=None if end_to_end else prepared,
        labels=None if around.labels is None else around.labels.names,
        labels_guessed=around.labels is not None and around.labels.guessed,
    )
    built.metadata_props[ABOUT_KEY] = json.dumps(about)
    written = save_ort(built, target_file) if file_format == "ort" else save_model(built, target_file)
    write_description(content, description_path(target_file))
    write_description(about, about_path(target_file))
    files, megabytes = " and ".join(map(str, written)), sum(file.stat().st_size for file in written) / 1e6
    inputs, outputs = (", ".join(str(v.name) for v in side) for side in (built.graph.inputs, built.graph.outputs))
    say(
        f"{files}: {megabytes:.1f} MB, for {deployment.wanted.title} from {deployment.wanted.least} on, opset "
        f"{built.graph.opset_imports['']}, inputs {inputs}, outputs {outputs}"
    )
    for line in (ExplanationMetadata.read(built.metadata_props).runtime or {})["notes"]:
        warn(f"{deployment.wanted.title}: {line}")
    if proof is not None and not proof.passed:
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


def _take_photos(built: ir.Model, around: Surroundings, *, optional: bool) -> None:
    """Make the file take a photo and give the overlay."""
    from portable_cam.export.deploy.end_to_end.wrap import take_photos
    from portable_cam.export.format import ExplanationMetadata
    from portable_cam.tasks.surroundings import colors, photo_input

    prepared = around.preprocessing
    if prepared is None:
        raise OptionError("the model's input is no photo: leave out --end-to-end")
    if prepared.guessed:
        warn(f"guessed: {', '.join(prepared.guessed)}; say what the model expects with --preset, or a JSON beside it")
    note(f"preprocessing: {prepared.describe()}")
    metadata = ExplanationMetadata.read(built.metadata_props)
    take_photos(built, metadata, photo_input(prepared), colors(), classes=around.classes, optional=optional)


def _images(text: str | None) -> Any:
    """A number of images, or ``any``."""
    if text is None or text == "any":
        return text
    if not text.isdigit():
        raise OptionError(f"--batch is a number of images, or any, not {text!r}")
    return int(text)
