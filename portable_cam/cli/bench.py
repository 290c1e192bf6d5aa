"""``portable-cam bench``: what an explanation costs here."""

from __future__ import annotations

from typing import Annotated

import typer

from portable_cam.cli.common import (
    AxesOption,
    ChannelsOption,
    DeviceOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    OutputOption,
    RowOption,
    SizeOption,
    TaskOption,
    new_table,
    out,
    pairs,
    print_json,
)
from portable_cam.cli.reading import read_model


def run(
    model: ModelArgument,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 8.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    output: OutputOption = None,
    row: RowOption = None,
    task: TaskOption = None,
    axes: AxesOption = None,
    size: SizeOption = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """What an explanation costs here, next to plain inference."""
    from dataclasses import asdict

    from portable_cam.tasks.recognize import recognize
    from portable_cam.verify.bench import bench as measure

    known = read_model(model, axes=pairs("--axes", axes), size=size, head=head, channels=channels)
    target = recognize(known, task, output, row)[1]
    measured = measure(known, batch, target=target, device=device, threads=threads, seconds=seconds, output=output)
    if as_json:
        print_json([asdict(each) for each in measured])
        return
    table = new_table("method", "batch", "ms per run", "of plain inference", "graph built in s")
    for each in measured:
        table.add_row(
            each.name, str(each.batch), f"{each.milliseconds:.1f}", f"{each.ratio:.2f}", f"{each.build_seconds:.2f}"
        )
    out.print(table)
