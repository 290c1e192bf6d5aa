"""``portable-cam batch``: many images, a table and a store of maps out; interrupted at any moment, it goes on."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from portable_cam.cli import explain
from portable_cam.cli.common import JsonOption, err, fail, names, note, numbers, pairs, print_json, say, size_of, warn
from portable_cam.errors import OptionError
from portable_cam.export.options import Options

_PREPROCESSING = ("preset", "mean", "std", "scale", "color", "size", "resize", "quantization")
#: Options of single tasks, by the parameters of ``explain``.
_OF_TASKS = {
    "labels": "labels", "rather_than": "rather_than", "class_set": "sets", "head": "head", "part": "part",
    "channels": "channels", "threshold": "threshold", "region": "region", "pixel": "pixel", "mask": "mask",
    "decoder": "decoder",
    "vocabulary": "vocabulary", "blank": "blank", "question": "question", "caption": "caption",
}  # fmt: skip
_PICTURES, _FILES = ("jpg", "webp", "png"), ("json", "csv")
#: Failed inputs that are named at the end; the table has all.
_NAMED = 5


def _takes_questions(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what ``explain`` takes to say what is explained, as ``asked``."""
    fields = [f.name for f in dataclasses.fields(Options)]
    wanted = ("task", "target", "device", "budget", *_PREPROCESSING, *_OF_TASKS, *fields)
    theirs = inspect.signature(explain.run).parameters
    added = [theirs[name] for name in dict.fromkeys(wanted) if name in theirs]
    hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "asked"] + added

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(asked={p.name: given.pop(p.name) for p in added}, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


@_takes_questions
def run(
    model: Annotated[Path | None, typer.Argument(help="The .onnx file.", show_default=False)] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, globs, addresses (s3://...), tables (CSV, Parquet), lists (txt), tar or Arrow files.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option("-o", "--out", help="The folder of results.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; by default one on each core, 0 for none but this one.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: each n-th shard from the i-th on, 0 to n-1.")] = None,
    on: Annotated[str, typer.Option(help="local, or ray for a cluster whose nodes share the folder.")] = "local",
    maps: Annotated[str, typer.Option(help="Maps are kept at the size of the layer, of the image, or none.")] = "layer",
    dtype: Annotated[str, typer.Option(help="float16 or uint8: of the maps kept.")] = "float16",
    formats: Annotated[
        str, typer.Option("--format", help="Also jpg, webp or png: overlays; json: as COCO; csv: the table.")
    ] = "",
    overlay_size: Annotated[int, typer.Option(min=16, help="The longer side of overlays, at most.")] = 1024,
    shard_size: Annotated[int, typer.Option(min=1, help="Inputs in a shard.")] = 256,
    time_limit: Annotated[float, typer.Option(help="Seconds after which an image is passed over.")] = 120.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a folder of results: --verify OUT, or after the run.")
    ] = False,
    as_json: JsonOption = False,
    *,
    asked: dict[str, Any],
) -> None:
    """Explain many images: a table of results and a store of maps; given again, it goes on where it was stopped."""
    if verify and model is not None and not inputs:
        _verify(model, as_json)
        return
    if model is None or not inputs or folder is None:
        raise typer.BadParameter("give a model, inputs, and with -o the folder of results; or --verify and a folder")
    pictures, files = _formats(formats)
    from portable_cam import batch

    with _Bar() as bar:
        results = batch.run(
            model,
            inputs,
            folder,
            targets=asked.pop("target"),
            workers=workers,
            shard=_part(shard),
            on=on,
            maps=maps,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            overlays=pictures,
            overlay_size=overlay_size,
            shard_size=shard_size,
            time_limit=time_limit,
            progress=bar.tell,
            ready=_introduce,
            **_options(asked),
        )
    failed = _report(results, folder, files, as_json)
    if verify:
        _verify(folder, as_json=False)
    if failed:
        raise typer.Exit(1)


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    """Options of the command as those of Python."""
    size, quantization = asked.pop("size"), asked.pop("quantization")
    preprocessing = {name: asked.pop(name) for name in _PREPROCESSING if name in asked}
    preprocessing |= {"size": size_of(size), "quantization": numbers("--quantization", quantization, 2)}
    preprocessing |= {name: numbers(f"--{name}", preprocessing[name]) for name in ("mean", "std")}
    given = {own: asked.pop(name, None) for name, own in _OF_TASKS.items()}
    given["sets"] = explain._sets(given["sets"])
    given["region"] = numbers("--region", given["region"], 4)
    given["pixel"] = numbers("--pixel", given["pixel"], 2)
    methods, axes = asked.pop("methods"), asked.pop("axes")
    given["axes"] = pairs("--axes", axes) or None
    chosen = {name: value for name, value in preprocessing.items() if value is not None}
    return {
        "methods": None if methods is None else names(methods),
        "preprocessing": chosen or None,
        **{name: value for name, value in {**given, **asked}.items() if value is not None and value is not False},
    }


def _formats(text: str) -> tuple[str | None, tuple[str, ...]]:
    """The format of overlays, and the files written in the end."""
    wanted = names(text)
    for name in wanted:
        if name not in (*_PICTURES, *_FILES):
            raise OptionError(f"format '{name}' does not exist; the formats are {', '.join((*_PICTURES, *_FILES))}")
    pictures = [name for name in wanted if name in _PICTURES]
    if len(pictures) > 1:
        raise OptionError(f"overlays are written in one format, not in {' and '.join(pictures)}")
    return pictures[0] if pictures else None, tuple(name for name in wanted if name in _FILES)


def _part(text: str | None) -> tuple[int, int] | None:
    """i/n."""
    if text is None:
        return None
    first, slash, count = text.partition("/")
    if not slash or not first.isdigit() or not count.isdigit():
        raise typer.BadParameter(f"--shard is i/n, as 0/8, not {text!r}")
    return int(first), int(count)


def _introduce(facts: dict[str, Any]) -> None:
    """What was found and chosen, before the first image."""
    from portable_cam.image.preprocess import Preprocessing

    note(f"task: {facts['task']}, layer: {facts['layer']}, methods: {', '.join(facts['methods'])}")
    note(f"preprocessing: {Preprocessing.from_json(facts['preprocessing']).describe()}")
    if facts["guessed"]:
        warn(f"guessed: {', '.join(facts['guessed'])}; say what the model expects with --preset, or a JSON beside it")
    for text in facts["notes"]:
        note(f"note: {text}")


class _Bar:
    """Progress on stderr."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[more]}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("explaining", total=None, rate="", more="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, counts: Any) -> None:
        """Show the counts."""
        more = [f"{counts.failed} failed"] * bool(counts.failed) + [f"{counts.lost} workers lost"] * bool(counts.lost)
        more += [f"most time: {counts.slowest}"] * bool(counts.slowest)
        self._bar.update(
            self._task,
            total=counts.total,
            completed=counts.done + counts.failed,
            rate=f"{counts.rate:.1f}/s",
            more=", ".join(more),
        )


def _report(results: Any, folder: Path, files: tuple[str, ...], as_json: bool) -> int:
    """What became of it; how many inputs failed, those of runs before this one among them."""
    from portable_cam.batch.written import write_coco, write_csv

    counts, failed = results.progress, results.failed()
    for text in counts.notes:
        note(f"note: {text}")
    written = [str(folder / "table.parquet")]
    if files and not results.complete:
        note("note: other parts of the job are not finished, so that no file of all of it was written")
    elif files:
        writers = {"json": (write_coco, "coco.json"), "csv": (write_csv, "table.csv")}
        written += [str(writers[name][0](results, folder / writers[name][1])) for name in files]
    if as_json:
        print_json(
            {
                "out": str(folder),
                "files": written,
                "complete": results.complete,
                "before": counts.before,
                "done": counts.done,
                "failed": counts.failed,
                "seconds": round(counts.seconds, 3),
                "images_per_second": round(counts.rate, 3),
                "workers_lost": counts.lost,
            }
        )
    else:
        before = f", {counts.before} were finished before" if counts.before else ""
        say(f"{counts.done} explained, {counts.failed} failed in {counts.seconds:.1f} s{before}: {written[0]}")
    for key, reason in list(failed.items())[:_NAMED]:
        fail(reason if key in reason else f"{key}: {reason}")
    if len(failed) > _NAMED:
        note(f"and {len(failed) - _NAMED} more: the column error of the table has the reasons")
    return len(failed)


def _verify(folder: Path, as_json: bool) -> None:
    """Check a folder of results."""
    from portable_cam.batch.verify import remedy, verify

    found = verify(folder)
    if as_json:
        print_json({**dataclasses.asdict(found), "whole": found.whole})
    else:
        state = "whole" if found.whole else "not whole"
        say(
            f"{folder} is {state}: {found.inputs} inputs, {found.done} explained, {found.failed} failed, "
            f"{found.missing} not finished"
        )
    for text in found.wrong:
        fail(text)
    if not found.whole:
        note(remedy(found))
        raise typer.Exit(1)
