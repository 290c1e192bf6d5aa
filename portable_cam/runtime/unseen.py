"""What of an image a layer does not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.format import SCORES, UNSEEN, named

_WORTH_A_NOTE = 0.01


def shares_unseen(
    values: Mapping[str, NDArray[Any]], always: Mapping[str, float] | None
) -> dict[str, NDArray[np.float32]]:
    """By layer the share of each image that it does not see, (N,), of those that do not see everything.

    Args:
        values: Of an explanation, by the names of its file.
        always: What the file says of layers that look at the same part of every image.
    """
    count = len(values[SCORES])
    found = {name: np.full(count, share, np.float32) for name, share in (always or {}).items()}
    return found | {name: np.asarray(share) for name, share in named(values, UNSEEN).items() if (share > 0).any()}


def not_seen(unseen: Mapping[str, NDArray[np.float32]]) -> Iterator[str]:
    """What a reader of the maps should know."""
    for name, shares in unseen.items():
        low, high = round(100 * float(shares.min())), round(100 * float(shares.max()))
        if high >= 100 * _WORTH_A_NOTE:
            yield f"layer '{name}' does not see {low if low == high else f'{low} to {high}'}% of the image"
