# SPDX-License-Identifier: Apache-2.0
"""What is left of the confidence when the image is masked with the map itself.

All three can be won by a map that is 1 everywhere: read them beside the even map's, and beside the complexity.
"""

from __future__ import annotations

from portable_cam.metrics.metric import Case, Map, Measured, Metric
from portable_cam.metrics.ranking import correlation


def _masked_score(case: Case, name: str, heat: Map) -> float:
    key = ("masked", case.baseline, name)
    return float(case.once(key, lambda: float(case.score(case.kept(heat[None]))[0])))


def _average_drop(case: Case, name: str, heat: Map) -> Measured:
    return Measured(max(0.0, case.whole - _masked_score(case, name, heat)) / case.whole)


def _increase(case: Case, name: str, heat: Map) -> Measured:
    return Measured(float(_masked_score(case, name, heat) > case.whole))


def _adcc(case: Case, name: str, heat: Map) -> Measured:
    masked = case.kept(heat[None])
    again = case.explain(masked, case.target)[name]
    coherency = (correlation(heat, again) + 1) / 2
    parts = (coherency, 1 - float(heat.mean()), 1 - _average_drop(case, name, heat).value)
    return Measured(3 / sum(1 / part for part in parts) if all(part > 0 for part in parts) else min(0.0, *parts))


average_drop = Metric(
    "average_drop",
    title="average drop",
    summary="the share of the probability that is lost when the image is masked with the map",
    paper="Chattopadhay et al. 2018, arXiv 1710.11063",
    better="lower",
    measure=_average_drop,
    uses_baseline=True,
    needs=frozenset({"probability"}),
)
increase = Metric(
    "increase",
    title="increase in confidence",
    summary="the share of images whose probability grows when they are masked with the map",
    paper="Chattopadhay et al. 2018, arXiv 1710.11063",
    better="higher",
    measure=_increase,
    uses_baseline=True,
    needs=frozenset({"probability"}),
)
adcc = Metric(
    "adcc",
    title="ADCC",
    summary="the harmonic mean of coherency, of 1 - the map's mean, and of 1 - average drop",
    paper="Poppi et al. 2021, arXiv 2104.10252",
    better="higher",
    measure=_adcc,
    uses_baseline=True,
    needs=frozenset({"probability", "explain"}),
)
