# SPDX-License-Identifier: Apache-2.0
"""RISE: the mean of random masks, each weighted by the model's confidence in what it shows (Petsiuk et al. 2018)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run


def make_masks(grids: NDArray[Any], shifts: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Masks (S, H, W) from 0 to 1: grids (S, cells, cells) of zeros and ones, made larger than the image by one cell
    with bilinear interpolation, of which a window is cut at a shift (S, 2) of up to a cell; section 4.2."""
    cells = grids.shape[1]
    steps = [math.ceil(n / cells) for n in size]
    wide = [_weights(cells, (cells + 1) * step) for step in steps]
    found = np.empty((len(grids), *size))
    for mask, grid, (down, across) in zip(found, grids, shifts, strict=True):
        rows, columns = wide[0][down : down + size[0]], wide[1][across : across + size[1]]
        mask[:] = rows @ grid @ columns.T
    return found


def _weights(cells: int, pixels: int) -> NDArray[np.float64]:
    """Of bilinear interpolation with half-pixel centres, (pixels, cells)."""
    at = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    found: NDArray[np.float64] = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
    return found


def _rise(
    run: Run, *, masks: int = 4000, cells: int = 7, share: float = 0.5, baseline: str = "zero", tolerance: float = 0.0
) -> NDArray[Any]:
    """The sum of score times mask over masks and their expected share (equation 6), for all targets at once.

    Stops where the standard error of every map's pixels is on the average below ``tolerance`` of the map's range.
    """
    steps = [math.ceil(n / cells) for n in run.size]
    total, squares, done = np.zeros((len(run.targets), *run.size)), np.zeros((len(run.targets), *run.size)), 0
    error = np.inf
    for first, last in run.batches(masks, sampled=True):
        count = last - first
        grids = (run.random.random((count, cells, cells)) < share).astype(np.float64)
        shifts = np.stack([run.random.integers(0, step, count) for step in steps], axis=1)
        shown = make_masks(grids, shifts, run.size)
        scores = run.scores(run.masked(shown, baseline), run.confidence)
        flat = shown.reshape(count, -1)
        total += (scores.T @ flat).reshape(total.shape)
        squares += ((scores.T**2) @ flat**2).reshape(total.shape)
        done = last
        error = _relative_error(total, squares, done)
        if tolerance and done >= 2 * run.passes.batch and error < tolerance:
            break
    run.notes.append(f"{run.name}: {done} masks, seed {run.seed}; standard error {error:.1%} of the map's range")
    return total / (done * share)


def _relative_error(total: NDArray[Any], squares: NDArray[Any], done: int) -> float:
    """The mean standard error of a map's pixels over the map's range, the greatest of several."""
    if done < 2:
        return float("inf")
    mean = total / done
    errors = np.sqrt(np.maximum(squares / done - mean**2, 0) / (done - 1)).mean(axis=(1, 2))
    ranges = mean.max(axis=(1, 2)) - mean.min(axis=(1, 2))
    return float((errors / np.maximum(ranges, 1e-30)).max())


rise = PassMethod(
    "rise",
    title="RISE",
    summary="the mean of random masks weighted by the probability of what they show; any model, no gradient",
    paper="Petsiuk et al. 2018, arXiv 1806.07421",
    gives="image",
    cost="`masks` forward passes: 4000 by default",
    compute=_rise,
)
