"""Input gradients next to onnx-ad's, which also differentiates ONNX into ONNX: ``python -m benchmarks.onnx_ad``.

For every model of the zoo and the bundled one, both libraries write the gradient of the top score with respect to the
image: onnx-ad as it comes, of the greatest element of the file's first output; portable_cam of that output's scores,
cut before a softmax. Each gradient is checked against central differences of what it is the gradient of, before
anything is timed. Writes ``benchmarks/results/onnx_ad.csv``; needs ``pip install onnx-ad==0.3.0``.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnx_ad
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.report import ROOT, machine, measure_all, parser_of
from portable_cam import assets
from portable_cam.errors import ModelError
from portable_cam.export import differentiate
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets.scores import cut_before
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import alternate, random_feeds, ratio

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", ROOT.parent / "shared" / "zoo"))
#: Relative to the length of the input. Kinks favour a short step, rounding a long one: the better of the two counts.
STEPS = (3e-4, 1e-4)
TOLERANCE = 0.03
#: ``agrees`` and ``differs``: with central differences. ``zero``: every element of the gradient. ``rounded``: not zero,
#: and of a quantised model, a staircase that differences say nothing of. ``refused``: no gradient was written.
Verdict: TypeAlias = Literal["agrees", "differs", "zero", "rounded", "refused"]
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Gradient:
    """One library's gradient graph of one model, ready to run.

    ``score`` runs the model and gives the tensor that the gradient is of; ``shape`` is that of the seed.
    """

    session: Session
    output: str
    score: Session
    of: str
    seed: str
    shape: tuple[int, ...]
    build_seconds: float

    def feeds(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """The inputs with a seed of 1 for the greatest score, and its place among the scores."""
        scores = self.score.run(feeds, [self.of])[self.of]
        seed = np.zeros(scores.size, self.session.dtype(self.seed))
        top = int(scores.argmax())
        seed[top] = 1
        return {**feeds, self.seed: seed.reshape(self.shape)}, top


@dataclass(frozen=True)
class Row:
    """Both libraries on one model, batch 1: slopes along one direction by the gradient and by differences, the relative
    distance of the two gradients where both are of one tensor, and medians in milliseconds, where timed."""

    model: str
    quantized: bool
    onnx_ad: Verdict
    onnx_ad_reason: str
    onnx_ad_slope: float | None
    onnx_ad_difference: float | None
    portable_cam: Verdict
    portable_cam_slope: float | None
    portable_cam_difference: float | None
    distance: float | None
    inference_ms: float
    onnx_ad_ms: float | None
    onnx_ad_multiple: float | None
    portable_cam_ms: float
    portable_cam_multiple: float
    onnx_ad_build_seconds: float | None
    portable_cam_build_seconds: float
    rounds: int


def by_onnx_ad(path: Path, image: str, feeds: Mapping[str, Array], plain: Session, threads: int) -> Gradient:
    """The gradient by onnx-ad with its defaults, which lay a seed out as a matrix: (rows, columns) for two axes, else
    (elements, 1)."""
    model, of = onnx.load(path), plain.outputs[0]
    begin = perf_counter()
    graph = onnx_ad.reverse(model, inputs=[image], outputs=[of])
    built = perf_counter() - begin
    shape = plain.run(feeds, [of])[of].shape
    wanted = shape if len(shape) == 2 else (int(np.prod(shape)), 1)
    session = Session(graph, threads=threads, spin=False)
    return Gradient(session, f"adj_{image}", plain, of, f"adj_{of}", wanted, built)


def by_portable_cam(path: Path, image: str, feeds: Mapping[str, Array], threads: int) -> Gradient:
    """The gradient by ``differentiate``, of the scores before a softmax."""
    begin = perf_counter()
    model = normalized(path).copy()
    scores = cut_before(model.graph.outputs[0]).value
    if scores not in model.graph.outputs:
        model.graph.outputs.append(scores)
    of = str(scores.name)
    graph = differentiate(model, of=of, wrt=[image])
    built = perf_counter() - begin
    score = Session(ir.to_proto(model), spin=False)
    shape = score.run(feeds, [of])[of].shape
    session = Session(graph, threads=threads, spin=False)
    return Gradient(session, f"gradient.{image}", score, of, "seed", shape, built)


def check(
    gradient: Gradient, image: str, feeds: Mapping[str, Array], *, quantized: bool
) -> tuple[Verdict, Array, float | None, float | None]:
    """A gradient against central differences along a random direction with the gradient's signs: the verdict, the
    gradient, and both slopes."""
    given, top = gradient.feeds(feeds)
    x = feeds[image]
    found = gradient.session.run(given, [gradient.output])[gradient.output].astype(np.float64).reshape(x.shape)
    if not found.any():
        return "zero", found, None, None
    if quantized:
        return "rounded", found, None, None
    direction = np.sign(found) * np.random.default_rng(0).random(x.shape)
    direction /= np.linalg.norm(direction)
    analytic = float((found * direction).sum())
    size = np.linalg.norm(x.astype(np.float64))

    def score(step: float) -> float:
        moved = {**feeds, image: (x + step * size * direction).astype(x.dtype)}
        return float(gradient.score.run(moved, [gradient.of])[gradient.of].flat[top])

    numeric = min(((score(h) - score(-h)) / (2 * h * size) for h in STEPS), key=lambda n: abs(n - analytic))
    close = abs(numeric - analytic) <= TOLERANCE * abs(analytic)
    return "agrees" if close else "differs", found, float(f"{analytic:.6g}"), float(f"{numeric:.6g}")


def measure(path: Path, seconds: float, threads: int) -> Row:
    """Both libraries on one model: checked, then timed in turn with plain inference of the file as it is.

    Raises:
        ModelError: Our own gradient is not that of the model.
    """
    plain = Session(path.read_bytes(), threads=threads, spin=False)
    feeds = random_feeds(plain, 1)
    image = next(iter(feeds))
    quantized = any("Quantize" in node.op_type or "QLinear" in node.op_type for node in onnx.load(path).graph.node)
    ours = by_portable_cam(path, image, feeds, threads)
    verdict, our_gradient, our_slope, our_difference = check(ours, image, feeds, quantized=quantized)
    if verdict not in {"agrees", "rounded"}:
        raise ModelError(f"{path.name}: our gradient {verdict}: slope {our_slope}, by differences {our_difference}")
    runs = {"plain": partial(plain.run, feeds), "ours": partial(ours.session.run, ours.feeds(feeds)[0])}
    reason, distance = "", None
    their_verdict: Verdict = "refused"
    their_slope = their_difference = their_build = None
    try:
        theirs = by_onnx_ad(path, image, feeds, plain, threads)
    except Exception as error:  # its errors have no class in common
        reason = str(error).splitlines()[0]
    else:
        their_build = round(theirs.build_seconds, 3)
        their_verdict, gradient, their_slope, their_difference = check(theirs, image, feeds, quantized=quantized)
        if their_verdict == "agrees":
            runs["theirs"] = partial(theirs.session.run, theirs.feeds(feeds)[0])
            if theirs.of == ours.of:
                distance = float(f"{np.linalg.norm(gradient - our_gradient) / np.linalg.norm(our_gradient):.2g}")
    times = alternate(runs, seconds)
    medians = {name: round(statistics.median(spent) * 1e3, 3) for name, spent in times.items()}
    multiples = {name: round(ratio(spent, times["plain"]), 3) for name, spent in times.items()}
    return Row(
        path.stem,
        quantized,
        their_verdict,
        reason,
        their_slope,
        their_difference,
        verdict,
        our_slope,
        our_difference,
        distance,
        medians["plain"],
        medians.get("theirs"),
        multiples.get("theirs"),
        medians["ours"],
        multiples["ours"],
        their_build,
        round(ours.build_seconds, 3),
        len(times["plain"]),
    )


def table(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The table of ``docs/benchmarks.md``: a line for each model that onnx-ad writes a gradient of, and one for each
    reason to refuse."""
    multiples = [row.portable_cam_multiple for row in rows]
    checked = sum(row.portable_cam == "agrees" for row in rows)
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, onnx-ad {facts['onnx-ad']}, ONNX Runtime {facts['onnxruntime']}; "
        f"{facts['date']}, commit {facts['commit']}. Batch 1, the input gradient of the top score as a multiple of "
        "plain inference in the same round, in brackets median ms; load of the machine when it began "
        f"{facts['load']}; `python -m benchmarks.onnx_ad`.",
        "",
        "| model | onnx-ad | portable_cam |",
        "|---|---|---|",
    ]
    for row in rows:
        ours = f"{row.portable_cam_multiple:.1f} ({row.portable_cam_ms:.1f})"
        if row.onnx_ad == "zero":
            lines.append(f"| {row.model} | zero everywhere | {ours} |")
        elif row.onnx_ad != "refused":
            cell = "wrong" if row.onnx_ad_multiple is None else f"{row.onnx_ad_multiple:.1f} ({row.onnx_ad_ms:.1f})"
            lines.append(f"| {row.model} | {cell} | {ours} |")
    refused = [(_without_names(row.onnx_ad_reason), row) for row in rows if row.onnx_ad == "refused"]
    for reason, count in Counter(reason for reason, _ in refused).most_common():
        ours = sorted(row.portable_cam_multiple for why, row in refused if why == reason)
        span = f"{ours[0]:.1f}" if count == 1 else f"{ours[0]:.1f} to {ours[-1]:.1f}"
        lines.append(f"| {count} more | refused: {reason} | {span} |")
    lines += [
        "",
        f"Of portable_cam's {len(rows)} gradients {checked} are checked against central differences, the others are of "
        f"quantised models. Their median multiple is {statistics.median(multiples):.1f}.",
    ]
    return "\n".join(lines)


def _without_names(reason: str) -> str:
    """A reason without the names of tensors, which tell equal ones apart."""
    return re.sub(r" '[^']*'", "", reason)


def describe(row: Row) -> str:
    """One line for whoever waits."""
    theirs = row.onnx_ad if row.onnx_ad_multiple is None else f"{row.onnx_ad_multiple:.1f}"
    return f"{row.model}: onnx-ad {theirs}, portable_cam {row.portable_cam_multiple:.1f}"


def main() -> None:
    parser = parser_of("onnx_ad", __doc__, 10.0)
    arguments = parser.parse_args()
    paths = [*sorted((ZOO / "models").glob("*.onnx")), Path(assets.model())]
    if len(paths) == 1:
        parser.error(f"no models in {ZOO / 'models'}: set PORTABLE_CAM_ZOO")
    facts = machine(arguments.threads, ("onnx-ad", "onnxruntime", "onnx", "numpy"))
    facts["load"] = f"{os.getloadavg()[0]:.1f}"  # what else the machine was doing
    run = partial(measure, seconds=arguments.seconds, threads=arguments.threads)
    measure_all(paths, run, describe, table, facts, arguments)


if __name__ == "__main__":
    main()
