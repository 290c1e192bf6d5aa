# SPDX-License-Identifier: Apache-2.0
"""The passes that a method makes over one image, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.explainer import Explainer
from portable_cam.export.format import SCORES, TARGETS
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Class
from portable_cam.export.targets.probability import Probability
from portable_cam.image.baselines import as_input, baseline, mix
from portable_cam.methods.budget import Budget
from portable_cam.methods.head import Head, Layer, as_maps, find_layer, on_layer
from portable_cam.runtime.scorer import Scale, Scorer

Array = NDArray[Any]


class Passes:
    """What runs a model's passes, each built when it is first needed, for all images.

    Args:
        model: The model.
        options: As for an explanation; the methods are not read.
        batch: Images per run.
        progress: Called with the name of a method, how many passes it has made for an image, and of how many.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them.
    """

    def __init__(
        self,
        model: NormalizedModel,
        options: Options,
        *,
        batch: int = 32,
        progress: Callable[[str, int, int], None] | None = None,
        **settings: Any,
    ) -> None:
        self.model, self.options, self.batch, self.progress = model, options, batch, progress
        self.settings = settings
        self._scorers: dict[Scale, Scorer] = {}
        self._heads: dict[tuple[Scale, tuple[int, int]], Head] = {}
        self._layers: dict[tuple[int, int], Layer] = {}
        self._made: dict[Any, Any] = {}

    def scorer(self, scale: Scale) -> Scorer:
        """Forward passes."""
        if scale not in self._scorers:
            self._scorers[scale] = Scorer(self.model, self.options, scale=scale, batch=self.batch, **self.settings)
        return self._scorers[scale]

    @cached_property
    def to_input(self) -> Explainer:
        """Gradients of the input."""
        return self._explainer("gradient", layer=None)

    @cached_property
    def to_layer(self) -> Explainer:
        """Activations and gradients of the layer."""
        return self._explainer("gradcam", layer=self.options.layer, details=True)

    def _explainer(self, method: str, **further: Any) -> Explainer:
        known = self.options
        shared = {n: getattr(known, n) for n in ("target", "row", "output", "precision", "axes", "as_is", "saturation")}
        return Explainer(self.model, (method,), **{**shared, **further}, **self.settings)

    def layer(self, size: tuple[int, int]) -> Layer:
        """The layer explained, for images of a size."""
        if size not in self._layers:
            self._layers[size] = find_layer(self.model, self.options, size)
        return self._layers[size]

    def head(self, scale: Scale, size: tuple[int, int]) -> Head:
        """What lies behind the layer."""
        if (scale, size) not in self._heads:
            options = self.options
            if scale == "probability":
                by = self.scorer("probability").by
                options = replace(options, target=Probability(by, options.explained), row=None)  # type: ignore[arg-type]
            self._heads[scale, size] = Head(self.model, options, self.layer(size), batch=self.batch, **self._of_session)
        return self._heads[scale, size]

    def once(self, key: Any, make: Callable[[dict[str, Any]], Any]) -> Any:
        """What a method builds for all images: ``make`` is called with the settings of a session."""
        if key not in self._made:
            self._made[key] = make(self._of_session)
        return self._made[key]

    @property
    def _of_session(self) -> dict[str, Any]:
        taken = {"device", "providers", "threads", "time_limit", "session_options", "custom_op_libraries"}
        return {name: value for name, value in self.settings.items() if name in taken}

    @property
    def confidence(self) -> Scale:
        """What a method that weights by confidence reads: the probability of a class, else the score."""
        return "probability" if type(self.options.explained) is Class and not self.options.as_is else "logit"


@dataclass
class Run:
    """One image, the K targets explained of it, and what a method may do with them.

    Attributes:
        passes: Runs them.
        feeds: The model's inputs for this image, each (1, ...).
        image_name: Which of them is the image.
        further: The target's further inputs, each (1, K, ...).
        targets: (K,).
        channel_axis: Of the image.
        quantization: Scale and zero point of an integer image.
        seed: Of everything random.
        budget: For this image and method.
        name: Of the method.
        notes: What a reader of the result should know.
    """

    passes: Passes
    feeds: Mapping[str, Array]
    image_name: str
    further: Mapping[str, Array]
    targets: NDArray[np.int64]
    channel_axis: int
    quantization: tuple[float, int] | None
    seed: int
    budget: Budget
    name: str
    notes: list[str] = field(default_factory=list)

    # -- the image -------------------------------------------------------------------------------------------------

    @property
    def x(self) -> Array:
        """The image, (1, C, H, W) or (1, H, W, C)."""
        return self.feeds[self.image_name]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        shape = self.x.shape
        return (shape[2], shape[3]) if self.channel_axis == 1 else (shape[1], shape[2])

    @property
    def profile(self) -> str:
        """Whose conventions are followed."""
        return self.passes.options.profile

    @property
    def scale(self) -> float:
        """What one step of the image's numbers stands for: 1, but of a quantised input."""
        return 1.0 if self.quantization is None else self.quantization[0]

    @cached_property
    def random(self) -> np.random.Generator:
        """The same numbers for the same seed, whichever methods and images there are."""
        return np.random.default_rng(self.seed)

    def baseline(self, name: str) -> Array:
        """What stands in for what is taken away; see :mod:`portable_cam.image.baselines`."""
        zero = 0.0 if self.quantization is None else self.quantization[1]
        return baseline(name, self.x, self.channel_axis, zero)

    def masked(self, keep: Array, baseline: str) -> Array:
        """The image where masks (S, H, W) are 1, the baseline where they are 0."""
        return mix(self.x, self.baseline(baseline), keep, self.channel_axis)

    def as_input(self, values: Array) -> Array:
        """Numbers as the model takes them."""
        return as_input(values, self.x.dtype)

    # -- passes ----------------------------------------------------------------------------------------------------

    def batches(self, total: int, *, sampled: bool = False, factor: int = 1) -> Iterator[tuple[int, int]]:
        """First and one past the last of each batch of passes, within the budget; see :class:`Budget`.

        Args:
            total: How many there are to make.
            sampled: Fewer will do, of which a note tells.
            factor: How many times as much a pass costs as a forward pass, in memory.
        """
        done, progress = 0, self.passes.progress
        size = max(1, self.passes.batch // factor)
        for count in self.budget.batches(total, size, sampled=sampled, what=self.name):
            yield done, done + count
            done += count
            if progress is not None:
                progress(self.name, done, total)
        if done < total:
            self.notes.append(
                f"{self.name}: {done} of {total} samples, as far as the budget of {self.budget.describe()} went"
            )

    @property
    def confidence(self) -> Scale:
        """See :attr:`Passes.confidence`."""
        return self.passes.confidence

    def scores(self, images: Array, scale: Scale = "logit") -> NDArray[np.float64]:
        """(S, K) of images (S, ...)."""
        return self.passes.scorer(scale)(
            self._repeated(images), np.tile(self.targets, (len(images), 1)), **self._extra(images)
        )

    def gradients(self, images: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores (S, K) of images (S, ...) and the gradients of the image, (S, K, ...)."""
        result = self.passes.to_input(
            self._repeated(images), np.tile(self.targets, (len(images), 1)), **self._extra(images)
        )
        return result.scores.astype(np.float64), result["gradient"].astype(np.float64)

    def layers(self, images: Array, targets: Array | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer's activations (S, C, h, w) and their gradients (S, K, C, h, w), of other targets if given."""
        asked = self.targets if targets is None else targets
        self.passes.layer(self.size)  # refuses several, and those of several views of the image
        result = self.passes.to_layer(self._repeated(images), np.tile(asked, (len(images), 1)), **self._extra(images))
        if result.activations is None or result.gradients is None or isinstance(result.layer, list):
            raise OptionError(f"{self.name} explains one layer at a time: name one")
        return result.activations.astype(np.float64), result.gradients.astype(np.float64)

    def all_scores(self) -> NDArray[np.float64]:
        """The scores of all classes, (classes,).

        Raises:
            OptionError: How many there are is not known.
        """
        scorer = self.passes.scorer("logit")
        count = scorer.metadata.classes
        if count is None or self.further:
            raise OptionError(
                f"{self.name} compares the classes of a classifier, whose number this model does not tell"
            )
        found: NDArray[np.float64] = scorer(self._repeated(self.x), np.arange(count)[None])[0]
        return found

    def _repeated(self, images: Array) -> dict[str, Array]:
        others = {name: np.repeat(v, len(images), axis=0) for name, v in self.feeds.items() if name != self.image_name}
        return {**others, self.image_name: images}

    def _extra(self, images: Array) -> dict[str, Array]:
        return {name: np.repeat(value, len(images), axis=0) for name, value in self.further.items()}

    # -- behind the layer ------------------------------------------------------------------------------------------

    @property
    def layer(self) -> Layer:
        """The layer explained."""
        return self.passes.layer(self.size)

    def behind(self, scale: Scale = "logit") -> Behind:
        """The layer of this image, to be changed."""
        return Behind(self, self.passes.head(scale, self.size))


class Behind:
    """The layer of one image, and the scores that follow when it is changed.

    Attributes:
        features: The layer in its own layout, (1, ...).
        maps: The same as (C, h, w).
    """

    def __init__(self, run: Run, head: Head) -> None:
        self._run, self._head = run, head
        self._all = head.features(run.feeds)
        self.features = self._all[head.layer.name]
        self.axes = head.layer.axes
        rows, columns = self.axes.size
        if rows is None or columns is None:
            rows, columns = self._grid()
        self.maps = as_maps(self.features, self.axes, (rows, columns))

    def _grid(self) -> tuple[int, int]:
        if not self.axes.tokens:
            return self.features.shape[self.axes.axes[0]], self.features.shape[self.axes.axes[1]]
        raise OptionError("how many rows and columns the layer's tokens have is known only at run time: fix the size")

    @property
    def differentiable(self) -> tuple[ir.Model, str, str]:
        """What lies behind the layer, and the names of the layer and of the scores there."""
        return self._head.back, self._head.at, SCORES

    @property
    def feeds(self) -> dict[str, Array]:
        """The inputs of :attr:`differentiable` for this image."""
        run = self._run
        rest = {name: value for name, value in self._all.items() if name != self._head.layer.name}
        return {**rest, **run.further, self._head.at: self.features, TARGETS: run.targets[None]}

    def scores(self, changed: Array) -> NDArray[np.float64]:
        """(S, K) for the layer as given, (S, ...) in its own layout."""
        run = self._run
        return self._head.scores(self._all, changed.astype(self.features.dtype), run.targets, run.further)

    def without_channels(self, first: int, last: int) -> Array:
        """The layer with each of these channels set to zero in turn, (last - first, ...)."""
        changed = np.repeat(self.features, last - first, axis=0)
        for i in range(first, last):
            np.moveaxis(changed, self.axes.channels, 1)[i - first, i] = 0
        return changed

    def only(self, keep: Array) -> Array:
        """The layer times maps (S, h, w), tokens that are none of the image's left as they are."""
        found: Array = self.features * on_layer(keep, self.axes).astype(self.features.dtype)
        return found
