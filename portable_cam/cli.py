"""The command line. Results go to files and stdout, diagnostics and progress to stderr; exit status 0 done, 1 some
inputs failed (each named), 2 wrong use."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import portable_cam
from portable_cam.errors import Error, ImageError, InputError

app = typer.Typer(
    help="Explain what a vision model saw, from its ONNX file alone.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
_err = Console(stderr=True)
_out = Console(soft_wrap=True)

ModelArgument = Annotated[Path, typer.Argument(help="The .onnx file.", show_default=False)]
OutputOption = Annotated[str | None, typer.Option("--output", help="Tensor that holds the scores, taken as it is.")]
MethodsOption = Annotated[
    str,
    typer.Option(
        help="Comma-separated: cam, gradcam, layercam, hirescam, guided_backprop, guided_gradcam, gradient, deconvnet."
    ),
]
LayerOption = Annotated[list[str] | None, typer.Option(help="Tensor or node to explain; several to average over.")]
ProfileOption = Annotated[str, typer.Option(help="paper, pytorch_grad_cam or captum: whose conventions to follow.")]
PolicyOption = Annotated[str, typer.Option(help="Which nodes guided methods treat as a ReLU: relu, relu+clip or all.")]
SignOption = Annotated[str, typer.Option(help="positive, or negative for what speaks against the target.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable stdout.")]


def _version(value: bool) -> None:
    if value:
        _out.print(f"portable-cam {portable_cam.__version__}", highlight=False)
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
    _out.print(outcome.summary, highlight=False, markup=False)
    for line in outcome.lines:
        _out.print(line, highlight=False, markup=False)


@app.command()
def explain(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where results go.")] = Path("explained"),
    task: Annotated[str, typer.Option(help="classify, caption, vqa or ctc.")] = "classify",
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated, see `portable-cam doctor`; the task's own if left out.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class number or NAME, several by comma, or top3; a word of what is said.")
    ] = None,
    layer: LayerOption = None,
    output: OutputOption = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes or answers: txt, JSON or CSV.")] = None,
    decoder: Annotated[Path | None, typer.Option(help="caption: the decoder, where MODEL is the encoder.")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Words (ctc: characters), one a line, or JSON.")] = None,
    question: Annotated[str | None, typer.Option(help="vqa: what is asked.")] = None,
    caption: Annotated[str | None, typer.Option(help="caption: what the model is made to say.")] = None,
    preset: Annotated[str | None, typer.Option(help="imagenet, tf, caffe, unit or raw.")] = None,
    mean: Annotated[str | None, typer.Option(help="One number per channel, by comma; after --scale.")] = None,
    std: Annotated[str | None, typer.Option(help="One number per channel, by comma.")] = None,
    scale: Annotated[float | None, typer.Option(help="Pixels 0 to 255 times this, as 0.00392157.")] = None,
    color: Annotated[str | None, typer.Option(help="rgb, bgr or gray.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, where the model leaves it open.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, shortest+crop or letterbox.")] = None,
    profile: ProfileOption = "paper",
    relu_policy: PolicyOption = "relu",
    sign: SignOption = "positive",
    device: DeviceOption = "cpu",
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: png, npy, json.")] = "png",
    as_json: JsonOption = False,
) -> None:
    """Explain photos: writes maps, prints a line for each class explained."""
    from portable_cam.image import expand_images
    from portable_cam.jobs import job_for
    from portable_cam.output import check_formats, unique_stems

    chosen = check_formats(formats)
    given = {
        "preset": preset, "mean": _numbers("--mean", mean), "std": _numbers("--std", std), "scale": scale,
        "color": color, "size": _size(size), "resize": resize,
    }  # fmt: skip
    job = job_for(
        task, model, None if methods is None else _names(methods), {k: v for k, v in given.items() if v is not None},
        target=target, labels=labels, decoder=decoder, vocabulary=vocabulary, question=question, caption=caption,
        layer=layer, output=output, profile=profile, relu_policy=relu_policy, sign=sign, device=device,
    )  # fmt: skip
    prepared = job.preprocessing
    _err.print(f"preprocessing: {prepared.describe()}", highlight=False, markup=False)
    if prepared.guessed:
        _warn(f"guessed: {', '.join(prepared.guessed)}; say what the model expects with --preset, or a JSON beside it")
    for note in job.explainer.notes:
        _err.print(f"note: {note}", highlight=False, markup=False)
    paths = expand_images(images)
    failed, records, stems = 0, [], unique_stems(paths)
    for path, stem in track(
        list(zip(paths, stems, strict=True)), "explaining", console=_err, transient=True, disable=len(paths) < 2
    ):
        try:
            written = job.run(path, folder, stem, chosen)
        except (ImageError, InputError) as error:  # one bad picture does not stop the others
            failed += 1
            named = "" if str(path) in str(error) else f"{path}: "
            _err.print(f"error: {named}{error}", style="red", highlight=False, markup=False)
            continue
        record = {"image": str(path), **written}
        records.append(record)
        if not as_json:
            if "said" in record:
                _out.print(f"{path.name}: {record['said']}", highlight=False, markup=False)
            for line in record["explained"]:
                flags = f" [{', '.join(line['flags'])}]" if line["flags"] else ""
                number = f" ({line['target']})" if "target" in line else ""
                _out.print(f"{path.name}: {line['label']}{number} {line['score']:.4f}{flags}",
                           highlight=False, markup=False)  # fmt: skip
    if as_json:
        _print_json({"model": str(model), "preprocessing": prepared.to_json(), "layer": job.explainer.layer,
                     "images": records, "failed": failed})  # fmt: skip
    elif records:
        _err.print(f"written to {folder}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def layers(model: ModelArgument, output: OutputOption = None, as_json: JsonOption = False) -> None:
    """The layers that can be explained, best first."""
    from dataclasses import asdict

    from portable_cam.export import list_layers

    found = list_layers(model, output)
    if as_json:
        _print_json([asdict(layer) for layer in found])
        return
    table = _table("layer", "shape", "operator", "stride", "why")
    for layer in found:
        shape = " x ".join("?" if d is None else str(d) for d in layer.shape)
        table.add_row(
            escape(layer.name), shape, layer.operator, "?" if layer.stride is None else f"{layer.stride:g}", layer.why
        )
    _out.print(table)


@app.command()
def doctor(model: ModelArgument, output: OutputOption = None, as_json: JsonOption = False) -> None:
    """Can it be explained, and if not, which nodes stand in the way. Exit status 1 if no method works."""
    from portable_cam.export import doctor as examine

    report = examine(model, output)
    if as_json:
        _print_json(report.to_dict())
    else:
        table = _table("", "")
        table.show_header = False
        for key, value in (
            ("producer", report.producer), ("opset", f"{report.opset}, differentiated at {report.normalized_opset}"),
            ("nodes", report.nodes), ("inputs", "\n".join(report.inputs)), ("outputs", "\n".join(report.outputs)),
            ("image input", f"{report.image}, {report.layout}, batch {report.batch}" if report.image else "none"),
            ("scores", f"{report.scores}" + (f", cut before {report.cut}" if report.cut else "")),
            ("layers", "\n".join(report.layers) or "none"),
            ("ReLU-like nodes", ", ".join(f"{policy}: {count}" for policy, count in report.guided.items())),
            *((f"method {name}", answer) for name, answer in report.methods.items()),
            *(("in the way", f"{o.operator} '{o.node}' on {o.path}") for o in report.obstacles),
            *(("problem", problem) for problem in report.problems),
        ):  # fmt: skip
            table.add_row(key, escape(str(value)))
        _out.print(table)
    if not report.explainable:
        raise typer.Exit(1)


@app.command()
def export(
    model: ModelArgument,
    target_file: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    methods: MethodsOption = "gradcam",
    layer: LayerOption = None,
    output: OutputOption = None,
    profile: ProfileOption = "paper",
    relu_policy: PolicyOption = "relu",
    sign: SignOption = "positive",
    single_target: Annotated[bool, typer.Option(help="One target per image; no loop operator in the file.")] = False,
    check: Annotated[bool, typer.Option(help="Let the graph prove itself, and say so in its metadata.")] = True,
) -> None:
    """The portable explainer: one ONNX file that any ONNX Runtime runs. Exit status 1 if it fails its own check."""
    from portable_cam.export import build_explanation
    from portable_cam.photo import known_preprocessing
    from portable_cam.selfcheck import record, self_check

    options: dict[str, Any] = {
        "preprocessing": known_preprocessing(model),
        "output": output,
        "profile": profile,
        "relu_policy": relu_policy,
        "sign": sign,
    }
    proto = build_explanation(model, _names(methods), layer, targets_per_image=1 if single_target else None, **options)
    if check:
        proof = self_check(model, proto, output=output)
        record(proto, proof)
        _err.print(f"self-check: {proof.describe()}", highlight=False, markup=False)
    target_file.parent.mkdir(parents=True, exist_ok=True)
    target_file.write_bytes(proto.SerializeToString())
    inputs, outputs = (", ".join(value.name for value in side) for side in (proto.graph.input, proto.graph.output))
    size = target_file.stat().st_size / 1e6
    _out.print(f"{target_file}: {size:.1f} MB, inputs {inputs}, outputs {outputs}", highlight=False, markup=False)
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

    from portable_cam.bench import bench as measure

    rows = measure(model, batch, device=device, threads=threads, seconds=seconds, output=output)
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    table = _table("method", "batch", "ms per run", "of plain inference", "graph built in s")
    for row in rows:
        table.add_row(
            row.name, str(row.batch), f"{row.milliseconds:.1f}", f"{row.ratio:.2f}", f"{row.build_seconds:.2f}"
        )
    _out.print(table)


def main() -> None:
    """The entry point: every error of the project, and every file that cannot be written, is one line on stderr and
    exit status 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except Error as error:
        _err.print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        _err.print(f"error: cannot write {error.filename}: {error.strerror}; choose another place with -o",
                   style="red", highlight=False, markup=False)  # fmt: skip
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _warn(str(message))


def _warn(text: str) -> None:
    _err.print(f"warning: {text}", style="yellow", highlight=False, markup=False)


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _table(*columns: str) -> Table:
    """A table that folds long names rather than cutting them."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, not {text!r}") from None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(p.isdigit() for p in parts) or len(parts) not in {1, 2}:
        raise typer.BadParameter(f"--size is HEIGHTxWIDTH, as 224x224, not {text!r}")
    return int(parts[0]), int(parts[-1])
