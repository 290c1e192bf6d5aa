# SPDX-License-Identifier: Apache-2.0
"""Everything on a GPU, correctness first: ``python -m benchmarks.gpu.steps -o gpu_out``. Each step is a process with a
limit of its own, so that one that hangs or crashes costs the others nothing, and its figures are in the folder as soon
as they are measured.

``first`` needs torch and Triton alone; ``second`` ONNX Runtime with its CUDA provider, and the peers where they are
installed. ``--device cpu`` runs what runs without a GPU, on small sizes, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.measure import ROOT

#: Groups of network measurements: what says most first.
PRECISIONS = ("tf32", "float16", "float32")


@dataclass(frozen=True)
class Step:
    """A process.

    Attributes:
        name: Of its log, and of its CSV file.
        limit: Seconds after which it is ended.
        command: What follows ``python -m``; ``{out}`` is the folder.
        on_cpu: Whether it runs without a GPU.
    """

    name: str
    limit: int
    command: tuple[str, ...]
    on_cpu: bool = True


def steps(call: str, *, on_gpu: bool) -> list[Step]:
    """The steps of a call."""
    place = ("--device", "cuda") if on_gpu else ("--device", "cpu", "--tiny")
    batches = ("1", "64", "256") if on_gpu else ("1",)

    def measure(name: str, limit: int, *more: str) -> Step:
        minutes = str(round(limit * 0.8 / 60, 2))
        csv = ("--csv", f"{{out}}/{name}.csv")
        return Step(name, limit, ("benchmarks.gpu", *place, "--minutes", minutes, *csv, *more))

    def tests(name: str, limit: int, *more: str) -> Step:
        quiet = ("-q", "-W", "default", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line", "--maxfail=12")
        return Step(name, limit, ("pytest", "-m", "gpu", *quiet, *more), on_cpu=False)

    def models(precision: str) -> Step:
        wanted = ("--models", "ResNet-50", "--precisions", precision, "--batches", *batches)
        return measure(f"models_{precision}", 100, "--parts", "models", *wanted)

    probe = ("benchmarks.gpu.probe", "--csv", "{out}/probe.csv", *place[:2])
    first = [tests("test_kernels", 110, "tests/test_kernels.py"), measure("kernels", 130, "--parts", "kernels")]
    tf32, *others = map(models, PRECISIONS if on_gpu else PRECISIONS[:1])
    second = [
        tests("test_gpu", 70, "tests/test_gpu.py", "-k", "not agree"),
        tf32,
        Step("probe", 60, probe),
        *others,
        tests("test_gpu_agree", 60, "tests/test_gpu.py", "-k", "agree"),
        Step("profile", 45, ("benchmarks.gpu.profile", "-o", "{out}/profile.txt"), on_cpu=False),
    ]
    chosen = {"first": first, "second": second, "all": [*first, *second]}[call]
    # interpreted kernels take their time
    return chosen if on_gpu else [replace(step, limit=600) for step in chosen if step.on_cpu]


def run(step: Step, out: Path) -> int:
    """Run a step; its output goes to ``<name>.log``, the last lines also to the screen. Returns its exit status, 124 if
    it ran out of time."""
    command = [sys.executable, "-m", *(part.format(out=out) for part in step.command)]
    begin = perf_counter()
    log = out / f"{step.name}.log"
    with log.open("wb") as file:
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=step.limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    lines = log.read_text(errors="replace").splitlines()
    print(f"=== {step.name}: status {status}, {perf_counter() - begin:.0f} s", *lines[-25:], sep="\n", flush=True)
    return status


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; its exit status is 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.steps", description=(__doc__ or "").split(":")[0])
    parser.add_argument("call", nargs="?", default="all", choices=["first", "second", "all"])
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu_out"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    failed = [s.name for s in steps(given.call, on_gpu=given.device == "cuda") if run(s, out)]
    print(f"failed: {', '.join(failed)}" if failed else "all steps done")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
