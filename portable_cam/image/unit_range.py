# SPDX-License-Identifier: Apache-2.0
"""Heat maps scaled to 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_unit_range(values: NDArray[Any]) -> NDArray[np.float64]:
    """(x - min) / (max - min); a flat map becomes zeros, one that holds NaN all NaN."""
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    scaled: NDArray[np.float64] = (wide - low) / (1 if high == low else high - low)
    return scaled
