"""Runs a range of cases in one process, a line of JSON for each on stdout. What kills the process is seen by whoever
started it."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from mutations import external_files, mutate
from seeds import seed_models

import portable_cam as pcam
from portable_cam.export import differentiate, doctor

CPU_SECONDS = 30  # of one case; in a hundred times what the slowest seed takes
MEMORY = 6 << 30  # bytes of address space, of which ONNX Runtime and its threads take over one
_PIXELS = 1 << 20  # a larger picture is not run


def make_case(index: int, seeds: dict[str, bytes]) -> tuple[bytes, dict[str, Any]]:
    """The mutated model, and what it is."""
    name = list(seeds)[index % len(seeds)]
    data, done = mutate(seeds[name], index)
    return data, {"case": index, "seed": name, "mutations": done}


def run_case(data: bytes, folder: Path) -> dict[str, Any]:
    """Explain it, and say what came of it."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    begin = perf_counter()
    attempts: dict[str, Callable[[], Any]] = {
        "doctor": lambda: doctor(path).to_dict(),
        "explain": lambda: explain(path),
        "differentiate": lambda: first_gradient(path, data),
    }
    outcomes = {what: outcome(attempt) for what, attempt in attempts.items()}
    return {"seconds": round(perf_counter() - begin, 2), "memory": memory(), **outcomes}


def outcome(attempt: Callable[[], Any]) -> str:
    """``done``, an error of the project, or the traceback of anything else."""
    try:
        attempt()
    except pcam.Error as error:
        # an error that says nothing, or prints a whole model, is a bug too
        text = str(error)
        return (
            f"{type(error).__name__}: {text[:150]}"
            if 10 < len(text) < 5000
            else f"BUG: message of {len(text)}: {text[:150]!r}"
        )
    except BaseException:
        return "BUG: " + traceback.format_exc(limit=-12)
    return "done"


def explain(path: Path) -> None:
    """The four methods on random pixels, and a second time, which a stateful mistake would show."""
    explainer = pcam.Explainer(path, ("gradcam", "guided_backprop"), threads=1, time_limit=5)
    random = np.random.default_rng(0)
    feeds = {}
    for name, spec in explainer._sessions.of(1).inputs.items():
        if name == "targets":
            continue
        shape = [d if isinstance(d, int) else 2 if i == 0 else 8 for i, d in enumerate(spec.shape)]
        if np.prod([float(d) for d in shape]) > _PIXELS:
            return
        feeds[name] = random.standard_normal(shape).astype(explainer._sessions.of(1).dtype(name))
    explainer(feeds)
    explainer(feeds, targets=1)


def first_gradient(path: Path, data: bytes) -> None:
    """The first output differentiated for the first input."""
    try:
        graph = onnx.load_model_from_string(data).graph
        of, wrt = graph.output[0].name, graph.input[0].name
    except Exception:  # not a model any more: let the library say so
        of = wrt = "none"
    differentiate(path, of, [wrt])


def memory() -> float:
    """Resident memory in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    start, stop, step = (int(argument) for argument in sys.argv[1:4])
    zoo = os.environ.get("PORTABLE_CAM_ZOO")
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds = dict(seed_models(Path(zoo) if zoo else None))
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "model"
        folder.mkdir()
        external_files(folder)
        for index in range(start, stop, step):
            data, case = make_case(index, seeds)
            print(json.dumps(case), flush=True)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process, in C++ code as well
            print(json.dumps(case | run_case(data, folder)), flush=True)


if __name__ == "__main__":
    main()
