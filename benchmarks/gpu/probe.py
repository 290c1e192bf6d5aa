# SPDX-License-Identifier: Apache-2.0
"""What only a GPU shows: ``python -m benchmarks.gpu.probe``. NaN through Relu and MaxPool, several threads, results
that are kept, memory that does not grow, CUDA graphs, layouts and precisions, each against the CPU."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.measure import ROOT, Bench, Row, machine, write_csv
from portable_cam import Explainer, assets
from portable_cam.runtime.gpu import Cuda, Host

METHODS = ("gradcam", "guided_gradcam")
TARGETS = [1, 5, 9]
FURTHER: tuple[dict[str, Any], ...] = (
    {"cuda_graphs": True}, {"nhwc": True}, {"precision": "tf32"}, {"precision": "float16"},
)  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.probe", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_probe.csv")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    warnings.filterwarnings("ignore")
    facts, rows = machine(arguments.device), []
    bench = Bench(arguments.device, arguments.device == "cpu", 0.3, float("inf"))
    for what, value in probes(bench):
        rows.append(Row("probe", what, "portable_cam", note=value))
        print(f"  {what}: {value}", flush=True)
        write_csv(rows, facts, arguments.csv)


def probes(bench: Bench) -> Iterator[tuple[str, str]]:
    """What was looked at, and what was found."""
    count, calls = (3, 20) if bench.on_gpu else (1, 1)  # kernels are interpreted there
    targets = TARGETS[:count]
    x = np.random.default_rng(0).standard_normal((count, 3, 227, 227), dtype=np.float32)
    expected = Explainer(assets.model(), METHODS)(x, targets)

    def explainer(**options: Any) -> Explainer:
        return Explainer(assets.model(), METHODS, device=Cuda(heads="kernels", **options) if bench.on_gpu else Host())

    def off(found: Any, method: str, images: slice = slice(None)) -> str:
        wanted = expected[method][images]
        return f"{np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max():.2e}"

    ours = explainer()
    found = ours(x, targets)
    for method in METHODS:
        yield f"{method} against the CPU", off(found[method], method)
    turned = ours(x[::-1].copy(), targets[::-1])
    yield "other pixels and targets in the same buffers", off(turned["gradcam"][::-1], "gradcam")
    held = [ours.on_device(x, targets) for _ in range(1 + calls // 5)]
    yield "the first of the results that are kept", off(held[0]["gradcam"].numpy(), "gradcam")

    def alone(i: int) -> bool:
        one = [
            ours.on_device(x[i : i + 1], [[TARGETS[i]]])["gradcam"].numpy() for _ in range(20 if bench.on_gpu else 2)
        ]
        return all(float(off(each, "gradcam", slice(i, i + 1))) < 1e-3 for each in one)

    with ThreadPoolExecutor(3) as pool:
        yield "three threads on one explainer", "right" if all(pool.map(alone, range(count))) else "wrong results"
    if not bench.on_gpu:
        return
    bad = torch.from_numpy(x.copy()).cuda()
    bad[0, 0, 100, 100] = float("nan")
    beside = ours.on_device(bad, targets)
    yield "flags of an image with NaN and two without", str(beside.flags)
    yield "the images beside it", off(beside["guided_gradcam"].numpy()[1:], "guided_gradcam", slice(1, None))
    before = bench.used_memory()
    for _ in range(300):
        ours.on_device(x, targets)
    bench.synchronize()
    after = bench.used_memory()
    assert before is not None
    assert after is not None
    yield "megabytes that 300 calls took", f"{after - before:.1f}"
    for options in FURTHER:
        try:
            result = explainer(**options)(x, targets)
            for method in METHODS:
                yield f"{method} with {options} against the CPU", off(result[method], method)
        except Exception as error:  # whatever it is, the next is to be seen
            yield f"with {options}", f"{type(error).__name__}: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    main()
