# SPDX-License-Identifier: Apache-2.0
"""The maps of the other sign: what speaks against a target that was not found, beside what speaks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portable_cam.explainer import Explainer
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.result import Result


class Counterfactual:
    """An explainer with the other sign, built when it is first needed.

    Args:
        model: The model.
        methods: As for :class:`~portable_cam.explainer.Explainer`.
        options: As for the explainer whose counterpart this is.
    """

    def __init__(self, model: NormalizedModel, methods: Sequence[str], options: Mapping[str, Any]) -> None:
        other = "positive" if options.get("sign") == "negative" else "negative"
        # of methods that give every target the same map there is none of the other sign
        signed = [name for name in methods if METHODS[name].activation_map is None]
        self._arguments = model, signed or ["gradcam"]
        self._options = {**options, "sign": other, "check": False}
        self._explainer: Explainer | None = None

    def __call__(self, explain: Callable[[Explainer], Result]) -> Result:
        """What ``explain`` gives with this explainer."""
        if self._explainer is None:
            self._explainer = Explainer(*self._arguments, **self._options)
        return explain(self._explainer)
