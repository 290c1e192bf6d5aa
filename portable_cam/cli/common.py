"""What the commands share: consoles, options, and how text becomes values."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from portable_cam.export.methods.registry import help_text
from portable_cam.export.options import Options

if TYPE_CHECKING:
    from portable_cam.export.passes.normalized import NormalizedModel

err = Console(stderr=True, soft_wrap=True)
out = Console(soft_wrap=True)

TASKS = "Tasks"  # the heading in --help of what only some tasks take

ModelArgument = Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)]
OutputOption = Annotated[str | None, typer.Option("--output", help="Tensor that holds the scores.")]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="classify, detect, segment, caption, vqa or ctc; by default as the outputs look."),
]
RowOption = Annotated[
    int | None, typer.Option("--row", help="Of several rows of scores (crops, regions, queries) one, from 0.")
]
SizeOption = Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH, where the model leaves it open.")]
ForSizeArgument = Annotated[
    Path | None,
    typer.Argument(help="An image whose size stands for one that the model leaves open.", show_default=False),
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
AxesOption = Annotated[
    list[str] | None,
    typer.Option("--axes", help="TENSOR=NCHW: what the axes of the image or of a layer are, several times."),
]
HeadOption = Annotated[
    Path | None, typer.Option("--head", help="detect: JSON that says what the outputs mean.", rich_help_panel=TASKS)
]
ChannelsOption = Annotated[
    str | None, typer.Option("--channels", help="segment: where the classes are, first or last.", rich_help_panel=TASKS)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable stdout.")]


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of :class:`~portable_cam.export.options.Options` as options of its own.

    The command has a parameter ``options`` for what the user chose, by the names of the fields; an option that he left
    out is not in it. A field that the command takes by itself is left to it.
    """
    hints, own = get_type_hints(command, include_extras=True), inspect.signature(command)
    fields = {f.name: f for f in dataclasses.fields(Options) if "help" in f.metadata and f.name not in own.parameters}
    added = []
    for name, known in fields.items():
        text = known.metadata["help"]
        if name == "methods" and "budget" in own.parameters:  # the command runs those of many passes, too
            text = _all_methods
        shown = None if name in _OPEN else known.default
        flag = isinstance(known.default, bool)
        flags = [f"--{name.replace('_', '-')}"] if flag else []  # without a --no- of its own
        option = typer.Option(
            *flags, help=text() if callable(text) else text, show_default=str(shown) if shown else False
        )
        often = known.metadata.get("several") or known.metadata.get("pairs")
        number = int | None if known.metadata.get("number") else str | None
        base: Any = list[str] | None if often else bool | None if flag else number
        kind: Any = Annotated[base, option]
        added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    rest = [p.replace(annotation=hints[p.name]) for p in own.parameters.values() if p.name != "options"]
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in rest]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in fields}
        if chosen.get("methods") is not None:
            chosen["methods"] = names(chosen["methods"])
            if not chosen["methods"]:
                raise typer.BadParameter("--methods names none: leave it out for those that do best")
        for name, known in fields.items():
            if known.metadata.get("pairs") and chosen[name]:
                chosen[name] = pairs(f"--{name}", chosen[name])
        command(**given, options={name: value for name, value in chosen.items() if value is not None})

    parameters = [*keyword_only, *added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _all_methods() -> str:
    from portable_cam.methods.registry import PASS_METHODS

    return f"{help_text()} Of many passes: {', '.join(PASS_METHODS)}."


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE, several times."""
    return dict(_pair(option, text) for text in given or ())


def _pair(option: str, text: str) -> tuple[str, str]:
    """The name may hold an equals sign."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{option} is NAME=VALUE, not {text!r}")
    return name, value


#: Fields whose default is no word to be shown: chosen by the task, or found in the model.
_OPEN = frozenset({"methods", "layer", "output", "axes", "row"})


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal while several things are done; call what it gives after each.

    Lines that are printed meanwhile stand above it. There is none where stderr is no terminal, and none for one thing.
    """
    if total < 2 or not err.is_terminal:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("explaining", total=total)
        _bars.append(bar)
        try:
            yield lambda: bar.advance(task)
        finally:
            _bars.remove(bar)


#: The bar that is on the terminal, if there is one.
_bars: list[Any] = []


def say(text: str) -> None:
    """Print a line of results on stdout; where that is the terminal of a bar, above the bar."""
    console = err if _bars and out.is_terminal else out
    console.print(text, highlight=False, markup=False)


def note(text: str) -> None:
    """Print a line on stderr."""
    err.print(text, highlight=False, markup=False)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    err.print(f"warning: {text}", style="yellow", highlight=False, markup=False)


def fail(text: str) -> None:
    """Print an error on stderr."""
    err.print(f"error: {text}", style="red", highlight=False, markup=False)


def print_json(content: Any) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def new_table(*columns: str) -> Table:
    """A table that folds long names rather than cutting them."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def names(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    """Numbers between commas; ``count`` of them if that is fixed."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, not {text!r}") from None
    if count is not None and len(found) != count:
        raise typer.BadParameter(f"{option} takes {count} numbers, not {len(found)}")
    return found


def at_given_size(model: NormalizedModel, size: str | None, image: Path | None) -> NormalizedModel:
    """The model with an open height and width fixed: at what --size says, else as large as an image."""
    from portable_cam.export.assemble.at_size import at_size, sides
    from portable_cam.image.decode import read_image

    wanted = size_of(size)
    if wanted is None and image is not None:
        height, width = sides(model)
        rows, columns = read_image(image).shape[:2]
        wanted = rows if height is None else height, columns if width is None else width
    return at_size(model, wanted)


def preprocessing_asked(
    *,
    preset: str | None,
    mean: str | None,
    std: str | None,
    scale: float | None,
    color: str | None,
    size: str | None,
    resize: str | None,
    quantization: str | None,
) -> dict[str, Any]:
    """How a photo becomes the input, as far as the flags of these names say, as they were typed."""
    found = {
        "preset": preset,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
        "scale": scale,
        "color": color,
        "size": size_of(size),
        "resize": resize,
        "quantization": numbers("--quantization", quantization, 2),
    }
    return {name: value for name, value in found.items() if value is not None}


def size_of(text: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH, or one number for both."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(p.isdigit() for p in parts) or len(parts) not in {1, 2}:
        raise typer.BadParameter(f"--size is HEIGHTxWIDTH, as 224x224, not {text!r}")
    return int(parts[0]), int(parts[-1])
