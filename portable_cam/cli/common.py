"""What the commands share: consoles, options, and how text becomes values."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

err = Console(stderr=True, soft_wrap=True)
out = Console(soft_wrap=True)

ModelArgument = Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)]
OutputOption = Annotated[str | None, typer.Option("--output", help="Tensor that holds the scores, taken as it is.")]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="classify, detect, segment, caption, vqa or ctc; by default as the outputs look."),
]
LayerOption = Annotated[list[str] | None, typer.Option(help="Tensor or node to explain; several to average over.")]
ProfileOption = Annotated[str, typer.Option(help="paper, pytorch_grad_cam or captum: whose conventions to follow.")]
SaturationOption = Annotated[
    str, typer.Option(help="Where the range of a quantised model cuts a value off: pass the gradient on, or mask it.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="model: the types of the model; float32: a float16 or float64 model computed in float32.")
]
PolicyOption = Annotated[str, typer.Option(help="Which nodes guided methods treat as a ReLU: relu, relu+clip or all.")]
SignOption = Annotated[str, typer.Option(help="positive, or negative for what speaks against the target.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable stdout.")]

METHODS_HELP = (
    "Comma-separated: cam, gradcam, layercam, hirescam, guided_backprop, guided_gradcam, gradient, deconvnet."
)


def say(text: str) -> None:
    """Print a line of results on stdout."""
    out.print(text, highlight=False, markup=False)


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


def size_of(text: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH, or one number for both."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(p.isdigit() for p in parts) or len(parts) not in {1, 2}:
        raise typer.BadParameter(f"--size is HEIGHTxWIDTH, as 224x224, not {text!r}")
    return int(parts[0]), int(parts[-1])
