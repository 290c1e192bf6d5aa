"""Checks what a user gives an explainer to explain, and brings it to the shapes that the graph takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.arrays import as_array
from portable_cam.errors import InputError, TargetError
from portable_cam.export.format import MOST_RANKS, ExplanationMetadata
from portable_cam.spelling import by_arrays, either, option
from portable_cam.targets import Target


class Checks(Protocol):
    """What a session and a pipeline on a device say of their inputs."""

    @property
    def inputs(self) -> Mapping[str, Any]: ...
    def check_input(self, name: str, value: NDArray[Any]) -> NDArray[Any]: ...


class Inputs:
    """The inputs of one explanation graph.

    Args:
        session: What runs the graph for one target per image.
        facts: What the graph says of itself.
    """

    def __init__(self, session: Checks, facts: ExplanationMetadata) -> None:
        self._session, self._further = session, facts.inputs
        self._image, self._classes = facts.image, facts.classes

    def named(self, x: Any) -> dict[str, Any]:
        """The model's inputs by name, from an image alone or a dict of all.

        Raises:
            InputError: A name is no text.
        """
        if not isinstance(x, Mapping):
            return {self._image: x}
        wrong = next((name for name in x if not isinstance(name, str)), None)
        if wrong is not None:
            raise InputError(f"inputs are named by text, not by {wrong!r}")
        return dict(x)

    def check_names(self, named: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Whether all inputs are there, the model's own in ``named`` and the target's in ``extra``.

        Raises:
            InputError: One is missing, or the target does not take it.
        """
        takes = f"; it takes {', '.join(self._further)}" * bool(self._further)
        for name in extra:
            if name not in self._further:
                if name == "target":
                    raise TargetError(
                        f"a call takes {option('targets')} for which one is explained, as {option('targets', [281])}"
                    )
                raise InputError(f"the target takes no '{name}'{takes}")
        for name, what in self._further.items():
            if name not in extra:
                raise InputError(f"'{name}' is missing: {what}")
        for name in self._session.inputs:
            if name not in named and name != "targets" and name not in self._further:
                raise InputError(f"input '{name}' is missing: {either('give a dict of all inputs', by_arrays())}")

    def feeds(self, x: ArrayLike | Mapping[str, ArrayLike], extra: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """The model's inputs as it takes them, any number of images where it takes one.

        Raises:
            InputError: An input has the wrong name, shape or type, or holds NaN.
        """
        named = self.named(x)
        self.check_names(named, extra)
        feeds = {name: _array(name, value) for name, value in named.items()}
        image, check = feeds[self._image], self._session.check_input
        one_by_one = image.ndim == 4 and self._session.inputs[self._image].shape[0] == 1 and len(image) > 1
        if not one_by_one:
            return {name: check(name, value) for name, value in feeds.items()}
        check(self._image, image[:1])
        return {
            name: np.concatenate([check(name, value[i : i + 1]) for i in range(len(image))])
            for name, value in feeds.items()
        }

    def targets(
        self, given: ArrayLike | None, count: int, extra: Mapping[str, ArrayLike], *, ranks: bool = False
    ) -> NDArray[np.int64]:
        """Targets (N, K) for ``count`` images; without any, the top class, or where there is no choice as many as the
        further inputs hold.

        Args:
            given: The targets.
            count: How many images there are.
            extra: The further inputs of the target.
            ranks: Whether -1 stands for the top class of an image, -2 for the second.

        Raises:
            TargetError: A target is not an integer, or out of range.
        """
        if given is not None:
            asked = check_targets(given, count, ranks=ranks)
            if ranks:
                self._check_ranks(asked)
            self._check_range("target", np.maximum(asked, 0) if ranks else asked)
            return asked
        if self._classes != 1:
            return np.full((count, 1), -1, np.int64)
        specs = self._session.inputs
        shapes = {name: _array(name, value).shape for name, value in extra.items()}
        widths = [shape[1] for name, shape in shapes.items() if len(shape) == len(specs[name].shape)]
        return np.zeros((count, max(widths, default=1)), np.int64)

    def further(self, extra: Mapping[str, ArrayLike], shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
        """The target's inputs, each (N, K, ...), from what broadcasts to it, for targets of shape (N, K).

        Raises:
            InputError: One does not, is of another type, or holds NaN.
            TargetError: An index is out of range.
        """
        return {name: self._broadcast(name, value, shape) for name, value in extra.items()}

    def _broadcast(self, name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
        array, rank = _array(name, value), len(self._session.inputs[name].shape)
        given = array.shape
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        dtype = self._session.check_input(name, array[:1, :1]).dtype
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"'{name}' holds NaN or infinite values")
        if dtype.kind == "i" and rank == 2:  # an index like those of the targets
            self._check_range(name, array)
        try:
            array = np.broadcast_to(array, (*shape, *array.shape[2:]))
        except ValueError:
            raise InputError(
                f"'{name}' has shape {given}: for {shape[0]} images with {shape[1]} targets each give "
                f"({shape[0]}, {shape[1]}, ...), or what broadcasts to it"
            ) from None
        return np.ascontiguousarray(array, dtype)

    def _check_ranks(self, asked: NDArray[np.int64]) -> None:
        """Whether there are so many top classes: :class:`TargetError` if not."""
        limit, lowest = min(MOST_RANKS, self._classes or MOST_RANKS), -int(asked.min(initial=0))
        if lowest > limit:
            raise TargetError(f"top{lowest}: between 1 and {limit} top classes can be explained at once")

    def _check_range(self, name: str, asked: NDArray[Any]) -> None:
        width = self._classes
        if not asked.size or (asked.min() >= 0 and (width is None or asked.max() < width)):
            return
        wrong = asked.min() if asked.min() < 0 else asked.max()
        has = f"the model has {width} classes, 0 to {width - 1}" if width is not None else "classes count from 0"
        raise TargetError(f"{name} {wrong} is out of range: {has}")


def check_targets(targets: ArrayLike, count: int, *, ranks: bool = False) -> NDArray[np.int64]:
    """Targets as int64 (N, K).

    Raises:
        TargetError: They are something else, or negative without being ranks.
    """
    if isinstance(targets, Target):
        raise TargetError(
            f"{type(targets).__name__} says what kind of thing is explained: that is {option('target')} of the "
            f"explainer; {option('targets')} says which, as [281]"
        )
    try:
        array = as_array(targets, "targets", TargetError)
    except TargetError:
        raise TargetError("targets do not make an array: give as many for each image") from None
    if array.size == 0:
        raise TargetError(f"no target is given: leave out {option('targets')} for the top class of each image")
    given = array.shape
    if array.dtype.kind not in "iu":
        raise TargetError(f"targets are integers, not {array.dtype}; names need {option('labels')}")
    if array.ndim == 0:
        array = np.full(count, array)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != count or array.shape[1] == 0:
        raise TargetError(f"targets have shape (N,) or (N, K) with N = {count} images, not {given}")
    if array.min(initial=0) < 0 and not ranks:
        raise TargetError(f"target {array.min()} is negative: classes count from 0")
    if array.max(initial=0) > np.iinfo(np.int64).max:
        raise TargetError(f"target {array.max()} is out of range")
    return array.astype(np.int64)


def _array(name: str, value: Any) -> NDArray[Any]:
    """An array of numbers, from whatever holds them.

    Raises:
        InputError: It holds none: file names and images are for the explainers of photos.
    """
    array = as_array(value, f"input '{name}'")
    if array.dtype.kind in "OUS":
        raise InputError(
            f"input '{name}' holds {_described(value)}, not numbers: this explainer takes arrays as the model does; "
            "for files and images there are portable_cam.explain and PhotoExplainer"
        )
    return array


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    first = value[0] if isinstance(value, list | tuple) and value else value
    return f"a list of {type(first).__name__}" if first is not value else type(value).__name__
