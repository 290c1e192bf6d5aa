"""``portable-cam explain``: photos in, maps and a line for each target out, for every task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from portable_cam.cli.common import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    SizeOption,
    TaskOption,
    err,
    fail,
    names,
    note,
    numbers,
    print_json,
    say,
    size_of,
    takes_options,
    warn,
)
from portable_cam.errors import ImageError, InputError

_TASKS = "Tasks"  # the heading in --help of what only some tasks take


@takes_options
def run(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where results go.")] = Path("explained"),
    task: TaskOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "--why", help="Class number or NAME, several by comma, top3; a word of the text."),
    ] = None,
    rather_than: Annotated[str | None, typer.Option(help="Class number or NAME: why the target and not this.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes or answers: txt, JSON or CSV.")] = None,
    preset: Annotated[str | None, typer.Option(help="imagenet, tf, caffe, unit, raw; yolox, yolo, nanodet …")] = None,
    mean: Annotated[str | None, typer.Option(help="One number per channel, by comma; after --scale.")] = None,
    std: Annotated[str | None, typer.Option(help="One number per channel, by comma.")] = None,
    scale: Annotated[float | None, typer.Option(help="Pixels 0 to 255 times this, as 0.00392157.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb, bgr or gray.")] = None,
    size: SizeOption = None,
    resize: Annotated[str | None, typer.Option(help="stretch, shortest+crop or letterbox.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="SCALE,ZERO_POINT of an integer input, if the values are the dequantised ones.")
    ] = None,
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
        float | None,
        typer.Option(
            help="detect: the least score of a box; segment: the least probability, for classes with a sigmoid each.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="caption: the decoder, where MODEL is the encoder.", rich_help_panel=_TASKS)
    ] = None,
    blank: Annotated[
        int | None,
        typer.Option(help="ctc: the class of the blank, as 0 for the first, -1 for the last.", rich_help_panel=_TASKS),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="caption, vqa, ctc: words or characters, one a line, or JSON.", rich_help_panel=_TASKS),
    ] = None,
    question: Annotated[str | None, typer.Option(help="vqa: what is asked.", rich_help_panel=_TASKS)] = None,
    caption: Annotated[
        str | None, typer.Option(help="caption: the text to explain, not the model's own.", rich_help_panel=_TASKS)
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="For an image and a method of many passes: a time as 10s, or a number of passes.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: png, npy, json.")] = "png",
    check: Annotated[
        bool, typer.Option(help="Check the first explanation, unless this model was checked before with these options.")
    ] = True,
    as_json: JsonOption = False,
    *,
    options: dict[str, Any],
) -> None:
    """Explain photos: writes maps, prints a line for each class, box or region explained."""
    from portable_cam.export.assemble.at_size import at_size
    from portable_cam.export.diagnose.declared import declared_model
    from portable_cam.image.decode import expand_images
    from portable_cam.report.write import check_formats, unique_stems, write_explanation
    from portable_cam.tasks.recognize import implied_task, recognize
    from portable_cam.tasks.registry import own_options, task_named

    wanted = check_formats(formats)
    preprocessing = {
        "preset": preset,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
        "scale": scale,
        "color": color,
        "size": size_of(size),
        "resize": resize,
        "quantization": numbers("--quantization", quantization, 2),
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
        "blank": blank,
        "question": question,
        "caption": caption,
    }
    known = declared_model(model, options.get("axes"))
    chosen = task
    if chosen is None:
        chosen = implied_task([name for name, value in own.items() if value is not None])
        chosen = chosen or recognize(at_size(known, size_of(size)), None, options.get("output"))[0]
        how = f"as {known.description.source} says" if chosen == known.description.task else "recognised"
        note(f"task: {chosen} ({how}; --task overrides)")
    made, asked = own_options(chosen, own, _spelled, known.description.task_options)
    explainer: Any = task_named(chosen).explainer()(  # type: ignore[call-arg]
        known,
        options.pop("methods", None) or known.description.methods,
        device=device,
        check=check,
        **({} if budget is None else {"budget": budget}),
        preprocessing={name: value for name, value in preprocessing.items() if value is not None},
        **made,
        **options,
    )
    prepared = explainer.preprocessing
    note(f"preprocessing: {prepared.describe()}")
    if prepared.guessed:
        warn(f"guessed: {', '.join(prepared.guessed)}; say what the model expects with --preset, or a JSON beside it")
    for text in explainer.notes:
        note(f"note: {text}")
    paths = expand_images(images)
    records: list[dict[str, Any]] = []
    failed, stems = 0, unique_stems(paths)
    for path, stem in track(
        list(zip(paths, stems, strict=True)), "explaining", console=err, transient=True, disable=len(paths) < 2
    ):
        try:
            written = write_explanation(explainer(path, target, **asked), folder, stem, wanted)
        except (ImageError, InputError) as error:  # one bad image does not stop the others
            failed += 1
            fail(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        record = {"image": str(path), **written}
        for text in record["notes"]:
            if text not in explainer.notes:  # of this image, as where a budget ended
                note(f"{path.name}: {text}")
        if not records and record["checks"]:
            note(f"checked: {_verdicts(record['checks'])}")
        for text in record["notes"]:
            if text not in explainer.notes:
                note(f"{path.name}: {text}")
        records.append(record)
        if not as_json:
            if "said" in record:
                say(f"{path.name}: {record['said']}")
            for line in record["explained"]:
                say(f"{path.name}: {_described(line)}")
    if as_json:
        print_json(
            {
                "model": str(model),
                "preprocessing": prepared.to_json(),
                "layer": explainer.explainer.layer,
                "images": records,
                "failed": failed,
            }
        )
    elif records:
        note(f"written to {folder}")
    if failed:
        raise typer.Exit(1)


def _described(line: dict[str, Any]) -> str:
    """One target in a line: its label and score, and where it is."""
    from portable_cam.report.wording import how_much, number, part_explained

    flags = f" [{', '.join(line['flags'])}]" if line["flags"] else ""
    class_number = line.get("class", line.get("target"))
    label = line["label"] if class_number is None else f"{line['label']} ({class_number})"
    if "box" in line:
        box = ", ".join(f"{edge:.0f}" for edge in line["box"])
        return f"{label} {number(line['detection'])} at {box}{part_explained(line)}{flags}"
    score = how_much(line) if {"share", "probability"} & set(line) else number(line["score"])
    return f"{label} {score}{flags}"


def _verdicts(checks: list[dict[str, Any]]) -> str:
    """The checks of a record in a line."""
    from portable_cam.verify.checks import Check, describe

    return describe([Check.from_dict(check) for check in checks])


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


def _spelled(option: str) -> str:
    """How an option is called on the command line."""
    return "--set" if option == "sets" else f"--{option.replace('_', '-')}"
