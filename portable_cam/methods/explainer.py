# SPDX-License-Identifier: Apache-2.0
"""The explainer of all methods: those that one graph computes, and those that take many passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.checked import checked
from portable_cam.errors import OptionError
from portable_cam.explainer import Explainer as GraphExplainer
from portable_cam.export.format import RANGE, RAW, SCORES
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.targets import Target
from portable_cam.methods.budget import Budget
from portable_cam.methods.finish import finished
from portable_cam.methods.method import PassMethod
from portable_cam.methods.registry import PASS_METHODS
from portable_cam.methods.run import Passes, Run
from portable_cam.result import Result
from portable_cam.runtime.flags import find_flags
from portable_cam.runtime.native import native_of

if TYPE_CHECKING:
    from portable_cam.runtime.gpu.result import DeviceResult


class Explainer(GraphExplainer):
    """Explains a model's answers by any method.

    Args:
        model: As for :class:`~portable_cam.explainer.Explainer`, which computes what one graph can, as are the others.
        methods: Of :data:`~portable_cam.export.methods.registry.METHODS` and
            :data:`~portable_cam.methods.registry.PASS_METHODS`.
        layer: See ``model``.
        target: See ``model``.
        parameters: For methods of many passes, by name: ``{"rise": {"masks": 8000}}``.
        budget: The most that a method of many passes may cost for an image: a number of passes, or a time as ``10s``.
            Sampling stops there, and a note says so; what needs all of its passes is refused.
        seed: Of everything random; the same for every image.
        batch: Images per run of such a method.
        progress: Called with the name of such a method, how many passes it has made for an image, and of how many.
        **options: See ``model``.

    Raises:
        OptionError: There is no such method or parameter.
    """

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] = ("gradcam",),
        layer: str | Sequence[str] | None = None,
        target: Target | None = None,
        *,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        budget: Budget | int | str | None = None,
        seed: int = 0,
        batch: int = 32,
        progress: Callable[[str, int, int], None] | None = None,
        **options: Any,
    ) -> None:
        asked = check_all_methods(methods)
        self._passing = [PASS_METHODS[name] for name in asked if name in PASS_METHODS]
        self._every_method = asked
        self._parameters = _parameters(self._passing, parameters or {})
        self._budget, self._seed = Budget.of(budget), seed
        unsigned = [method.name for method in self._passing if not method.signed]
        if isinstance(options.get("sign"), str) and options["sign"] == "negative" and unsigned:
            raise OptionError(f"{', '.join(unsigned)}: there is no map of what speaks against a target")
        model = normalized(model)
        in_graph = tuple(name for name in asked if name not in PASS_METHODS)
        super().__init__(model, in_graph, layer, target, **options)
        if self._passing:
            of_session: dict[str, Any] = {
                n: options[n] for n in ("device", "providers", "threads", "time_limit") if n in options
            }
            of_session |= native_of(options)
            given = {name: v for name, v in options.items() if name in Options.names()}
            chosen = Options(**model.described({**given, "methods": None, "layer": layer, "target": target}))
            self._passes = Passes(
                self._sessions.model, replace(chosen, methods=()), batch=batch, progress=progress, **of_session
            )

    def _options_of(self, given: Mapping[str, Any]) -> Options:
        if self._passing and not given.get("methods"):
            return Options(**{**given, "methods": ()})
        return super()._options_of(given)

    @property
    def methods(self) -> tuple[str, ...]:
        return self._every_method

    def on_device(self, x: Any, targets: ArrayLike | None = None, **extra: ArrayLike) -> DeviceResult:
        if self._passing:
            names = ", ".join(method.name for method in self._passing)
            raise OptionError(f"{names}: maps of many passes do not stay on a device; leave them out")
        return super().on_device(x, targets, **extra)

    def _run(self, feeds: dict[str, NDArray[Any]], asked: NDArray[np.int64]) -> Result:
        result = super()._run(feeds, asked)
        if not self._passing:
            return result
        found = _Found(len(result.scores), result.scores.shape[1])
        for method in self._passing:
            for n in range(len(result.scores)):
                self._explain_one(method, n, feeds, result, found)
        return found.joined(result, self._every_method)

    def _explain_one(
        self, method: PassMethod, n: int, feeds: Mapping[str, NDArray[Any]], result: Result, found: _Found
    ) -> None:
        own = {name: v[n : n + 1] for name, v in feeds.items() if name not in self._metadata.inputs}
        run = Run(
            passes=self._passes,
            feeds=own,
            image_name=self.image_name,
            further={name: v[n : n + 1] for name, v in feeds.items() if name in self._metadata.inputs},
            targets=result.targets[n],
            channel_axis=self._metadata.channel_axis,
            quantization=self.input_quantization,
            seed=self._seed,
            budget=self._budget,
            name=method.name,
        )
        made = np.asarray(method.compute(run, **self._parameters[method.name]), np.float64)
        found.notes += [note for note in run.notes if note not in found.notes]
        if not method.is_heat_map:
            found.maps.setdefault(method.name, []).append(made.astype(np.float32))
            return
        if self.sign == "negative":
            made = -made
        profile = self._passes.options.profile
        raw = made if profile == "captum" else np.maximum(made, 0)
        where = run.layer.place if method.gives == "layer" else None
        if method.gives == "layer":
            found.layer = run.layer.name
            if where is not None:
                found.placed[method.name] = [
                    None if along.relation is None else [along.relation.step, along.relation.offset]
                    for along in (where.rows, where.columns)
                ]
        found.maps.setdefault(method.name, []).append(finished(raw[None], run.size, profile, where)[0])
        found.raw.setdefault(method.name, []).append(raw.astype(np.float32))
        found.ranges.setdefault(method.name, []).append(np.stack([made.min((1, 2)), made.max((1, 2))], axis=1))


class _Found:
    """What methods of many passes gave, image by image."""

    def __init__(self, count: int, width: int) -> None:
        self.shape = count, width
        self.maps: dict[str, list[NDArray[Any]]] = {}
        self.raw: dict[str, list[NDArray[Any]]] = {}
        self.ranges: dict[str, list[NDArray[Any]]] = {}
        self.placed: dict[str, Any] = {}
        self.notes: list[str] = []
        self.layer: str | None = None

    def joined(self, result: Result, order: Sequence[str]) -> Result:
        """The result with these methods, all in the order in which they were asked for."""
        maps = {name: np.stack(each) for name, each in self.maps.items()}
        raw = {name: np.stack(each) for name, each in self.raw.items()}
        values: dict[str, NDArray[Any]] = {f"{RANGE}{name}": np.stack(each) for name, each in self.ranges.items()}
        values |= {f"{RAW}{name}": each for name, each in raw.items()} | {SCORES: result.scores}
        flags = [
            [tuple(dict.fromkeys((*old, *new))) for old, new in zip(*rows, strict=True)]
            for rows in zip(result.flags, find_flags(values, maps), strict=True)
        ]
        every = {**result.maps, **maps}
        return replace(
            result,
            maps={name: every[name] for name in order},
            raw={**result.raw, **raw},
            flags=flags,
            layer=result.layer or self.layer or result.layer,
            placed={**result.placed, **self.placed},
            notes=(*result.notes, *self.notes),
        )


def check_all_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of methods of either kind, each once.

    Raises:
        OptionError: There is no method of that name.
    """
    found = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in found:
        if name not in METHODS and name not in PASS_METHODS:
            raise OptionError(f"method '{name}' does not exist; the methods are {', '.join((*METHODS, *PASS_METHODS))}")
    return found


def _parameters(methods: Sequence[PassMethod], given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    for name in given:
        if name not in {method.name for method in methods}:
            raise OptionError(f"parameters are given for '{name}', which is no method of many passes asked for here")
    return {method.name: method.check(given.get(method.name, {})) for method in methods}
