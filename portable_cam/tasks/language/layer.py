# SPDX-License-Identifier: Apache-2.0
"""The layer of models that read words too."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.export.diagnose.layers import list_layers
from portable_cam.export.methods.registry import wants_layers
from portable_cam.export.passes.normalized import AnyModel


def picture_layer(model: AnyModel, methods: Sequence[str], output: str | None = None) -> str | None:
    """The last feature map of four axes, where there is one: tokens that decoders make of it have learned places
    added, which no map should show. None for the best of ``list_layers``, or if no method needs a layer.

    Args:
        model: The whole, from picture and token ids to scores.
        methods: Those asked for.
        output: The tensor of scores, where it is not a vector per image.
    """
    if not wants_layers(methods):
        return None
    return next((layer.name for layer in list_layers(model, output) if len(layer.shape) == 4), None)
