# SPDX-License-Identifier: Apache-2.0
"""Whether the map lies on the object, where a box or a mask says where that is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portable_cam.metrics.metric import Case, Map, Measured, Metric


def grown(region: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The region and all within so many pixels of it, in a straight line."""
    from PIL import Image, ImageFilter

    if not pixels:
        return region
    rows, columns = np.nonzero(region)
    if not len(rows):
        return region
    if region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all():  # a box: exact and quick
        y, x = np.arange(region.shape[0])[:, None], np.arange(region.shape[1])
        down = np.maximum(0, np.maximum(rows.min() - y, y - rows.max()))
        across = np.maximum(0, np.maximum(columns.min() - x, x - columns.max()))
        return np.asarray(np.hypot(down, across) <= pixels)
    image = Image.fromarray(region.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def _pointing(case: Case, _: str, heat: Map) -> Measured:
    assert case.region is not None
    at_most = heat == heat.max()
    return Measured(float(grown(case.region, case.settings.tolerance)[at_most].mean()))


def _energy(case: Case, _: str, heat: Map) -> Measured:
    assert case.region is not None
    total = heat.sum()
    return Measured(float(heat[case.region].sum() / total) if total > 0 else float("nan"))


pointing = Metric(
    "pointing",
    title="pointing game",
    summary="whether the greatest value is on the object; where several are greatest, the share of them that are",
    paper="Zhang et al. 2016, arXiv 1608.00507",
    better="higher",
    measure=_pointing,
    needs=frozenset({"region"}),
)
energy = Metric(
    "energy",
    title="energy in the region",
    summary="the share of the map's sum that is on the object; the even map's is the object's share of the image",
    paper="Wang et al. 2020, arXiv 1910.01279",
    better="higher",
    measure=_energy,
    needs=frozenset({"region"}),
)
