# SPDX-License-Identifier: Apache-2.0
"""What the shape and type of a model's image input tell, and preprocessing fields in their normal form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from portable_cam.errors import PreprocessError
from portable_cam.image.geometry import Size
from portable_cam.spelling import by_arrays

ChannelOrder = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
Dim: TypeAlias = int | str | None

#: The size of a model that takes any: what most ImageNet classifiers were trained at.
USUAL_SIDE = 224


def read_shape(
    shape: Sequence[Dim], layout: str | None, color: str | None
) -> tuple[int, Layout, tuple[int | None, int | None], bool]:
    """Channels, layout, (H, W) as far as the model fixes them, and whether the layout is more than a guess.

    Args:
        shape: The input's shape, batch first; a name, None or a number below 1 where a dimension is open.
        layout: ``nchw`` or ``nhwc`` if known from elsewhere.
        color: Likewise; tells 3 channels from 1 where the shape leaves it open.

    Raises:
        PreprocessError: The input is not one of images, or contradicts layout or colour.
    """
    shown = f"({', '.join('?' if d is None else str(d) for d in shape)})"
    dims = [d if isinstance(d, int) and d > 0 else None for d in shape]
    if layout not in (None, "nchw", "nhwc"):
        raise PreprocessError(f"layout {layout!r} is unknown: choose nchw or nhwc")
    if len(dims) != 4:
        raise PreprocessError(
            f"the model's input {shown} is not a batch of images (N, C, H, W) or (N, H, W, C): {by_arrays()}"
        )
    wanted = {"gray": (1,), "rgb": (3,), "bgr": (3,)}.get(color or "", (3, 1))
    both: tuple[tuple[int, Layout], ...] = ((1, "nchw"), (3, "nhwc"))
    possible = [(dims[axis], name) for axis, name in both if layout in (None, name)]
    certain = [(n, name) for n, name in possible if n in wanted]
    open_ = [(n, name) for n, name in possible if n is None]
    if not certain and not open_:
        what = f"{' or '.join(map(str, wanted))} channel{'' if wanted == (1,) else 's'}"
        said = " and ".join([f"colour {color}"] * (color is not None) + [f"layout {layout}"] * (layout is not None))
        raise PreprocessError(
            f"the model's input {shown} has no axis of {what} to go with {said}: correct or leave out what does not fit"
            if said
            else f"the model's input {shown} has no axis of {what}: {by_arrays()}"
        )
    channels, name = (certain or open_)[0]
    height, width = (dims[2], dims[3]) if name == "nchw" else (dims[1], dims[2])
    sure = layout is not None or len(certain) == 1 or (not certain and len(open_) == 1)
    return channels or wanted[0], name, (height, width), sure


def input_size(stated: Any, fixed: tuple[int | None, int | None]) -> tuple[Size, bool]:
    """(H, W) of the input, and whether it is more than a guess.

    Raises:
        PreprocessError: The given size is not a size, or differs from what the model fixes.
    """
    height, width = fixed
    if stated is None:
        return (height or width or USUAL_SIDE, width or height or USUAL_SIDE), height is not None and width is not None
    size = parse_size(stated)
    if (height or size[0], width or size[1]) != size:
        raise PreprocessError(
            f"size {size[0]}x{size[1]} contradicts the model's input of {height or '?'}x{width or '?'}: leave it out"
        )
    return size, True


def parse_size(size: Any) -> Size:
    """(H, W) from one number of pixels, or two."""
    both = [size, size] if isinstance(size, int) else size
    if not isinstance(both, Sequence) or len(both) != 2 or any(type(side) is not int or side < 1 for side in both):
        raise PreprocessError(f"size {size!r} is not a positive number of pixels, or height and width")
    return both[0], both[1]


def per_channel(field: str, value: Any, channels: int) -> tuple[float, ...]:
    """One finite number per channel, from as many or from one for all."""
    numbers = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,)
    if not all(isinstance(n, int | float | np.number) and abs(float(n)) < np.inf for n in numbers):
        raise PreprocessError(f"{field} {value!r} is not a finite number or a list of such")
    if len(numbers) not in (1, channels):
        raise PreprocessError(
            f"{field} has {len(numbers)} values, but the model takes {channels} channel{'s' * (channels > 1)}: "
            f"give one value{f' or {channels}' if channels > 1 else ''}"
        )
    floats = tuple(float(number) for number in numbers)
    return floats * channels if len(floats) == 1 else floats


def dtype_name(dtype: DTypeLike) -> str:
    """numpy's name of an input's type, which ONNX Runtime calls ``tensor(float)``.

    Raises:
        PreprocessError: It is not a type of numbers that images have.
    """
    if isinstance(dtype, str) and dtype.startswith("tensor("):
        dtype = {"float": "float32", "double": "float64"}.get(dtype[7:-1], dtype[7:-1])
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError):
        kind = np.dtype(object)
    if kind.kind not in "fiu":
        raise PreprocessError(f"the model's input is of type {dtype}, which holds no picture: {by_arrays()}")
    return kind.name
