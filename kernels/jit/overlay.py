"""From map, colour map and photo to the overlay."""

import triton
import triton.language as tl

from portable_cam.kernels.jit.common import whole_16


@triton.jit
def _rint(x):
    """To the nearest whole number, halves to the even one, as numpy's."""
    up = tl.floor(x + 0.5)
    odd = up - 2 * tl.floor(up * 0.5)
    return tl.where(up - x == 0.5, up - odd, up)


@triton.jit
def overlay(
    map_ptr,
    palette_ptr,
    opacity_ptr,
    photo_ptr,
    out_ptr,  # (N, K, P), (257, 3), (257,), (N, P, 3), (N, K, P, 3)
    K,
    P,
    ALIGNED: tl.constexpr,
    GRAY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each map and block of its bytes, which are read and written in their own order."""
    row = tl.program_id(1).to(tl.int64)
    size = P * 3
    if ALIGNED:
        size = whole_16(size)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    value = tl.load(map_ptr + row * P + at // 3, mask=mask, other=0.0)
    step = _rint(tl.minimum(tl.maximum(value, 0.0), 1.0) * 255)
    colour_at = tl.where(value != value, 256, step.to(tl.int32))
    colour = tl.load(palette_ptr + colour_at * 3 + at % 3, mask=mask, other=0).to(tl.float32)
    opacity = tl.load(opacity_ptr + colour_at, mask=mask, other=0.0)
    photo_at = photo_ptr + (row // K) * size
    if GRAY:  # the three bytes of a pixel are in the cache: its neighbours in the block read them too
        pixel = photo_at + at // 3 * 3
        red = tl.load(pixel, mask=mask, other=0).to(tl.int32)
        green = tl.load(pixel + 1, mask=mask, other=0).to(tl.int32)
        blue = tl.load(pixel + 2, mask=mask, other=0).to(tl.int32)
        photo = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(tl.float32)
    else:
        photo = tl.load(photo_at + at, mask=mask, other=0).to(tl.float32)
    mixed = (1 - opacity) * photo + opacity * colour
    tl.store(out_ptr + row * size + at, _rint(mixed).to(tl.uint8), mask=mask)
