"""The CUDA driver by ctypes: streams, copies and launches with neither torch nor the CUDA toolkit.

Functions and their arguments are those of NVIDIA's CUDA Driver API reference. Everything runs in the device's primary
context, which is the one that ONNX Runtime and torch use.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from portable_cam.errors import DeviceError, InputError
from portable_cam.kernels.array import Array
from portable_cam.kernels.launch import Argument, Grid

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR, _DYNAMIC_SHARED = 75, 76, 8  # CU_DEVICE_ATTRIBUTE_*, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_DEFAULT_SHARED = 48 * 1024  # bytes a program may use without asking
_NON_BLOCKING, _NO_TIMING = 1, 2
_ALIGNMENT = 16
#: How each type of argument is passed; two scratch pointers follow, which are 0.
PARAMETERS: dict[str, tuple[str, Any]] = {"i32": ("u32", ctypes.c_int32), "fp32": ("f32", ctypes.c_float)}
POINTER: tuple[str, Any] = ("u64", ctypes.c_uint64)
SCRATCH = 2


@dataclass
class Binary:
    """A kernel compiled for one architecture.

    Attributes:
        name: Its entry point.
        cubin: The machine code.
        types: The run-time arguments, as in :class:`~portable_cam.kernels.launch.Variant`.
        warps: Groups of 32 threads in a program.
        shared: Bytes of shared memory of a program.
    """

    name: str
    cubin: bytes = field(repr=False)
    types: tuple[str, ...]
    warps: int
    shared: int
    loaded: dict[int, _Loaded] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class _Loaded:
    """A binary on one device: its handle, and the memory that its arguments are passed in."""

    handle: Any
    values: list[Any]
    addresses: Any
    lock: Lock


class Driver:
    """One GPU.

    Args:
        index: Which one.
        library: The driver library; for tests.

    Raises:
        DeviceError: There is no driver, no such GPU, or the driver reports an error.
    """

    def __init__(self, index: int = 0, library: Any = None) -> None:
        self._cuda = library if library is not None else _load()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= index < count.value:
            raise DeviceError(f"there is no GPU {index}: the driver has {count.value}")
        self._index, device = index, ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
        self.capability = major.value * 10 + minor.value
        self.enter()

    def enter(self) -> None:
        """Make the GPU current in this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def new_stream(self) -> int:
        """The address of a stream that does not wait for the default one."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait on the host for a stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def wait(self, stream: int, before: int) -> None:
        """Let ``stream`` wait for what is in the stream ``before`` so far; the host does not wait."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), _NO_TIMING)
        self._call("cuEventRecord", event, ctypes.c_void_p(before))
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), event, 0)
        self._call("cuEventDestroy_v2", event)  # the driver keeps it until the wait is over

    def copy_from_host(self, to: int, source: int, size: int, stream: int) -> None:
        """Bytes from pageable host memory, which may change once this returns."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Bytes within the GPU."""
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(to),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def copy_to_host(self, to: int, source: int, size: int, stream: int) -> None:
        """Bytes to the host, there once the stream is synchronised."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(to),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def launch(self, binary: Binary, grid: Grid, arguments: Sequence[Argument], stream: int) -> None:
        """Run a kernel on a stream.

        Raises:
            InputError: A pointer is not a multiple of 16 bytes, which compiled kernels rely on.
        """
        loaded = binary.loaded.get(self._index) or self._prepare(binary)
        x, y, z = (*grid, 1, 1)[:3]
        with loaded.lock:  # the driver reads the values before it returns
            for slot, argument in zip(loaded.values, arguments, strict=True):
                if isinstance(argument, Array):
                    if argument.pointer % _ALIGNMENT:
                        raise InputError(f"an array starts at address {argument.pointer:#x}, not at a multiple of 16")
                    slot.value = argument.pointer
                else:
                    slot.value = argument
            self._call(
                "cuLaunchKernel",
                loaded.handle,
                x,
                y,
                z,
                32 * binary.warps,
                1,
                1,
                binary.shared,
                ctypes.c_void_p(stream),
                loaded.addresses,
                None,
            )

    def _prepare(self, binary: Binary) -> _Loaded:
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), binary.cubin)
        self._call("cuModuleGetFunction", ctypes.byref(handle), module, binary.name.encode())
        if binary.shared > _DEFAULT_SHARED:
            self._call("cuFuncSetAttribute", handle, _DYNAMIC_SHARED, binary.shared)
        values = [PARAMETERS.get(kind, POINTER)[1](0) for kind in binary.types]
        scratch = [ctypes.c_uint64(0) for _ in range(SCRATCH)]
        slots = [*values, *scratch]
        addresses = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(slot) for slot in slots))
        addresses._keep = slots  # type: ignore[attr-defined]
        loaded = binary.loaded[self._index] = _Loaded(handle, values, addresses, Lock())
        return loaded

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status != 0:
            message = ctypes.c_char_p()
            self._cuda.cuGetErrorString(status, ctypes.byref(message))
            text = message.value.decode() if message.value else "unknown"
            raise DeviceError(f"the CUDA driver's {name} failed with error {status}: {text}")


def _load() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise DeviceError(f"there is no NVIDIA driver: {_LIBRARY} cannot be loaded ({error})") from None
