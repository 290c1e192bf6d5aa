# SPDX-License-Identifier: Apache-2.0
"""ShapleyCAM: Grad-CAM's weights corrected for the curvature of the score (Cai 2025).

The product of the second derivative with the activation is the derivative of a derivative: what lies behind the layer
is differentiated twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.methods.head import as_maps
from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run
from portable_cam.runtime.session import Session

Array = NDArray[Any]


class Curvature:
    """The gradient of the scores behind a layer, and the second derivative times the layer.

    Args:
        back: From the layer to ``scores``, (N, K).
        layer: The layer's name there.
        scores: The name of the scores.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them.
    """

    def __init__(self, back: ir.Model, layer: str, scores: str, **settings: Any) -> None:
        first = differentiate(back.clone(), scores, [layer])
        gradient = f"gradient.{layer}"
        second = differentiate(first, gradient, [layer])
        own = {value.name for value in back.graph.inputs}
        once = {value.name for value in first.graph.input} - own
        twice = {value.name for value in second.graph.input} - own - once
        (self._of_scores,), (self._of_gradient,) = once, twice
        self._gradient, self._layer = gradient, layer
        self._session = Session(second, **settings)

    def __call__(self, feeds: Mapping[str, Array], k: int, width: int) -> tuple[Array, Array]:
        """Gradient g and product H A of the k-th of ``width`` scores, in the layer's own layout.

        Args:
            feeds: The inputs of the back, for one image.
            k: Which score.
            width: How many there are.
        """
        layer = feeds[self._layer]
        seed = np.zeros((1, width), self._session.dtype(self._of_scores))
        seed[0, k] = 1
        asked = {**feeds, self._of_scores: seed, self._of_gradient: layer}
        outputs = [name for name in self._session.outputs if name.startswith(self._gradient)]
        made = self._session.run({n: v for n, v in asked.items() if n in self._session.inputs}, outputs)
        ours, product = (made[name] for name in outputs)
        return ours, product


def _shapley_cam(run: Run) -> NDArray[Any]:
    """sum_c w_c A_c, w_c the mean over the positions of g - H A / 2."""
    behind = run.behind()
    curvature = run.passes.once(
        ("curvature", run.size), lambda of_session: Curvature(*behind.differentiable, **of_session)
    )
    maps, found = behind.maps.astype(np.float64), []
    for k in range(len(run.targets)):
        parts = curvature(behind.feeds, k, len(run.targets))
        gradient, product = (as_maps(part, behind.axes, maps.shape[1:]) for part in parts)
        weights = (gradient.astype(np.float64) - product.astype(np.float64) / 2).mean(axis=(1, 2))
        found.append(np.tensordot(weights, maps, axes=1))
    return np.stack(found)


shapley_cam = PassMethod(
    "shapley_cam",
    title="ShapleyCAM",
    summary="Grad-CAM with weights corrected for the curvature of the score; the same where that is piecewise linear",
    paper="Cai 2025, arXiv 2501.06261",
    gives="layer",
    cost="a second derivative of what lies behind the layer",
    compute=_shapley_cam,
    signed=True,
)
