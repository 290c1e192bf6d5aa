# SPDX-License-Identifier: Apache-2.0
"""Puts a photo before an explanation graph and overlays behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import OptionError
from portable_cam.export import format
from portable_cam.export.deploy.end_to_end.show import Colors, write_maps_on_photo, write_overlay
from portable_cam.export.deploy.end_to_end.view import PhotoInput, write_view
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.methods.registry import METHODS

PHOTO = "photo"
"""Input: uint8 (H, W, 3 or 4), RGB or RGBA, upright."""
OPACITY = "opacity"
"""Input: float32, a scalar: how opaque the map is, 0 to 1."""
OVERLAY = "overlay"
"""uint8 (K, H, W, 3 or 4): the map of each target over the photo."""
HEAT_MAP = "heatmap"
"""float32 (K, H, W), 0 to 1, at the photo's size."""
LABEL = "label"
"""int64 (1, K): the number of each target's class, an index into the labels that stand in the metadata."""


def take_photos(
    model: ir.Model,
    metadata: ExplanationMetadata,
    how: PhotoInput,
    colors: Colors,
    *,
    classes: int | None,
    optional: bool,
) -> None:
    """Make the file take a photo and give overlays, in place.

    Args:
        model: An explanation of one image at a time, with one method of maps.
        metadata: Its own.
        how: How a photo becomes its input.
        colors: Of the overlay.
        classes: How many classes share the numbers of the targets: of a detector, whose target is box * classes +
            class. None where the target is the class.
        optional: Whether the opacity has a default.

    Raises:
        OptionError: The file has more inputs than an image, or none or several maps.
    """
    shown = [method for method in metadata.options.methods if METHODS[method].is_heat_map]
    if len(shown) != 1 or len(metadata.options.methods) != 1 or metadata.options.profile == "captum":
        raise OptionError("a file from photo to overlay shows one heat map: name one method of maps")
    graph = model.graph
    _free_names(graph)
    own = [v for v in graph.inputs if v.name not in {metadata.image, format.TARGETS} and not v.is_initializer()]
    if own:
        raise OptionError(f"a file from photo to overlay takes a photo alone, and this one {own[0].name} as well")
    outputs = {str(value.name): value for value in graph.outputs}
    image = next(value for value in graph.inputs if value.name == metadata.image)
    opacity = _opacity(graph, colors.opacity, default=optional)
    front = Builder(graph, "photo").nested()
    photo = ir.Value(name=PHOTO, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["height", "width", "channels"]))
    view = write_view(front, photo, how)
    nodes = list(front.graph)
    front.graph.remove(nodes)
    graph.insert_before(next(iter(graph)), nodes)
    for reader, place in list(image.uses()):
        reader.replace_input_with(place, view.input)
    view.input.shape, view.input.type = image.shape, image.type
    graph.inputs[list(graph.inputs).index(image)] = photo
    b = Builder(graph, "overlay")
    maps = b.op("Squeeze", outputs[format.output_of(shown[0])], b.ints([0]))
    wide = write_maps_on_photo(b, maps, view)
    explained = outputs[format.EXPLAINED]
    made = {
        OVERLAY: (write_overlay(b, wide, view, photo, opacity, colors), ["K", "height", "width", "channels"]),
        HEAT_MAP: (wide, ["K", "height", "width"]),
        LABEL: (explained if classes is None else b.op("Mod", explained, b.ints(classes)), explained.shape),
    }
    graph.outputs.clear()
    count = explained.shape[1] if explained.shape is not None else "K"
    for name, (value, dims) in made.items():
        out = b.op("Identity", value)
        out.name = name
        out.shape = ir.Shape([count if d == "K" else d for d in dims])  # type: ignore[union-attr]
        graph.outputs.append(out)
    graph.outputs.extend(outputs[name] for name in (format.SCORES, format.EXPLAINED, format.CLAMPED))
    passes.RemoveUnusedNodesPass()(model)


def _free_names(graph: ir.Graph) -> None:
    """Rename what has the name of an input or output that is to come."""
    values = [v for node in ir.traversal.RecursiveGraphIterator(graph) for v in node.outputs]
    for value in (*values, *graph.initializers.values()):
        if value.name in {PHOTO, OPACITY, OVERLAY, HEAT_MAP, LABEL}:
            value.name = f"model.{value.name}"


def _opacity(graph: ir.Graph, usual: float, *, default: bool) -> ir.Value:
    content = ir.Tensor(np.array(usual, np.float32), name=OPACITY)
    value = ir.Value(name=OPACITY, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    graph.inputs.append(value)
    if default:
        value.const_value = content
        graph.register_initializer(value)
    return value
