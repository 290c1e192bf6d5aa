"""What Grad-CAM costs on every classifier of the zoo, float and quantised: ``python -m benchmarks.zoo``.

Times the explanation of one target per image against plain inference of the original file, in turn in one process, and
tells how long the explanation takes to build and how much larger than the model its file is. Writes
``benchmarks/results/zoo.csv``.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.report import ROOT, machine, measure_all, parser_of
from portable_cam.export import build_explanation
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import alternate, random_feeds, ratio

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", ROOT.parent / "shared" / "zoo"))


@dataclass(frozen=True)
class Row:
    """Medians of one model with a batch of one: times in milliseconds, sizes in bytes."""

    model: str
    inference_ms: float
    gradcam_ms: float
    of_plain_inference: float
    rounds: int
    build_seconds: float
    model_bytes: int
    explanation_bytes: int

    @property
    def growth(self) -> float:
        """By which share of the model's size the explanation's file is larger."""
        return self.explanation_bytes / self.model_bytes - 1


def measure(path: Path, seconds: float, threads: int) -> Row:
    """One model: plain inference of the file as it is, and its Grad-CAM."""
    begin = perf_counter()
    explanation = build_explanation(path, ["gradcam"], targets_per_image=1)
    built = perf_counter() - begin
    plain = Session(path.read_bytes(), threads=threads, spin=False)
    explained = Session(explanation, threads=threads, spin=False)
    feeds = random_feeds(plain, 1)
    targets = np.zeros((1, 1), np.int64)
    runs = {"plain": partial(plain.run, feeds), "gradcam": partial(explained.run, {**feeds, "targets": targets})}
    times = alternate(runs, seconds)
    medians = {name: round(statistics.median(spent) * 1e3, 3) for name, spent in times.items()}
    return Row(
        path.stem.removeprefix("cls_"),
        medians["plain"],
        medians["gradcam"],
        round(ratio(times["gradcam"], times["plain"]), 3),
        len(times["plain"]),
        round(built, 3),
        path.stat().st_size,
        explanation.ByteSize(),
    )


def table(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The table of ``docs/benchmarks.md``."""
    rounds = [row.rounds for row in rows]
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, ONNX Runtime {facts['onnxruntime']}; {facts['date']}, commit "
        f"{facts['commit']}. Batch 1, median ms of {min(rounds)} to {max(rounds)} rounds; the multiple is the "
        "median of the ratios within a round; `python -m benchmarks.zoo`.",
        "",
        "| model | plain inference | with Grad-CAM | multiple | to build (s) | file (kB) | larger by |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.inference_ms:.2f} | {row.gradcam_ms:.2f} | {row.of_plain_inference:.2f} | "
        f"{row.build_seconds:.2f} | {row.model_bytes / 1000:.0f} | {row.growth:.1%} |"
        for row in rows
    ]
    middle = statistics.median(row.of_plain_inference for row in rows)
    return "\n".join([*lines, "", f"The median multiple over the {len(rows)} models is {middle:.2f}."])


def main() -> None:
    parser = parser_of("zoo", __doc__, 15.0)
    arguments = parser.parse_args()
    paths = sorted((ZOO / "models").glob("cls_*.onnx"))
    if not paths:
        parser.error(f"no classifiers in {ZOO / 'models'}: set PORTABLE_CAM_ZOO")
    measure_all(
        paths,
        partial(measure, seconds=arguments.seconds, threads=arguments.threads),
        lambda row: f"{row.model}: {row.of_plain_inference:.2f} times plain inference",
        table,
        machine(arguments.threads, ("onnxruntime", "onnx", "numpy")),
        arguments,
    )


if __name__ == "__main__":
    main()
