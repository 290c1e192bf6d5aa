# SPDX-License-Identifier: Apache-2.0
"""The grid pointing game: four images of different classes in one, and how much of the map is in the cell of its class.

It needs no annotation, only images (Böhle et al. 2021, arXiv 2104.00032). The even map has a quarter in each cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.image.baselines import as_input
from portable_cam.metrics.metric import Case, Map, Measured, Metric

Array = NDArray[Any]


def mosaic(images: Sequence[Array], channel_axis: int, place: int) -> tuple[Array, NDArray[np.bool_]]:
    """Four images in a two by two grid, and where the first of them is.

    Args:
        images: Each (1, C, H, W) or (1, H, W, C), all of one size.
        channel_axis: Of these.
        place: 0 to 3: the cell of the first; the others follow in order.

    Returns:
        An image of the same shape, and bool (H, W).
    """
    first = np.moveaxis(images[0][0], channel_axis - 1, 0)
    height, width = first.shape[1:]
    found, region = np.empty(first.shape, np.float64), np.zeros((height, width), bool)
    rows, columns = (0, height // 2, height), (0, width // 2, width)
    for i, image in enumerate(images):
        row, column = divmod((place + i) % 4, 2)
        cell = slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1])
        planes = np.moveaxis(image[0], channel_axis - 1, 0)
        found[(slice(None), *cell)] = [
            _smaller(plane, (cell[0].stop - cell[0].start, cell[1].stop - cell[1].start)) for plane in planes
        ]
        region[cell] |= i == 0
    return as_input(np.moveaxis(found, 0, channel_axis - 1), images[0].dtype)[None], region


def _smaller(plane: Array, size: tuple[int, int]) -> Array:
    """Averaged down to a size."""
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))


def _grid_pointing(case: Case, name: str, _: Map) -> Measured:
    if len(case.others) < 3:
        return Measured(float("nan"))
    place = int(case.random(5).integers(4))
    x, region = case.once("mosaic", lambda: mosaic([case.x, *case.others], case.channel_axis, place))
    heat = case.once("of the mosaic", lambda: case.explain(x, case.target))[name]
    total = heat.sum()
    return Measured(float(heat[region].sum() / total) if total > 0 else float("nan"))


grid_pointing = Metric(
    "grid_pointing",
    title="grid pointing game",
    summary="the share of the map in the cell of its class, of four images of different classes in one",
    paper="Böhle et al. 2021, arXiv 2104.00032",
    better="higher",
    measure=_grid_pointing,
    needs=frozenset({"explain"}),
)
