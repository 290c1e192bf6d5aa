# SPDX-License-Identifier: Apache-2.0
"""Where the model's input lies in the photo: stretch, resize and centre crop, letterbox.

Everything is in pixels, sizes are (height, width), boxes are (left, top, right, bottom) with edges, not pixel centres:
the whole of a photo of size (H, W) is the box (0, 0, W, H).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: An image as it is decoded and shown: uint8 (H, W, 3), RGB.
ImageArray: TypeAlias = NDArray[np.uint8]
#: (height, width).
Size: TypeAlias = tuple[int, int]
#: Left, top, right, bottom.
Box: TypeAlias = tuple[float, float, float, float]
Resize = Literal["stretch", "shortest+crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
PadPosition = Literal["center", "top-left"]

RESIZES: tuple[str, ...] = get_args(Resize)
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
PAD_POSITIONS: tuple[str, ...] = get_args(PadPosition)


@dataclass(frozen=True)
class Geometry:
    """How a photo of one size becomes the model's input: resized to ``scaled``, then cropped or padded to ``size``.

    ``offset`` is where the input's top-left corner lies in the resized photo, (top, left): positive for a crop,
    negative for padding.
    """

    photo: Size
    size: Size
    scaled: Size
    offset: Size

    @property
    def box(self) -> Box:
        """The part of the photo that the input shows, in photo pixels; it reaches beyond the photo where padded."""
        (H, W), (h, w), (top, left) = self.photo, self.scaled, self.offset
        # multiplied first, so that a whole number of pixels stays one
        return left * W / w, top * H / h, (left + self.size[1]) * W / w, (top + self.size[0]) * H / h

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """The part of the input that shows the photo, in input pixels: all of it, unless padded."""
        (top, left), (h, w), (H, W) = self.offset, self.scaled, self.size
        return max(0, -left), max(0, -top), min(W, w - left), min(H, h - top)

    def apply(self, photo: ImageArray, interpolation: Interpolation, pad: int) -> ImageArray:
        """Resize and crop or pad uint8 (H, W, 3) to the input's size; Pillow's filters, which antialias."""
        image = Image.fromarray(np.ascontiguousarray(photo))
        (h, w), (H, W), (top, left) = self.scaled, self.size, self.offset
        image = image.resize((w, h), Image.Resampling[interpolation.upper()])
        if self.scaled == self.size:
            return np.asarray(image)
        if self.inner == (0, 0, W, H):
            return np.asarray(image.crop((left, top, left + W, top + H)))
        canvas = Image.new("RGB", (W, H), (pad, pad, pad))
        canvas.paste(image, (-left, -top))
        return np.asarray(canvas)

    @property
    def seen(self) -> Box:
        """The part of the photo that the input shows, in photo pixels, clipped to the photo."""
        (left, top, right, bottom), (height, width) = self.box, self.photo
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)

    def share_of_photo(self, counts: NDArray[np.bool_]) -> float:
        """Which share of the photo counts.

        Args:
            counts: Bool (h, w) over the whole input, padding included, at any resolution.
        """
        (H, W), (left, top, right, bottom) = self.size, self.inner
        full = Image.fromarray(np.ascontiguousarray(counts, np.float32)).resize((W, H), Image.Resampling.BOX)
        x0, y0, x1, y1 = self.seen
        part = (x1 - x0) * (y1 - y0) / (self.photo[0] * self.photo[1])
        return float(np.asarray(full)[top:bottom, left:right].mean()) * part

    def to_photo(self, box: Box) -> Box:
        """From a box in pixels of the input to one in pixels of the photo, clipped to the photo."""
        left, top, right, bottom = self.box
        x, y = (right - left) / self.size[1], (bottom - top) / self.size[0]
        (height, width), (x0, y0, x1, y1) = self.photo, box
        return (
            min(max(left + x0 * x, 0), width),
            min(max(top + y0 * y, 0), height),
            min(max(left + x1 * x, 0), width),
            min(max(top + y1 * y, 0), height),
        )

    def to_input(self, box: Box) -> Box:
        """From a box in pixels of the photo to one in pixels of the input; it may reach beyond a crop."""
        left, top, right, bottom = self.box
        x, y = self.size[1] / (right - left), self.size[0] / (bottom - top)
        return (box[0] - left) * x, (box[1] - top) * y, (box[2] - left) * x, (box[3] - top) * y

    def on_photo(self, map01: NDArray[np.floating], fill: float = 0.0) -> NDArray[np.float32]:
        """Lay a map at the input's size over the whole photo.

        Args:
            map01: Float (H, W) at the input's size.
            fill: The value where the model saw nothing, outside the crop.

        Returns:
            Float32 at the photo's size.
        """
        left, top, right, bottom = self.box
        x, y = self.size[1] / (right - left), self.size[0] / (bottom - top)
        source = Image.fromarray(np.ascontiguousarray(map01, dtype=np.float32))
        # the affine map takes photo to input coordinates; Pillow takes care of the half pixel between edge and centre
        laid = source.transform(
            (self.photo[1], self.photo[0]),
            Image.Transform.AFFINE,
            (x, 0, -left * x, 0, y, -top * y),
            Image.Resampling.BILINEAR,
            fillcolor=fill,
        )
        return np.asarray(laid, dtype=np.float32)


def fit(photo: Size, size: Size, resize: Resize, resize_to: int | None, pad_position: PadPosition) -> Geometry:
    """The geometry of one photo.

    ``shortest+crop`` is torchvision's ``Resize(resize_to)`` and ``CenterCrop(size)``, down to how it rounds: the longer
    side is cut off to an integer, the crop's corner rounded half to even. Where a wide or tall crop would not fit into
    the resized photo, the photo is made as much larger as it takes (torchvision would pad with black).
    """
    (H, W), (h, w) = photo, size
    if resize == "stretch":
        return Geometry(photo, size, size, (0, 0))
    if resize == "letterbox":
        ratio = min(h / H, w / W)
        scaled = max(1, min(h, int(H * ratio + 1e-9))), max(1, min(w, int(W * ratio + 1e-9)))
        centred = pad_position == "center"
        return Geometry(photo, size, scaled, (-((h - scaled[0]) // 2), -((w - scaled[1]) // 2)) if centred else (0, 0))
    short = min(size) if resize_to is None else resize_to
    scaled = (short, short * W // H) if H <= W else (short * H // W, short)
    if scaled[0] < h or scaled[1] < w:
        ratio = max(h / H, w / W)
        scaled = max(h, round(H * ratio)), max(w, round(W * ratio))
    return Geometry(photo, size, scaled, (round((scaled[0] - h) / 2), round((scaled[1] - w) / 2)))
