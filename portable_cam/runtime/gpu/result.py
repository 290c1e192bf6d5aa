# SPDX-License-Identifier: Apache-2.0
"""Arrays that stay on a device, and the explanation made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portable_cam import kernels
from portable_cam.errors import InputError
from portable_cam.export.format import CLAMPED, EXTENT, RANGE, RAW, SCORES, VIEWS
from portable_cam.kernels.array import Array
from portable_cam.result import ByMethod, Result
from portable_cam.runtime.gpu.binding import from_dlpack
from portable_cam.runtime.gpu.protocol import PipelineDevice

if TYPE_CHECKING:
    from portable_cam.image.look import Look


class DeviceArray:
    """An array of a device: DLPack for who stays there (``torch.from_dlpack(a)``, ``cupy.from_dlpack(a)``), numpy on
    request (``a.numpy()``, ``numpy.asarray(a)``), which waits for it to be computed."""

    def __init__(self, array: Array, device: PipelineDevice) -> None:
        self._array, self._device = array, device

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def ndim(self) -> int:
        return len(self._array.shape)

    @property
    def dtype(self) -> str:
        """As numpy names it, or ``bfloat16``."""
        return self._array.dtype

    @property
    def pointer(self) -> int:
        """The address of its first element; the elements lie one after another."""
        return self._array.pointer

    def __len__(self) -> int:
        return self._array.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self._device.kind}:{self._device.index})"

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.dlpack_type, self._device.index

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """Hand the memory over; the consumer's ``stream`` waits for what is computed on ours, the host does not.
        -1: it takes care of that itself."""
        self._device.enter()
        if tuple(self._array.owner.shape()) != self.shape:  # DLPack tells the shape of the memory
            whole = self._device.empty(self.shape, self.dtype)
            self._device.copy(self._array, whole)
            self._array = whole
        if stream != -1:
            self._device.hand_to(stream)
        return self._array.owner.__dlpack__()

    def numpy(self) -> NDArray[Any]:
        """A copy on the host."""
        self._device.enter()
        return self._device.download(self._array)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        del copy  # there always is one
        return self.numpy() if dtype is None else self.numpy().astype(dtype)


def overlay(device: PipelineDevice, maps: Array, photos: Any, look: Look) -> Array:
    """See :meth:`DeviceResult.overlay`."""
    from portable_cam.image.colormap import opacities, palette

    if len(maps.shape) != 4:
        raise InputError(f"maps of shape {maps.shape} have no overlay: choose a method whose maps are (N, K, H, W)")
    device.enter()
    return kernels.overlay.overlay(
        device,
        maps,
        _placed(device, "the palette", palette(look.colormap)),
        _placed(device, "the opacities", opacities(look), "float32"),
        _placed(device, "the photos", photos),
        gray=look.gray,
    )


def _placed(device: PipelineDevice, name: str, values: Any, dtype: str = "uint8") -> Array:
    """An array on the device, copied there if it is not."""
    if not isinstance(values, np.ndarray) and hasattr(values, "__dlpack_device__"):
        return from_dlpack(name, values, device)
    host = np.asarray(values)
    if host.dtype != np.dtype(dtype):
        raise InputError(f"{name} must be {dtype}, not {host.dtype}")
    array = device.empty(host.shape, dtype)
    device.upload(host, array)
    return array


@dataclass(frozen=True)
class DeviceResult(ByMethod[DeviceArray]):
    """The explanation of N images, K targets each, as :class:`~portable_cam.result.Result` has it, on a device."""

    scores: DeviceArray
    """float32 (N, K)."""
    targets: DeviceArray
    """int64 (N, K)."""
    layer: str | list[str]
    maps: Mapping[str, DeviceArray]
    raw: Mapping[str, DeviceArray]
    outputs: Mapping[str, DeviceArray]
    """The model's own outputs."""
    values: Mapping[str, DeviceArray]
    """Everything that was computed, by the names of an explanation file."""
    to_host: Callable[[dict[str, NDArray[Any]]], Result]
    find_flags: Callable[[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], list[list[tuple[str, ...]]]]
    statistics: Callable[[Array], Array] | None = None
    """Of maps (N, K, ...), (N, K, 4) with the least and greatest value last; None without kernels."""

    @cached_property
    def flags(self) -> list[list[tuple[str, ...]]]:
        """As in ``Result``; from a few numbers of each map that the kernels found, which cross to the host when this
        is asked for the first time."""
        small = {n: v.numpy() for n, v in self.values.items() if n in {SCORES, CLAMPED} or n.startswith((RANGE, VIEWS))}
        # of the low-resolution maps only the shapes are looked at
        small |= {n: np.broadcast_to(np.float32(0), v.shape) for n, v in self.values.items() if n.startswith(RAW)}
        extents = {m: self.values.get(f"{EXTENT}{m}") for m in self.maps}
        ends = {m: self._ends(m) if e is None else e.numpy() for m, e in extents.items()}
        return self.find_flags(small, ends)

    def _ends(self, method: str) -> NDArray[Any]:
        """The least and greatest value of each map, or where there are no kernels to find them the maps."""
        maps = self.maps[method]
        if self.statistics is None:
            return maps.numpy()
        maps._device.enter()
        return DeviceArray(self.statistics(maps._array), maps._device).numpy()[..., -2:]

    def overlay(self, method: str, photos: Any, look: Look | None = None) -> DeviceArray:
        """The maps of a method over the photos, made on the device: only finished overlays need to cross to the host.

        Args:
            method: A method of maps at the size of the photos.
            photos: uint8 (N, H, W, 3), RGB, of the host or the device.
            look: The colour map, the opacity, and whether the photo is grey; contour lines are drawn by the host alone.
                None for the :class:`~portable_cam.image.look.Look` that everything has by default.

        Returns:
            uint8 (N, K, H, W, 3), as :func:`portable_cam.image.colormap.overlay` mixes them.

        Raises:
            InputError: Method, photos and maps do not fit.
            DeviceError: There are no kernels.
        """
        from portable_cam.image.look import Look

        maps = self[method]
        return DeviceArray(overlay(maps._device, maps._array, photos, look or Look()), maps._device)

    def numpy(self) -> Result:
        """All of it on the host."""
        return self.to_host({name: np.asarray(value) for name, value in self.values.items()})
