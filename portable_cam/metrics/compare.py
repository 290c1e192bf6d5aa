# SPDX-License-Identifier: Apache-2.0
"""How far methods agree: the rank correlations of their maps of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.explanation import Explanation
from portable_cam.metrics.pictures import as_map
from portable_cam.metrics.ranking import rank_correlation


@dataclass(frozen=True, eq=False)
class Agreement:
    """Spearman's rank correlations of the maps of one image.

    Attributes:
        methods: Their names.
        labels: The targets, as they are called.
        between_methods: (K, methods, methods), for each target; NaN where a map is the same everywhere.
        between_targets: (methods, K, K), for each method: near 1 where its maps do not tell the targets apart.
    """

    methods: tuple[str, ...]
    labels: tuple[str, ...]
    between_methods: NDArray[np.float64]
    between_targets: NDArray[np.float64]

    def to_dict(self) -> dict[str, object]:
        """As plain data, None for what is not defined."""
        return {
            "methods": list(self.methods),
            "labels": list(self.labels),
            "between_methods": {
                label: _plain(table) for label, table in zip(self.labels, self.between_methods, strict=True)
            },
            "between_targets": {
                method: _plain(table) for method, table in zip(self.methods, self.between_targets, strict=True)
            },
        }


def _plain(table: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in table]


def compare(explanation: Explanation) -> Agreement:
    """How far the methods of an explanation agree, and how far each tells its targets apart.

    Results of the input's shape become maps by the sum of their absolute values over the channels.

    Args:
        explanation: With more than one method or target.

    Raises:
        OptionError: There is nothing to compare, or the maps are not of the input's size.
    """
    names, labels = tuple(explanation), tuple(explanation.labels[0])
    if len(names) * len(labels) < 2:
        raise OptionError("there is one map only: name more methods or more targets to compare")
    axis, shape = explanation.result.channel_axis, (1, *explanation.view.shape[:2])
    shape = (1, 1, *shape[1:]) if axis == 1 else (*shape, 1)
    maps = np.stack([[as_map(explanation[name][0, k], axis, shape) for k in range(len(labels))] for name in names])
    between_methods = np.array([_table(maps[:, k]) for k in range(len(labels))])
    between_targets = np.array([_table(maps[m]) for m in range(len(names))])
    return Agreement(names, labels, between_methods, between_targets)


def _table(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.eye(len(maps))
    for i in range(len(maps)):
        for j in range(i):
            found[i, j] = found[j, i] = rank_correlation(maps[i], maps[j])
    return found
