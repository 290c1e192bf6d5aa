# SPDX-License-Identifier: Apache-2.0
"""What evaluating gives: a value for each image, method and metric, and what follows from them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.metrics.registry import METRICS
from portable_cam.metrics.statistics import LEVEL, Summary, fewest_images, holm, paired_test, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One value: the image, the method or reference, the metric and what stood in for what was taken away (empty where
    nothing was), and the share of the map's pixels that have one value, so that their order is chance."""

    image: str
    method: str
    metric: str
    baseline: str
    value: float
    ties: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A table: image x method x metric.

    Attributes:
        images: Their names.
        targets: The class explained of each, as it is called.
        methods: What was measured.
        references: What it was measured beside.
        metrics: By which.
        values: By (method or reference, metric, baseline), one number for each image, NaN where it is not defined; the
            baseline is empty for metrics that have none.
        curves: By the same key, the mean curve (points, 2) of metrics that have one.
        ties: By method and reference, for each image the share of the largest group of pixels with one value.
        baselines: The one whose values are reported, then those that they are compared with.
        score: What the scores are.
        notes: What a reader should know.
        passes: How many images the model was run on, explanations left out.
    """

    images: list[str]
    targets: list[str]
    methods: tuple[str, ...]
    references: tuple[str, ...]
    metrics: tuple[str, ...]
    values: dict[tuple[str, str, str], NDArray[np.float64]]
    curves: dict[tuple[str, str, str], NDArray[np.float64]] = field(repr=False)
    ties: dict[str, NDArray[np.float64]] = field(repr=False)
    baselines: tuple[str, ...]
    score: str
    notes: tuple[str, ...] = ()
    passes: int = 0

    def of(self, name: str, metric: str, baseline: str | None = None) -> NDArray[np.float64]:
        """The values of a method or reference by a metric, one for each image.

        Raises:
            OptionError: It was not measured.
        """
        key = (name, metric, self._baseline(metric, baseline))
        if key not in self.values:
            raise OptionError(
                f"{name} was not measured by {metric}{f' with the baseline {baseline}' if baseline else ''}; methods: "
                f"{', '.join((*self.methods, *self.references))}; metrics: {', '.join(self.metrics)}; baselines: "
                f"{', '.join(self.baselines)}"
            )
        return self.values[key]

    def _baseline(self, metric: str, baseline: str | None = None) -> str:
        used = metric in METRICS and METRICS[metric].uses_baseline
        return (baseline or self.baselines[0]) if used else ""

    def __iter__(self) -> Iterator[Row]:
        for (name, metric, baseline), values in self.values.items():
            for image, value, ties in zip(self.images, values, self.ties[name], strict=True):
                yield Row(image, name, metric, baseline, float(value), float(ties))

    def summary(self, baseline: str | None = None) -> dict[str, dict[str, Summary]]:
        """By method and reference, by metric: mean, interval and number of images."""
        return {
            name: {metric: summarize(self.of(name, metric, baseline)) for metric in self.metrics}
            for name in (*self.methods, *self.references)
        }

    @cached_property
    def _summary(self) -> dict[str, dict[str, Summary]]:
        return self.summary()

    def best(self, baseline: str | None = None) -> dict[str, str]:
        """By metric the method with the best mean; none where it is defined for no method."""
        found = {}
        for metric in self.metrics:
            means = {name: summarize(self.of(name, metric, baseline)).mean for name in self.methods}
            known = {name: mean for name, mean in means.items() if not np.isnan(mean)}
            if known:
                better = max if METRICS[metric].better == "higher" else min
                found[metric] = better(known, key=lambda name: known[name])
        return found

    def tests(self, metric: str, baseline: str | None = None) -> dict[str, float]:
        """How likely the best method's lead over each other method and reference is chance: paired over the images,
        adjusted for the number of comparisons."""
        best = self.best(baseline).get(metric)
        others = [name for name in (*self.methods, *self.references) if name != best]
        if best is None:
            return {}
        ours = self.of(best, metric, baseline)
        return holm({name: paired_test(ours, self.of(name, metric, baseline)) for name in others})

    def verdict(self, metric: str) -> str:
        """In words: which method is best by a metric, and how sure that is."""
        best, summary = self.best().get(metric), self._summary
        if best is None:
            return f"{metric}: not defined for any of these maps"
        p, higher = self.tests(metric), METRICS[metric].better == "higher"
        mean = summary[best][metric].mean
        ahead = {n: (mean > summary[n][metric].mean) == higher for n in p if not np.isnan(summary[n][metric].mean)}
        unsure = [name for name in p if p[name] > LEVEL and name in self.methods]
        below = [name for name in self.references if not ahead.get(name, True)]
        like = [name for name in self.references if p[name] > LEVEL and name not in below]
        least = fewest_images(len(p))
        parts = []
        if len(self.images) < least:
            parts.append(f"{len(self.images)} images cannot tell {len(p) + 1} maps apart, it takes {least} at least")
        else:
            if unsure:
                parts.append(f"not told apart from {', '.join(unsure)}")
            elif len(self.methods) > 1:
                parts.append("better than every other method beyond chance")
            if like:
                parts.append(f"not told apart from the map {', '.join(like)}")
        if below:
            parts.append(f"no better than the map {', '.join(below)}, which knows nothing of the model")
        return f"{metric} ({METRICS[metric].better} is better): {best} {mean:.4g}; {'; '.join(parts) or 'alone'}"

    def disagreements(self) -> list[str]:
        """Where another baseline has another winner."""
        first, found = self.best(), []
        for other in self.baselines[1:]:
            for metric, winner in self.best(other).items():
                if METRICS[metric].uses_baseline and winner != first.get(metric):
                    found.append(
                        f"{metric}: with the baseline {other} the best is {winner}, with {self.baselines[0]} "
                        f"{first.get(metric)}"
                    )
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold."""

        def table(names: tuple[str, ...], baseline: str | None = None) -> dict[str, Any]:
            made = self.summary(baseline)
            return {name: {metric: s.to_dict() for metric, s in made[name].items()} for name in names}

        return {
            "methods": table(self.methods),
            "best": self.best(),
            "references": table(self.references),
            "ties": {name: float(values.mean()) for name, values in self.ties.items()},
            "tests": {metric: self.tests(metric) for metric in self.metrics},
            "verdicts": [self.verdict(metric) for metric in self.metrics],
            "score": self.score,
            "baseline": self.baselines[0],
            "other_baselines": {
                other: {"methods": table(self.methods, other), "best": self.best(other)} for other in self.baselines[1:]
            },
            "images": dict(zip(self.images, self.targets, strict=True)),
            "notes": [*self.notes, *self.disagreements()],
            "passes": self.passes,
        }

    def to_csv(self, path: str | Path) -> Path:
        """Write a line for each image, method, metric and baseline.

        Raises:
            OptionError: The file cannot be written.
        """
        try:
            with open(path, "w", newline="", encoding="utf-8") as file:
                out = csv.writer(file)
                out.writerow(["image", "method", "metric", "baseline", "value", "ties"])
                out.writerows([r.image, r.method, r.metric, r.baseline, repr(r.value), repr(r.ties)] for r in self)
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error.strerror}") from error
        return Path(path)

    def plot(self) -> Figure:
        """The mean curves of the metrics that have them, and the means of the others with their intervals."""
        from portable_cam.metrics.plot import Panels, plot

        heading = f"{len(self.images)} images; {self.score}"
        shown = self.metrics, self.methods, self.references
        return plot(Panels(*shown, self._summary, self.curves, self.baselines[0], heading))


def describe_ties(ties: Mapping[str, NDArray[np.float64]], names: tuple[str, ...]) -> list[str]:
    """Which methods' maps have one value in half of the pixels or more."""
    found = [f"{name} {ties[name].mean():.0%}" for name in names if ties[name].mean() >= 0.5]
    return [f"pixels whose order is chance, since they have one value: {', '.join(found)}"] if found else []
