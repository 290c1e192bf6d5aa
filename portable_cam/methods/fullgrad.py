# SPDX-License-Identifier: Apache-2.0
"""FullGrad: what the input and every bias add to the score (Srinivas and Fleuret 2019).

A network of linear layers and ReLUs is linear around each input, so that its score is the gradient times the input, and
the gradient of each bias times the bias (section 3, completeness).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Class
from portable_cam.methods.finish import widened
from portable_cam.methods.method import PassMethod
from portable_cam.methods.run import Run
from portable_cam.runtime.session import Session

Array = NDArray[Any]


def spatial_biases(graph: ir.Graph) -> dict[str, NDArray[np.float64]]:
    """By tensor (N, C, h, w), the bias (C,) that a convolution or a batch normalisation adds to it."""
    found = {}
    for node in graph:
        out = node.outputs[0]
        if len(known_dims(out) or []) != 4:
            continue
        constants = [constant_of(value) for value in node.inputs]
        if node.op_type in {"Conv", "ConvTranspose"} and len(constants) > 2 and constants[2] is not None:
            found[str(out.name)] = constants[2].astype(np.float64)
        elif node.op_type == "BatchNormalization" and all(value is not None for value in constants[1:]):
            scale, bias, mean, variance = (np.asarray(value, np.float64) for value in constants[1:])
            epsilon = node.attributes.get_float("epsilon", 1e-5)
            found[str(out.name)] = bias - mean * scale / np.sqrt(variance + epsilon)
    return found


class Contributions:
    """What the input and the biases add to a score.

    Args:
        model: The model.
        scores: The tensor of the scores, (N, classes).
        image: The input.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them.

    Raises:
        OptionError: No convolution has a bias.
    """

    def __init__(self, model: NormalizedModel, scores: str, image: str, **settings: Any) -> None:
        self._biases, self._image = spatial_biases(model.graph), image
        if not self._biases:
            raise OptionError("fullgrad needs biases, and no convolution of this model has one: choose another method")
        built = differentiate(model.copy(), scores, [image, *self._biases])
        (self._seed,) = {value.name for value in built.graph.input} - {value.name for value in model.graph.inputs}
        self._classes = [
            dim.dim_value
            for dim in next(v for v in built.graph.input if v.name == self._seed).type.tensor_type.shape.dim
        ]
        self._session = Session(built, **settings)

    def __call__(self, feeds: Mapping[str, Array], target: int) -> list[NDArray[np.float64]]:
        """Of one image: gradient times input, (1, C, H, W) or (1, H, W, C), then for each layer gradient times bias,
        (1, C, h, w)."""
        seed = np.zeros([1, *self._classes[1:]], self._session.dtype(self._seed))
        seed.reshape(-1)[target] = 1
        names = [f"gradient.{name}" for name in (self._image, *self._biases)]
        made = self._session.run({**feeds, self._seed: seed}, names)
        first = made[names[0]].astype(np.float64) * feeds[self._image].astype(np.float64)
        layers = zip(names[1:], self._biases.values(), strict=True)
        return [first, *(made[name].astype(np.float64) * bias[:, None, None] for name, bias in layers)]


def _fullgrad(run: Run) -> NDArray[Any]:
    """The absolute contributions, of each layer scaled to 0 to 1 together, summed over channels and layers."""
    if type(run.passes.options.explained) is not Class or run.quantization is not None:
        raise OptionError("fullgrad explains the classes of a classifier of floating-point numbers")
    known = run.passes.scorer("logit").metadata
    contributions = run.passes.once(
        "fullgrad", lambda of_session: Contributions(run.passes.model, known.scores, known.image, **of_session)
    )
    found = []
    for k in range(len(run.targets)):
        parts = contributions(run.feeds, int(run.targets[k]))
        total = _scaled(parts[0]).sum(axis=run.channel_axis)[0]
        for part in parts[1:]:
            total = total + widened(_scaled(part).sum(axis=1), run.size, None)[0]
        found.append(total)
    return np.stack(found)


def _scaled(part: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.abs(part)
    span = size.max() - size.min()
    found: NDArray[np.float64] = (size - size.min()) / (span if span > 0 else 1)
    return found


fullgrad = PassMethod(
    "fullgrad",
    title="FullGrad",
    summary="what the input and the biases of all layers add to the score",
    paper="Srinivas and Fleuret 2019, arXiv 1905.00780",
    gives="image",
    cost="a gradient of the input and of all convolutions",
    compute=_fullgrad,
)
