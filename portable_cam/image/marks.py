# SPDX-License-Identifier: Apache-2.0
"""What a target is about, in an image: a box, a mask or a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portable_cam.image.geometry import Box, Geometry


@dataclass(frozen=True)
class Mark:
    """A box in pixels of the model's input, a mask bool (H, W) of its size, or a point (x, y) in its pixels."""

    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    point: tuple[float, float] | None = None

    def on_photo(self, geometry: Geometry) -> Mark:
        """The same mark in pixels of the photo."""
        box = None if self.box is None else geometry.to_photo(self.box)
        mask = None if self.mask is None else geometry.on_photo(self.mask.astype(np.float32)) > 0.5
        point = None if self.point is None else geometry.to_photo((*self.point, *self.point))[:2]
        return Mark(box, mask, point)
