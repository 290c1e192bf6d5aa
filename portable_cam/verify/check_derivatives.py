# SPDX-License-Identifier: Apache-2.0
"""The gradient against central differences of the forward pass alone, at the layer and at the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.format import ACTIVATIONS, GRADIENTS
from portable_cam.export.layers.candidates import layer_axes
from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.verify.check import Check, not_tested
from portable_cam.verify.check_subject import INPUT_METHOD, Subject

_TOLERANCE = 0.05  # of a derivative: a wrong rule is off by tens of per cent, a kink on the way costs a few
# relative to the tensor's own size; kinks err at the greater, rounding at the smaller. The last ones are taken where
# none of the first agrees
_STEPS = (1e-2, 1e-3)
_FURTHER = (3e-4, 1e-4)
_POINTS = 16  # where the gradient is taken on the way between the two ends of a difference, should it have kinks
_DIGITS = 64 * float(np.finfo(np.float32).eps)  # of a score of about 1: less is lost in the rounding of what it is of


def at_input(subject: Subject) -> Check:
    """The derivative at the input."""
    x, name = subject.image, INPUT_METHOD[0]
    if x.dtype.kind != "f":
        return not_tested(f"the image is of type {x.dtype}")
    if name not in subject.gradients(0):
        return not_tested("the input has no gradient")
    size = float(np.abs(x).max()) or 1.0
    found = [subject.of_images(subject.gradients(k)[name]) for k in range(subject.targets.shape[1])]
    directions = [_direction(gradient) for gradient in found]

    def score(k: int, step: float) -> float:
        return subject.exact.score(k, x + step * size * directions[k], frozen=True)

    def slope(k: int, step: float) -> float:
        moved = (x + step * size * directions[k]).astype(x.dtype)
        gradient = subject.of_images(subject.gradients(k, moved)[name])
        return float((gradient * directions[k]).sum()) * size

    analytic = [float((g * d).sum()) * size for g, d in zip(found, directions, strict=True)]
    return _derivatives(analytic, score, None if subject.quantized else slope)


def at_layer(subject: Subject) -> Check:
    """The derivative at each layer: the worst of them."""
    if not any(method.uses_layer for method in subject.options.computed):
        return not_tested("no method reads the gradient of a layer")
    made = [_at_one(subject, name) for name in subject.metadata.layer]
    tested = [check for check in made if check.passed is not None]
    return max(tested, key=lambda check: check.value or 0.0) if tested else made[0]


def _at_one(subject: Subject, name: str) -> Check:
    graph = subject.normal().graph
    declare_axes(graph, subject.options.axes)
    value = ir.convenience.create_value_mapping(graph, include_subgraphs=False)[name]
    (axes,) = layer_axes(graph, [value])
    activation = subject.of_layer(subject.gradients(0)[f"{ACTIVATIONS}{name}"])
    size = float(np.abs(activation).max()) or 1.0
    key = f"{GRADIENTS}{name}"
    found = [subject.of_layer(subject.gradients(k)[key][:, 0]) for k in range(subject.targets.shape[1])]
    directions = [_direction(gradient) for gradient in found]
    if any(reader.op_type == "MaxPool" for reader in value.consumers()):
        # in a window of zeros, as a ReLU leaves many, the pooling has its kink at the very point
        directions = [direction * (activation != 0) for direction in directions]

    def score(k: int, step: float) -> float:
        return subject.exact.score(k, nudges={name: step * size * _in_layout(directions[k], axes)}, frozen=True)

    return _derivatives([float((g * d).sum()) * size for g, d in zip(found, directions, strict=True)], score)


def _derivatives(
    analytic: Sequence[float], score: Callable[[int, float], float], slope: Callable[[int, float], float] | None = None
) -> Check:
    """A directional derivative for each target, by the gradient and by central differences at several step sizes.

    Args:
        analytic: By the gradient, for each target.
        score: Of a target, so many steps along its direction.
        slope: The derivative by the gradient there; None if it can be had at the point alone.
    """
    worst, detail, tested, hidden = 0.0, "", 0, 0
    for k, ours in enumerate(analytic):
        numbers = {step: _central(score, k, step) for step in _STEPS}
        scale = max(abs(ours), *map(abs, numbers.values()))
        if scale == 0:
            continue
        changes = [2 * step * abs(number) for step, number in numbers.items()]
        nearest = min(numbers.values(), key=lambda number: abs(number - ours))
        if abs(nearest - ours) > _TOLERANCE * scale and max(changes) < _DIGITS * max(1.0, abs(score(k, 0))):
            hidden += 1
            continue
        if abs(nearest - ours) > _TOLERANCE * scale:
            ours, nearest = _beside_a_kink(k, ours, nearest, score, slope)
        off = abs(nearest - ours) / scale
        tested += 1
        if off >= worst:
            worst, detail = off, f"derivative {ours:.5g}, by central differences {nearest:.5g}"
    if not tested:
        why = "the score changes by no more than rounding" if hidden else "the derivative is zero on both sides"
        return not_tested(why)
    rest = len(analytic) - tested
    few = (
        f"; {rest} of {len(analytic)} targets not tested, their derivative is zero or lost in rounding" if rest else ""
    )
    return Check("", worst <= _TOLERANCE, detail + few, worst)


def _central(score: Callable[[int, float], float], k: int, step: float) -> float:
    return (score(k, step) - score(k, -step)) / (2 * step)


def _beside_a_kink(
    k: int,
    ours: float,
    nearest: float,
    score: Callable[[int, float], float],
    slope: Callable[[int, float], float] | None,
) -> tuple[float, float]:
    """The pair again where a ReLU at zero or a tie in a pooling may lie within a step: at smaller steps, else the mean
    slope on the way, which is what its ends differ by."""
    nearest = min([nearest, *(_central(score, k, step) for step in _FURTHER)], key=lambda number: abs(number - ours))
    if slope is None or abs(nearest - ours) <= _TOLERANCE * max(abs(nearest), abs(ours)):
        return ours, nearest
    step = _STEPS[-1]
    way = (np.arange(_POINTS) + 0.5) / _POINTS * 2 - 1
    return float(np.mean([slope(k, t * step) for t in way])), _central(score, k, step)


def _in_layout(maps: NDArray[np.float64], axes: SpatialAxes) -> NDArray[np.float64]:
    """Maps (N, C, h, w) in a layer's own layout; zero for tokens of another kind."""
    if axes.tokens:
        flat = (maps.swapaxes(2, 3) if axes.columns_first else maps).reshape(*maps.shape[:2], -1)
        maps = np.pad(flat, ((0, 0), (0, 0), (axes.prefix, axes.suffix)))
    order = (axes.batch, axes.channels, *axes.axes)
    return maps.transpose(np.argsort(order))


def _direction(gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """A random direction and the gradient's own, each of unit length, summed.

    Along the former alone the score of a large tensor hardly changes; along the latter alone a gradient that is right
    there and wrong elsewhere would go unseen.
    """
    random = np.random.default_rng(0).standard_normal(gradient.shape)
    length = np.sqrt((gradient**2).sum())
    own = gradient / length if np.isfinite(length) and length > 0 else np.zeros_like(gradient)
    direction: NDArray[np.float64] = own + random / np.sqrt((random**2).sum())
    return direction
