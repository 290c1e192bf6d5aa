"""The result of an :class:`~portable_cam.explainer.Explainer`: N images, K targets each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError

T = TypeVar("T")


class ByMethod(Generic[T]):
    """Maps by method: ``result["gradcam"]``, ``for method in result``; ``len(result)`` images."""

    scores: Any
    maps: Mapping[str, T]

    def __getitem__(self, method: str) -> T:
        if method not in self.maps:
            raise OptionError(f"method '{method}' was not computed; this result has {', '.join(self.maps)}")
        return self.maps[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __contains__(self, method: object) -> bool:
        return method in self.maps

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Result(ByMethod[NDArray[np.float32]]):
    """The explanation of N images, K targets each.

    ``result["gradcam"]`` gives a method's maps: (N, K, H, W) float32 at the input's size for methods of maps,
    (N, K, C, H, W) signed float32, in the model's own input layout, for the others.
    """

    scores: NDArray[np.float32]
    """(N, K): the scores explained."""
    targets: NDArray[np.int64]
    """(N, K): the targets explained, the top class where none was given."""
    layer: str | list[str]
    """The tensor explained, or several."""
    maps: dict[str, NDArray[np.float32]]
    """Each method's maps."""
    raw: dict[str, NDArray[np.float32]]
    """(N, K, h, w): the low-resolution map, not normalised, after the ReLU if the profile has one."""
    flags: list[list[tuple[str, ...]]]
    """For each image and target: ``flat`` (a map with one value everywhere, shown as zeros), ``all_negative`` (nothing
    speaks for the target, so that the ReLU left nothing), ``nan`` (NaN or infinity somewhere), ``unplaced`` (the model
    looked at places that follow no affine map, so that what it saw there is left out)."""
    guided_nodes: list[str]
    """The nodes that the guided rule was applied to."""
    outputs: dict[str, NDArray[Any]]
    """The model's own outputs, unchanged."""
    notes: tuple[str, ...] = ()
    """What a reader of the maps should know: where the score was cut, that nothing was guided."""
    activations: NDArray[np.float32] | None = None
    """(N, C, h, w) of the explained layer, on request."""
    gradients: NDArray[np.float32] | None = None
    """(N, K, C, h, w) of the explained layer, on request."""
    words: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """On request, for each input of token ids (N, T): (N, K, T), what each word adds to the score, gradient times
    embedding."""
    row: int | None = None
    """Of several rows of scores the one that was explained; None where there was one for each image."""
    channel_axis: int = 1
    """Of the input: 1 for (N, C, H, W), 3 for (N, H, W, C)."""
    placed: dict[str, Any] = field(default_factory=dict)
    """Of the maps in ``raw`` that do not cover the image, by name: for rows and for columns step and offset (cell i is
    centred at pixel step i + offset of the image), or None where they are stretched over it. Where an axis has several
    parts, as a rolled one has, they follow as pairs of a number of entries and what these are."""
    views: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Of each layer that looks at V views of an image (regions, mirror images, what a spatial transformer makes):
    (N, V, 2, 3), from a cell (row, column, 1) to a pixel's row and column, NaN where no affine map says it; (E, 2, 3)
    where the model says which of E views are whose."""
    unseen: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """(N,) of each layer: the share of the image that it does not see, if there is any."""
    checks: tuple[Any, ...] = ()
    """The :class:`~portable_cam.verify.check.Check` of the first explanation with this model and these options; empty
    where none was asked for."""
