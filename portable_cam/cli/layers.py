"""``portable-cam layers``: which layers can be explained."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from portable_cam.cli.common import (
    AxesOption,
    ChannelsOption,
    ForSizeArgument,
    HeadOption,
    JsonOption,
    ModelArgument,
    OutputOption,
    RowOption,
    SizeOption,
    TaskOption,
    new_table,
    pairs,
    print_json,
    say,
)
from portable_cam.cli.reading import read_model


def run(
    model: ModelArgument,
    image: ForSizeArgument = None,
    output: OutputOption = None,
    row: RowOption = None,
    task: TaskOption = None,
    axes: AxesOption = None,
    size: SizeOption = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, not the first ten.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The layers that can be explained, best first."""
    from dataclasses import asdict

    from portable_cam.export import list_layers
    from portable_cam.tasks.recognize import recognize

    known = read_model(model, axes=pairs("--axes", axes), size=size, image=image, head=head, channels=channels)
    found = list_layers(known, output, recognize(known, task, output, row)[1])
    if as_json:
        print_json([asdict(layer) for layer in found])
        return
    shown = found if every else found[:10]
    table = new_table("layer", "shape", "axes", "grid", "operator", "stride")
    for layer in shown:
        shape, grid = (" x ".join("?" if d is None else str(d) for d in dims) for dims in (layer.shape, layer.grid))
        stride = "?" if layer.stride is None else f"{layer.stride:g}"
        table.add_row(escape(layer.name), shape, layer.layout, grid, layer.operator, stride)
    # as wide as needed: a name broken in two can be neither copied nor found
    Console(width=10_000).print(table)
    for why in dict.fromkeys(layer.why for layer in shown):
        first, *more = [layer.name for layer in shown if layer.why == why]
        say(f"{first}{f' and {len(more)} more' if more else ''}: {why}")
    if len(shown) < len(found):
        say(f"{len(found) - len(shown)} more with --all")
