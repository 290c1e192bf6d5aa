"""The guided product."""

import triton
import triton.language as tl

from portable_cam.kernels.jit.common import spread_of, whole_16
from portable_cam.kernels.jit.upsample import low_and_spread, range_of_tiles, sample, tile_of


@triton.jit
def guided_product(
    g_ptr,
    map_ptr,
    range_ptr,
    partial_ptr,
    out_ptr,
    # (M, C, H, W) or (M, H, W, C), (M, h, w), (M, 2), (M, tiles, 2), as the first
    C,
    h,
    w,
    H,
    W,
    tiles,
    scale,
    NORM: tl.constexpr,
    NEAREST: tl.constexpr,
    SCALED: tl.constexpr,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient times the upsampled map, computed where it is used; one program for each map and tile."""
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    low, spread = low_and_spread(range_ptr, row, SCALED, RELU)
    columns = W
    if CHANNELS_LAST:
        columns = W * C
    if ALIGNED:
        columns = whole_16(columns)
    y, column, mask = tile_of(block, H, columns, BLOCK)
    x = column
    if CHANNELS_LAST:
        x = column // C
    value = sample(map_ptr + row * h * w, y, x, mask, h, w, H, W, low, spread, NEAREST, SCALED)
    if NORM != "none":
        least, most = range_of_tiles(partial_ptr, row, tiles, TILES)
        value = (value - least) / spread_of(least, most, NORM)
    value *= scale
    start = row * H * columns
    if not CHANNELS_LAST:
        start = start * C
    here = start + y[:, None] * columns + column[None, :]
    if CHANNELS_LAST:
        g = tl.load(g_ptr + here, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + here, g * value, mask=mask)
    else:
        for _channel in range(C):
            g = tl.load(g_ptr + here, mask=mask, other=0.0).to(tl.float32)
            tl.store(out_ptr + here, g * value, mask=mask)
            here += H * columns
