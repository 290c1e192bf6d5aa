# SPDX-License-Identifier: Apache-2.0
"""An explanation's maps as images: of the explanation itself, then of its counterpart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import OptionError
from portable_cam.explanation import Explanation
from portable_cam.export.layers.placement import Along, weights_of
from portable_cam.export.layers.relation import Relation
from portable_cam.image.colormap import overlay, signed_image
from portable_cam.image.geometry import ImageArray, Size
from portable_cam.image.marks import Mark
from portable_cam.image.unit_range import to_unit_range
from portable_cam.report.annotate import draw
from portable_cam.report.contours import draw_contours
from portable_cam.report.scene import Scene
from portable_cam.report.unseen import hatch
from portable_cam.report.wording import title_of
from portable_cam.result import Result


@dataclass(frozen=True)
class ShownMaps:
    """One method's maps.

    Attributes:
        name: In file names and records: the method, behind ``against.`` or ``for.`` if they are the counterpart's.
        title: In figures.
        method: Of ``result``.
        result: The explanation's, or its counterpart's.
        sign: ``positive`` or ``negative``: whether they show what speaks for a target or against it.
    """

    name: str
    title: str
    method: str
    result: Result
    sign: str

    @property
    def signed(self) -> bool:
        """Whether these are signed values for each channel of the image."""
        return self.result[self.method].ndim > 4

    @property
    def holds_nan(self) -> bool:
        """Whether something in them is not a number."""
        return bool(np.isnan(self.result[self.method]).any())

    def remark(self, k: int) -> str:
        """What a reader must know of the map of target ``k``; empty where the map is sound.

        The flags of a result are those of all methods together; this looks at each map for itself.
        """
        values = self.result[self.method][0, k]
        by_layer = f"{self.method}."
        raw = [v[0, k] for name, v in self.result.raw.items() if f"{name}.".startswith(by_layer)]
        if not all(np.isfinite(v).all() for v in (values, *raw)):
            return "holds NaN or infinity"
        if values.min() != values.max():
            return ""
        if raw and all(v.max() <= 0 for v in raw):
            return f"nothing speaks {'against' if self.sign == 'negative' else 'for'} it"
        return "one value everywhere"


def shown_maps(explanation: Explanation) -> list[ShownMaps]:
    """All maps of an explanation, method after method, then those of its counterpart."""
    guided = bool(explanation.guided_nodes)
    shown = [ShownMaps(m, title_of(m, guided), m, explanation.result, explanation.sign) for m in explanation.result]
    other = explanation.counterpart
    if other is not None:
        sign, word = ("negative", "against") if explanation.sign == "positive" else ("positive", "for")
        shown += [ShownMaps(f"{word}.{m}", f"{title_of(m, guided)}, {word}", m, other, sign) for m in other]
    return shown


def maps_named(explanation: Explanation, name: str, k: int) -> tuple[ShownMaps, int]:
    """The maps of that name, and the target counted from the first.

    Raises:
        OptionError: There are none, or there is no target ``k``.
    """
    shown = {maps.name: maps for maps in shown_maps(explanation)}
    if name not in shown:
        raise OptionError(f"method '{name}' was not computed; this explanation has {', '.join(shown)}")
    count = explanation.scores.shape[1]
    if not -count <= k < count:
        raise OptionError(f"there is no target {k}: this explanation has {count}, counted from 0")
    return shown[name], k % count


def heat_map(explanation: Explanation, maps: ShownMaps, k: int) -> NDArray[np.float32]:
    """float32 (H, W) at the size of ``explanation.image``, 0 to 1; NaN where the model saw nothing.

    Raises:
        OptionError: These are signed values for each channel.
    """
    if maps.signed:
        raise OptionError(
            f"'{maps.name}' has a signed value for each channel and is no heat map: take explanation['{maps.method}'], "
            "or overlay() for a picture"
        )
    values = at_input_size(explanation, maps, maps.result[maps.method][0, k])
    height, width = explanation.image.shape[:2]
    return replace(explanation.geometry, photo=(height, width)).on_photo(values, np.nan)


def map_image(explanation: Explanation, maps: ShownMaps, k: int, scene: Scene) -> ImageArray:
    """The map of target ``k`` over the photo, with the target's mark; or the signed input gradient, grey where it is
    zero. What the model did not see is hatched."""
    values = maps.result[maps.method][0, k]
    look = explanation.look
    if maps.signed:
        layout = "nchw" if maps.result.channel_axis == 1 else "nhwc"
        shades = signed_image(values, layout, explanation.color)  # type: ignore[arg-type]
        laid = [scene.geometry.on_photo(shades[:, :, c].astype(np.float32), 127.5) for c in range(3)]
        pixels = np.rint(np.stack(laid, axis=2)).astype(np.uint8)
    else:
        laid01 = scene.geometry.on_photo(at_input_size(explanation, maps, values))
        pixels = draw_contours(overlay(scene.pixels, laid01, look), laid01, look.contours)
    if scene.hatched and scene.frame is not None:
        pixels = hatch(pixels, scene.frame)
    mark = explanation.marks[k] if explanation.marks and not maps.signed else None
    if mark is None:
        return pixels
    before: list[Mark | None] = [None] * k  # a mark's colour is that of its index, as in the photo
    return draw(pixels, [*before, mark.on_photo(scene.geometry)])


def at_input_size(explanation: Explanation, maps: ShownMaps, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (H, W) of 0 to 1 at the size of the model's input."""
    size = explanation.view.shape[0], explanation.view.shape[1]
    if values.shape == size:
        return values
    # a profile that leaves the map at the layer's size
    return to_unit_range(_on_image(np.maximum(values, 0), size, maps)).astype(np.float32)


def _on_image(values: NDArray[Any], size: Size, maps: ShownMaps) -> NDArray[np.float64]:
    """A map of the layer's size where the layer looks at; zero where it looks at nothing."""
    placed = maps.result.placed.get(maps.method, (None, None))
    weights = []
    for cells, pixels, given in zip(values.shape, size, placed, strict=True):
        along = Along(None if given is None else Relation(given[0], given[1], abs(given[0])), cells, pixels).index()
        assert along is not None  # both sizes are known
        weights.append(weights_of(along, cells, pixels))
    wide: NDArray[np.float64] = weights[0] @ values.astype(np.float64) @ weights[1].T
    return wide


def marked_photo(explanation: Explanation, scene: Scene) -> ImageArray:
    """The photo with the marks of all targets and their labels."""
    if not explanation.marks:
        return scene.pixels
    return draw(scene.pixels, [mark.on_photo(scene.geometry) for mark in explanation.marks], explanation.labels[0])
