"""Everything that is decided before the nodes of an explanation are written, and how its outputs are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from portable_cam.export import format
from portable_cam.export.assemble.differentiate import add_output
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.layers.placement import Placement, ViewPlacement, placement
from portable_cam.export.layers.spatial import SpatialAxes, to_map
from portable_cam.export.methods.cam import CamLayer, cam_axes, cam_end
from portable_cam.export.methods.method import Method
from portable_cam.export.options import Options
from portable_cam.export.targets import Target


@dataclass
class Plan:
    """Everything that is decided before nodes are written.

    Attributes:
        graph: The normalised graph, without outputs.
        builder: Writes into it.
        options: The choices.
        layers: The tensors whose maps are made.
        axes: The spatial axes of each.
        scores: The tensors that hold the scores.
        image: The input explained.
        guided: The ReLU-like nodes that guided methods treat so.
        tokens: Of each input of token ids its embedding, where tokens are scored.
        for_kernels: The graph stops before the maps.
        maps: The activations of the layers as (N, C, h, w), whatever layout the model has.
        places: Where the maps of each layer go in the image; None for stretched over it.
        cam: The end of the classifier, the axes of CAM's layer, its activation as a map, and where that goes; None
            where CAM is not asked for.
    """

    graph: ir.Graph
    builder: Builder
    options: Options
    layers: list[ir.Value]
    axes: list[SpatialAxes]
    scores: list[ir.Value]
    image: ir.Value
    guided: list[ir.Node]
    tokens: dict[str, ir.Value]
    for_kernels: bool
    maps: list[ir.Value] = field(init=False)
    places: list[Placement | ViewPlacement | None] = field(init=False)
    cam: CamLayer | None = field(init=False)

    def __post_init__(self) -> None:
        self.places, self.cam = self._places(self.axes), None
        if any(method.classifier for method in self.options.computed):
            end = cam_end(self.target, self.scores)
            axes = cam_axes(self.graph, end)
            self.cam = CamLayer(
                end, axes, to_map(self.builder, end.activation, end.activation, axes), self._places([axes])
            )
        pairs = zip(self.layers, self.axes, strict=True)
        self.maps = [to_map(self.builder, layer, layer, axes) for layer, axes in pairs]

    @property
    def target(self) -> Target:
        return self.options.explained

    @property
    def batch(self) -> int | ir.SymbolicDim | None:
        """The first dimension of the image."""
        return self.image.shape[0] if self.image.shape is not None else None

    @property
    def image_size(self) -> list[int | None]:
        """Height and width of the image, None where they are open."""
        dims = known_dims(self.image) or [None] * 4
        return dims[2:] if channel_axis(self.image) == 1 else dims[1:3]

    def _places(self, axes: Sequence[SpatialAxes]) -> list[Placement | ViewPlacement | None]:
        return [placement(each, self.image_size, self.options.alignment) for each in axes]

    def shown(self, method: Method) -> bool:
        """The method was asked for, and is not only a factor of another."""
        return method.name in self.options.methods


def emit(
    plan: Plan,
    name: str,
    value: ir.Value,
    dims: Sequence[int | None],
    *,
    per_target: bool = True,
    of_images: bool = True,
) -> None:
    """Make ``value`` an output, (N, K, dims) or (N, dims); of so many entries as there are where they are no images."""
    targets = next(v for v in plan.graph.inputs if v.name == format.TARGETS)
    shape = list(targets.shape.dims) if targets.shape is not None else []
    shape[:1] = shape[:1] if of_images else [ir.SymbolicDim(None)]
    add_output(plan.graph, plan.builder, value, name, ir.Shape([*(shape if per_target else shape[:1]), *dims]))
