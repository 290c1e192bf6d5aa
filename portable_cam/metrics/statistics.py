# SPDX-License-Identifier: Apache-2.0
"""What a few images allow to be said: intervals, and whether methods can be told apart on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

#: Below this a difference is called one.
LEVEL = 0.05
_RESAMPLES = 5000
_EXACT = 13  # images up to which all patterns of signs are gone through


@dataclass(frozen=True)
class Summary:
    """A metric's mean over images, the bootstrap's 95 % interval of it (None for fewer than three), and how many."""

    mean: float
    interval: tuple[float, float] | None
    n: int

    def to_dict(self) -> dict[str, object]:
        """As plain data; None for what is no number."""
        mean = None if np.isnan(self.mean) else self.mean
        return {"mean": mean, "interval": None if self.interval is None else list(self.interval), "n": self.n}


def summarize(values: Values, seed: int = 0) -> Summary:
    """Of the values of several images, those left out that are NaN (the percentile bootstrap, Efron 1979)."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Summary(float("nan"), None, 0)
    if len(known) < 3:
        return Summary(float(known.mean()), None, len(known))
    drawn = np.random.default_rng(seed).integers(len(known), size=(_RESAMPLES, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), [2.5, 97.5])
    return Summary(float(known.mean()), (float(low), float(high)), len(known))


def paired_test(first: Values, second: Values, seed: int = 0) -> float:
    """How likely a mean difference as large as this is where neither is better: the sign-flip test, two-sided.

    All patterns of signs are gone through up to 13 images, beyond that 10000 are drawn. Images where one of the two is
    NaN are left out; without any left, 1.
    """
    difference = (first - second)[~np.isnan(first - second)]
    n = len(difference)
    if not n or not difference.any():
        return 1.0
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extra = 0  # the pattern that was seen is among them
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(10000, n))
        extra = 1
    seen, means = abs(difference.mean()), np.abs(signs @ difference) / n
    hits = int((means >= seen * (1 - 1e-9)).sum())
    return (hits + extra) / (len(signs) + extra)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjustment: p values by name that can be read one by one, however many comparisons were made."""
    adjusted, last = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        last = max(last, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = last
    return {name: adjusted[name] for name in p}


def fewest_images(comparisons: int) -> int:
    """How many images it takes at least until a difference can be told from chance."""
    n = 1
    while 2 ** (1 - n) * comparisons > LEVEL:
        n += 1
    return n
