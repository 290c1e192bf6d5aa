# SPDX-License-Identifier: Apache-2.0
"""A model cut at a layer: its front runs once for an image, its back for every change of the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.export.assemble.choose_layers import choose_layers
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.compose.cut import cut
from portable_cam.export.format import SCORES, TARGETS, ExplanationMetadata
from portable_cam.export.layers.candidates import layer_axes
from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.layers.placement import Placement, ViewPlacement, placement
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets.protocol import scores_of
from portable_cam.runtime.run_batches import Batches
from portable_cam.runtime.session import Session

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A layer by name, its axes, and where its maps go; None for stretched over the image."""

    name: str
    axes: SpatialAxes
    place: Placement | None


def find_layer(model: NormalizedModel, options: Options, size: tuple[int, int]) -> Layer:
    """The layer that is explained, chosen where none is named.

    Args:
        model: The model.
        options: As for an explanation.
        size: (H, W) of the image.

    Raises:
        LayerError: There is none.
        OptionError: There are several.
    """
    graph = model.copy().graph
    declare_axes(graph, options.axes)
    scores = [found.value for found in scores_of(options.explained, graph, options.output, as_is=options.as_is)]
    chosen = Options(**_shared(options), methods=("gradcam",), layer=options.layer)
    layers = choose_layers(graph, scores, chosen)
    if len(layers) != 1:
        names = ", ".join(str(value.name) for value in layers)
        raise OptionError(f"methods of many passes explain one layer at a time, not {names}: name one of them")
    (axes,) = layer_axes(graph, layers)
    place = placement(axes, size, options.alignment)
    if axes.several or isinstance(place, ViewPlacement):
        raise OptionError(
            f"methods of many passes explain layers that see an image once, but '{layers[0].name}' looks at views "
            "that were cut out of it: name a layer before these, or choose a method that one graph computes"
        )
    return Layer(str(layers[0].name), axes, place)


def _shared(options: Options) -> dict[str, Any]:
    """What says which score is explained."""
    found = {name: getattr(options, name) for name in ("output", "precision", "axes", "as_is")}
    return {**found, "target": options.explained}  # which has the row, where one was chosen


class Head:
    """What lies behind a layer.

    Args:
        model: The model.
        options: Which score.
        layer: Where it is cut.
        batch: Changed layers per run.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them.

    Attributes:
        at: The layer's name in the graphs.
        back: From the layer to the scores.

    Raises:
        OptionError: Images are not on the layer's first axis.
    """

    def __init__(
        self, model: NormalizedModel, options: Options, layer: Layer, *, batch: int = 32, **settings: Any
    ) -> None:
        if layer.axes.batch:
            raise OptionError(
                f"the layer '{layer.name}' has its images on axis {layer.axes.batch}: choose another layer"
            )
        built = explanation_model(model, Options(**_shared(options), methods=()), targets_per_image=None)
        known = ExplanationMetadata.read(built.metadata_props)
        own = [str(value.name) for value in built.graph.inputs if value.name not in {TARGETS, *known.inputs}]
        names = {str(v.name) for node in built.graph for v in node.outputs}
        at = layer.name if layer.name in names else f"model.{layer.name}"
        halves = cut(built, at, own, [SCORES])
        self.layer, self.at, self._rest, self._own = layer, at, halves.rest, own
        self._front, self._back = Session(halves.front, **settings), Session(halves.back, **settings)
        self.back: ir.Model = halves.back
        self.back.metadata_props.clear()  # a part of an explanation is none, whose model inside would be read
        self._batch = batch
        self._batches = Batches(
            at, freed=known.batch == "freed", shared=bool(known.shared), ranged=known.batch == "ranged"
        )

    def features(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The layer of one image, under its name in :attr:`layer`, and what else the back reads of it."""
        made = self._front.run({name: feeds[name] for name in self._front.inputs})
        found = {name: made[name] if name in made else feeds[name] for name in self._rest}
        return {**found, self.layer.name: made[self.at]}

    def scores(
        self,
        features: Mapping[str, Array],
        changed: Array,
        targets: NDArray[np.int64],
        further: Mapping[str, Array],
        on_run: Callable[[int], None] | None = None,
    ) -> NDArray[np.float64]:
        """The scores (S, K) with the layer changed.

        Args:
            features: Of the image.
            changed: (S, ...) in the layer's own layout and type.
            targets: (K,).
            further: The target's further inputs, (1, K, ...).
            on_run: Called with the number of changed layers before each run.
        """
        parts = []
        for start in range(0, len(changed), self._batch):
            part = changed[start : start + self._batch]
            count = len(part)
            if on_run is not None:
                on_run(count)
            feeds = {name: np.repeat(features[name], count, axis=0) for name in self._rest}
            feeds |= {name: np.repeat(value, count, axis=0) for name, value in further.items()}
            feeds |= {self.at: part, TARGETS: np.tile(targets, (count, 1))}
            feeds = {name: value for name, value in feeds.items() if name in self._back.inputs}
            parts.append(self._batches.run(_Padded(self._back), feeds)[SCORES])
        return np.concatenate(parts).astype(np.float64)


class _Padded:
    """A session whose results have what batches look at."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs, self.optional = session.inputs, session.optional

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds, [SCORES])


def on_layer(maps: Array, axes: SpatialAxes, *, other: float = 1.0) -> Array:
    """Maps (S, h, w) as what a layer is multiplied with, in its own layout, the same for all channels.

    Args:
        maps: One number for each position.
        axes: Of the layer.
        other: For tokens that are none of the image's.
    """
    if axes.tokens:
        flat = (maps.swapaxes(1, 2) if axes.columns_first else maps).reshape(len(maps), -1)
        flat = np.pad(flat, ((0, 0), (axes.prefix, axes.suffix)), constant_values=other)
        return np.expand_dims(flat, axes.channels)
    wide = maps if axes.axes[0] < axes.axes[1] else maps.swapaxes(1, 2)
    return np.expand_dims(wide, axes.channels)


def as_maps(features: Array, axes: SpatialAxes, grid: tuple[int, int]) -> Array:
    """The layer of one image (1, ...) as (C, h, w)."""
    moved: Array = np.moveaxis(features[0], axes.channels - 1, 0)
    if not axes.tokens:
        return moved if axes.axes[0] < axes.axes[1] else moved.swapaxes(1, 2)
    flat = moved[:, axes.prefix : moved.shape[1] - axes.suffix]
    rows, columns = grid
    across = flat.reshape(len(flat), columns, rows).swapaxes(1, 2)
    return across if axes.columns_first else flat.reshape(len(flat), rows, columns)
