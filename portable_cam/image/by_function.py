# SPDX-License-Identifier: Apache-2.0
"""A user's function as preprocessing. What part of the photo it takes, and the order of its channels, are found out by
what it makes of a few synthetic photos: ramps of brightness along the columns and rows, red and blue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.arrays import as_array
from portable_cam.errors import PreprocessError
from portable_cam.image.geometry import Geometry, ImageArray, Size
from portable_cam.image.model_input import ChannelOrder, Dim, Layout, dtype_name, input_size, read_shape
from portable_cam.image.preprocess import Preprocessing

#: From a photo, uint8 (H, W, 3) RGB, to the model's input, (C, H, W) or (H, W, C), or with a first axis of one image.
Function = Callable[[ImageArray], Any]

#: The photo that tells the size of the input, where the model leaves it open.
_TRIAL = (480, 640)
#: How far a column may lie from where the resizing puts it: steps of brightness, and pixels of the input.
_STEPS, _PIXELS = 2.0, 1.0
#: Of a ramp's ends, which resizing rounds off.
_ENDS = 0.1


@dataclass(frozen=True)
class Named:
    """Stands for a function that made an explanation's input, in records of it."""

    name: str

    def __call__(self, photo: ImageArray) -> Any:
        raise PreprocessError(
            f"an explanation knows only the name of {self.name}, the function that prepared its photo"
        )


@dataclass(frozen=True)
class ByFunction(Preprocessing):
    """Preprocessing by a function.

    ``size`` is that of a photo of 640 x 480; where the function keeps a photo's own, each has another.

    Attributes:
        function: The function.

    Raises:
        PreprocessError: The function fails, or does not give an image.
    """

    function: Function = field(default=Named("a function"), repr=False)
    _found: dict[Size, tuple[Geometry, bool]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, function: Function, input_shape: Sequence[Dim], input_dtype: str) -> ByFunction:
        """For a model whose image input has this shape and type."""
        channels, layout, fixed, _ = read_shape(input_shape, None, None)
        trial = _run(function, np.full((*_TRIAL, 3), 127, np.uint8))
        size, _ = input_size(None if None not in fixed else list(_sides(trial, layout)), fixed)
        color = "gray" if channels == 1 else _channel_order(function, layout)
        return cls(size=size, color=color, layout=layout, dtype=dtype_name(input_dtype), function=function)

    def __call__(self, image: ImageArray, photo: Size | None = None) -> NDArray[Any]:
        return _run(self.function, image)

    def prepared(self, image: ImageArray, view: ImageArray) -> NDArray[Any]:
        return self(image)

    def following(self, photo: Size, longest: int, step: int) -> Preprocessing:
        return self

    def geometry(self, image_size: Size) -> Geometry:
        return self._measured(image_size)[0]

    def describe(self) -> str:
        return f"by {_named(self.function)}, {self.layout.upper()} {self.dtype} {self.size[0]}x{self.size[1]}"

    def to_json(self) -> dict[str, Any]:
        return {"function": _named(self.function), "size": list(self.size), "layout": self.layout, "dtype": self.dtype}

    def notes(self, image_size: Size) -> tuple[str, ...]:
        if self._measured(image_size)[1]:
            return ()
        return (
            f"which part of the photo {_named(self.function)} takes could not be measured: the map is laid over the "
            "whole photo",
        )

    def recorded(self) -> Preprocessing:
        """Itself without the function, which an explanation need not carry along."""
        return ByFunction(
            size=self.size,
            color=self.color,
            layout=self.layout,
            dtype=self.dtype,
            function=Named(_named(self.function)),
        )

    def _measured(self, image_size: Size) -> tuple[Geometry, bool]:
        """The geometry of photos of a size, and whether it was measured or is the best guess."""
        if image_size not in self._found:
            found = _measure(self.function, image_size, self.layout)
            size = _sides(_run(self.function, np.zeros((*image_size, 3), np.uint8)), self.layout)
            self._found[image_size] = (found or Geometry(image_size, size, size, (0, 0)), found is not None)
        return self._found[image_size]


def _named(function: Function) -> str:
    if isinstance(function, Named):
        return function.name
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', type(function).__module__)}.{name}"


def _run(function: Function, photo: ImageArray) -> NDArray[Any]:
    """What the function makes of a photo, with an axis of images."""
    try:
        made = function(photo)
    except PreprocessError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise PreprocessError(
            f"the preprocessing {_named(function)} failed on a photo, a uint8 array {photo.shape}: "
            f"{type(error).__name__}: {reason}. A function that takes PIL images is given as "
            "lambda photo: function(Image.fromarray(photo))"
        ) from error
    array = as_array(made, f"what {_named(function)} makes of a photo", PreprocessError)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or len(array) != 1 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise PreprocessError(
            f"the preprocessing {_named(function)} gives {array.dtype}{list(array.shape)} for a photo, not one image: "
            "numbers (C, H, W) or (H, W, C), or the same with a first axis of one"
        )
    return array


def _sides(made: NDArray[Any], layout: Layout) -> Size:
    return (made.shape[2], made.shape[3]) if layout == "nchw" else (made.shape[1], made.shape[2])


def _pixels(made: NDArray[Any], layout: Layout) -> NDArray[np.float64]:
    """(H, W, C)."""
    image: NDArray[np.float64] = (np.moveaxis(made[0], 0, -1) if layout == "nchw" else made[0]).astype(np.float64)
    return image


def _channel_order(function: Function, layout: Layout) -> ChannelOrder:
    """``bgr`` where a red photo lights the last channel, ``rgb`` otherwise."""
    black, red = (np.zeros((64, 64, 3), np.uint8) for _ in range(2))
    red[:, :, 0] = 255
    change = np.abs(_pixels(_run(function, red), layout) - _pixels(_run(function, black), layout)).mean(axis=(0, 1))
    return "bgr" if len(change) == 3 and change.argmax() == 2 else "rgb"


def _measure(function: Function, photo: Size, layout: Layout) -> Geometry | None:
    """Where the input lies in photos of a size; None where what the function makes of ramps is no ramp."""

    def made(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over channels for a grey photo of these values, 0 to 1."""
        grey = np.broadcast_to(np.rint(values * 255).astype(np.uint8), photo)
        found: NDArray[np.float64] = _pixels(_run(function, np.repeat(grey[:, :, None], 3, 2)), layout).mean(axis=2)
        return found

    black, grey, white = (made(np.array(value)) for value in (0.0, 0.5, 1.0))
    span = white - black
    inside = np.abs(span) > 1e-6 * max(float(np.abs(span).max()), 1e-12)  # what is padded does not change
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows) or not _agree((grey - black)[inside], 0.5 * span[inside], span[inside]):
        return None
    found = []
    for axis, seen in ((0, rows), (1, columns)):
        ramp = ((np.arange(photo[axis]) + 0.5) / photo[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        up, down = made(ramp), made(1 - ramp)
        if up.shape != span.shape or not _agree((up + down - black)[inside], white[inside], span[inside]):
            return None
        share = np.where(inside, (up - black) / np.where(inside, span, 1), np.nan)
        line = np.nanmedian(share[np.ix_(rows, columns)], axis=1 - axis)
        side = _scaled(line, seen, photo[axis], span.shape[axis])
        if side is None:
            return None
        found.append(side)
    (scaled_h, top), (scaled_w, left) = found
    return Geometry(photo, (span.shape[0], span.shape[1]), (scaled_h, scaled_w), (top, left))


def _agree(ours: NDArray[np.float64], theirs: NDArray[np.float64], span: NDArray[np.float64]) -> bool:
    """Whether values follow brightness in a straight line, to some steps of it: else a ramp tells no place."""
    return bool((np.abs(ours - theirs) <= 2 * _STEPS / 255 * np.abs(span)).all())


def _scaled(line: NDArray[np.float64], at: NDArray[np.intp], photo: int, size: int) -> tuple[int, int] | None:
    """How many pixels one side of the photo was resized to, and where the input begins in that; None where the
    brightness along it is no straight line."""
    inner = (line > _ENDS) & (line < 1 - _ENDS)
    if inner.sum() < 3:
        return None
    cells, where = at[inner] + 0.5, line[inner] * photo
    step, start = np.polyfit(cells, where, 1)
    if step <= 0 or np.abs(step * cells + start - where).max() > _STEPS * photo / 255 + _PIXELS * step:
        return None
    scaled, offset = round(photo / step), round(start / step)
    if abs(scaled - size) <= 1 and abs(offset) <= 1:
        return size, 0  # stretched: a pixel is within what brightness tells
    return int(scaled), int(offset)
