"""Compile the kernels ahead of time: ``python -m portable_cam.kernels.compile -o cubins.zip``.

Needs Triton, but no GPU and no torch. The machine that runs the kernels then needs neither: set ``PORTABLE_CAM_CUBINS``
to the file there, or put it beside the package's kernels, where it is found by itself.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

from portable_cam.kernels.cubins import ARCHITECTURES, Compiled, all_variants, compile_variant, write
from portable_cam.kernels.launch import Variant


def _one(job: tuple[Variant, int]) -> tuple[tuple[Variant, int], Compiled]:
    return job, compile_variant(*job)


def build(path: Path, architectures: Sequence[int], only: str = "", jobs: int = 1) -> int:
    """Compile into one file.

    Args:
        path: The file to write.
        architectures: For which GPUs, 90 for sm_90.
        only: Compile only kernels whose name starts so.
        jobs: How many at once.

    Returns:
        How many cubins were written.
    """
    todo = [(v, a) for v in all_variants() if v.kernel.startswith(only) for a in architectures]
    if jobs == 1:
        made = dict(map(_one, todo))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            made = dict(pool.map(_one, todo, chunksize=4))
    write(path, made)
    return len(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m portable_cam.kernels.compile", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("cubins.zip"))
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES), help="as 90 for sm_90")
    parser.add_argument("--only", default="", metavar="KERNEL", help="kernels whose name starts so")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    begin = perf_counter()
    count = build(options.output, options.arch, options.only, options.jobs)
    size = options.output.stat().st_size
    print(f"{options.output}: {count} kernels, {size / 1e6:.2f} MB, {perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
