# SPDX-License-Identifier: Apache-2.0
"""Which pixel counts for more: by rank, never by a threshold on the values.

A map with many equal values has no percentiles: of one with 63 % zeros "the least important 60 %" are none of its
pixels, or all of the zeros. Ranks exist for every map; pixels that are equal come in a random order, which the seed
fixes, and how many there are is reported.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rank(heat: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """How many pixels come before each one, the most important first: (H, W) -> (H, W), each number once."""
    shuffled = random.permutation(heat.size)
    order = shuffled[np.argsort(-heat.reshape(-1)[shuffled], kind="stable")]
    ranks = np.empty(heat.size, np.int64)
    ranks[order] = np.arange(heat.size)
    return ranks.reshape(heat.shape)


def tied(heat: NDArray[np.float64]) -> float:
    """The share of the largest group of pixels with one value, whose order is chance; 0 where all differ."""
    _, counts = np.unique(heat, return_counts=True)
    return float(counts.max() / heat.size) if counts.max() > 1 else 0.0


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ranks of values, equal ones sharing the mean of theirs."""
    _, inverse, counts = np.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return found


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's; NaN where one is the same everywhere."""
    a, b = (values.reshape(-1) - values.mean() for values in (first, second))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, of two maps; NaN where one is the same everywhere."""
    return correlation(average_ranks(first), average_ranks(second))
