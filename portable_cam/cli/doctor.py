"""``portable-cam doctor``: the report on a model, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from portable_cam.cli.common import (
    AxesOption,
    ChannelsOption,
    HeadOption,
    JsonOption,
    ModelArgument,
    OutputOption,
    RowOption,
    SizeOption,
    TaskOption,
    new_table,
    note,
    out,
    pairs,
    print_json,
    say,
)
from portable_cam.cli.reading import read_model
from portable_cam.cli.trying import answers_on, tried

if TYPE_CHECKING:
    from portable_cam.export import DoctorReport
    from portable_cam.export.diagnose.cost import Cost
    from portable_cam.export.passes.normalized import NormalizedModel
    from portable_cam.image.preprocess import Preprocessing
    from portable_cam.tasks.presets import Answer


def run(
    model: ModelArgument,
    image: Annotated[
        Path | None,
        typer.Argument(
            help="A photo: what the model answers under each preset; and its size, where the model leaves it open.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
    row: RowOption = None,
    task: TaskOption = None,
    size: SizeOption = None,
    head: HeadOption = None,
    channels: ChannelsOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Draft MODEL.explain.json: what was derived, to be read and corrected.")
    ] = False,
    axes: AxesOption = None,
    why: Annotated[
        str | None, typer.Option("--why", help="A tensor: how its axes were derived, operator by operator.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Can it be explained, what will it cost (an estimate), and if not, which nodes stand in the way and what to do;
    with a photo, what the model answers under each preprocessing. Exit status 1 if no method works."""
    from portable_cam.errors import Error
    from portable_cam.export import doctor as examine
    from portable_cam.export.read.description import description_path
    from portable_cam.runtime.arithmetic import INEXACT, inexact_here
    from portable_cam.tasks.draft import draft, write_description
    from portable_cam.tasks.recognize import recognize

    known = read_model(model, axes=pairs("--axes", axes), size=size, image=image, head=head, channels=channels)
    if why is not None:
        _print_trace(known, why, as_json)
        return
    found, target, problem = task, None, ""
    try:
        found, target = recognize(known, task, output, row)
    except Error as error:
        if task is not None:
            raise
        problem = str(error)
    report = examine(known, output, target)
    if problem:
        report = replace(report, problems=list(dict.fromkeys([problem, *report.problems])))
    if inexact_here(known.graph):
        report = replace(report, problems=[*report.problems, INEXACT])
    report, explainer = tried(known, report, found, target, output, row)
    prepared = None if explainer is None else explainer.preprocessing
    as_used, by = known, explainer
    if image is not None:  # the answers are those of explain, at the size that it brings the photo to
        as_used = read_model(model, axes=pairs("--axes", axes), size=size, head=head, channels=channels)
        by = tried(as_used, report, found, target, output, row)[1]
    answers = [] if image is None else answers_on(by, image)
    if as_json:
        about = {"task": found, "preprocessing": None if prepared is None else prepared.to_json()}
        print_json({**about, **report.to_dict(), "answers": [answer.to_dict() for answer in answers]})
    else:
        if known.inside_explanation:
            note("note: this is an explanation file; what follows is about the model inside it")
        table = new_table("", "")
        table.show_header = False
        for key, value in (
            *_model(report),
            ("task", found or "not recognised"),
            *_preprocessing(prepared),
            *_explanation(report),
            *_cost(report.cost),
        ):
            table.add_row(key, escape(value))
        out.print(table)
        _print_answers(answers)
    if write:
        write_description(draft(as_used, found, output, row), path := description_path(model))
        note(f"written to {path}: read it, and correct what is wrong")
    if not report.explainable:
        raise typer.Exit(1)


def _print_trace(model: NormalizedModel, tensor: str, as_json: bool) -> None:
    """How the axes of a tensor were derived."""
    from portable_cam.export import trace_axes

    trace = trace_axes(model, tensor)
    if as_json:
        print_json(trace.to_dict())
        return
    table = new_table("tensor", "operator", "shape", "axes")
    for before, step in zip([None, *trace.steps], trace.steps, strict=False):
        shape = "?" if step.shape is None else " x ".join("?" if d is None else str(d) for d in step.shape)
        lines = ["as before"] if before is not None and step.axes == before.axes else step.describe()
        others = f"\nwith {', '.join(step.others)}" if step.others else ""
        table.add_row(*map(escape, (step.tensor, step.operator + others, shape, "\n".join(lines))))
    out.print(table)
    say(f"{tensor}: {trace.verdict}")


def _preprocessing(prepared: Preprocessing | None) -> Iterator[tuple[str, str]]:
    if prepared is None:
        return
    guessed = f"\nguessed: {', '.join(prepared.guessed)}" if prepared.guessed else ""
    yield "preprocessing", f"{prepared.describe()}{guessed}"


def _print_answers(answers: list[Answer]) -> None:
    """What the model answers under each preset, the preprocessing in use first."""
    if not answers:
        return
    table = new_table("preset", "answer", "certainty", "what it does")
    for answer in answers:
        sure = "" if answer.certainty is None else f"{100 * answer.certainty:.1f} %"
        table.add_row(*map(escape, (answer.preset or "in use", answer.text, sure, answer.preprocessing.describe())))
    out.print(table)
    say("A model is often surest under its own preprocessing, not always: see which answer is true; --preset takes it")


def _model(report: DoctorReport) -> Iterator[tuple[str, str]]:
    yield "producer", report.producer
    yield "opset", f"{report.opset}, differentiated at {report.normalized_opset}"
    yield "precision", report.precision.describe()
    yield "nodes", str(report.nodes)
    yield "inputs", "\n".join(report.inputs)
    yield "outputs", "\n".join(report.outputs)
    yield "image input", f"{report.image}, {report.layout}, batch {report.batch}" if report.image else "none"
    for name, count in report.quantized.items():
        yield "quantised", f"{name}: {count}"


def _explanation(report: DoctorReport) -> Iterator[tuple[str, str]]:
    yield "scores", f"{report.scores or 'not found'}" + (f", cut before {report.cut}" if report.cut else "")
    yield "layers", "\n".join(report.layers) or "none"
    yield "ReLU-like nodes", ", ".join(f"{policy}: {count}" for policy, count in report.guided.items())
    by_answer: dict[str, list[str]] = {}
    for name, answer in report.methods.items():
        by_answer.setdefault(answer, []).append(name)
    for answer, methods in by_answer.items():
        if answer not in report.problems:
            yield (
                "methods that work" if answer == "yes" else "do not work",
                (", ".join(methods) + ("" if answer == "yes" else f": {answer}")),
            )
    for obstacle in report.obstacles:
        lines = [f"{obstacle.operator} '{obstacle.node}' on {obstacle.path}", *([obstacle.why] if obstacle.why else [])]
        yield "in the way", "\n".join([*lines, *(f"way out: {way}" for way in obstacle.ways_out)])
    if report.custom:
        why = "neither ONNX nor ONNX Runtime defines them, and nothing runs them without the library that does"
        yield "custom operators", "\n".join([*report.custom, why])
    for problem in report.problems:
        yield "problem", problem


def _cost(cost: Cost | None) -> Iterator[tuple[str, str]]:
    if cost is None:
        yield "estimated cost", "unknown: the sizes of its tensors cannot be inferred"
        return
    yield "parameters", f"{cost.parameters / 1e6:.3g} million"
    yield (
        "estimated cost",
        f"{cost.macs / 1e9:.3g} GMAC per image and forward pass"
        + (f"; {', '.join(cost.assumed)}" if cost.assumed else ""),
    )
    by_multiple: dict[float, list[str]] = {}
    for name, multiple in cost.multiples.items():
        by_multiple.setdefault(multiple, []).append(name)
    if by_multiple:
        yield "times that, for one target", "\n".join(f"{m:.2f} {', '.join(names)}" for m, names in by_multiple.items())
    memory = f"{cost.forward_mb:.1f} MB forward"
    if cost.gradient_mb is not None:
        memory += f", {cost.gradient_mb:.1f} MB with the gradient of the picture"
    yield "estimated memory", f"{memory}; activations of one image, at most alive at once"
    if cost.uncounted:
        yield "not in the estimate", ", ".join(f"{count} {name}" for name, count in cost.uncounted.items())
    if cost.unknown:
        yield "not in the estimate", f"{cost.unknown} tensors of unknown size"
