# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.metrics.registry import METRICS
from portable_cam.metrics.statistics import Summary
from portable_cam.report.wording import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_REFERENCE = "#8a8a8a"
_DASHES: Sequence[Any] = ("--", ":", "-.", (0, (1, 3)))
_X_AXIS = {
    "deletion": "share taken away",
    "insertion": "share given back",
    "road": "share taken away",
    "randomization": "share of the layers with shuffled weights",
}


@dataclass(frozen=True)
class Panels:
    """What is drawn: the parts of an :class:`~portable_cam.metrics.outcome.Evaluation` under its names, the means by
    method and metric, the curves by method, metric and baseline, and a heading."""

    metrics: Sequence[str]
    methods: Sequence[str]
    references: Sequence[str]
    summary: Mapping[str, Mapping[str, Summary]]
    curves: Mapping[tuple[str, str, str], NDArray[np.float64]]
    baseline: str
    heading: str

    @property
    def names(self) -> list[str]:
        """Methods, then references."""
        return [*self.methods, *self.references]


def plot(panels: Panels) -> Figure:
    """A panel for each metric: its mean curve, or its means with the 95 % intervals."""
    from matplotlib.figure import Figure

    count = len(panels.metrics)
    rows, columns = math.ceil(count / _COLUMNS), min(_COLUMNS, count)
    height = 2.2 + 0.17 * len(panels.names)
    figure = Figure(figsize=(4.6 * columns, height * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, metric in zip(places, panels.metrics, strict=False):
        used = panels.baseline if METRICS[metric].uses_baseline else ""
        with_baseline = f", {used}" if used else ""
        axes.set_title(f"{METRICS[metric].title}{with_baseline}: {METRICS[metric].better} is better", fontsize=10)
        drawn = {name: panels.curves.get((name, metric, used)) for name in panels.names}
        if any(curve is not None for curve in drawn.values()):
            _curves(axes, panels, metric, drawn)
        else:
            _means(axes, panels, metric)
        axes.tick_params(labelsize=8)
    for axes in places[count:]:
        axes.set_axis_off()
    figure.suptitle(panels.heading, fontsize=9)
    return figure


def _curves(axes: Axes, panels: Panels, metric: str, drawn: Mapping[str, NDArray[np.float64] | None]) -> None:
    for i, (name, curve) in enumerate(drawn.items()):
        if curve is None or np.isnan(curve).any():
            continue
        if name in panels.references:
            dashes = _DASHES[panels.references.index(name) % len(_DASHES)]
            axes.plot(*curve.T, color=_REFERENCE, linestyle=dashes, linewidth=1, label=name)
        else:
            axes.plot(*curve.T, color=f"C{i % 10}", label=title_of(name))
    axes.set_xlabel(_X_AXIS.get(metric, ""), fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def _means(axes: Axes, panels: Panels, metric: str) -> None:
    for i, name in enumerate(panels.names):
        value = panels.summary[name][metric]
        if np.isnan(value.mean):
            axes.text(0, i, " not defined", va="center", fontsize=8, color=_REFERENCE)
            continue
        color = _REFERENCE if name in panels.references else f"C{i % 10}"
        axes.barh(i, value.mean, color=color, alpha=0.55, height=0.7)
        if value.interval is not None:
            axes.plot(value.interval, [i, i], color="#1a1a1a", linewidth=1.2)
    shown = [name if name in panels.references else title_of(name) for name in panels.names]
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.4, -0.6)
