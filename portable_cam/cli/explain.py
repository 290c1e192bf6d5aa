"""``portable-cam explain``: photos in, pictures and a line for each thing explained out, for every task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from portable_cam.cli.common import (
    METHODS_HELP,
    DeviceOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    OutputOption,
    PolicyOption,
    PrecisionOption,
    ProfileOption,
    SaturationOption,
    SignOption,
    err,
    names,
    numbers,
    out,
    print_json,
    size_of,
    warn,
)
from portable_cam.errors import ImageError, InputError

_TASKS = "Tasks"  # the heading in --help of what only some tasks take


def explain(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where results go.")] = Path("explained"),
    task: Annotated[str, typer.Option(help="classify, detect, segment, caption, vqa or ctc.")] = "classify",
    methods: Annotated[str | None, typer.Option(help=f"{METHODS_HELP} Default: what did best for the task.")] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "--why", help="Class number or NAME, several by comma, top3; a word of what is said."),
    ] = None,
    rather_than: Annotated[str | None, typer.Option(help="Class number or NAME: why the target and not this.")] = None,
    layer: LayerOption = None,
    output: OutputOption = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes or answers: txt, JSON or CSV.")] = None,
    preset: Annotated[str | None, typer.Option(help="imagenet, tf, caffe, unit, raw; yolox, yolo, nanodet …")] = None,
    mean: Annotated[str | None, typer.Option(help="One number per channel, by comma; after --scale.")] = None,
    std: Annotated[str | None, typer.Option(help="One number per channel, by comma.")] = None,
    scale: Annotated[float | None, typer.Option(help="Pixels 0 to 255 times this, as 0.00392157.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb, bgr or gray.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, where the model leaves it open.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, shortest+crop or letterbox.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="SCALE,ZERO_POINT of an integer input, if the values are those it stands for.")
    ] = None,
    profile: ProfileOption = "paper",
    relu_policy: PolicyOption = "relu",
    saturation: SaturationOption = "pass",
    precision: PrecisionOption = "model",
    sign: SignOption = "positive",
    device: DeviceOption = "cpu",
    class_set: Annotated[
        list[str] | None,
        typer.Option("--set", help="classify: a set of classes, NAME=CLASS,CLASS …", rich_help_panel=_TASKS),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="detect, segment: left,top,right,bottom in the photo.", rich_help_panel=_TASKS)
    ] = None,
    pixel: Annotated[str | None, typer.Option(help="segment: column,row.", rich_help_panel=_TASKS)] = None,
    mask: Annotated[
        Path | None, typer.Option(help="segment: a picture, not black where it counts.", rich_help_panel=_TASKS)
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="detect: JSON that says what the outputs mean.", rich_help_panel=_TASKS)
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="detect: product, class, objectness, left, top, right or bottom.", rich_help_panel=_TASKS),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="detect: the least score of a box.", rich_help_panel=_TASKS)
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="caption: the decoder, where MODEL is the encoder.", rich_help_panel=_TASKS)
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="caption, vqa, ctc: words or characters, one a line, or JSON.", rich_help_panel=_TASKS),
    ] = None,
    question: Annotated[str | None, typer.Option(help="vqa: what is asked.", rich_help_panel=_TASKS)] = None,
    caption: Annotated[
        str | None, typer.Option(help="caption: what the model is made to say.", rich_help_panel=_TASKS)
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: png, npy, json.")] = "png",
    as_json: JsonOption = False,
) -> None:
    """Explain photos: writes maps, prints a line for each class, box or region explained."""
    from portable_cam.image.decode import expand_images
    from portable_cam.report.write import check_formats, unique_stems
    from portable_cam.tasks.registry import job_for

    chosen = check_formats(formats)
    given = {
        "preset": preset,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
        "scale": scale,
        "color": color,
        "size": size_of(size),
        "resize": resize,
        "quantization": numbers("--quantization", quantization, 2),
    }
    options = {
        "layer": layer,
        "output": output,
        "profile": profile,
        "relu_policy": relu_policy,
        "saturation": saturation,
        "precision": precision,
        "sign": sign,
        "device": device,
    }
    own = {
        "labels": labels,
        "rather_than": rather_than,
        "sets": _sets(class_set),
        "head": head,
        "part": part,
        "threshold": threshold,
        "region": numbers("--region", region, 4),
        "pixel": numbers("--pixel", pixel, 2),
        "mask": mask,
        "decoder": decoder,
        "vocabulary": vocabulary,
        "question": question,
        "caption": caption,
    }
    job = job_for(
        task,
        model,
        None if methods is None else names(methods),
        {k: v for k, v in given.items() if v is not None},
        target,
        options,
        own,
    )
    prepared = job.preprocessing
    err.print(f"preprocessing: {prepared.describe()}", highlight=False, markup=False)
    if prepared.guessed:
        warn(f"guessed: {', '.join(prepared.guessed)}; say what the model expects with --preset, or a JSON beside it")
    for note in job.notes:
        err.print(f"note: {note}", highlight=False, markup=False)
    paths = expand_images(images)
    failed, records, stems = 0, [], unique_stems(paths)
    for path, stem in track(
        list(zip(paths, stems, strict=True)), "explaining", console=err, transient=True, disable=len(paths) < 2
    ):
        try:
            written = job.run(path, folder, stem, chosen)
        except (ImageError, InputError) as error:  # one bad picture does not stop the others
            failed += 1
            named = "" if str(path) in str(error) else f"{path}: "
            err.print(f"error: {named}{error}", style="red", highlight=False, markup=False)
            continue
        record = {"image": str(path), **written}
        records.append(record)
        if not as_json:
            if "said" in record:
                out.print(f"{path.name}: {record['said']}", highlight=False, markup=False)
            for line in record["explained"]:
                out.print(f"{path.name}: {describe(line)}", highlight=False, markup=False)
    if as_json:
        print_json(
            {
                "model": str(model),
                "preprocessing": prepared.to_json(),
                "layer": job.explainer.layer,
                "images": records,
                "failed": failed,
            }
        )
    elif records:
        err.print(f"written to {folder}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)


def describe(line: dict[str, Any]) -> str:
    """One thing explained, for a person: its label and score, and where it is."""
    from portable_cam.report.wording import how_much, number, part_explained

    flags = f" [{', '.join(line['flags'])}]" if line["flags"] else ""
    class_number = line.get("class", line.get("target"))
    label = line["label"] if class_number is None else f"{line['label']} ({class_number})"
    if "box" in line:
        box = ", ".join(f"{edge:.0f}" for edge in line["box"])
        return f"{label} {number(line['detection'])} at {box}{part_explained(line)}{flags}"
    said = how_much(line) if {"share", "probability"} & set(line) else number(line["score"])
    return f"{label} {said}{flags}"


def _sets(given: list[str] | None) -> dict[str, list[str]] | None:
    """NAME=CLASS,CLASS to members by name."""
    if not given:
        return None
    found = {}
    for text in given:
        name, equals, members = text.partition("=")
        if not equals or not name.strip() or not names(members):
            raise typer.BadParameter(f"--set is NAME=CLASS,CLASS …, not {text!r}")
        found[name.strip()] = list(names(members))
    return found
