# SPDX-License-Identifier: Apache-2.0
"""What the pipeline needs of a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from portable_cam.kernels.array import Array
from portable_cam.kernels.launch import Argument, Grid, Variant
from portable_cam.runtime.session import Provider


class PipelineDevice(Protocol):
    """A device of the kernels that ONNX Runtime knows too."""

    @property
    def kind(self) -> str:
        """As ONNX Runtime names it: ``cpu``, ``cuda``."""

    @property
    def index(self) -> int:
        """Which device of its kind."""

    @property
    def dlpack_type(self) -> int:
        """The device type in DLPack: 1 for the host, 2 for CUDA."""

    @property
    def stream(self) -> int | None:
        """The stream that everything runs on, for ``__dlpack__``; None where there are none."""

    def providers(self, *, cuda_graphs: bool = False) -> list[Provider]:
        """Execution providers for a session on this device."""

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """Memory for a contiguous array, its content undefined."""

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        """Run a kernel after everything before it."""

    def enter(self) -> None:
        """Make the device current in this thread, and wait for what the default stream holds: who read an earlier
        result or wrote an input there is done before memory is used again. The host does not wait."""

    def upload(self, values: NDArray[Any], to: Array) -> None:
        """Copy from the host to the start of an array, after everything before it."""

    def copy(self, source: Array, to: Array) -> None:
        """Copy within the device, after everything before it."""

    def download(self, *arrays: Array) -> list[NDArray[Any]]:
        """Wait once, and copy to the host."""

    def hand_to(self, stream: int | None) -> None:
        """Let another stream wait for everything so far. It must live as long as this device is used: what it read is
        waited for before memory is used again."""
