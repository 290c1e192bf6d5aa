# SPDX-License-Identifier: Apache-2.0
"""Where memory lies and kernels run.

The pipeline is written against :class:`~portable_cam.runtime.gpu.protocol.PipelineDevice`; :class:`CudaDevice` is the
real one, :class:`HostDevice` shows without a GPU that the pipeline is right.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.kernels.array import ITEM_SIZES, Array
from portable_cam.kernels.cubins import Cubins
from portable_cam.kernels.driver import Driver
from portable_cam.kernels.launch import Argument, Grid, TorchDevice, Variant
from portable_cam.runtime.gpu import binding
from portable_cam.runtime.gpu.options import Common, Cuda, Host
from portable_cam.runtime.gpu.protocol import PipelineDevice
from portable_cam.runtime.session import Provider, check_available

LEGACY = 1  # the handle of the default stream, CU_STREAM_LEGACY, and its number in DLPack
#: One stream for all explainers on a GPU: they share an allocator, which hands memory on in the order of the host.
_STREAMS: dict[int, int] = {}


class HostDevice:
    """The host: memory of ONNX Runtime, kernels by Triton's interpreter."""

    kind, index, dlpack_type, stream = "cpu", 0, 1, None

    def __init__(self, options: Host) -> None:
        del options  # nothing to choose
        self._torch: TorchDevice | None = None

    def providers(self, *, cuda_graphs: bool = False) -> list[Provider]:
        return ["CPUExecutionProvider"]

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return binding.allocate(shape, dtype, "cpu", 0)

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        if self._torch is None:
            self._torch = TorchDevice("cpu")
        self._torch.launch(variant, grid, arguments)

    def enter(self) -> None:
        pass

    def upload(self, values: NDArray[Any], to: Array) -> None:
        ctypes.memmove(to.pointer, np.ascontiguousarray(values).ctypes.data, values.nbytes)

    def copy(self, source: Array, to: Array) -> None:
        ctypes.memmove(to.pointer, source.pointer, source.nbytes)

    def download(self, *arrays: Array) -> list[NDArray[Any]]:
        values = [binding.host_array(array) for array in arrays]
        for value, array in zip(values, arrays, strict=True):
            ctypes.memmove(value.ctypes.data, array.pointer, array.nbytes)
        return values

    def hand_to(self, stream: int | None) -> None:
        pass


class CudaDevice:
    """An NVIDIA GPU: memory of ONNX Runtime, kernels by the CUDA driver, all on one stream.

    Raises:
        DeviceError: There is no driver, or not that many GPUs.
    """

    kind, dlpack_type = "cuda", 2

    def __init__(self, options: Cuda) -> None:
        self.options = options
        self.index = options.index
        self._driver = Driver(options.index)
        if options.stream is None and self.index not in _STREAMS:
            _STREAMS[self.index] = self._driver.new_stream()
        # 0 would have ONNX Runtime make a stream of its own
        self.stream: int = _STREAMS[self.index] if options.stream is None else options.stream or LEGACY
        self._cubins = Cubins(self._driver.capability)
        #: Streams that results were handed to: their memory may come back to the allocator while those still read it.
        self._consumers: set[int] = set()

    def providers(self, *, cuda_graphs: bool = False) -> list[Provider]:
        return [self.options.provider(self.stream, cuda_graphs=cuda_graphs), "CPUExecutionProvider"]

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return binding.allocate(shape, dtype, "cuda", self.index)

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        self._driver.launch(self._cubins[variant], grid, arguments, self.stream)

    def enter(self) -> None:
        self._driver.enter()
        for consumer in {LEGACY, *self._consumers} - {self.stream}:
            self._driver.wait(self.stream, consumer)

    def upload(self, values: NDArray[Any], to: Array) -> None:
        contiguous = np.ascontiguousarray(values)
        self._driver.copy_from_host(to.pointer, contiguous.ctypes.data, contiguous.nbytes, self.stream)

    def copy(self, source: Array, to: Array) -> None:
        self._driver.copy(to.pointer, source.pointer, source.size * ITEM_SIZES[source.dtype], self.stream)

    def download(self, *arrays: Array) -> list[NDArray[Any]]:
        values = [binding.host_array(array) for array in arrays]
        for value, array in zip(values, arrays, strict=True):
            self._driver.copy_to_host(value.ctypes.data, array.pointer, array.nbytes, self.stream)
        self._driver.synchronize(self.stream)
        return values

    def hand_to(self, stream: int | None) -> None:
        consumer = stream or LEGACY
        if consumer != self.stream:
            self._driver.wait(consumer, self.stream)
            self._consumers.add(consumer)


def open_device(options: Common) -> PipelineDevice:
    """The device that options describe.

    Raises:
        DeviceError: It is not there, or not in this build of ONNX Runtime.
    """
    if isinstance(options, Cuda):
        check_available(["CUDAExecutionProvider"])
        binding.load_libraries()
    return CudaDevice(options) if isinstance(options, Cuda) else HostDevice(Host())


def has_kernels(device: PipelineDevice) -> bool:
    """Whether kernels can run there: Triton is installed, or they were compiled ahead of time for it."""
    if isinstance(device, CudaDevice):
        return device._cubins.available
    from importlib.util import find_spec

    return find_spec("triton") is not None and find_spec("torch") is not None
