"""The command line. Results go to files and stdout, diagnostics and progress to stderr; exit status 0 done, 1 some
inputs failed (each named), 2 wrong use."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import portable_cam
from portable_cam.cli.common import (
    METHODS_HELP,
    DeviceOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    OutputOption,
    PolicyOption,
    PrecisionOption,
    ProfileOption,
    SaturationOption,
    SignOption,
    TaskOption,
    err,
    names,
    new_table,
    out,
    print_json,
    warn,
)
from portable_cam.cli.doctor import doctor
from portable_cam.cli.explain import explain
from portable_cam.errors import Error

app = typer.Typer(
    help="Explain what a vision model saw, from its ONNX file alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        out.print(f"portable-cam {portable_cam.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where the picture goes.")] = Path("portable_cam_demo"),
) -> None:
    """The bundled model and photo: the four methods for two classes, in one picture."""
    from portable_cam.demo import run_demo

    outcome = run_demo(folder)
    out.print(outcome.summary, highlight=False, markup=False)
    for line in outcome.lines:
        out.print(line, highlight=False, markup=False)


app.command()(explain)


@app.command()
def layers(
    model: ModelArgument,
    output: OutputOption = None,
    task: TaskOption = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, not the first ten.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The layers that can be explained, best first."""
    from dataclasses import asdict

    from portable_cam.export import list_layers
    from portable_cam.export.passes.normalized import normalized
    from portable_cam.tasks.recognize import recognize

    known = normalized(model)
    found = list_layers(known, output, recognize(known, task, output)[1])
    if as_json:
        print_json([asdict(layer) for layer in found])
        return
    shown = found if every else found[:10]
    table = new_table("layer", "shape", "axes", "grid", "operator", "stride")
    for layer in shown:
        shape, grid = (" x ".join("?" if d is None else str(d) for d in dims) for dims in (layer.shape, layer.grid))
        stride = "?" if layer.stride is None else f"{layer.stride:g}"
        table.add_row(escape(layer.name), shape, layer.layout, grid, layer.operator, stride)
    # as wide as it needs to be: a name broken in two can be neither copied nor found
    Console(width=10_000).print(table)
    for why in dict.fromkeys(layer.why for layer in shown):
        first, *more = [layer.name for layer in shown if layer.why == why]
        out.print(f"{first}{f' and {len(more)} more' if more else ''}: {why}", highlight=False, markup=False)
    if len(shown) < len(found):
        out.print(f"{len(found) - len(shown)} more with --all", highlight=False)


app.command()(doctor)


@app.command()
def export(
    model: ModelArgument,
    target_file: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = "gradcam",
    layer: LayerOption = None,
    output: OutputOption = None,
    profile: ProfileOption = "paper",
    relu_policy: PolicyOption = "relu",
    saturation: SaturationOption = "pass",
    precision: PrecisionOption = "model",
    sign: SignOption = "positive",
    task: TaskOption = None,
    single_target: Annotated[bool, typer.Option(help="One target per image; no loop operator in the file.")] = False,
    check: Annotated[bool, typer.Option(help="Let the graph prove itself, and say so in its metadata.")] = True,
) -> None:
    """The portable explainer: one ONNX file that any ONNX Runtime runs. Exit status 1 if it fails its own check."""
    from portable_cam.export.assemble.explanation import explanation_model
    from portable_cam.export.deploy.strip_shapes import strip_inner_shapes
    from portable_cam.export.passes.normalized import normalized
    from portable_cam.export.read.weights import save_model
    from portable_cam.tasks.classify import known_preprocessing
    from portable_cam.tasks.recognize import recognize
    from portable_cam.verify.selfcheck import record, self_check

    known = normalized(model)
    options: dict[str, Any] = {
        "preprocessing": known_preprocessing(known),
        "target": recognize(known, task, output)[1],
        "output": output,
        "profile": profile,
        "relu_policy": relu_policy,
        "saturation": saturation,
        "precision": precision,
        "sign": sign,
    }
    built = explanation_model(known, names(methods), layer, targets_per_image=1 if single_target else None, **options)
    strip_inner_shapes(built)
    if check:
        proof = self_check(known, built, output, options["target"])
        record(built, proof)
        err.print(f"self-check: {proof.describe()}", highlight=False, markup=False)
    written = save_model(built, target_file)
    files, size = " and ".join(map(str, written)), sum(file.stat().st_size for file in written) / 1e6
    inputs, outputs = (", ".join(str(v.name) for v in side) for side in (built.graph.inputs, built.graph.outputs))
    out.print(f"{files}: {size:.1f} MB, inputs {inputs}, outputs {outputs}", highlight=False, markup=False)
    if check and not proof.passed:
        raise typer.Exit(1)


@app.command()
def bench(
    model: ModelArgument,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 8.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    output: OutputOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """What an explanation costs here, next to plain inference."""
    from dataclasses import asdict

    from portable_cam.verify.bench import bench as measure

    rows = measure(model, batch, device=device, threads=threads, seconds=seconds, output=output)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = new_table("method", "batch", "ms per run", "of plain inference", "graph built in s")
    for row in rows:
        table.add_row(
            row.name, str(row.batch), f"{row.milliseconds:.1f}", f"{row.ratio:.2f}", f"{row.build_seconds:.2f}"
        )
    out.print(table)


def main() -> None:
    """The entry point: every error of the project, and every file that cannot be written, is one line on stderr and
    exit status 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except Error as error:
        err.print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        err.print(
            f"error: cannot write {error.filename}: {error.strerror}; choose another place with -o",
            style="red",
            highlight=False,
            markup=False,
        )
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    warn(str(message))
