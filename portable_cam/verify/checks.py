# SPDX-License-Identifier: Apache-2.0
"""Proves an explanation on the image that it is of, at the cost of a few inferences.

===============  ==================================================================================================
``outputs``      the model's own outputs, run from the original file, are those of the explanation
``score``        the score explained is what the original's output says about that class, box and part of its score
``layer``        the score's derivative along a direction at the layer is what central differences say
``input``        the same at the input
``images``       an image among others has the outputs that it has alone
``occlusion``    greying the brightest tenth of the map changes the score more than greying the darkest
===============  ==================================================================================================

A check that could not be made, or has nothing to compare, is *not tested*, which is not *passed*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import Error
from portable_cam.export.format import ACTIVATIONS, GRADIENTS, SCORES, ExplanationMetadata, output_of
from portable_cam.export.layers.candidates import layer_axes
from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Class
from portable_cam.verify.check_subject import INPUT_METHOD, Arrays, Subject

_NOT_TESTED = "not tested"
_TOLERANCE = 0.05  # of a derivative: a wrong rule is off by tens of per cent, a kink on the way costs a few
_STEPS = (1e-2, 1e-3)  # relative to the tensor's own size; kinks err at the greater, rounding at the smaller
_DIGITS = 64 * float(np.finfo(np.float32).eps)  # of a score of about 1: less is lost in the rounding of what it is of
_SHARE = 0.1  # of the map that occlusion greys


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: One of those above.
        passed: None where it was not tested.
        detail: What was compared, in a few words; why, where it was not tested.
        value: The figure that was judged, as a relative difference; None where there is none.
    """

    name: str
    passed: bool | None
    detail: str
    value: float | None = None

    @property
    def verdict(self) -> str:
        """``passed``, ``FAILED`` or ``not tested``; ``disagrees`` for an occlusion, which proves nothing."""
        if self.passed is None:
            return _NOT_TESTED
        return "passed" if self.passed else "disagrees" if self.name == "occlusion" else "FAILED"

    def to_dict(self) -> dict[str, Any]:
        """As plain data; ``passed`` is true, false or ``"not tested"``."""
        return asdict(self) | {"passed": _NOT_TESTED if self.passed is None else self.passed}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Check:
        """From :meth:`to_dict`."""
        return cls(**{**content, "passed": None if content["passed"] == _NOT_TESTED else content["passed"]})


def describe(checks: Sequence[Check]) -> str:
    """One line for a person."""
    by_verdict: dict[str, list[str]] = {}
    for check in checks:
        failed = f" ({check.detail})" if check.passed is False else ""
        by_verdict.setdefault(check.verdict, []).append(check.name + failed)
    return "; ".join(f"{', '.join(names)} {verdict}" for verdict, names in by_verdict.items())


def check_explanation(
    model: NormalizedModel,
    options: Options,
    metadata: ExplanationMetadata,
    feeds: Arrays,
    values: Arrays,
    native: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Check an explanation of one image.

    Args:
        model: The model.
        options: As the explanation was built with.
        metadata: Of the explanation graph.
        feeds: What it was run on, one image: the model's inputs, ``targets`` (1, K) as resolved, and what the target
            brings.
        values: What it gave.
        native: What is handed through to ONNX Runtime, as :class:`~portable_cam.runtime.session.Session` takes it.

    Returns:
        A check for each line of the table above.
    """
    subject = Subject(model, options, metadata, dict(feeds), values, native)
    made = []
    for name, check in _CHECKS.items():
        try:
            made.append(replace(check(subject), name=name))
        except Error as error:
            made.append(Check(name, None, str(error)))
    return made


def _outputs(subject: Subject) -> Check:
    renamed = {old: new for new, old in (subject.metadata.renamed or {}).items()}
    tolerance = 2e-2 if subject.half else 0.1 if subject.quantized else 1e-3
    worst, at = 0.0, ""
    for name, theirs in subject.original().items():
        ours = subject.values.get(renamed.get(name, name))
        if ours is None or theirs.dtype.kind not in "fiu":
            continue
        if ours.shape != theirs.shape:
            return Check("", False, f"output '{name}' has shape {ours.shape}, the original's {theirs.shape}")
        scale = float(np.abs(theirs).max(initial=0)) + 1e-12
        off = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0)) / scale
        if not off <= worst:
            worst, at = off, name
    return Check("", worst <= tolerance, f"outputs differ by {worst:.1e} of their greatest value {at}".strip(), worst)


def _score(subject: Subject) -> Check:
    """The difference of two classes' scores against the original's output: a softmax shifts all scores alike."""
    metadata = subject.metadata
    if subject.options.explained.name != Class.name:
        return _stated(subject)
    output = subject.original().get(metadata.output)
    if output is None or metadata.classes is None or output.size != metadata.classes:
        return Check("", None, f"output '{metadata.output}' is not one number for each class")
    if output.dtype.kind != "f":
        return Check("", None, f"output '{metadata.output}' holds integers")
    flat = output.reshape(-1).astype(np.float64)
    target = int(subject.targets[0, 0])
    ours = float(subject.values[SCORES][0, 0])
    cut = metadata.cut
    if cut in {"Softmax", "LogSoftmax"} and flat.size > 1:
        rival = int(np.argsort(-flat)[0 if int(flat.argmax()) != target else 1])
        ours, theirs = ours - subject.score(0, target=rival), flat[target] - flat[rival]
        if cut == "Softmax":
            if min(flat[target], flat[rival]) < 1e-7:
                return Check("", None, "the probability is rounded to zero")
            theirs = float(np.log(flat[target]) - np.log(flat[rival]))
    elif cut == "Sigmoid":
        if not 1e-6 < flat[target] < 1 - 1e-6:
            return Check("", None, "the probability is rounded to zero or one")
        theirs = float(np.log(flat[target]) - np.log1p(-flat[target]))
    elif cut is None:
        theirs = float(flat[target])
    else:
        return Check("", None, f"the output is behind {cut}")
    scale = max(abs(theirs), abs(ours), 1e-3)
    off = abs(ours - theirs) / scale
    tolerance = 0.1 if subject.quantized or subject.half else 1e-2
    return Check("", off <= tolerance, f"{ours:.5g}, by the original's output {theirs:.5g}", off)


def _stated(subject: Subject) -> Check:
    """The score against what the target reads from the tensors of the model's own file, without the graph."""
    target, index = subject.options.explained, int(subject.targets[0, 0])
    values = subject.original_tensors(target.reads() or (subject.metadata.output,))
    if values is None:
        return Check("", None, "the model's own file has not the tensors that the score is read from")
    values = {**values, **{name: subject.feeds[name][0, 0] for name in subject.metadata.inputs}}
    stated = target.stated(values, index, subject.metadata.cut)
    if isinstance(stated, str):
        return Check("", None, stated)
    theirs, rival = stated
    ours = float(subject.values[SCORES][0, 0]) - (0.0 if rival is None else subject.score(0, target=rival))
    off = abs(ours - theirs) / max(abs(theirs), abs(ours), 1e-3)
    tolerance = 0.1 if subject.quantized or subject.half else 1e-2
    return Check("", off <= tolerance, f"{ours:.5g}, by the model's own numbers {theirs:.5g}", off)


def _derivatives(analytic: Sequence[float], score: Callable[[int, float], float]) -> Check:
    """A directional derivative for each target, by the gradient and by central differences at two step sizes.

    Args:
        analytic: By the gradient, for each target.
        score: Of a target, so many steps along its direction.
    """
    worst, detail, tested, hidden = 0.0, "", 0, 0
    for k, ours in enumerate(analytic):
        numbers = [(score(k, step) - score(k, -step)) / (2 * step) for step in _STEPS]
        scale = max(abs(ours), *map(abs, numbers))
        if scale == 0:
            continue
        nearest = min(numbers, key=lambda number: abs(number - ours))
        off = abs(nearest - ours) / scale
        changes = [2 * step * abs(number) for step, number in zip(_STEPS, numbers, strict=True)]
        if off > _TOLERANCE and max(changes) < _DIGITS * max(1.0, abs(score(k, 0))):
            hidden += 1
            continue
        tested += 1
        if off >= worst:
            worst, detail = off, f"derivative {ours:.5g}, by central differences {nearest:.5g}"
    if not tested:
        why = "the score changes by no more than rounding" if hidden else "the derivative is zero on both sides"
        return Check("", None, why)
    rest = len(analytic) - tested
    few = (
        f"; {rest} of {len(analytic)} targets not tested, their derivative is zero or lost in rounding" if rest else ""
    )
    return Check("", worst <= _TOLERANCE, detail + few, worst)


def _no_differences(subject: Subject) -> str | None:
    """Why central differences say nothing here, if so."""
    return "a quantised model is a staircase, whose gradient differences do not show" if subject.quantized else None


def _input(subject: Subject) -> Check:
    if (why := _no_differences(subject)) is not None:
        return Check("", None, why)
    x, name = subject.image, INPUT_METHOD[0]
    if x.dtype.kind != "f":
        return Check("", None, f"the image is of type {x.dtype}")
    if name not in subject.gradients(0):
        return Check("", None, "the input has no gradient")
    size = float(np.abs(x).max()) or 1.0
    found = [subject.gradients(k)[name][:1, 0].astype(np.float64) for k in range(subject.targets.shape[1])]
    directions = [_direction(gradient) for gradient in found]

    def score(k: int, step: float) -> float:
        return subject.exact.score(k, x + step * size * directions[k])

    return _derivatives([float((g * d).sum()) * size for g, d in zip(found, directions, strict=True)], score)


def _layer(subject: Subject) -> Check:
    if (why := _no_differences(subject)) is not None:
        return Check("", None, why)
    if not any(method.uses_layer for method in subject.options.computed):
        return Check("", None, "no method reads the gradient of a layer")
    made = [_at_layer(subject, name) for name in subject.metadata.layer]
    tested = [check for check in made if check.passed is not None]
    return max(tested, key=lambda check: check.value or 0.0) if tested else made[0]


def _at_layer(subject: Subject, name: str) -> Check:
    graph = subject.normal().graph
    declare_axes(graph, subject.options.axes)
    value = ir.convenience.create_value_mapping(graph, include_subgraphs=False)[name]
    (axes,) = layer_axes(graph, [value])
    activation = subject.gradients(0)[f"{ACTIVATIONS}{name}"]
    size = float(np.abs(activation).max()) or 1.0
    key = f"{GRADIENTS}{name}"
    found = [subject.gradients(k)[key][:, 0].astype(np.float64) for k in range(subject.targets.shape[1])]
    directions = [_direction(gradient) for gradient in found]
    if any(reader.op_type == "MaxPool" for reader in value.consumers()):
        # in a window of zeros, as a ReLU leaves many, the pooling has its kink at the very point
        directions = [direction * (activation != 0) for direction in directions]

    def score(k: int, step: float) -> float:
        return subject.exact.score(k, nudges={name: step * size * _in_layout(directions[k], axes)})

    return _derivatives([float((g * d).sum()) * size for g, d in zip(found, directions, strict=True)], score)


def _in_layout(maps: NDArray[np.float64], axes: SpatialAxes) -> NDArray[np.float64]:
    """Maps (1, C, h, w) in a layer's own layout; zero for tokens of another kind."""
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


def _images(subject: Subject) -> Check:
    """The image and its mirror image, together and alone."""
    x, name = subject.image, subject.metadata.image
    if subject.metadata.shared:
        return Check("", None, "all images have one score together")
    alone = subject.original()
    session = subject.session("original", subject.model.original)
    fixed = session.inputs[name].shape[0]
    if isinstance(fixed, int):
        return Check("", None, f"the model takes {fixed} image at a time")
    both = {n: np.concatenate([subject.feeds[n]] * 2) for n in session.inputs}
    both[name] = np.concatenate([x, x[..., ::-1]])
    together = session.run({n: value.astype(session.dtype(n)) for n, value in both.items()})
    worst, at = 0.0, ""
    for output, value in alone.items():
        if value.dtype.kind != "f":
            continue
        shape = together[output].shape
        axis = next((i for i, (one, two) in enumerate(zip(value.shape, shape, strict=False)) if one != two), 0)
        if value.ndim == 0 or len(shape) != value.ndim or shape[axis] != 2 or value.shape[axis] != 1:
            return Check("", False, f"output '{output}' has {shape} for two images, not a row for each")
        scale = float(np.abs(value).max(initial=0)) + 1e-12
        first = together[output].take([0], axis=axis)
        off = float(np.abs(first.astype(np.float64) - value).max(initial=0)) / scale
        if not off <= worst:
            worst, at = off, output
    tolerance = 0.1 if subject.quantized or subject.half else 1e-3
    detail = f"beside another image, outputs differ by {worst:.1e} of their greatest value {at}".strip()
    return Check("", worst <= tolerance, detail, worst)


def _occlusion(subject: Subject) -> Check:
    """Greying what is brightest in the map against greying what is darkest, for the first target."""
    method = next((m for m in subject.options.computed if m.is_heat_map and m.name in subject.options.methods), None)
    if method is None:
        return Check("", None, "no method gives a heat map")
    heat = subject.values[output_of(method.name)][0, 0]
    x, last = subject.image, subject.metadata.channel_axis != 1
    height_width = x.shape[1:3] if last else x.shape[2:]
    if heat.shape != height_width:
        return Check("", None, "the profile leaves the map at the layer's size")
    if heat.min() == heat.max():
        return Check("", None, "the map is flat")
    count = max(1, int(_SHARE * heat.size))
    order = np.argsort(heat, axis=None, kind="stable")
    grey = x.astype(np.float64).mean(axis=(1, 2) if last else (2, 3), keepdims=True).astype(x.dtype)
    whole, changes = subject.score(0), []
    for part in (order[-count:], order[:count]):
        mask = np.zeros(heat.size, bool)
        mask[part] = True
        mask = mask.reshape(heat.shape)[None, :, :, None] if last else mask.reshape(heat.shape)[None, None]
        changes.append(subject.score(0, np.where(mask, grey, x)) - whole)
    bright, dark = changes
    detail = (
        f"greying the brightest tenth of {method.name} changes the score by {bright:.3g}, the darkest by {dark:.3g}"
    )
    if max(abs(bright), abs(dark)) < 1e-6 * max(1.0, abs(whole)):
        return Check("", None, "greying changes nothing")
    return Check("", abs(bright) > abs(dark), detail, abs(dark) / max(abs(bright), 1e-12))


_CHECKS: dict[str, Callable[[Subject], Check]] = {
    "outputs": _outputs,
    "score": _score,
    "layer": _layer,
    "input": _input,
    "images": _images,
    "occlusion": _occlusion,
}
