# SPDX-License-Identifier: Apache-2.0
"""How things are timed, and what a row says."""

from __future__ import annotations

import csv
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "torch", "triton", "grad-cam", "captum", "torchcam", "numpy")


@dataclass(frozen=True)
class Row:
    """One measurement; what was not measured stays empty."""

    part: str
    """``copy``, ``matmul``, ``kernel``, ``launch``, ``model`` or ``roofline``."""
    subject: str
    """The kernel or the model."""
    implementation: str
    batch: int | None = None
    size: str = ""
    precision: str = ""
    milliseconds: float | None = None
    """The median over the rounds of the time of one run."""
    spread: float | None = None
    """The distance of the quartiles, as a part of the median."""
    rounds: int | None = None
    images_per_second: float | None = None
    gigabytes_per_second: float | None = None
    teraflops: float | None = None
    share: float | None = None
    """Of the measured copy bandwidth for a kernel; of plain inference in the same round for a model; of the bound for
    a roofline."""
    memory_mb: float | None = None
    """By how much the GPU's used memory grew."""
    note: str = ""


@dataclass
class Bench:
    """What every part needs: the device, how long to measure, and the rows so far."""

    device: str
    tiny: bool
    seconds: float
    deadline: float
    keep: Callable[[], None] = lambda: None
    """Writes the rows so far: what ends the process loses nothing that was measured."""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def late(self) -> bool:
        return perf_counter() > self.deadline

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if row.milliseconds is not None:
            print(f"  {row.subject} {row.implementation} {row.size} {row.precision}: {row.milliseconds} ms", flush=True)

    def note(self, text: str) -> None:
        """Something that was not measured, and why."""
        self.notes.append(text)
        print(text, flush=True)

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Whatever goes wrong within is a note, and the rest goes on."""
        try:
            yield
        except Exception as error:  # of ONNX Runtime, of torch, of a peer
            text = str(error).strip().splitlines()
            self.note(f"{what}: {type(error).__name__}: {text[0] if text else ''}")

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def used_memory(self) -> float | None:
        """Megabytes of the whole GPU in use."""
        if not self.on_gpu:
            return None
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 1e6

    def replay(self, runs: Mapping[str, Sequence[Callable[[], Any]]], *, replays: int = 15) -> dict[str, list[float]]:
        """Seconds of one call of each, without the host: all calls of a run are recorded in a CUDA graph, several times
        over, and replayed between two events. A launch takes the host 16 to 30 us, as long as a small kernel.

        Args:
            runs: For each name the calls, on buffers that together are larger than the cache.
            replays: How often the graph is replayed.

        Returns:
            For each name the times of its replays; without a GPU, of single rounds on the host.
        """
        return {name: self._replayed(calls, replays) for name, calls in runs.items()}

    def _replayed(self, calls: Sequence[Callable[[], Any]], replays: int) -> list[float]:
        rounds = 1 if len(calls) > 8 else 4

        def run() -> None:
            for _ in range(rounds):
                for call in calls:
                    call()

        times = []
        if not self.on_gpu:
            for _ in range(3):
                begin = perf_counter()
                run()
                times.append((perf_counter() - begin) / (rounds * len(calls)))
            return times
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # compiles, and brings the allocator to its size
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                run()
            graph.replay()
            for _ in range(replays):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                graph.replay()
                end.record(stream)
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1e3 / (rounds * len(calls)))
        return times

    def time(self, runs: Mapping[str, Callable[[], Any]], *, minimum: int = 5) -> dict[str, list[float]]:
        """Seconds of one run of each, in alternating rounds, so that whatever else the machine does hits all alike.

        Each round queues a few runs and waits for them, so that the host is ahead of the GPU as it is in production.
        The first round warms up and says how many runs make a round of at least 10 milliseconds.
        """
        per_round = {}
        for name, run in runs.items():
            run()
            self.synchronize()
            begin = perf_counter()
            run()
            self.synchronize()
            per_round[name] = 1 if not self.on_gpu else max(1, min(200, round(0.01 / (perf_counter() - begin))))
        times: dict[str, list[float]] = {name: [] for name in runs}
        begin = perf_counter()
        while perf_counter() - begin < self.seconds * len(runs) or len(next(iter(times.values()))) < minimum:
            for name, run in runs.items():
                start = perf_counter()
                for _ in range(per_round[name]):
                    run()
                self.synchronize()
                times[name].append((perf_counter() - start) / per_round[name])
        return times


def median_and_spread(times: list[float]) -> tuple[float, float]:
    """The median, and the distance of the quartiles as a part of it."""
    middle = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4)
    return middle, (high - low) / middle


def timed(times: list[float]) -> dict[str, Any]:
    """The columns that a list of times fills."""
    middle, spread = median_and_spread(times)
    return {"milliseconds": round(middle * 1e3, 5), "spread": round(spread, 3), "rounds": len(times)}


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            return ""

    name, driver = platform.processor() or platform.machine(), ""
    if device != "cpu":
        name = torch.cuda.get_device_name()
        driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    changed = bool(output("git", "status", "--porcelain", "--untracked-files=no"))
    return {
        "date": date.today().isoformat(),
        "device": name,
        "driver": driver,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": output("git", "rev-parse", "--short", "HEAD") + ("+changes" if changed else ""),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def write_csv(rows: list[Row], facts: Mapping[str, str], path: Path) -> None:
    """One line a row, with the machine in each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*Row.__dataclass_fields__, *facts])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if v is None else v for k, v in asdict(row).items()} | dict(facts))
