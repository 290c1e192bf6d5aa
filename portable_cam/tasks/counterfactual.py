# SPDX-License-Identifier: Apache-2.0
"""The maps of the other sign: what speaks against a target that was not found, beside what speaks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from portable_cam.explainer import Explainer
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.methods.explainer import Explainer as MethodsExplainer
from portable_cam.methods.registry import signed_methods
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
        self._arguments = model, signed_methods(methods) or ["gradcam"]  # of the others there is no map of that sign
        self._options = {**options, "sign": other, "check": False}
        if options.get("parameters"):
            kept = {name: v for name, v in options["parameters"].items() if name in self._arguments[1]}
            self._options["parameters"] = kept
        self._explainer: Explainer | None = None

    def __call__(self, explain: Callable[[Explainer], Result]) -> Result:
        """What ``explain`` gives with this explainer."""
        if self._explainer is None:
            self._explainer = MethodsExplainer(*self._arguments, **self._options)
        return explain(self._explainer)
