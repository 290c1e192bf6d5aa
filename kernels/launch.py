"""What launches a kernel: the compiled variant that is meant, and the device that runs it.

A launcher (``cam.weighted_sum`` and the like) turns arrays into a grid and a list of arguments and hands both to a
:class:`Device`. Two devices exist: :class:`TorchDevice` here, which runs the Triton source (just-in-time on a GPU, by
Triton's interpreter on a CPU), and the CUDA driver's in :mod:`portable_cam.kernels.driver`, which needs neither torch
nor, where the variants were compiled ahead of time, Triton.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any, Protocol, TypeAlias

from portable_cam.errors import InputError
from portable_cam.kernels.array import POINTERS, Array, of_torch

Argument: TypeAlias = Array | int | float
Constant: TypeAlias = bool | int | str
Grid: TypeAlias = tuple[int, ...]
MOST = 65535  # programs along the second and third axis of a grid, by CUDA


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel.

    Attributes:
        kernel: Module and function under ``portable_cam.kernels.jit``, as ``cam.weighted_sum``.
        types: The type of each run-time argument: a pointer as ``*fp16``, ``i32`` or ``fp32``.
        constants: The compile-time constants by name.
        warps: Groups of 32 threads in a program.
        fp_fusion: Let the compiler contract a product and a sum into one operation, which rounds once: faster, and not
            what numpy computes.
    """

    kernel: str
    types: tuple[str, ...]
    constants: tuple[tuple[str, Constant], ...]
    warps: int = 4
    fp_fusion: bool = True

    @property
    def name(self) -> str:
        """A short name that is the same in every process."""
        text = repr((self.types, self.constants, self.warps, self.fp_fusion))
        return f"{self.kernel}-{blake2s(text.encode(), digest_size=6).hexdigest()}"

    def function(self) -> Any:
        """The Triton function; imports Triton."""
        module, name = self.kernel.rsplit(".", 1)
        return getattr(importlib.import_module(f"portable_cam.kernels.jit.{module}"), name)


class Device(Protocol):
    """Where arrays live and kernels run."""

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        """Memory for a contiguous array, its content undefined."""

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        """Run a kernel after everything launched before it."""


def run(
    device: Device,
    kernel: str,
    grid: Grid,
    arguments: Sequence[Argument],
    constants: dict[str, Constant],
    warps: int = 4,
    *,
    fp_fusion: bool = True,
) -> None:
    """Launch the variant of a kernel that fits the arguments.

    Raises:
        InputError: There are more maps, or more blocks of pixels, than a launch can have.
    """
    if max(grid[1:], default=0) > MOST:
        raise InputError(
            f"{kernel}: {max(grid[1:])} maps or blocks of pixels at once; CUDA takes {MOST}: give fewer images"
        )
    types = tuple(type_of(argument) for argument in arguments)
    device.launch(Variant(kernel, types, tuple(constants.items()), warps, fp_fusion), grid, arguments)


def type_of(argument: Argument) -> str:
    """An argument's type as Triton writes it."""
    if isinstance(argument, Array):
        return POINTERS[argument.dtype]
    return "i32" if isinstance(argument, int) else "fp32"


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


class TorchDevice:
    """Memory and launches by torch and Triton: on ``cuda`` compiled just in time, on ``cpu`` by Triton's interpreter
    (set ``TRITON_INTERPRET=1`` before Triton is imported)."""

    def __init__(self, device: str = "cuda") -> None:
        self._torch: Any = importlib.import_module("torch")
        self.place = device

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return of_torch(self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self.place))

    def launch(self, variant: Variant, grid: Grid, arguments: Sequence[Argument]) -> None:
        values = [self._tensor(a) if isinstance(a, Array) else a for a in arguments]
        options = {"num_warps": variant.warps, "enable_fp_fusion": variant.fp_fusion}
        variant.function()[grid](*values, **dict(variant.constants), **options)

    def _tensor(self, array: Array) -> Any:
        owner = array.owner
        return owner if isinstance(owner, self._torch.Tensor) else self._torch.from_dlpack(owner)
