# SPDX-License-Identifier: Apache-2.0
"""Whether a map stays what it is when next to nothing changes, and does not when something does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from portable_cam.image.baselines import as_input
from portable_cam.metrics.metric import Case, Map, Measured, Metric
from portable_cam.metrics.ranking import rank_correlation

#: How far a number of the image is moved at most, in parts of its range.
RADIUS = 0.02


def _sensitivity(case: Case, name: str, heat: Map) -> Measured:
    def disturbed() -> list[Mapping[str, Map]]:
        x, random = case.x.astype(np.float64), case.random(3)
        reach = RADIUS * (x.max() - x.min())
        noisy = [x + random.uniform(-reach, reach, x.shape) for _ in range(case.settings.samples)]
        return [case.explain(as_input(image, case.x.dtype), case.target) for image in noisy]

    length = float(np.linalg.norm(heat))
    if not length:
        return Measured(float("nan"))
    found = case.once("disturbed", disturbed)
    return Measured(max(float(np.linalg.norm(maps[name] - heat)) for maps in found) / length)


def _random_logit(case: Case, name: str, heat: Map) -> Measured:
    if case.classes is None or case.classes < 2:
        return Measured(float("nan"))

    def of_another() -> Mapping[str, Map]:
        other = int(case.random(4).integers((case.classes or 2) - 1))
        return case.explain(case.x, other + (other >= case.target))

    return Measured(rank_correlation(heat, case.once("other class", of_another)[name]))


def _randomization(case: Case, name: str, heat: Map) -> Measured:
    """Adebayo et al. 2018, section 4.1: the weights of the last layers, then of more, until none is left."""
    stages, by_stage = case.settings.stages, case.randomized
    assert by_stage is not None
    made = [case.once(("stage", i), partial(by_stage, i)) for i in range(1, stages + 1)]
    found = [abs(rank_correlation(heat, maps[name])) for maps in made]
    return Measured(found[-1], np.stack([np.arange(1, stages + 1) / stages, np.array(found)], axis=1))


sensitivity = Metric(
    "sensitivity",
    title="max-sensitivity",
    summary=f"how far the map moves at most when the image moves by {RADIUS:.0%} of its range, in parts of the map",
    paper="Yeh et al. 2019, arXiv 1901.09392",
    better="lower",
    measure=_sensitivity,
    needs=frozenset({"explain"}),
)
random_logit = Metric(
    "random_logit",
    title="random logit",
    summary="the rank correlation with the map of another class, drawn at random; near 1 for maps that show no class",
    paper="Sixt et al. 2020, arXiv 1912.09818",
    better="lower",
    measure=_random_logit,
    needs=frozenset({"explain"}),
)
randomization = Metric(
    "randomization",
    title="randomised weights",
    summary="the size of the rank correlation with the map of the model with all weights shuffled; near 1 for maps "
    "that show the image and not what was learnt",
    paper="Adebayo et al. 2018, arXiv 1810.03292",
    better="lower",
    measure=_randomization,
    needs=frozenset({"explain"}),
)
