"""What an explanation costs here, next to plain inference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.options import Options
from portable_cam.export.passes.dynamic_batch import make_batch_dynamic
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Target
from portable_cam.runtime.session import Session

#: What is timed: the name of a row and the methods that one graph computes.
CASES: dict[str, tuple[str, ...]] = {
    "Grad-CAM": ("gradcam",),
    "Guided Backpropagation": ("guided_backprop",),
    "Guided Grad-CAM": ("gradcam", "guided_backprop", "guided_gradcam"),
}


@dataclass(frozen=True)
class Row:
    """One measurement: the median time of a run and its ratio to plain inference, the median of the ratios of
    neighbouring runs."""

    name: str
    batch: int
    milliseconds: float
    ratio: float
    build_seconds: float


def alternate(runs: Mapping[str, Callable[[], Any]], seconds: float, minimum: int = 5) -> dict[str, list[float]]:
    """Time several things in turn, so that whatever else the machine does hits all alike: seconds per run, by name.
    The first round warms up and is not counted."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(next(iter(times.values()))) < minimum:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """The median over the rounds of one time divided by the other's in the same round."""
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


def plain_model(model: AnyModel) -> ir.Model:
    """The normalised model without an explanation, its batch as free as the explanation's: the base of the ratios."""
    normal = normalized(model).copy()
    make_batch_dynamic(normal)
    return normal


def bench(
    model: AnyModel,
    batch: int = 1,
    *,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 8.0,
    output: str | None = None,
    target: Target | None = None,
) -> list[Row]:
    """Time the methods on random pixels.

    Args:
        model: The model.
        batch: Images per run; refused by a model with another fixed batch.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads within an operator.
        seconds: How long the rounds go on, all cases together.
        output: The tensor that holds the scores.
        target: What is explained; None for a class.
    """
    model = normalized(model)
    plain = Session(plain_model(model), device=device, threads=threads, spin=False)
    sessions, built = {}, {}
    for name, methods in CASES.items():
        begin = time.perf_counter()
        graph = explanation_model(model, Options(methods, output=output, target=target), targets_per_image=1)
        built[name] = time.perf_counter() - begin
        sessions[name] = Session(graph, device=device, threads=threads, spin=False)
    feeds = random_feeds(plain, batch)
    runs: dict[str, Callable[[], Any]] = {"plain inference": partial(plain.run, feeds)}
    for name, session in sessions.items():
        runs[name] = partial(session.run, {**_further_feeds(session, batch), **feeds})
    times = alternate(runs, seconds)
    base = times["plain inference"]
    return [
        Row(name, batch, statistics.median(t) * 1e3, ratio(t, base), built.get(name, 0.0)) for name, t in times.items()
    ]


def _further_feeds(session: Session, batch: int) -> dict[str, NDArray[Any]]:
    """What an explanation takes beside the model's inputs, for one target per image: its index and whatever else the
    target reads, all of it 0, or 1 for weights, so that nothing is out of range."""
    feeds = {}
    for name, spec in session.inputs.items():
        shape = [batch, 1, *(d if isinstance(d, int) else 1 for d in spec.shape[2:])]
        feeds[name] = np.full(shape, float(session.dtype(name).kind == "f"), session.dtype(name))
    return feeds


def random_feeds(session: Session, batch: int, size: int = 224) -> dict[str, NDArray[Any]]:
    """Random pixels for every input; open dimensions become ``size``."""
    random = np.random.default_rng(0)
    feeds = {}
    for name, spec in session.inputs.items():
        shape = [batch if i == 0 else (d if isinstance(d, int) else size) for i, d in enumerate(spec.shape)]
        dtype = session.dtype(name)
        pixels = (
            random.standard_normal(shape, dtype=np.float32) if dtype.kind == "f" else random.integers(0, 127, shape)
        )
        feeds[name] = session.check_input(name, pixels.astype(dtype))
    return feeds
