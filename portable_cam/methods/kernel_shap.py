# SPDX-License-Identifier: Apache-2.0
"""KernelSHAP: the Shapley values of parts of the image, by weighted least squares (Lundberg and Lee 2017)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run

_ENOUGH = 2.0  # samples for each part, below which the equations are not solved


def _kernel_shap(
    run: Run, *, samples: int = 1000, rows: int = 7, columns: int = 7, baseline: str = "mean"
) -> NDArray[Any]:
    """The image is divided into rows times columns parts; each has what it adds to the score of a coalition, averaged
    as Shapley does. All coalitions are gone through where there are no more of them than samples."""
    rows, columns = min(rows, run.size[0]), min(columns, run.size[1])
    parts = _parts(run.size, rows, columns)
    count = rows * columns
    exact = 2**count - 2 <= samples
    total = 2**count - 2 if exact else samples
    ends = run.scores(np.concatenate([run.x, run.baseline(baseline)]))
    rank: Any = np.zeros((count, count))
    right = np.zeros((count, len(run.targets)))
    done = 0
    for first, last in run.batches(total, sampled=not exact):
        chosen = _all(first, last, count) if exact else _drawn(run.random, last - first, count)
        weights = _kernel(chosen.sum(axis=1), count) if exact else np.ones(len(chosen))
        scores = run.scores(run.masked(chosen[:, parts], baseline)) - ends[1]
        z = chosen.astype(np.float64)
        rank, right, done = rank + (z * weights[:, None]).T @ z, right + (z * weights[:, None]).T @ scores, last
    if not exact and done < _ENOUGH * count:
        raise OptionError(
            f"{run.name}: {done} samples are too few for {count} parts: raise the budget, or take fewer parts"
        )
    values = _constrained(rank, right, ends[0] - ends[1])
    if not exact:
        run.notes.append(f"{run.name}: {done} of {2.0**count:.2g} coalitions of {count} parts, seed {run.seed}")
    found: NDArray[Any] = values.T[:, parts]
    return found


def _parts(size: tuple[int, int], rows: int, columns: int) -> NDArray[np.int64]:
    """Which part each pixel is of, (H, W)."""
    down, across = (np.arange(n) * cells // n for n, cells in zip(size, (rows, columns), strict=True))
    found: NDArray[np.int64] = down[:, None] * columns + across
    return found


def _all(first: int, last: int, count: int) -> NDArray[np.bool_]:
    """Coalitions by number, but for the empty and the full one: (S, count)."""
    found: NDArray[np.bool_] = (np.arange(first + 1, last + 1)[:, None] >> np.arange(count)) & 1 == 1
    return found


def _kernel(sizes: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The Shapley kernel of coalitions of these sizes (theorem 2)."""
    return np.array([(count - 1) / (math.comb(count, int(s)) * s * (count - s)) for s in sizes])


def _drawn(random: np.random.Generator, samples: int, count: int) -> NDArray[np.bool_]:
    """Coalitions drawn as often as the kernel weights them, each with the one of all others: (S, count)."""
    sizes = np.arange(1, count)
    odds = 1 / (sizes * (count - sizes))
    drawn = random.choice(sizes, size=(samples + 1) // 2, p=odds / odds.sum())
    order = random.random((len(drawn), count)).argsort(axis=1).argsort(axis=1)
    half = order < drawn[:, None]
    return np.stack([half, ~half], axis=1).reshape(-1, count)[:samples]


def _constrained(rank: NDArray[Any], right: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """The least squares whose values add up to what the image is above the baseline, (parts, K)."""
    count = len(rank)
    ones = np.ones((count, 1))
    system = np.block([[rank, ones], [ones.T, np.zeros((1, 1))]])
    solved: NDArray[np.float64] = np.linalg.lstsq(system, np.vstack([right, whole[None]]), rcond=None)[0][:count]
    return solved


kernel_shap = PassMethod(
    "kernel_shap",
    title="KernelSHAP",
    summary="the Shapley values of the parts of a grid over the image; any model, no gradient",
    paper="Lundberg and Lee 2017, arXiv 1705.07874",
    gives="image",
    cost="`samples` forward passes: 1000 by default",
    compute=_kernel_shap,
    signed=True,
)
