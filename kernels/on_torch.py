"""Compiled kernels on torch's memory: for who has torch tensors and wants launches without Triton's launcher."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.kernels.cubins import Cubins
from portable_cam.kernels.driver import Driver
from portable_cam.kernels.launch import Argument, Grid, TorchDevice, Variant


class DriverDevice(TorchDevice):
    """A GPU: memory of torch, launches by the CUDA driver.

    Args:
        index: Which GPU.
        stream: The stream to launch on; 1 is the default stream, which torch uses unless told otherwise.

    Raises:
        DeviceError: There is no driver, or no such GPU.
    """

    def __init__(self, index: int = 0, stream: int = 1) -> None:
        super().__init__(f"cuda:{index}")
        self._driver, self._stream = Driver(index), stream
        self._cubins = Cubins(self._driver.capability)

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        self._driver.launch(self._cubins[variant], grid, arguments, self._stream)
