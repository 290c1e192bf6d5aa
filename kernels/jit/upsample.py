"""Upsampling, its range, and normalisation."""

import triton
import triton.language as tl

from portable_cam.kernels.jit.common import extremes, spread_of, whole_16, wider


@triton.jit
def _between(at, size, length):
    """The two neighbours of output coordinate ``at`` and the weight of the right one, half-pixel centres:
    (at + 1/2) size / length - 1/2, in whole numbers of 1 / (2 length), so that no rounding moves a weight."""
    numerator = tl.maximum((2 * at + 1) * size - length, 0)
    left = numerator // (2 * length)
    weight = (numerator - left * (2 * length)).to(tl.float32) / (2 * length).to(tl.float32)
    last = size - 1
    return tl.minimum(left, last), tl.minimum(left + 1, last), tl.where(left < last, weight, 0.0)


@triton.jit
def _value(pointer, at, mask, low, spread, SCALED: tl.constexpr):
    x = tl.load(pointer + at, mask=mask, other=0.0)
    if SCALED:
        x = (x - low) / spread
    return x


@triton.jit
def sample(map_ptr, y, x, mask, h, w, H, W, low, spread, NEAREST: tl.constexpr, SCALED: tl.constexpr):
    """The map (h, w), its values scaled if asked for, at the rows ``y`` and columns ``x`` of (H, W): [y, x].

    Rows and columns are vectors, so that the whole-number divisions are done for each of them and not for each pixel.
    """
    if NEAREST:
        value = _value(map_ptr, (y * h // H * w)[:, None] + (x * w // W)[None, :], mask, low, spread, SCALED)
    else:
        top, bottom, down = _between(y, h, H)
        left, right, across = _between(x, w, W)
        top, bottom, down = (top * w)[:, None], (bottom * w)[:, None], down[:, None]
        left, right, across = left[None, :], right[None, :], across[None, :]
        above = _value(map_ptr, top + left, mask, low, spread, SCALED) * (1 - across)
        above += _value(map_ptr, top + right, mask, low, spread, SCALED) * across
        below = _value(map_ptr, bottom + left, mask, low, spread, SCALED) * (1 - across)
        below += _value(map_ptr, bottom + right, mask, low, spread, SCALED) * across
        value = above * (1 - down) + below * down
    return value


@triton.jit
def tile_of(index, H, columns, BLOCK: tl.constexpr):
    """The rows and columns of a square tile, counted along the rows of tiles, and which of its pixels exist."""
    across = tl.cdiv(columns, BLOCK)
    y = index // across * BLOCK + tl.arange(0, BLOCK)
    x = index % across * BLOCK + tl.arange(0, BLOCK)
    return y, x, (y < H)[:, None] & (x < columns)[None, :]


@triton.jit
def low_and_spread(range_ptr, row, SCALED: tl.constexpr, RELU: tl.constexpr):
    """pytorch-grad-cam's first scaling from the range of a low-resolution map, before its ReLU if it has one."""
    low, spread = 0.0, 1.0
    if SCALED:
        low, high = tl.load(range_ptr + row * 2), tl.load(range_ptr + row * 2 + 1)
        if RELU:
            low, high = tl.where(low < 0, 0.0, low), tl.where(high < 0, 0.0, high)
        spread = spread_of(low, high, "pytorch_grad_cam")
    return low, spread


@triton.jit
def _extreme(index, count, size, length):
    """Where along an axis of ``length`` pixels the extremes of a bilinear map can lie: of each of the ``size`` cells of
    the low-resolution map the first pixel and the one before it, then the first and the last pixel of all. Within a
    cell the map is linear along either axis. Every pixel where ``count`` is the length."""
    cell = index // 2
    first = ((2 * cell + 1) * length - size + 2 * size - 1) // (2 * size)
    at = tl.where(cell < size, first - index % 2, (index % 2) * (length - 1))
    return tl.where(count == length, index, tl.minimum(tl.maximum(at, 0), length - 1))


@triton.jit
def upsampled_range(
    map_ptr,
    range_ptr,
    partial_ptr,  # (M, h, w), (M, 2), (M, tiles, 2)
    h,
    w,
    H,
    W,
    rows,
    columns,
    steps,
    SCALED: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The range of the upsampled map, which is not written, from the ``rows`` and ``columns`` that can hold an extreme;
    one program for each map and ``steps`` of its tiles."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    low, spread = low_and_spread(range_ptr, row, SCALED, RELU)
    least, most = float("inf"), float("-inf")
    for step in range(steps):
        i, j, mask = tile_of(tile * steps + step, rows, columns, BLOCK)
        y, x = _extreme(i, rows, h, H), _extreme(j, columns, w, W)
        value = sample(map_ptr + row * h * w, y, x, mask, h, w, H, W, low, spread, False, SCALED)
        a, b = extremes(tl.ravel(value), tl.ravel(mask))
        least, most = wider(least, most, a, b)
    at_partial = (row * tl.num_programs(0) + tile) * 2
    tl.store(partial_ptr + at_partial, least)
    tl.store(partial_ptr + at_partial + 1, most)


@triton.jit
def range_of_tiles(partial_ptr, row, tiles, TILES: tl.constexpr):
    """The range of a whole map from those of its tiles."""
    tile = tl.arange(0, TILES)
    mask = tile < tiles
    low = tl.load(partial_ptr + (row * tiles + tile) * 2, mask=mask, other=float("inf"))
    high = tl.load(partial_ptr + (row * tiles + tile) * 2 + 1, mask=mask, other=float("-inf"))
    least, _high = extremes(low, mask)
    _low, most = extremes(high, mask)
    return least, most


@triton.jit
def upsample(
    map_ptr,
    range_ptr,
    partial_ptr,
    out_ptr,
    extent_ptr,
    # (M, h, w), (M, 2), (M, tiles, 2), (M, H, W), (M, 2)
    h,
    w,
    H,
    W,
    tiles,
    factor,
    NORM: tl.constexpr,
    NEAREST: tl.constexpr,
    SCALED: tl.constexpr,
    RELU: tl.constexpr,
    ADD: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Upsamples, normalises by the range and writes ``factor`` times the result, or adds it to what is there."""
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if ALIGNED:
        W = whole_16(W)
    low, spread = low_and_spread(range_ptr, row, SCALED, RELU)
    y, x, mask = tile_of(block, H, W, BLOCK)
    value = sample(map_ptr + row * h * w, y, x, mask, h, w, H, W, low, spread, NEAREST, SCALED)
    if NORM != "none":
        least, most = range_of_tiles(partial_ptr, row, tiles, TILES)
        divisor = spread_of(least, most, NORM)
        # rounding within a cell can lead a hair beyond its ends; NaN stays
        value = tl.where(value < least, least, tl.where(value > most, most, value))
        value = (value - least) / divisor
        if block == 0:
            # the normalised map's own range: the same function of the two ends
            tl.store(extent_ptr + row * 2, (least - least) / divisor)
            tl.store(extent_ptr + row * 2 + 1, (most - least) / divisor)
    value *= factor
    out = out_ptr + row * H * W + y[:, None] * W + x[None, :]
    if ADD:
        value += tl.load(out, mask=mask, other=0.0)
    tl.store(out, value, mask=mask)
