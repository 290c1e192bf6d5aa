# SPDX-License-Identifier: Apache-2.0
"""The policy of guided methods where the user names none: one under which something is guided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from portable_cam.cli.common import note

if TYPE_CHECKING:
    from portable_cam.export.passes.normalized import NormalizedModel


def with_policy(
    model: NormalizedModel, task: str | None, methods: Iterable[str] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options, with a wider ``relu_policy`` where plain ReLUs are not on the way to the scores and neither the user
    nor the description chose one: guided backpropagation by ReLUs that a network does not have is the plain gradient.

    Args:
        model: The model.
        task: What it does; None: recognised.
        methods: What is computed.
        options: What the user chose.
    """
    from portable_cam.errors import Error
    from portable_cam.export.assemble.choose_layers import policy_that_guides
    from portable_cam.export.methods.registry import METHODS, uses_relu_rule
    from portable_cam.export.targets.protocol import scores_of
    from portable_cam.tasks.recognize import recognize

    chosen = model.described(options)
    known = [name for name in methods or () if name in METHODS]
    if "relu_policy" in chosen or not uses_relu_rule(known):
        return dict(options)
    try:
        target = recognize(model, task, chosen.get("output"), chosen.get("row"))[1]
        found = scores_of(target, model.graph, chosen.get("output"))
    except Error:  # a part of a model, as an encoder: the rest is not known yet
        return dict(options)
    policy = policy_that_guides(model.graph, [scores.value for scores in found])
    if policy in {None, "relu"}:
        return dict(options)
    note(f"relu policy: {policy} (no plain ReLU is on the way to the scores; --relu-policy overrides)")
    return {**options, "relu_policy": policy}
