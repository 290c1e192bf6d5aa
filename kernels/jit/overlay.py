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
    photo_ptr,
    out_ptr,  # (N, K, P), (257, 3), (N, P, 3), (N, K, P, 3)
    K,
    P,
    alpha,
    ALIGNED: tl.constexpr,
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
    photo = tl.load(photo_ptr + (row // K) * size + at, mask=mask, other=0).to(tl.float32)
    mixed = (1 - alpha) * photo + alpha * colour
    tl.store(out_ptr + row * size + at, _rint(mixed).to(tl.uint8), mask=mask)
