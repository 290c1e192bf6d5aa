# SPDX-License-Identifier: Apache-2.0
"""Proves an explanation on the image that it is of, at the cost of a few inferences.

===============  ==================================================================================================
``outputs``      the model's own outputs, run from the original file, are those of the explanation
``score``        the score explained is what the original's output says about that class, box and part of its score
``layer``        the score's derivative along a direction at the layer is what central differences say
``input``        the same at the input
``maps``         the low-resolution maps are what numpy makes of that gradient and the activations
``images``       an image among others has the outputs that it has alone
``occlusion``    greying the brightest tenth of the map lowers the score more than greying the darkest
``arithmetic``   of a quantised model: this processor adds products of 8-bit integers exactly
===============  ==================================================================================================

A check that could not be made, or has nothing to compare, is *not tested*, which is not *passed*. Those of derivatives
are in :mod:`~portable_cam.verify.check_derivatives`, those of maps in :mod:`~portable_cam.verify.check_maps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import Error
from portable_cam.export.format import SCORES, ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.runtime.arithmetic import INEXACT, adds_bytes_exactly, has_mixed_bytes
from portable_cam.verify.check import Check, not_tested
from portable_cam.verify.check_derivatives import at_input, at_layer
from portable_cam.verify.check_maps import maps, occlusion
from portable_cam.verify.check_subject import Arrays, Subject


def check_explanation(
    model: NormalizedModel,
    options: Options,
    metadata: ExplanationMetadata,
    feeds: Arrays,
    values: Arrays,
    native: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Check an explanation of one image, or of all those that have one score together.

    Args:
        model: The model.
        options: As the explanation was built with.
        metadata: Of the explanation graph.
        feeds: What it was run on: the model's inputs, ``targets`` (N, K) as resolved, and what the target brings.
        values: What it gave.
        native: What is handed through to ONNX Runtime, as :class:`~portable_cam.runtime.session.Session` takes it.

    Returns:
        A check for each line of the table above that applies.
    """
    return check_subject(Subject(model, options, metadata, dict(feeds), values, native))


def check_subject(subject: Subject) -> list[Check]:
    """As :func:`check_explanation`."""
    made = []
    for name, check in CHECKS.items():
        if name == "arithmetic" and not has_mixed_bytes(subject.model.graph):
            continue
        try:
            made.append(replace(check(subject), name=name))
        except Error as error:
            made.append(Check(name, None, str(error)))
    return made


def _outputs(subject: Subject) -> Check:
    tolerance = 2e-2 if subject.half else 0.1 if subject.quantized else 1e-3
    pairs = []
    for name, theirs in subject.original().items():
        ours = subject.own_output(name)
        if ours is None or theirs.dtype.kind not in "fiu":
            continue
        if ours.shape != theirs.shape:
            return Check("", False, f"output '{name}' has shape {ours.shape}, the original's {theirs.shape}")
        pairs.append((name, ours, theirs))
    worst, at = _greatest_difference(pairs)
    return Check("", worst <= tolerance, f"outputs differ by {worst:.1e} of their greatest value {at}".strip(), worst)


def _greatest_difference(pairs: Iterable[tuple[str, NDArray[Any], NDArray[Any]]]) -> tuple[float, str]:
    """How far arrays are off, relative to the greatest value of the second, and the name of the worst."""
    worst, at = 0.0, ""
    for name, ours, theirs in pairs:
        scale = float(np.abs(theirs).max(initial=0)) + 1e-12
        off = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0)) / scale
        if not off <= worst:
            worst, at = off, name
    return worst, at


def _score(subject: Subject) -> Check:
    """The score against what the target reads from the tensors of the model's own file, without the graph."""
    target, index = subject.options.explained, int(subject.targets[0, 0])
    values = subject.original_tensors(target.reads() or (subject.metadata.output,))
    if values is None:
        return not_tested("the model's own file has not the tensors that the score is read from")
    values = {name: target.chosen(value, subject.scores) for name, value in values.items()}
    given = {name: subject.feeds[name][0, 0] for name in subject.metadata.inputs}
    stated = target.stated({**values, **given}, index, subject.metadata.cut)
    if isinstance(stated, str):
        return not_tested(stated)
    theirs, rival = stated
    ours = float(subject.values[SCORES][0, 0]) - (0.0 if rival is None else subject.score(0, target=rival))
    off = abs(ours - theirs) / max(abs(theirs), abs(ours), 1e-3)
    tolerance = 0.1 if subject.quantized or subject.half else 1e-2
    return Check("", off <= tolerance, f"{ours:.5g}, by the model's own numbers {theirs:.5g}", off)


def _images(subject: Subject) -> Check:
    """The image and its mirror image, together and alone."""
    x, name = subject.image, subject.metadata.image
    if subject.metadata.shared:
        return not_tested("all images have one score together")
    session = subject.original_session()
    fixed = session.inputs[name].shape[0]
    if isinstance(fixed, int):
        return not_tested(f"the model takes {fixed} image{'s' if fixed > 1 else ''} at a time")
    alone = subject.original()
    both = {n: np.concatenate([subject.feeds[n]] * 2) for n in session.inputs}
    both[name] = np.concatenate([x, x[..., ::-1]])
    together = session.run({n: value.astype(session.dtype(n)) for n, value in both.items()})
    pairs = []
    for output, value in alone.items():
        if value.dtype.kind != "f":
            continue
        first = _of_first(together[output], value, subject.metadata.row is not None)
        if first is None:
            shape = together[output].shape
            return Check("", False, f"output '{output}' has {shape} for two images, not a row for each")
        pairs.append((output, first, value))
    worst, at = _greatest_difference(pairs)
    tolerance = 0.1 if subject.quantized or subject.half else 1e-3
    detail = f"beside another image, outputs differ by {worst:.1e} of their greatest value {at}".strip()
    return Check("", worst <= tolerance, detail, worst)


def _of_first(together: NDArray[Any], alone: NDArray[Any], rows: bool) -> NDArray[Any] | None:
    """The part of an output for two images that is the first one's, in the shape that it has alone; None if there is
    none.

    Args:
        together: The output for two images.
        alone: That for the first.
        rows: An image may have several rows.
    """
    axis = next((i for i, (one, two) in enumerate(zip(alone.shape, together.shape, strict=False)) if one != two), 0)
    size = alone.shape[axis] if alone.ndim else 0
    if together.ndim != alone.ndim or not size or together.shape[axis] != 2 * size or (size > 1 and not rows):
        return None
    found = [together.take(np.arange(size), axis=axis), together.take(np.arange(size) * 2, axis=axis)]
    return min(found, key=lambda part: float(np.abs(part - alone).max(initial=0)))  # image by image, or row by row


def _arithmetic(subject: Subject) -> Check:
    if adds_bytes_exactly():
        return Check("", True, "products of 8-bit integers are added exactly")
    return Check("", False, INEXACT)


#: By the names in the table above.
CHECKS: dict[str, Callable[[Subject], Check]] = {
    "outputs": _outputs,
    "score": _score,
    "layer": at_layer,
    "input": at_input,
    "maps": maps,
    "images": _images,
    "occlusion": occlusion,
    "arithmetic": _arithmetic,
}
