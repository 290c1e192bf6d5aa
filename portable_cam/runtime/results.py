# SPDX-License-Identifier: Apache-2.0
"""From what an explanation graph gives to a result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.format import (
    ACTIVATIONS,
    EXPLAINED,
    GRADIENTS,
    SCORES,
    TOKEN_ATTRIBUTION,
    VIEWS,
    ExplanationMetadata,
    named,
    split,
)
from portable_cam.result import Result
from portable_cam.runtime.flags import at_rounding, find_flags
from portable_cam.runtime.unseen import not_seen, shares_unseen


def layer_of(known: ExplanationMetadata) -> str | list[str]:
    """The tensor explained; a list if several."""
    return known.layer[0] if len(known.layer) == 1 else list(known.layer)


def result_of(
    values: dict[str, NDArray[Any]], known: ExplanationMetadata, *, notes: tuple[str, ...], checks: tuple[Any, ...]
) -> Result:
    """The result of a run.

    Args:
        values: What the graph gave, by name.
        known: What it says of itself.
        notes: What a reader of the maps should know.
        checks: Of the first explanation.
    """
    maps, raw, outputs = split(values, known)
    unseen = shares_unseen(values, known.unseen)
    for method, found in maps.items():
        if (nothing := at_rounding(values, method)).any():
            maps[method] = np.where(
                nothing.reshape(nothing.shape + (1,) * (found.ndim - 2)), found.dtype.type(0), found
            )
    first = known.layer[0] if known.layer else None
    return Result(
        scores=values[SCORES],
        targets=values[EXPLAINED],
        layer=layer_of(known),
        maps=maps,
        raw=raw,
        flags=find_flags(values, maps),
        guided_nodes=list(known.guided_nodes),
        outputs=outputs,
        notes=(*notes, *not_seen(unseen)),
        activations=values.get(f"{ACTIVATIONS}{first}"),
        gradients=values.get(f"{GRADIENTS}{first}"),
        words=named(values, TOKEN_ATTRIBUTION),
        row=known.row,
        channel_axis=known.channel_axis,
        placed=dict(known.placed or {}),
        views=named(values, VIEWS),
        unseen=unseen,
        checks=checks,
    )
