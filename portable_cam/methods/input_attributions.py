# SPDX-License-Identifier: Apache-2.0
"""Attributions of the input from many gradients: along a path, or around the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run

#: Of completeness: by how much of the score difference a sum may be off without a note.
_COMPLETE = 0.01


def _integrated_gradients(run: Run, *, steps: int = 50, baseline: str = "zero") -> NDArray[Any]:
    """(x - x') times the gradient averaged along the line from x' to x, by Gauss-Legendre as in Captum."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    along, weights = (nodes + 1) / 2, weights / 2
    x, start = run.x.astype(np.float64), run.baseline(baseline).astype(np.float64)
    total: Any = 0.0
    for first, last in run.batches(steps):
        at = along[first:last].reshape(-1, *[1] * (x.ndim - 1))
        _, gradients = run.gradients(run.as_input(start + at * (x - start)))
        total = total + np.tensordot(weights[first:last], gradients, axes=1)
    found: NDArray[Any] = total * (x - start) * run.scale
    _note_completeness(run, found, baseline)
    return found


def _note_completeness(run: Run, found: NDArray[Any], baseline: str) -> None:
    ends = run.scores(np.concatenate([run.x, run.baseline(baseline)]))
    difference = ends[0] - ends[1]
    off = np.abs(found.reshape(len(found), -1).sum(axis=1) - difference)
    share = float((off / np.maximum(np.abs(difference), 1e-12)).max())
    if share > _COMPLETE:
        run.notes.append(
            f"{run.name} adds up to the score less the baseline's but for {share:.1%} of it: take more steps"
        )


def _around(run: Run, samples: int, noise: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean of the gradients of noisy copies, and of their squares."""
    x = run.x.astype(np.float64)
    sigma = noise * (x.max() - x.min())
    total: Any = 0.0
    squares: Any = 0.0
    done = 0
    for first, last in run.batches(samples, sampled=True):
        noisy = x + run.random.normal(0, sigma, (last - first, *x.shape[1:]))
        _, gradients = run.gradients(run.as_input(noisy))
        total, squares, done = total + gradients.sum(axis=0), squares + (gradients**2).sum(axis=0), last
    return total / done, squares / done


def _smoothgrad(run: Run, *, samples: int = 32, noise: float = 0.15) -> NDArray[Any]:
    return _around(run, samples, noise)[0]


def _smoothgrad_squared(run: Run, *, samples: int = 32, noise: float = 0.15) -> NDArray[Any]:
    return _around(run, samples, noise)[1]


def _vargrad(run: Run, *, samples: int = 32, noise: float = 0.15) -> NDArray[Any]:
    mean, squares = _around(run, samples, noise)
    variance: NDArray[Any] = np.maximum(squares - mean**2, 0)
    return variance


integrated_gradients = PassMethod(
    "integrated_gradients",
    title="Integrated Gradients",
    summary="the gradient averaged on the way from a baseline to the image, times the way",
    paper="Sundararajan et al. 2017, arXiv 1703.01365",
    gives="input",
    cost="`steps` gradients",
    compute=_integrated_gradients,
)
smoothgrad = PassMethod(
    "smoothgrad",
    title="SmoothGrad",
    summary="the mean gradient of noisy copies of the image",
    paper="Smilkov et al. 2017, arXiv 1706.03825",
    gives="input",
    cost="`samples` gradients",
    compute=_smoothgrad,
)
smoothgrad_squared = PassMethod(
    "smoothgrad_squared",
    title="SmoothGrad squared",
    summary="the mean of the squared gradients of noisy copies",
    paper="Hooker et al. 2019, arXiv 1806.10758",
    gives="input",
    cost="`samples` gradients",
    compute=_smoothgrad_squared,
)
vargrad = PassMethod(
    "vargrad",
    title="VarGrad",
    summary="the variance of the gradients of noisy copies",
    paper="Adebayo et al. 2018, arXiv 1810.03307",
    gives="input",
    cost="`samples` gradients",
    compute=_vargrad,
)
