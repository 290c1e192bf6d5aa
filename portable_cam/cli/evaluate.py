"""``portable-cam evaluate``: how far the explanations of a classifier can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from portable_cam.cli.common import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    err,
    names,
    new_table,
    note,
    out,
    preprocessing_asked,
    print_json,
    say,
    takes_options,
)
from portable_cam.cli.policy import with_policy

if TYPE_CHECKING:
    from portable_cam.metrics.outcome import Evaluation


def _metrics_help() -> str:
    from portable_cam.metrics.registry import help_text

    return help_text()


@takes_options
def run(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    metrics: Annotated[str | None, typer.Option(help=_metrics_help(), show_default=False)] = None,
    baseline: Annotated[
        str, typer.Option(help="blur, mean or zero: what stands in for what is taken away; several to compare.")
    ] = "blur,mean",
    score: Annotated[str, typer.Option(help="probability or logit: what is measured.")] = "probability",
    target: Annotated[str | None, typer.Option(help="Class number or NAME for all images, not the top ones.")] = None,
    regions: Annotated[
        Path | None, typer.Option(help="JSON: where objects are, {PHOTO: [left, top, right, bottom] or a mask's file}.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Of deletion and insertion.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 32,
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
        str | None, typer.Option(help="For an image and a method of many passes: a time as 10s, or a number of passes.")
    ] = None,
    device: DeviceOption = "cpu",
    csv_file: Annotated[Path | None, typer.Option("--csv", help="A value for each image, method and metric.")] = None,
    figure: Annotated[Path | None, typer.Option("--plot", help="The curves and means: png, pdf or svg.")] = None,
    as_json: JsonOption = False,
    *,
    options: dict[str, Any],
) -> None:
    """How far the explanations of a classifier can be trusted: measured on photos, beside maps that know nothing."""
    from portable_cam.export.diagnose.declared import declared_model
    from portable_cam.file_kinds import listed
    from portable_cam.image.find import find_images
    from portable_cam.metrics.evaluation import evaluate
    from portable_cam.metrics.metric import Settings
    from portable_cam.metrics.regions import read_regions
    from portable_cam.report.files import save_figure

    prepared = preprocessing_asked(
        preset=preset, mean=mean, std=std, scale=scale, color=color, size=size, resize=resize, quantization=quantization
    )
    where = find_images(images)
    paths = [path for path, _ in where.photos]
    if where.skipped:
        skipped = listed((str(path), why) for path, why in where.skipped)
        note(f"skipped: {len(where.skipped)} in the folders: {skipped}")
    first, *others = names(baseline) or ("blur",)
    given = {"methods": options.pop("methods")} if "methods" in options else {}
    known = declared_model(model, options.get("axes"))
    options = with_policy(known, "classify", given.get("methods"), options)
    with Progress(console=err, transient=True, disable=len(paths) < 2) as bar:
        task = bar.add_task("evaluating", total=len(paths))
        found = evaluate(
            known,
            paths,
            metrics=None if metrics is None else names(metrics),
            baseline=first,
            other_baselines=others,
            score=score,  # type: ignore[arg-type]
            targets=int(target) if target is not None and target.isdigit() else target,
            regions=None if regions is None else read_regions(regions, paths),
            settings=Settings(steps=steps, seed=seed),
            batch=batch,
            progress=lambda done, _: bar.update(task, completed=done),
            labels=labels,
            preprocessing=prepared,
            device=device,
            budget=budget,
            **given,
            **options,
        )
    for text in found.notes:
        if not text.startswith("the preprocessing is guessed"):  # which was a warning
            note(f"note: {text}")
    if csv_file is not None:
        note(f"written: {found.to_csv(csv_file)}")
    if figure is not None:
        note(f"written: {save_figure(found.plot(), figure)}")
    if as_json:
        print_json({"model": str(model), **found.to_dict()})
        return
    _show(found)


def _show(found: Evaluation) -> None:
    note(f"score: {found.score}")
    summary = found.summary()
    table = new_table("", *found.metrics, "ties")
    for name in (*found.methods, *found.references):
        cells = []
        for metric in found.metrics:
            value = summary[name][metric]
            cells.append("-" if value.mean != value.mean else f"{value.mean:.4g}{_interval(value.interval)}")
        table.add_row(name, *cells, f"{found.ties[name].mean():.0%}", end_section=name == found.methods[-1])
    out.print(table)
    for metric in found.metrics:
        say(found.verdict(metric))
    for text in found.disagreements():
        say(text)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"\n{interval[0]:.3g} to {interval[1]:.3g}"
