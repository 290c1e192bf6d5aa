# SPDX-License-Identifier: Apache-2.0
"""Maps from several gradients of a layer: of noisy copies, of similar classes, and from curvature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run

_EPSILON = 1e-6


def _smooth_gradcam_plus_plus(run: Run, *, samples: int = 16, noise: float = 0.15) -> NDArray[Any]:
    """Grad-CAM++ with the means of g, g^2 and g^3 over noisy copies in place of the powers of one gradient."""
    x = run.x.astype(np.float64)
    sigma = noise * (x.max() - x.min())
    sums: Any = np.zeros(3, object)
    done = 0
    for first, last in run.batches(samples, sampled=True):
        noisy = x + run.random.normal(0, sigma, (last - first, *x.shape[1:]))
        _, gradients = run.layers(run.as_input(noisy))
        sums = [sums[i] + (gradients ** (i + 1)).sum(axis=0) for i in range(3)]
        done = last
    one, two, three = (each / done for each in sums)
    (maps,), _ = run.layers(run.x)
    total = maps.sum(axis=(1, 2))[:, None, None]
    divisor = 2 * two + total * three
    alpha = np.where(two > 0, two / np.where(np.abs(divisor) > _EPSILON, divisor, _EPSILON), 0)
    weights = (np.maximum(one, 0) * alpha).sum(axis=(2, 3))
    found: NDArray[Any] = np.tensordot(weights, maps, axes=1)
    return found


def _finer_cam(run: Run, *, classes: int = 3, alpha: float = 1.0) -> NDArray[Any]:
    """Grad-CAM of the score less ``alpha`` times those of the classes with the nearest scores, weighted by their
    probabilities, which count as given. With one class and alpha 1 it is the contrast of the two."""
    scores = run.all_scores()
    near = min(int(classes), len(scores) - 1)
    found = []
    for target in run.targets:
        order = np.argsort(np.abs(scores - scores[target]), kind="stable")
        rivals = order[order != target][:near]
        share = np.exp(scores[rivals] - scores[rivals].max())
        share /= share.sum()
        (maps,), (gradients,) = run.layers(run.x, np.array([target, *rivals]))
        weights = gradients.mean(axis=(2, 3))
        found.append(np.tensordot(weights[0] - alpha * (share @ weights[1:]), maps, axes=1))
    return np.stack(found)


smooth_gradcam_plus_plus = PassMethod(
    "smooth_gradcam_plus_plus",
    title="Smooth Grad-CAM++",
    summary="Grad-CAM++ with gradients averaged over noisy copies of the image",
    paper="Omeiza et al. 2019, arXiv 1908.01224",
    gives="layer",
    cost="`samples` gradients of the layer",
    compute=_smooth_gradcam_plus_plus,
)
finer_cam = PassMethod(
    "finer_cam",
    title="Finer-CAM",
    summary="Grad-CAM of what tells a class from those with the nearest scores",
    paper="Zhang et al. 2025, arXiv 2501.11309",
    gives="layer",
    cost="a gradient of the layer for each class that is compared",
    compute=_finer_cam,
    signed=True,
)
