# SPDX-License-Identifier: Apache-2.0
"""One shard, from its inputs to its rows: the unit of work, the same in a process here, in an array job and on Ray."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from PIL import Image

from portable_cam.batch import containers
from portable_cam.batch.inputs import Input, Inputs
from portable_cam.batch.job import Job
from portable_cam.batch.layout import Layout, as_json, put_if_absent, writing
from portable_cam.batch.maps import Stored, maps_of
from portable_cam.batch.rows import done_row, failed_row
from portable_cam.batch.shard_files import ShardFiles
from portable_cam.batch.suspects import DECODING, RUNNING
from portable_cam.errors import Error, ImageError, OptionError
from portable_cam.explanation import Explanation
from portable_cam.export.format import ExplanationMetadata
from portable_cam.tasks.base import Photo

#: Images that are decoded ahead of the one that is explained, by threads of their own.
AHEAD, DECODERS = 6, 2


@dataclass
class Spent:
    """Seconds of a worker's main thread, by what it did."""

    decoding: float = 0.0
    explaining: float = 0.0
    writing: float = 0.0


@dataclass
class Outcome:
    """What became of a shard."""

    shard: int
    done: int = 0
    failed: int = 0
    spent: Spent = field(default_factory=Spent)


class ShardRunner:
    """Makes shards of one job; the model is loaded once.

    Args:
        root: The folder of results.

    Raises:
        Error: The job cannot be done, or finds something else than the worker that was first.
    """

    def __init__(self, root: str) -> None:
        self.layout = Layout(root)
        self.job = Job.read(self.layout)
        self.inputs = Inputs(self.layout.inputs)
        made = self.job.explainer()
        self.explainer, self._asked = made.explainer, made.asked
        self.facts = _facts(made.explainer)
        there = json.loads(put_if_absent(self.layout.facts, as_json(self.facts)))
        for name in ("task", "layer", "methods", "preprocessing", "profile"):
            if there[name] != json.loads(json.dumps(self.facts[name])):
                raise OptionError(
                    f"{self.layout.root} was begun with {name} {there[name]!r}, and here it is {self.facts[name]!r}: "
                    "were the files beside the model changed? Put them back, or begin another folder"
                )

    def run(self, shard: int, *, certain: bool = False, report: Callable[[bool], None] | None = None) -> Outcome:
        """Make a shard.

        Args:
            shard: Which.
            certain: See :class:`~portable_cam.batch.suspects.Suspects`.
            report: Called for each image with whether it failed.

        Raises:
            shard_files.TakenError: Another process makes it.
            OptionError: The results cannot be written.
        """
        inputs, outcome = self.inputs.shard(shard), Outcome(shard)
        report = report or (lambda failed: None)
        with writing(self.layout.root), ShardFiles(self.layout, shard, len(inputs), certain=certain) as files:
            for row in files.rows.values():
                report(row["status"] == "failed")
            for i, reason in files.suspects.condemned().items():
                if i not in files.rows:
                    files.add({i: failed_row(inputs[i], reason)}, {}, {})
                    report(True)
            todo = [i for i in range(len(inputs)) if i not in files.rows]
            for i, photo in self._prepared(inputs, todo, files, outcome.spent):
                self._one(i, inputs[i], photo, files, outcome.spent)
                report(files.rows[i]["status"] == "failed")
            files.commit()
            outcome.failed = sum(row["status"] == "failed" for row in files.rows.values())
            outcome.done = len(files.rows) - outcome.failed
        return outcome

    def _prepared(
        self, inputs: list[Input], todo: list[int], files: ShardFiles, spent: Spent
    ) -> Iterator[tuple[int, Photo | Error]]:
        """Images in order, decoded and prepared ahead; one at a time where one of them may kill the worker."""

        def prepare(i: int) -> Photo | Error:
            files.suspects.take(i, DECODING)
            try:
                return self._photo(inputs[i])
            except Error as error:
                return error
            finally:
                files.suspects.release(i)

        ahead = 0 if files.suspects.careful else AHEAD
        with ThreadPoolExecutor(DECODERS) as pool:
            results = ahead_of(pool, prepare, todo, ahead)
            for i in todo:
                start = perf_counter()
                photo = next(results)
                spent.decoding += perf_counter() - start
                yield i, photo

    def _photo(self, given: Input) -> Photo:
        try:
            photo = self.explainer.prepare(containers.read(given, self.layout.root))
        except ImageError as error:
            raise ImageError(str(error).replace("the given bytes", given.key)) from None
        except MemoryError:
            raise ImageError(f"{given.key}: there is not enough memory to decode it") from None
        # the photo itself is needed for pictures alone, and may be large
        return photo if self.job.overlays else replace(photo, image=photo.view)

    def _one(self, i: int, given: Input, photo: Photo | Error, files: ShardFiles, spent: Spent) -> None:
        start = perf_counter()
        explanation: Explanation | Error = (
            photo if isinstance(photo, Error) else self._explained(i, given, photo, files)
        )
        between = perf_counter()
        if isinstance(explanation, Error):
            files.add({i: failed_row(given, str(explanation))}, {}, {})
        else:
            stored = maps_of(explanation, self.job.maps, self.job.dtype, self.facts["profile"])
            overlays = self._overlays(i, explanation, files)
            places = [_place(one, files) for one in stored]
            row = done_row(given, explanation, places, list(overlays))
            files.add({i: row}, {one.file: [one.values] for one in stored}, overlays)
        spent.explaining += between - start
        spent.writing += perf_counter() - between

    def _explained(self, i: int, given: Input, photo: Photo, files: ShardFiles) -> Explanation | Error:
        targets = self.job.targets if given.targets is None else given.own_targets
        files.suspects.take(i, RUNNING)
        try:
            return self.explainer.explain_prepared(photo, targets, **{**self._asked, **given.own_asked})
        except Error as error:
            return error
        finally:
            files.suspects.release(i)

    def _overlays(self, i: int, explanation: Explanation, files: ShardFiles) -> dict[str, bytes]:
        if self.job.overlays is None:
            return {}
        folder = f"{self.layout.overlays.name}/{files.shard:06d}"
        found = {}
        for k in range(explanation.scores.shape[1]):
            for method in explanation:
                picture = explanation.overlay(method, k)
                picture.thumbnail((self.job.overlay_size, self.job.overlay_size))
                found[f"{folder}/{i:05d}.{k}.{method}.{self.job.overlays}"] = _encoded(picture, self.job.overlays)
        return found


def ahead_of(pool: ThreadPoolExecutor, work: Callable[[int], Any], items: Iterable[int], depth: int) -> Iterator[Any]:
    """The results in order, at most ``depth`` items ahead of the one that is taken; with 0 none before it is asked
    for."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _place(stored: Stored, files: ShardFiles) -> dict[str, Any]:
    return {
        "name": stored.name,
        "file": files.layout.relative(files.place(stored.file)),
        "offset": files.count_in(stored.file, stored.values),
        "count": len(stored.values),
        "low": stored.low.tolist(),
        "scale": stored.scale.tolist(),
        "flat": stored.flat.tolist(),
    }


def _encoded(picture: Image.Image, kind: str) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, {"jpg": "JPEG"}.get(kind, kind.upper()), quality=88)
    return sink.getvalue()


def _facts(explainer: Any) -> dict[str, Any]:
    """What the explainer found and chose."""
    known = explainer.explainer
    metadata = ExplanationMetadata.read(known.metadata)
    return {
        "task": explainer.task,
        "layer": known.layer,
        "methods": list(known.methods),
        "preprocessing": explainer.preprocessing.to_json(),
        "guessed": list(explainer.preprocessing.guessed),
        "profile": metadata.options.profile,
        "guided_nodes": known.guided_nodes,
        "notes": list(explainer.notes),
    }
