"""Compiled kernels on torch's memory: for who has torch tensors and wants launches without Triton's launcher."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.kernels.cubins import Cubins
from portable_cam.kernels.driver import Driver
from portable_cam.kernels.launch import Argument, Grid, TorchDevice, Variant

LEGACY = 1  # the handle of the default stream, CU_STREAM_LEGACY


class DriverDevice(TorchDevice):
    """A GPU: memory of torch, launches by the CUDA driver.

    Args:
        index: Which GPU.
        stream: The stream to launch on; None for torch's current one at each launch.

    Raises:
        DeviceError: There is no driver, or no such GPU.
    """

    def __init__(self, index: int = 0, stream: int | None = None) -> None:
        super().__init__(f"cuda:{index}")
        self._driver, self._stream = Driver(index), stream
        self._cubins = Cubins(self._driver.capability)

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        stream = self._torch.cuda.current_stream().cuda_stream if self._stream is None else self._stream
        self._driver.launch(self._cubins[variant], grid, arguments, stream or LEGACY)
