# SPDX-License-Identifier: Apache-2.0
"""The maps against what numpy makes of the gradient, and against greying parts of the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.format import ACTIVATIONS, GRADIENTS, output_of, raw_output
from portable_cam.export.methods.method import Method
from portable_cam.kernels import reference
from portable_cam.verify.check import Check, not_tested
from portable_cam.verify.check_subject import INPUT_METHOD, Subject

_SHARE = 0.1  # of the map that occlusion greys


def maps(subject: Subject) -> Check:
    """The low-resolution maps and the plain gradient that the explanation gave, of each target."""
    worst, at = 0.0, ""
    pairs = [pair for k in range(subject.targets.shape[1]) for pair in _pairs(subject, k)]
    if not pairs:
        return not_tested("no method's map is made from the gradient of a layer")
    for name, ours, theirs in pairs:
        scale = float(np.abs(theirs).max(initial=0))
        if ours.shape != theirs.shape:
            return Check("", False, f"{name} has shape {ours.shape}, its layer {theirs.shape}")
        off = float(np.abs(ours - theirs).max(initial=0))
        if off > 0 and scale > 0 and off / scale >= worst:
            worst, at = off / scale, name
    if not any(np.any(theirs) for _, _, theirs in pairs):
        return not_tested("the maps are zero everywhere")
    tolerance = 0.1 if subject.half or subject.quantized else 1e-2
    return Check("", worst <= tolerance, f"differ from the gradient's by {worst:.1e} of their peak {at}".strip(), worst)


def _pairs(subject: Subject, k: int) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """What the explanation gave for a target, and the same in numpy from the layer's gradient, by a name."""
    found, layers = [], subject.metadata.layer
    wanted = [m for m in subject.options.computed if m.name in subject.options.methods]
    for layer in layers:
        for method in (m for m in wanted if m.uses_layer and m.is_heat_map):
            name = raw_output(method.name, layer if len(layers) > 1 else None)
            views = len(subject.gradients(k)[f"{ACTIVATIONS}{layer}"]) != len(subject.image)
            if name in subject.values and not views:  # put together of several
                found.append((name, subject.values[name][:1, k].astype(np.float64), _map(subject, method, layer, k)))
    plain = INPUT_METHOD[0]
    if plain in subject.values and plain in subject.gradients(k) and subject.options.sign == "positive":
        theirs = subject.gradients(k)[plain][:1, 0].astype(np.float64)
        found.append((plain, subject.values[plain][:1, k].astype(np.float64), theirs))
    return found


def _map(subject: Subject, method: Method, layer: str, k: int) -> NDArray[np.float64]:
    """(1, h, w)."""
    values = subject.gradients(k)
    sign = -1 if subject.options.negated else 1
    gradient = sign * values[f"{GRADIENTS}{layer}"][:1, :1]
    signed = reference.method_map(method.name, values[f"{ACTIVATIONS}{layer}"][:1], gradient)[:, 0]
    return signed if subject.options.profile == "captum" else np.maximum(signed, 0)


def occlusion(subject: Subject) -> Check:
    """Greying what is brightest in the map against greying what is darkest, for the first target.

    What is bright speaks for the target, so that its loss lowers the score; what is dark is nothing, or speaks against
    it, so that its loss leaves or raises it. Where maps show what speaks against, the other way round.
    """
    method = next((m for m in subject.options.computed if m.is_heat_map and m.name in subject.options.methods), None)
    if method is None:
        return not_tested("no method gives a heat map")
    heat = subject.values[output_of(method.name)][0, 0]
    x, last = subject.image, subject.metadata.channel_axis != 1
    height_width = x.shape[1:3] if last else x.shape[2:]
    if heat.shape != height_width:
        return not_tested("the profile leaves the map at the layer's size")
    if heat.min() == heat.max():
        return not_tested("the map is flat")
    count = max(1, int(_SHARE * heat.size))
    order = np.argsort(heat, axis=None, kind="stable")
    first = x[:1]
    grey = first.astype(np.float64).mean(axis=(1, 2) if last else (2, 3), keepdims=True).astype(x.dtype)
    whole, changes = subject.score(0), []
    for part in (order[-count:], order[:count]):
        mask = np.zeros(heat.size, bool)
        mask[part] = True
        mask = mask.reshape(heat.shape)[None, :, :, None] if last else mask.reshape(heat.shape)[None, None]
        changes.append(subject.score(0, np.concatenate([np.where(mask, grey, first), x[1:]])) - whole)
    bright, dark = changes
    detail = (
        f"greying the brightest tenth of {method.name} changes the score by {bright:.3g}, the darkest by {dark:.3g}"
    )
    if max(abs(bright), abs(dark)) < 1e-6 * max(1.0, abs(whole)):
        return not_tested("greying changes nothing")
    sign = 1 if subject.options.negated else -1
    return Check("", sign * bright > sign * dark, detail, sign * dark / max(abs(bright), 1e-12))
