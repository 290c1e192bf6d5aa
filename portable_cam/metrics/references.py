# SPDX-License-Identifier: Apache-2.0
"""Maps that know nothing of the model: what a method has to be better than, on the same images.

A centred Gaussian beats many methods at pointing, since objects are centred; the even map, which is 1 everywhere, loses
no confidence when the image is masked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.image.baselines import gaussian_blur
from portable_cam.image.unit_range import to_unit_range
from portable_cam.metrics.metric import Case

Map = NDArray[np.float64]


def _random(case: Case) -> Map:
    """Independent for each pixel."""
    return case.random(1).random(case.size)


def _center(case: Case) -> Map:
    """A Gaussian on the middle, of a quarter of each side."""
    rows, columns = (((np.arange(n) + 0.5) / n - 0.5) / 0.25 for n in case.size)
    found: Map = np.exp(-0.5 * (rows[:, None] ** 2 + columns**2))
    return found


def _edge(case: Case) -> Map:
    """The length of the gradient of the image's brightness, slightly smoothed."""
    grey = case.x.astype(np.float64).mean(axis=case.channel_axis)[0]
    rows, columns = np.gradient(gaussian_blur(grey, 1, (0, 1)))
    return to_unit_range(np.hypot(rows, columns))


def _even(case: Case) -> Map:
    """One everywhere."""
    return np.ones(case.size)


REFERENCES: Mapping[str, Callable[[Case], Map]] = {
    "random": _random, "center": _center, "edge": _edge, "even": _even,
}  # fmt: skip


def check_references(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of references.

    Raises:
        OptionError: There is no such reference.
    """
    for name in names:
        if name not in REFERENCES:
            raise OptionError(f"reference '{name}' does not exist; the references are {', '.join(REFERENCES)}")
    return names
