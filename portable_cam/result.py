"""The result of an :class:`~portable_cam.explainer.Explainer`: N images, K targets each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, overload

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

    def keys(self) -> list[str]:
        """The methods."""
        return list(self.maps)

    def items(self) -> list[tuple[str, T]]:
        """Each method with its maps."""
        return list(self.maps.items())

    def __contains__(self, method: object) -> bool:
        return method in self.maps

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False, repr=False)
class Result(ByMethod[NDArray[np.float32]]):
    """The explanation of N images, K targets each.

    ``result["gradcam"]`` gives a method's maps: (N, K, H, W) float32 at the input's size for methods of maps,
    (N, K, C, H, W) signed float32, in the model's own input layout, for the others. ``result[3]`` is the result of the
    fourth image alone, its arrays still with a first axis. Two results are equal if all that they hold is.
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

    @overload
    def __getitem__(self, key: str) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, key: int) -> Result: ...

    def __getitem__(self, key: str | int) -> NDArray[np.float32] | Result:
        if isinstance(key, str):
            return super().__getitem__(key)
        return self._image(key)

    def _image(self, index: int) -> Result:
        if not isinstance(index, int | np.integer) or isinstance(index, bool):
            raise OptionError(f"a result is indexed by a method or the number of an image, not by {index!r}")
        count = len(self)
        if not -count <= index < count:
            raise OptionError(f"there is no image {index}: this result has {count}, counted from 0")
        one = slice(index % count, index % count + 1)

        def part(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: part(value) for name, value in values.items()}
            # an output that is not one entry per image is that of all of them
            return values[one] if hasattr(values, "__len__") and len(values) == count else values

        by_image = "scores targets maps raw flags outputs activations gradients words views unseen".split()
        return replace(self, **{name: part(getattr(self, name)) for name in by_image})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        images, targets = self.scores.shape[:2]
        maps = ", ".join(f"{method} {value.shape}" for method, value in self.items())
        many = f"{images} image{'s' * (images != 1)}, {targets} target{'s' * (targets != 1)}"
        return f"<Result of {many}: {maps or 'no maps'}>"


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, arrays by shape, type and content; NaN equals NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a.dtype != b.dtype:
            return False
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
