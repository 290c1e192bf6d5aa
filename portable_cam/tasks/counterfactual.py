"""What was not found: beside the map of what speaks for a place, the map of what speaks against it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from portable_cam.explainer import Explainer
from portable_cam.result import AGAINST, Result


class Counterfactual:
    """The same explainer with the other sign, built when it is first needed."""

    def __init__(self, build: Callable[[], Explainer]) -> None:
        self._build = build
        self._explainer: Explainer | None = None

    def add(self, result: Result, explain: Callable[[Explainer], Result]) -> Result:
        """The result with the maps of its counterpart, under names of their own."""
        if self._explainer is None:
            self._explainer = self._build()
        other = explain(self._explainer)
        maps = {f"{AGAINST}{method}": other[method] for method in other}
        raw = {f"{AGAINST}{name}": values for name, values in other.raw.items()}
        return replace(result, maps={**result.maps, **maps}, raw={**result.raw, **raw})
