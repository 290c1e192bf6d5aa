"""The graph proves itself: its forward outputs against the original model, its gradient against finite differences."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from portable_cam.bench import random_feeds
from portable_cam.errors import ModelError
from portable_cam.export.explanation import build_explanation
from portable_cam.export.load import ModelLike, load
from portable_cam.runtime import Session

_STEPS = (
    1e-2,
    3e-3,
    1e-3,
    3e-4,
)  # relative to the picture's size; the best counts: kinks and rounding err opposite ways
_TOLERANCE = 0.05  # a wrong rule is off by tens of per cent; kinks on the way cost a few


@dataclass(frozen=True)
class Proof:
    """``forward``: greatest difference of the model's outputs, relative to their greatest value. ``analytic`` and
    ``numeric``: the derivative of the top class's score along a random direction; None if the picture has no
    gradient."""

    forward: float
    analytic: float | None
    numeric: float | None
    passed: bool

    def describe(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        gradient = "no gradient to check"
        if self.analytic is not None and self.numeric is not None:
            gradient = f"directional derivative {self.analytic:.5g}, by finite differences {self.numeric:.5g}"
        return f"{verdict}: forward outputs differ by {self.forward:.1e}, {gradient}"


def self_check(model: ModelLike, explanation: onnx.ModelProto, output: str | None = None, seed: int = 0) -> Proof:
    """Run the explanation next to the original on random pixels.

    Args:
        model: The original.
        explanation: What ``build_explanation`` made of it.
        output: As given to ``build_explanation``.
    """
    original, explained = Session(ir.to_proto(load(model))), Session(explanation)
    image = next(p.value for p in explanation.metadata_props if p.key == "portable_cam.image")
    feeds = random_feeds(explained, 1) | {"targets": np.full((1, 1), -1, np.int64)}
    ours = explained.run(feeds)
    theirs = original.run({name: value for name, value in feeds.items() if name != "targets"})
    forward = max(
        (float(np.abs(ours[k].astype(np.float64) - v).max() / (np.abs(v).max() + 1e-12)) for k, v in theirs.items()),
        default=0.0,
    )
    feeds["targets"] = ours["explained"]
    analytic, numeric = _directional(model, explained, image, feeds, output, seed)
    agrees = (
        analytic is None or numeric is None or abs(analytic - numeric) <= _TOLERANCE * max(abs(analytic), abs(numeric))
    )
    return Proof(forward, analytic, numeric, forward < 1e-3 and agrees)


def record(explanation: onnx.ModelProto, proof: Proof) -> None:
    """Write the outcome into the file's metadata, under ``portable_cam.self_check``."""
    entry = explanation.metadata_props.add()
    entry.key, entry.value = "portable_cam.self_check", json.dumps(asdict(proof))


def _directional(
    model: ModelLike, explained: Session, image: str, feeds: dict[str, Any], output: str | None, seed: int
) -> tuple[float | None, float | None]:
    """The score's derivative along a random direction: by the input gradient, and by central differences."""
    try:
        plain = Session(build_explanation(model, ("gradient",), output=output, targets_per_image=1))
    except ModelError:  # the picture has no gradient (an integer input, an operator without a rule before the layer)
        return None, None
    x = feeds[image]
    direction = np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype)
    analytic = float((plain.run(feeds)["gradient"][0, 0].astype(np.float64) * direction[0]).sum())

    def score(picture: Any) -> float:
        return float(explained.run({**feeds, image: picture.astype(x.dtype)}, ["scores"])["scores"][0, 0])

    numbers = [(score(x + e * direction) - score(x - e * direction)) / (2 * e) for e in _STEPS]
    return analytic, min(numbers, key=lambda n: abs(n - analytic))
