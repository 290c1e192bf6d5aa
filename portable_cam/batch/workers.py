# SPDX-License-Identifier: Apache-2.0
"""Processes that make shards, watched: one that dies or hangs is ended, and another takes over."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import portable_cam.errors
from portable_cam.batch.layout import Layout
from portable_cam.batch.progress import Progress
from portable_cam.batch.shard import Spent
from portable_cam.errors import Error
from portable_cam.spelling import either

#: Signals that a process gets for what it did itself.
_OWN_FAULT = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
#: Workers that die before they are ready, one after the other, before the job is given up.
_HOPELESS = 3
#: Seconds between looks at the clock, and before a shard that another process makes is asked for again.
_TICK, _PATIENCE = 0.2, 1.0


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    errors: Any
    listener: threading.Thread = field(default_factory=threading.Thread)
    ready: bool = False
    shard: int | None = None
    heard: float = field(default_factory=monotonic)
    reported: list[bool] = field(default_factory=list)
    hung: bool = False


class Workers:
    """Makes shards in processes of their own.

    Args:
        layout: The folder of results.
        count: How many processes.
        time_limit: Seconds without an image from a worker after which it is ended.
        progress: Is kept up to date.
        tell: Called now and then, with ``progress``.
        ready: Called once, with what the explainer found and chose.
    """

    def __init__(
        self,
        layout: Layout,
        count: int,
        *,
        time_limit: float,
        progress: Progress,
        tell: Callable[[Progress], None],
        ready: Callable[[dict[str, Any]], None],
    ) -> None:
        self._layout, self._count, self._time_limit = layout, count, time_limit
        self._progress, self._tell, self._ready = progress, tell, ready
        self._heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._stillborn = 0
        self._known = False
        self._certain: set[int] = set()
        self._later: list[tuple[float, int]] = []

    def run(self, shards: Iterable[int]) -> None:
        """Make all of them.

        Raises:
            Error: What a worker could not go on from.
        """
        self._todo = list(reversed(list(shards)))
        try:
            for _ in range(min(self._count, len(self._todo))):
                self._begin()
            while self._todo or self._later or any(worker.shard is not None for worker in self._workers):
                self._step()
        finally:
            self._end()

    def _begin(self) -> None:
        home = str(Path(portable_cam.__file__).parents[1])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "portable_cam.batch.worker", str(self._layout.root), *either("", "cli").split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        worker = _Worker(process, errors)
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        self._workers.append(worker)
        self._progress.workers = len(self._workers)
        worker.listener.start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            try:
                self._heard.put((worker, json.loads(line)))
            except ValueError:  # it was killed in the middle of a line
                break
        self._heard.put((worker, None))

    def _step(self) -> None:
        now = monotonic()
        self._todo += [shard for when, shard in self._later if when <= now]
        self._later = [(when, shard) for when, shard in self._later if when > now]
        for worker in self._workers:
            if worker.ready and worker.shard is None and self._todo:
                self._give(worker, self._todo.pop())
        try:
            worker, message = self._heard.get(timeout=_TICK)
        except queue.Empty:
            self._watch()
        else:
            worker.heard = monotonic()
            if message is None:
                self._died(worker)
            else:
                self._on(worker, message)
            self._watch()
        self._tell(self._progress)

    def _give(self, worker: _Worker, shard: int) -> None:
        worker.shard, worker.heard, worker.reported = shard, monotonic(), []
        order = {"shard": shard, "certain": shard in self._certain}
        self._certain.discard(shard)
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):  # it died: that is heard of soon
            worker.process.stdin.write(json.dumps(order) + "\n")

    def _on(self, worker: _Worker, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ready":
            worker.ready, self._stillborn = True, 0
            if not self._known:
                self._known = True
                self._ready(message["facts"])
        elif event == "image":
            worker.reported.append(message["failed"])
            self._count_up(message["failed"], 1)
        elif event == "shard":
            worker.shard = None
            self._progress.add(Spent(**message["spent"]))
        elif event == "taken":
            worker.shard = None
            if not self._layout.part(message["shard"]).exists():
                self._later.append((monotonic() + _PATIENCE, message["shard"]))
        elif event == "error":
            kind: type[Error] = getattr(portable_cam.errors, message["kind"], Error)
            raise kind(message["text"])

    def _count_up(self, failed: bool, by: int) -> None:
        if failed:
            self._progress.failed += by
        else:
            self._progress.done += by

    def _watch(self) -> None:
        for worker in self._workers:
            if worker.shard is not None and monotonic() - worker.heard > self._time_limit and not worker.hung:
                worker.hung = True
                worker.process.kill()

    def _died(self, worker: _Worker) -> None:
        code = worker.process.wait()
        self._workers.remove(worker)
        self._progress.workers, self._progress.lost = len(self._workers), self._progress.lost + 1
        worker.errors.seek(0)
        said = worker.errors.read().strip()
        _close(worker)
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _HOPELESS:
                raise Error(f"workers die before they begin (exit status {code}): {said[-2000:] or 'they say nothing'}")
        if worker.shard is not None:
            for failed in worker.reported:  # the next worker reports them again
                self._count_up(failed, -1)
            if worker.hung or -code in _OWN_FAULT:
                self._certain.add(worker.shard)
            self._todo.append(worker.shard)
        if self._todo or self._later:
            self._begin()

    def _end(self) -> None:
        """End all processes: those without work by closing their input, the others at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            _close(worker)
        self._workers.clear()
        self._progress.workers = 0


def _close(worker: _Worker) -> None:
    worker.listener.join()
    for stream in (worker.process.stdin, worker.process.stdout, worker.errors):
        with contextlib.suppress(OSError):  # what was not yet sent cannot be
            assert stream is not None
            stream.close()
