# SPDX-License-Identifier: Apache-2.0
"""Maps as they are stored: float16 or uint8 with a scale for each, at the layer's size or the image's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from portable_cam.explanation import Explanation
from portable_cam.export.layers.placement import Along, weights_of
from portable_cam.export.layers.relation import Relation
from portable_cam.image.geometry import Size
from portable_cam.result import Result

#: ``layer``: low-resolution maps, from which the others are computed when they are read; ``image``: at the size of the
#: model's input.
StoredSize: TypeAlias = Literal["layer", "image", "none"]
StoredType: TypeAlias = Literal["float16", "uint8"]

#: What begins the name of a low-resolution map, and of a map of the counterpart.
RAW, OTHER = "raw.", "other."
#: What a computed map may be off by, as a share of its greatest value: rounding, and nothing else.
_PROVEN = 1e-3
#: Longer names of files are cut, and told apart by a hash.
_LONGEST = 120


@dataclass(frozen=True)
class Stored:
    """One map of each target, (K, ...): ``low + values * scale``."""

    name: str
    values: NDArray[Any]
    low: NDArray[np.float32]
    scale: NDArray[np.float32]
    flat: NDArray[np.bool_]

    @property
    def file(self) -> str:
        """The file that such maps go to: one for each name and shape."""
        shape = "x".join(map(str, self.values.shape[1:]))
        name = quote(self.name, safe="").replace("~", "%7E")
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}~{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"
        return f"{name}.{shape}.npy"


def maps_of(explanation: Explanation, size: StoredSize, dtype: StoredType, profile: str) -> list[Stored]:
    """All maps of an explanation, and of its counterpart. Where those of the image's size do not follow from those of
    the layer's, as where a layer looks at several views of an image, they are stored themselves."""
    if size == "none" or not explanation.scores.size:
        return []
    found = _of_result(explanation.result, size, dtype, profile)
    if explanation.counterpart is not None:
        found += _of_result(explanation.counterpart, size, dtype, profile, OTHER)
    return found


def _of_result(result: Result, size: StoredSize, dtype: StoredType, profile: str, prefix: str = "") -> list[Stored]:
    found = []
    for method in result:
        maps = result[method][0]
        flat = np.array([not np.any(of_target) for of_target in maps])
        raw = {name: values[0] for name, values in result.raw.items() if of_method(name, method)}
        if size == "layer" and raw and _is_plain(result, raw) and _is_proven(result, method, raw, profile):
            found += [encode(f"{prefix}{RAW}{name}", values, dtype, flat) for name, values in raw.items()]
        else:
            found.append(encode(f"{prefix}{method}", maps, dtype, flat))
    return found


def _is_plain(result: Result, raw: Mapping[str, NDArray[Any]]) -> bool:
    """The layers look at one view of the image, and their axes have one part each."""
    placed = [axis for name in raw for axis in result.placed.get(name, ()) if axis is not None]
    return not result.views and all(v.ndim == 3 for v in raw.values()) and all(len(axis) == 2 for axis in placed)


def _is_proven(result: Result, method: str, raw: Mapping[str, NDArray[Any]], profile: str) -> bool:
    """The map of the first target is what reading will compute of it."""
    wanted = result[method][0, :1]
    if not (np.isfinite(wanted).all() and np.any(wanted)):  # a flag says so, and nothing is computed
        return True
    first = {name: values[:1].astype(np.float32) for name, values in raw.items()}
    found = heat_maps(first, (wanted.shape[1], wanted.shape[2]), profile, result.placed)
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= _PROVEN * np.abs(wanted).max())


def of_method(raw: str, method: str) -> bool:
    """Whether the name of a low-resolution map, ``<method>`` or ``<method>.<layer>``, is of a method."""
    return raw == method or raw.startswith(f"{method}.")


def encode(name: str, values: NDArray[Any], dtype: StoredType, flat: NDArray[np.bool_]) -> Stored:
    """Maps (K, ...) as they are stored. Each is scaled by itself: scores, and with them maps, have any size."""
    wide = values.astype(np.float32).reshape(len(values), -1)
    if dtype == "float16":
        low = np.zeros(len(wide), np.float32)
        top = np.where(np.isfinite(wide), np.abs(wide), 0).max(1)
        scale = np.where(top > 0, top, 1).astype(np.float32)
        stored: NDArray[Any] = (wide / scale[:, None]).astype(np.float16)
    else:
        low, high = wide.min(1), wide.max(1)  # NaN where the map has one: all of it is NaN again
        scale = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
        with np.errstate(invalid="ignore"):
            steps = np.rint((wide - low[:, None]) / scale[:, None])
            stored = np.nan_to_num(np.clip(steps, 0, 255), nan=0).astype(np.uint8)
    return Stored(name, stored.reshape(values.shape), low.astype(np.float32), scale, flat)


def decode(stored: NDArray[Any], low: Sequence[float], scale: Sequence[float]) -> NDArray[np.float32]:
    """Maps (K, ...) as they were, to the precision that was stored."""
    shape = (-1,) + (1,) * (stored.ndim - 1)
    found: NDArray[np.float32] = np.asarray(low, np.float32).reshape(shape) + stored.astype(np.float32) * np.asarray(
        scale, np.float32
    ).reshape(shape)
    return found


def heat_maps(
    raw: Mapping[str, NDArray[np.float32]], size: Size, profile: str, placed: Mapping[str, Any]
) -> NDArray[np.float32]:
    """(K, H, W) from the low-resolution maps (K, h, w) of one method, by layer, as a profile has it
    (:mod:`portable_cam.export.methods.profiles`).

    Args:
        raw: The maps by name.
        size: (H, W).
        profile: Its name.
        placed: As in :class:`~portable_cam.result.Result`.
    """
    if profile == "captum":
        return next(iter(raw.values()))
    scaled = _pgc if profile == "pytorch_grad_cam" else _unit
    several, made = len(raw) > 1 or profile == "pytorch_grad_cam", []
    for name, maps in raw.items():
        if profile == "pytorch_grad_cam":
            maps = scaled(maps)
        wide = laid(maps, size, placed.get(name))
        made.append(scaled(wide) if several and profile == "paper" else wide)
    return np.asarray(scaled(np.mean(made, axis=0)), np.float32)


def laid(maps: NDArray[Any], size: Size, placed: Sequence[Any] | None) -> NDArray[np.float64]:
    """Maps (K, h, w) where their layer looks at, (K, H, W)."""
    weights = []
    for cells, pixels, given in zip(maps.shape[1:], size, placed or (None, None), strict=True):
        along = Along(None if given is None else Relation(given[0], given[1], abs(given[0])), cells, pixels).index()
        assert along is not None  # both sizes are known
        weights.append(weights_of(along, cells, pixels))
    wide: NDArray[np.float64] = weights[0] @ maps.astype(np.float64) @ weights[1].T
    return wide


def _unit(maps: NDArray[Any]) -> NDArray[Any]:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    found: NDArray[Any] = (maps - low) / np.where(high > low, high - low, 1)
    return found


def _pgc(maps: NDArray[Any]) -> NDArray[Any]:
    shifted = maps - maps.min((1, 2), keepdims=True)
    found: NDArray[Any] = shifted / (1e-7 + shifted.max((1, 2), keepdims=True))
    return found
