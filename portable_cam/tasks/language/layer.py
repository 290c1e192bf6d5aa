# SPDX-License-Identifier: Apache-2.0
"""The layer to explain in models that take an image and token ids."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.export.diagnose.layers import list_layers
from portable_cam.export.methods.registry import uses_layer
from portable_cam.export.passes.normalized import AnyModel


def image_layer(model: AnyModel, methods: Sequence[str], output: str | None = None) -> str | None:
    """The last feature map of four axes, where there is one: the tokens that decoders make of it contain learned
    position embeddings, which no map should show. None for the best of ``list_layers``, or if no method needs a layer.

    Args:
        model: From image and token ids to scores.
        methods: Those that will be computed.
        output: The tensor of scores, where it is not a vector per image.
    """
    if not uses_layer(methods):
        return None
    return next((layer.name for layer in list_layers(model, output) if len(layer.shape) == 4), None)
