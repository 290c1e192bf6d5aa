"""Runs a batch through a session: at once, or image by image where the model takes one; and again where a gradient left
the range of half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError
from portable_cam.export.autodiff.loss_scale import LOSS_SCALE
from portable_cam.runtime.loss_scale import with_loss_scale
from portable_cam.spelling import option

Arrays: TypeAlias = dict[str, NDArray[Any]]


class Runs(Protocol):
    """What a session and a pipeline on a device have in common."""

    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def optional(self) -> Mapping[str, Any]: ...
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays: ...


class Batches:
    """Runs batches of one model.

    Args:
        image: The image input, whose first dimension counts the images.
        freed: The model was made for one image, and its operators prove that more do not mix.
        shared: All images have one score together.
        ranged: The model quantises by the range of the whole batch: images that mix by that alone run one by one.

    Attributes:
        mixes: Whether images turned out to mix all the same; None until a batch has shown it. The first batch of more
            than one is checked: its last image must get alone what it got among the others.
    """

    def __init__(self, image: str, *, freed: bool, shared: bool = False, ranged: bool = False) -> None:
        self._image, self._freed, self._shared, self._ranged = image, freed, shared, ranged
        self.mixes: bool | None = None

    def run(self, session: Runs, feeds: Arrays) -> Arrays:
        """Every output for all images of the feeds, ``targets`` among them.

        Raises:
            InputError: The model takes another fixed number of images, or images change each other's scores.
        """
        if LOSS_SCALE not in session.optional:
            return self._once(session, feeds)
        return with_loss_scale(lambda scale: self._once(session, {**feeds, LOSS_SCALE: scale}), len(feeds[self._image]))

    def _once(self, session: Runs, feeds: Arrays) -> Arrays:
        fixed, count = session.inputs[self._image].shape[0], len(feeds[self._image])
        fits = not isinstance(fixed, int) or fixed == count
        if fits and not (self.mixes and count > 1):
            values = session.run(feeds)
            if self.mixes is None and count > 1 and not self._shared and not isinstance(fixed, int):
                self.mixes = not _agree(values, session.run(_part(feeds, count - 1)))
            if not self.mixes or count == 1:
                return values
        elif not fits and fixed != 1:
            raise InputError(f"the model takes exactly {fixed} images at a time, not {count}")
        if self.mixes and not (self._freed or self._ranged):
            raise InputError(
                "the images of a batch change each other's scores in this model, so that a map would show what its "
                "image does to the scores of all of them: explain one image at a time, or one row of the scores, which "
                f"is then that of all images together ({option('row')})"
            )
        parts = [session.run(_part(feeds, i)) for i in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _part(feeds: Arrays, i: int) -> Arrays:
    return {name: value[i : i + 1] for name, value in feeds.items()}


def _agree(together: Arrays, alone: Arrays) -> bool:
    """Whether the last image's scores are those of the image alone, within one step of a quantised model."""
    ours, theirs = together["scores"][-1:].astype(np.float64), alone["scores"].astype(np.float64)
    finite = np.where(np.isfinite(theirs), theirs, 0)
    step = 0.02 * float(np.abs(finite).max(initial=0)) + 1e-6
    return bool(np.allclose(ours, theirs, rtol=0, atol=step, equal_nan=True))
