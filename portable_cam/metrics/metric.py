# SPDX-License-Identifier: Apache-2.0
"""What a metric is: a record that evaluating, the command line and the documents iterate over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from portable_cam.image.baselines import baseline, mix
from portable_cam.metrics.ranking import rank

Array: TypeAlias = NDArray[Any]
Map: TypeAlias = NDArray[np.float64]
#: Maps (H, W) by method of an image (1, ...) and a class.
Explain: TypeAlias = Callable[[Array, int], Mapping[str, Map]]


@dataclass(frozen=True)
class Settings:
    """What metrics are free to choose, the same for all methods.

    Attributes:
        steps: Of the curves of deletion and insertion.
        samples: Of metrics that disturb the image.
        subsets: Of parts of the image, of mu-fidelity.
        stages: In how many steps the weights are randomised.
        tolerance: Of the pointing game, in pixels.
        seed: Of everything random.
    """

    steps: int = 20
    samples: int = 8
    subsets: int = 100
    stages: int = 4
    tolerance: int = 15
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What a metric gives for one map: NaN where it is not defined there, and its curve if it has one, (points, 2)."""

    value: float
    curve: Array | None = None


@dataclass
class Case:
    """One image and the class explained.

    Attributes:
        index: The image's number.
        x: As the model takes it, (1, C, H, W) or (1, H, W, C).
        target: The class.
        channel_axis: Of ``x``.
        score: Images (S, ...) to their scores of this class, (S,).
        explain: Explains an image and a class.
        randomized: Explains this one by the model with its weights randomised in so many of ``settings.stages``.
        classes: How many the model has.
        baseline: The name of what stands in for what is taken away.
        settings: See there.
        zero: What stands for zero in ``x``.
        region: bool (H, W), where the object is; None where that is not known.
        others: Three images of other classes; empty where there are none.
    """

    index: int
    x: Array
    target: int
    channel_axis: int
    score: Callable[[Array], Map]
    explain: Explain
    randomized: Callable[[int], Mapping[str, Map]] | None = None
    classes: int | None = None
    baseline: str = "blur"
    settings: Settings = field(default_factory=Settings)
    zero: float = 0
    region: NDArray[np.bool_] | None = None
    others: Sequence[Array] = ()
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        shape = self.x.shape
        return (shape[2], shape[3]) if self.channel_axis == 1 else (shape[1], shape[2])

    def random(self, *purpose: int) -> np.random.Generator:
        """Numbers that are the same for every method, and for this image whichever others there are."""
        return np.random.default_rng([self.settings.seed, self.index, *purpose])

    @cached_property
    def blank(self) -> Array:
        """The image with everything taken away."""
        return baseline(self.baseline, self.x, self.channel_axis, self.zero)

    @cached_property
    def whole(self) -> float:
        """The score of the image."""
        return float(self.score(self.x)[0])

    @cached_property
    def nothing(self) -> float:
        """The score of the baseline."""
        return float(self.score(self.blank)[0])

    def kept(self, keep: Array) -> Array:
        """The image where a mask (S, H, W) is 1, the baseline where it is 0."""
        return mix(self.x, self.blank, keep, self.channel_axis)

    def ranks(self, heat: Map) -> NDArray[np.int64]:
        """How many pixels come before each, the most important first, (H, W): :mod:`portable_cam.metrics.ranking`."""
        return rank(heat, self.random(0))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is the same for all methods, made at the first call."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


#: (case, the name of the method, its map (H, W) from 0 to 1) -> what it measures.
Measure: TypeAlias = Callable[[Case, str, Map], Measured]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: In options and files.
        title: In tables.
        summary: One line for help texts and documents.
        paper: Where it is from.
        better: Whether ``higher`` or ``lower`` values speak for a method.
        measure: Computes it.
        uses_baseline: It takes parts of the image away, so that its value, and perhaps the winner, is the baseline's.
        needs: Of ``probability`` (the score has to be one), ``region`` (where the object is), ``explain`` (maps of
            other images or classes, which maps that are given have not) and ``scipy``.
    """

    name: str
    title: str
    summary: str
    paper: str
    better: Literal["higher", "lower"]
    measure: Measure
    uses_baseline: bool = False
    needs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name
