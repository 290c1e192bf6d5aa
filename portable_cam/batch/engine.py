# SPDX-License-Identifier: Apache-2.0
"""The batch engine: a list of inputs in shards, made by processes, in a folder that can be gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from portable_cam.batch.given import keep
from portable_cam.batch.inputs import Inputs
from portable_cam.batch.job import Job, model_file, plain, write_inputs
from portable_cam.batch.layout import Layout, writing
from portable_cam.batch.maps import StoredSize, StoredType
from portable_cam.batch.progress import Progress
from portable_cam.batch.results import Results
from portable_cam.batch.shard import ShardRunner
from portable_cam.batch.shard_files import TakenError
from portable_cam.batch.sources import Found, Sources, is_names
from portable_cam.batch.workers import Workers
from portable_cam.errors import OptionError
from portable_cam.export.passes.normalized import AnyModel
from portable_cam.export.read.load import fingerprint
from portable_cam.tasks.base import AnyPreprocessing, Targets
from portable_cam.tasks.registry import TASKS

Tell = Callable[[Progress], None]


def run(
    model: AnyModel,
    source: Any,
    out: str | os.PathLike[str],
    methods: Sequence[str] | None = None,
    targets: Targets = None,
    *,
    task: str | None = None,
    preprocessing: AnyPreprocessing = None,
    maps: StoredSize = "layer",
    dtype: StoredType = "float16",
    overlays: str | None = None,
    overlay_size: int = 1024,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    on: str = "local",
    time_limit: float = 120.0,
    shard_size: int = 256,
    progress: Tell | None = None,
    ready: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Results:
    """Explain many images, or go on where it was stopped.

    Args:
        model: The path of a model, its bytes, or an ``onnx.ModelProto``.
        source: Folders, globs, addresses that fsspec knows, tables (CSV, Parquet), lists in text files, tar files,
            Arrow files: one or a list. Or any iterable of images, or of pairs of a key and an image, which are written
            into the folder first.
        out: The folder of results.
        methods: As for :func:`~portable_cam.tasks.api.explain`, as are the next ones.
        targets: See ``methods``; a table may say others for single images.
        task: See ``methods``.
        preprocessing: See ``methods``.
        maps: What is stored: ``layer`` for the low-resolution maps, from which the others are computed when they are
            read; ``image`` for maps at the size of the model's input; ``none``.
        dtype: ``float16`` or ``uint8``.
        overlays: ``jpg``, ``webp`` or ``png`` for a picture of each target and method, too.
        overlay_size: The longer side of these in pixels, at most.
        workers: Processes; None for one on each core, 0 for none but this one.
        shard: ``(i, n)``: this run makes only each n-th shard, from the i-th (0 to n - 1) on: for array jobs.
        on: ``local``, or ``ray`` for the nodes of a Ray cluster that share the folder.
        time_limit: Seconds without a finished image after which a worker is ended and the image passed over.
        shard_size: Inputs in a shard.
        progress: Called now and then.
        ready: Called once with what was found and chosen: task, layer, preprocessing, notes.
        **options: As for :func:`~portable_cam.tasks.api.explain`, written down as JSON.

    Raises:
        OptionError: The folder was begun with another model, options or inputs; nothing can be written; an option has
            an impossible value.
        Error: The model cannot be explained, as for :func:`~portable_cam.tasks.api.explain`.
    """
    layout = Layout(os.fspath(out))
    mine = _checked(shard, workers, on, time_limit)
    path = model_file(model, layout)
    job = Job(
        model=str(path),
        sha256=fingerprint(path),
        task=task,
        methods=None if methods is None else list(methods),
        targets=plain(targets, "targets"),
        preprocessing=plain(preprocessing, "preprocessing"),
        options={name: plain(value, name) for name, value in sorted(options.items()) if value is not None},
        maps=maps,
        dtype=dtype,
        overlays=overlays,
        overlay_size=overlay_size,
        shard_size=shard_size,
    )
    with writing(layout.root):
        found = _found(source, layout)
        count, digest = write_inputs(layout, found.table, shard_size)
        replace(job, inputs=count, digest=digest).begin(layout)
    inputs, finished = Inputs(layout.inputs), layout.finished()
    shards = [s for s in range(inputs.shards) if s % mine[1] == mine[0]]
    todo = [s for s in shards if s not in finished]
    counts = Progress(
        sum(inputs.size(s) for s in todo), before=sum(inputs.size(s) for s in range(inputs.shards) if s in finished)
    )
    if found.skipped:
        counts.notes = (
            f"passed over in folders: {sum(found.skipped.values())} files and folders "
            f"({', '.join(f'{n} x {s}' for s, n in found.skipped.most_common(5))})",
        )
    tell, known = progress or _silent, ready or _silent
    if todo and on == "ray":
        from portable_cam.batch.on_ray import run_on_ray

        run_on_ray(layout, todo, counts, tell, known, workers)
    elif todo and workers == 0:
        _run_here(layout, todo, counts, tell, known)
    elif todo:
        count = workers or len(os.sched_getaffinity(0))
        Workers(layout, count, time_limit=time_limit, progress=counts, tell=tell, ready=known).run(todo)
    tell(counts)
    return Results(layout, counts)


def _checked(shard: tuple[int, int] | None, workers: int | None, on: str, time_limit: float) -> tuple[int, int]:
    if on not in {"local", "ray"}:
        raise OptionError(f"on is local or ray, not {on!r}")
    if workers is not None and workers < 0:
        raise OptionError(f"workers is a number of processes, not {workers}")
    if time_limit <= 0:
        raise OptionError(f"time_limit is a number of seconds above 0, not {time_limit}")
    mine = shard or (0, 1)
    if not 0 <= mine[0] < mine[1]:
        raise OptionError(f"shard is (i, n) with i from 0 to n - 1, not {mine}")
    return mine


def _found(source: Any, layout: Layout) -> Found:
    names: Iterable[Any] = [source] if isinstance(source, str | Path) else source
    if is_names(source):
        asks = {name for row in TASKS.values() for name in row.explainer().asks}
        return Sources(asks, layout.root).find(names)
    return keep(source, layout)


def _run_here(layout: Layout, todo: Iterable[int], counts: Progress, tell: Tell, ready: Callable[..., None]) -> None:
    """In this process: without protection against images that crash or hang."""
    runner = ShardRunner(str(layout.root))
    ready(runner.facts)

    def report(failed: bool) -> None:
        counts.done, counts.failed = counts.done + (not failed), counts.failed + failed
        tell(counts)

    for shard in todo:
        try:
            counts.add(runner.run(shard, report=report).spent)
        except TakenError:
            counts.notes = (*counts.notes, f"shard {shard} is being made by another process")


def _silent(_: Any) -> None:
    pass
