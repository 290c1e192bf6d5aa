# SPDX-License-Identifier: Apache-2.0
"""The metrics there are: a row each."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.errors import OptionError
from portable_cam.metrics.concentration import complexity, sparsity
from portable_cam.metrics.curves import deletion, insertion
from portable_cam.metrics.fidelity import mu_fidelity
from portable_cam.metrics.localization import energy, pointing
from portable_cam.metrics.masking import adcc, average_drop, increase
from portable_cam.metrics.metric import Metric
from portable_cam.metrics.mosaic import grid_pointing
from portable_cam.metrics.road import road
from portable_cam.metrics.stability import random_logit, randomization, sensitivity

#: By name, in the order in which they are listed.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        deletion,
        insertion,
        road,
        mu_fidelity,
        average_drop,
        increase,
        adcc,
        energy,
        pointing,
        grid_pointing,
        sparsity,
        complexity,
        sensitivity,
        random_logit,
        randomization,
    )
}
#: Those that are measured where none are named.
DEFAULT = ("deletion", "insertion", "average_drop", "increase", "complexity", "randomization")
#: Those that are added to these where it is known where the objects are.
OF_REGIONS = ("energy", "pointing")


def check_metrics(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of metrics, each once.

    Raises:
        OptionError: There is no metric of that name, or none is named.
    """
    found = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in found:
        if name not in METRICS:
            raise OptionError(f"metric '{name}' does not exist; the metrics are {', '.join(METRICS)}")
    if not found:
        raise OptionError(f"no metric was given; the metrics are {', '.join(METRICS)}")
    return found


def help_text() -> str:
    """All names, for the help of options that take metrics."""
    return f"Comma-separated: {', '.join(METRICS)}."
