"""The commands by name, and how their errors and warnings reach the terminal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import portable_cam
from portable_cam.cli import batch, bench, compare, demo, doctor, evaluate, explain, export, layers
from portable_cam.cli.common import fail, say, warn
from portable_cam.errors import Error, PortableCamWarning
from portable_cam.spelling import on_command_line

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
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    context.with_resource(on_command_line())


def run() -> int:
    """Run the command of ``sys.argv``; the exit status. Every error of the project, and every file that cannot be
    written, is one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal has no letters for is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", PortableCamWarning)
            warnings.showwarning = _show_warning
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Error as error:
        fail(str(error))
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"cannot write {error.filename}: {error.strerror}; choose another place with -o")
        return 2
    return 0


def _show_warning(message: Warning | str, category: type[Warning] = UserWarning, *_: Any, **__: Any) -> None:
    """The project's own warnings; those of libraries are about their code, and what a result suffers by is told with
    the result."""
    if issubclass(category, PortableCamWarning):
        warn(str(message))
