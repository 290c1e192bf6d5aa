# SPDX-License-Identifier: Apache-2.0
"""The parts of what is measured on a GPU: ``python -m benchmarks.gpu``; all of it with the tests, each in a process
and a time of its own: ``python -m benchmarks.gpu.steps``.

Needs torch, Triton, onnxruntime-gpu; grad-cam, captum and torchcam where they are to be compared. ``--device cpu
--tiny`` runs every part on small sizes without a GPU, to see that it works; its figures mean nothing and are not kept
unless ``--csv`` names a file.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.gpu.measure import ROOT, Bench, Row, machine, write_csv


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the command")
    parser.add_argument("--minutes", type=float, default=7.0, help="nothing new is begun after this time")
    parser.add_argument("--seconds", type=float, default=0.35, help="for each thing that is timed")
    parser.add_argument("--parts", nargs="+", default=["kernels", "models"], choices=["kernels", "models"])
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--precisions", nargs="+", default=["tf32", "float16", "float32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--csv", type=Path, default=None, help="default: benchmarks/results/gpu.csv on a GPU")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    from benchmarks.gpu import kernels, networks, roofline
    from portable_cam.kernels.launch import Device, TorchDevice
    from portable_cam.kernels.on_torch import DriverDevice

    warnings.filterwarnings("ignore")  # Captum warns of its hooks on every call
    begin = perf_counter()
    bench = Bench(arguments.device, arguments.tiny, arguments.seconds, begin + 60 * arguments.minutes)
    path = arguments.csv or (ROOT / "benchmarks" / "results" / "gpu.csv" if bench.on_gpu else None)
    facts = machine(arguments.device)
    print(", ".join(f"{k} {v}" for k, v in facts.items() if v), flush=True)
    if path is not None:
        bench.keep = lambda: write_csv(bench.rows, facts, path)
    try:
        rates: dict[str, float] = {"copy": kernels.copy_bandwidth(bench), **roofline.matmul_rates(bench)}
        if "kernels" in arguments.parts:
            device: Device = DriverDevice() if bench.on_gpu else TorchDevice("cpu")
            with torch.no_grad(), bench.noting("kernels"):
                kernels.launches(bench, device)
                kernels.run(bench, rates["copy"], device)
        if "models" in arguments.parts:
            names = arguments.models or list(networks.NETWORKS)
            networks.run(bench, names, arguments.precisions, arguments.batches, rates)
    finally:
        bench.keep()
    print(summary(bench.rows))
    print(f"{len(bench.rows)} rows, {len(bench.notes)} notes, {perf_counter() - begin:.0f} s; {path or 'not kept'}")


def summary(rows: list[Row]) -> str:
    """The table that a reader looks at first."""
    lines = [f"{'':34}{'':44}{'batch':>6} {'precision':10}{'ms':>10}{'img/s':>10}{'GB/s':>9}{'share':>8}"]
    for row in rows:
        cells = [f"{row.subject[:32]:34}{row.implementation[:42]:44}{row.batch or '':>6} {row.precision:10}"]
        cells += [
            f"{'' if v is None else format(v, f):>{w}}"
            for v, f, w in (
                (row.milliseconds, ".3f", 10),
                (row.images_per_second, ".0f", 10),
                (row.gigabytes_per_second, ".0f", 9),
                (row.share, ".3f", 8),
            )
        ]
        lines.append("".join(cells) + (f"  {row.note}" if row.part == "roofline" else f"  {row.size}"))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
