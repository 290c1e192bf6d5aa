"""``portable-cam compare``: methods by classes on one photo, and how far they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from portable_cam.cli.common import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    new_table,
    note,
    out,
    preprocessing_asked,
    print_json,
    takes_options,
)
from portable_cam.cli.policy import with_policy

_METHODS = ("gradcam", "gradcam_plus_plus", "layercam", "hirescam", "eigencam", "guided_gradcam", "gradient")


@takes_options
def run(
    model: ModelArgument,
    image: Annotated[Path, typer.Argument(help="A photo.", show_default=False)],
    figure: Annotated[Path, typer.Option("-o", "--out", help="The sheet: png, pdf or svg.")] = Path("compared.png"),
    target: Annotated[str, typer.Option(help="Class numbers or NAMES by comma, or top3.")] = "top2",
    labels: Annotated[Path | None, typer.Option(help="Names of the classes: txt, JSON or CSV.")] = None,
    preset: Annotated[str | None, typer.Option(help="imagenet, tf, caffe, unit, raw …")] = None,
    mean: Annotated[str | None, typer.Option(help="One number per channel, by comma; after --scale.")] = None,
    std: Annotated[str | None, typer.Option(help="One number per channel, by comma.")] = None,
    scale: Annotated[float | None, typer.Option(help="Pixels 0 to 255 times this, as 0.00392157.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb, bgr or gray.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH, where the model leaves it open.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, shortest+crop or letterbox.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="SCALE,ZERO_POINT of an integer input, if the values are the dequantised ones.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="For a method of many passes: a time as 10s, or a number of passes.")
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
    *,
    options: dict[str, Any],
) -> None:
    """Methods by classes on one photo: a sheet of their maps, and the rank correlations between them."""
    from portable_cam.export.diagnose.declared import declared_model
    from portable_cam.metrics.compare import compare
    from portable_cam.report.files import save_figure
    from portable_cam.tasks.classify import PhotoExplainer

    prepared = preprocessing_asked(
        preset=preset, mean=mean, std=std, scale=scale, color=color, size=size, resize=resize, quantization=quantization
    )
    methods, known = options.pop("methods", _METHODS), declared_model(model, options.get("axes"))
    options = with_policy(known, "classify", methods, options)
    explainer = PhotoExplainer(
        known, methods, labels=labels, preprocessing=prepared, device=device, budget=budget, **options
    )
    explained = explainer(image, target)
    found = compare(explained)
    written = save_figure(explained.plot(), figure)
    for text in explained.notes:
        if text != explainer.preprocessing.guess_note():  # which was a warning
            note(f"note: {text}")
    note(f"written: {written}")
    if as_json:
        print_json({"model": str(model), "image": str(image), "figure": str(written), **found.to_dict()})
        return
    for label, values in zip(found.labels, found.between_methods, strict=True):
        table = new_table(f"rank correlation, {label}", *found.methods)
        for name, row in zip(found.methods, values, strict=True):
            table.add_row(name, *("-" if value != value else f"{value:.2f}" for value in row))
        out.print(table)
    if len(found.labels) > 1:
        table = new_table("between the classes", *found.methods)
        for i in range(len(found.labels)):
            for j in range(i):
                cells = found.between_targets[:, i, j]
                pair = f"{found.labels[j]}, {found.labels[i]}"
                table.add_row(pair, *("-" if value != value else f"{value:.2f}" for value in cells))
        out.print(table)
