# SPDX-License-Identifier: Apache-2.0
"""How concentrated a map is, which says nothing of whether it is right: a single wrong pixel is the best there is."""

from __future__ import annotations

import numpy as np

from portable_cam.metrics.metric import Case, Map, Measured, Metric


def _gini(_: Case, __: str, heat: Map) -> Measured:
    values = np.sort(heat.reshape(-1))
    total, n = values.sum(), values.size
    if total <= 0:
        return Measured(float("nan"))
    return Measured(float(((2 * np.arange(1, n + 1) - n - 1) * values).sum() / (n * total)))


def _entropy(_: Case, __: str, heat: Map) -> Measured:
    total = heat.sum()
    if total <= 0:
        return Measured(float("nan"))
    shares = heat[heat > 0] / total
    return Measured(float(-(shares * np.log(shares)).sum()))


sparsity = Metric(
    "sparsity",
    title="sparsity",
    summary="the Gini index of the map, 0 for one that is the same everywhere",
    paper="Chalasani et al. 2020, arXiv 1810.06583",
    better="higher",
    measure=_gini,
)
complexity = Metric(
    "complexity",
    title="complexity",
    summary="the entropy of the map's shares, in nats",
    paper="Bhatt et al. 2020, arXiv 2005.00631",
    better="lower",
    measure=_entropy,
)
