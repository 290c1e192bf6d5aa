"""The command line, a file per command. Results go to files and stdout, diagnostics and progress to stderr; exit status
0 done, 1 some inputs failed (each named), 2 wrong use."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import portable_cam
from portable_cam.cli import batch, bench, compare, demo, doctor, evaluate, explain, export, layers
from portable_cam.cli.common import fail, say, warn
from portable_cam.errors import Error

#: The commands in the order of ``--help``.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.run, "explain": explain.run, "layers": layers.run, "doctor": doctor.run, "export": export.run,
    "batch": batch.run, "evaluate": evaluate.run, "compare": compare.run, "bench": bench.run,
}  # fmt: skip

app = typer.Typer(
    help="Explain what a vision model saw, from its ONNX file alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _run in COMMANDS.items():
    app.command(_name)(_run)


def _version(value: bool) -> None:
    if value:
        say(f"portable-cam {portable_cam.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point: every error of the project, and every file that cannot be written, is one line on stderr and
    exit status 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except Error as error:
        fail(str(error))
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"cannot write {error.filename}: {error.strerror}; choose another place with -o")
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    warn(str(message))
