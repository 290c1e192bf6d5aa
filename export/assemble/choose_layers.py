# SPDX-License-Identifier: Apache-2.0
"""Which layers an explanation shows, and which nodes its guided methods rectify at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import onnx_ir as ir

from portable_cam.errors import LayerError
from portable_cam.export.autodiff.relu_policy import ReluPolicy, guided_nodes
from portable_cam.export.layers.branches import default_layers
from portable_cam.export.layers.candidates import find_layers, layer_names
from portable_cam.export.methods.cam import cam_end
from portable_cam.export.methods.registry import METHODS, uses_layer
from portable_cam.export.options import Options


def choose_layers(graph: ir.Graph, scores: Sequence[ir.Value], options: Options) -> list[ir.Value]:
    """The layers of the maps; none if no map is asked for. CAM has its layer in the graph's structure.

    Raises:
        LayerError: There is no such layer, or it is not the one that CAM explains.
    """
    of_classifier = any(METHODS[name].classifier for name in options.methods)
    cam_layer = [cam_end(options.explained, scores).activation] if of_classifier else []
    if not uses_layer(options.methods):
        if cam_layer and options.layer is not None and find_layers(graph, scores[0], options.layer) != cam_layer:
            raise LayerError(f"CAM explains the layer before the global average pool, '{cam_layer[0].name}'")
        return cam_layer
    if options.layer is None:
        return options.explained.layers(graph, scores) or default_layers(graph, scores[0])
    names = layer_names(options.layer)
    if len(scores) == 1 or not names:
        return find_layers(graph, scores[0], names)
    return [_layer_of_any(graph, scores, name) for name in names]


def _layer_of_any(graph: ir.Graph, scores: Sequence[ir.Value], name: str) -> ir.Value:
    """The layer of this name, which leads to at least one of the tensors with scores."""
    for score in scores[:-1]:
        try:
            return find_layers(graph, score, name)[0]
        except LayerError:
            continue
    return find_layers(graph, scores[-1], name)[0]


def policy_that_guides(graph: ir.Graph, scores: Sequence[ir.Value]) -> ReluPolicy | None:
    """The narrowest policy under which a guided method guides something on the way to the scores; None where none
    does."""
    for policy in get_args(ReluPolicy):
        if guided_on_path(graph, scores, guided_nodes(graph, policy)):
            found: ReluPolicy = policy
            return found
    return None


def guided_on_path(graph: ir.Graph, scores: Sequence[ir.Value], guided: Sequence[ir.Node]) -> list[ir.Node]:
    """The guided nodes that the backward pass met: those still in the graph from which a path leads to the scores."""
    behind, special = set(scores), set(guided)
    met = []
    for node in reversed(list(graph)):
        if any(output in behind for output in node.outputs):
            behind.update(v for v in node.inputs if v is not None)
            if node in special:
                met.append(node)
    return list(reversed(met))
