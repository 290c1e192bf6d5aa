"""An array as a kernel sees it: an address, a shape, a type and strides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from portable_cam.errors import InputError

#: The element types that kernels take, by numpy's names, and Triton's names for pointers to them.
POINTERS = {
    "float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "uint8": "*u8", "int64": "*i64",
}  # fmt: skip
#: Bytes of an element: also of the types that only a model's own outputs have.
ITEM_SIZES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int64": 8, "float64": 8, "int32": 4, "int8": 1, "bool": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Array:
    """Memory of a device, without the means to read it.

    Attributes:
        pointer: The address of the first element.
        shape: Its sizes.
        dtype: The element type, one of :data:`POINTERS`.
        strides: How many elements each axis steps over.
        owner: Whatever keeps the memory alive: a torch tensor, an ONNX Runtime value.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its elements take."""
        return self.size * ITEM_SIZES[self.dtype]

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after another in the order of the axes."""
        return all(
            size == 1 or stride == expected
            for size, stride, expected in zip(self.shape, self.strides, dense_strides(self.shape), strict=True)
        )


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous array, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def of_torch(tensor: Any) -> Array:
    """A torch tensor as an :class:`Array`, no copy; an :class:`Array` as it is."""
    if isinstance(tensor, Array):
        return tensor
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Array(tensor.data_ptr(), tuple(tensor.shape), dtype, tuple(tensor.stride()), tensor)


def check(
    name: str, array: Array, shape: tuple[int | None, ...], dtypes: tuple[str, ...], *, contiguous: bool = True
) -> None:
    """Refuse an array that a kernel would misread.

    Args:
        name: What the array is called in the message.
        array: The array.
        shape: The sizes it must have, None for any.
        dtypes: The types it may have.
        contiguous: Whether its elements must lie one after another.

    Raises:
        InputError: It does not fit, or is empty.
    """
    fits = len(shape) == len(array.shape) and all(w in {None, g} for w, g in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} must have shape ({wanted}), not {array.shape}")
    if array.dtype not in dtypes:
        raise InputError(f"{name} must be {' or '.join(dtypes)}, not {array.dtype}")
    if array.size == 0:
        raise InputError(f"{name} is empty: shape {array.shape}")
    if contiguous and not array.contiguous:
        raise InputError(f"{name} must be contiguous: its strides are {array.strides}; copy it first")


FLOATS = ("float32", "float16", "bfloat16")
