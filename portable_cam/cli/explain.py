"""``portable-cam explain``: photos in, maps and a line for each target out, for every task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from portable_cam.cli.common import (
    TASKS,
    ChannelsOption,
    DeviceOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    SizeOption,
    TaskOption,
    names,
    note,
    numbers,
    preprocessing_asked,
    print_json,
    size_of,
    takes_options,
)
from portable_cam.cli.photos import Place, explain_photos
from portable_cam.cli.pictures import ColormapOption, ContoursOption, MaxSizeOption, OpacityOption, look_as_asked
from portable_cam.cli.policy import with_policy
from portable_cam.cli.reading import read_model


@takes_options
def run(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    folder: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where results go: a folder; for one photo a .png, .jpg, .pdf, .svg, .html or .json."
        ),
    ] = None,
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
        typer.Option("--set", help="classify: a set of classes, NAME=CLASS,CLASS …", rich_help_panel=TASKS),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="detect, segment: left,top,right,bottom in the photo.", rich_help_panel=TASKS)
    ] = None,
    pixel: Annotated[str | None, typer.Option(help="segment: column,row.", rich_help_panel=TASKS)] = None,
    mask: Annotated[
        Path | None, typer.Option(help="segment: a picture, not black where it counts.", rich_help_panel=TASKS)
    ] = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    part: Annotated[
        str | None,
        typer.Option(help="detect: product, class, objectness, left, top, right or bottom.", rich_help_panel=TASKS),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="detect: the least score of a box; segment: the least probability, for classes with a sigmoid each.",
            rich_help_panel=TASKS,
        ),
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="caption: the decoder, where MODEL is the encoder.", rich_help_panel=TASKS)
    ] = None,
    blank: Annotated[
        int | None,
        typer.Option(help="ctc: the class of the blank, as 0 for the first, -1 for the last.", rich_help_panel=TASKS),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="caption, vqa, ctc: words or characters, one a line, or JSON.", rich_help_panel=TASKS),
    ] = None,
    question: Annotated[str | None, typer.Option(help="vqa: what is asked.", rich_help_panel=TASKS)] = None,
    caption: Annotated[
        str | None, typer.Option(help="caption: the text to explain, not the model's own.", rich_help_panel=TASKS)
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="For an image and a method of many passes: a time as 10s, or a number of passes.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Of a folder, comma-separated: png, npy, json.", show_default="png")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="An HTML page of all photos; no other file unless -o or --format asks.", show_default=False),
    ] = None,
    colormap: ColormapOption = None,
    opacity: OpacityOption = None,
    contours: ContoursOption = None,
    max_size: MaxSizeOption = None,
    check: Annotated[
        bool, typer.Option(help="Check the first explanation, unless this model was checked before with these options.")
    ] = True,
    as_json: JsonOption = False,
    *,
    options: dict[str, Any],
) -> None:
    """Explain photos: writes maps, prints a line for each class, box or region explained."""
    from portable_cam.export.assemble.at_size import at_size
    from portable_cam.file_kinds import listed
    from portable_cam.image.decode import read_image
    from portable_cam.image.find import find_images
    from portable_cam.tasks.recognize import implied_task, recognize
    from portable_cam.tasks.registry import own_options, task_named

    place = Place.of(folder, formats, report)
    found = find_images(images, without=None if place.single else place.path)
    if mask is not None:
        read_image(mask)  # one that cannot be read is no fault of a photo
    preprocessing = preprocessing_asked(
        preset=preset, mean=mean, std=std, scale=scale, color=color, size=size, resize=resize, quantization=quantization
    )
    own = {
        "labels": labels,
        "rather_than": rather_than,
        "sets": _sets(class_set),
        "head": head,
        "channels": channels,
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
    known = read_model(model, axes=options.get("axes"), head=head, channels=channels)
    if known.inside_explanation:
        note("note: this is an explanation file: the model inside it is explained, by default as the file does")
    chosen = task
    if chosen is None:
        chosen = implied_task([*options, *(name for name, value in own.items() if value is not None)])
        chosen = chosen or recognize(at_size(known, size_of(size)), None, options.get("output"))[0]
        how = f"as {known.description.source} says" if chosen == known.description.task else "recognised"
        note(f"task: {chosen} ({how}; --task overrides)")
    methods = options.pop("methods", None) or known.description.methods
    options = with_policy(known, chosen, methods, options)
    made, asked = own_options(chosen, own, known.description.task_options)
    explainer: Any = task_named(chosen).explainer()(
        known,
        methods,
        device=device,
        check=check,
        **({} if budget is None else {"budget": budget}),
        preprocessing=preprocessing,
        **made,
        **options,
    )
    explainer.look = look_as_asked(explainer.look, colormap, opacity, contours, max_size)
    prepared = explainer.preprocessing
    note(f"preprocessing: {prepared.describe()}")
    for text in explainer.notes:
        if text != prepared.guess_note():  # which was a warning
            note(f"note: {text}")
    if found.skipped:
        skipped = listed((str(path), why) for path, why in found.skipped)
        note(f"skipped: {len(found.skipped)} in the folders: {skipped}")
    outcome = explain_photos(explainer, found, target, asked, place, as_json)
    if as_json:
        print_json(
            {
                "model": str(model),
                "task": chosen,
                "preprocessing": prepared.to_json(),
                "layer": explainer.explainer.layer,
                "images": outcome.records,
                "errors": outcome.errors,
                "skipped": [{"path": str(path), "why": why} for path, why in found.skipped],
                "failed": outcome.failed,
                "report": None if report is None else str(report),
            }
        )
    else:
        wrote = [str(place.path)] if any(record["files"] for record in outcome.records) else []
        if wrote := [*wrote, *([str(report)] if report is not None else [])]:
            note(f"written to {' and '.join(wrote)}")
    if outcome.failed:
        raise typer.Exit(1)


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
