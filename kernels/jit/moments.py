"""Means, variances and extremes."""

import triton
import triton.language as tl

from portable_cam.kernels.jit.common import extremes, whole_16, wider


@triton.jit
def _merge(n, mean, m2, n_b, mean_b, m2_b):
    """Count, mean and sum of squared deviations of two groups together; Chan, Golub and LeVeque 1979."""
    total = n + n_b
    part = n_b / tl.maximum(total, 1.0)
    delta = mean_b - mean
    # a group of none leaves the other exactly as it was, whatever its mean says
    together = mean + delta * part
    squares = m2 + m2_b + delta * delta * n * part
    return total, tl.where(n_b > 0, together, mean), tl.where(n_b > 0, squares, m2)


@triton.jit
def row_statistics(
    x_ptr,
    partial_ptr,  # (R, L), (R, tiles, 5)
    L,
    x_stride,
    steps,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count, mean, squared deviations, least and greatest of a tile of each row."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if ALIGNED:
        x_stride, L = whole_16(x_stride), whole_16(L)
    n, mean, m2, low, high = 0.0, 0.0, 0.0, float("inf"), float("-inf")
    for step in range(steps):
        at = (tile.to(tl.int64) * steps + step) * BLOCK + tl.arange(0, BLOCK)
        mask = at < L
        x = tl.load(x_ptr + row * x_stride + at, mask=mask, other=0.0).to(tl.float32)
        n_b = tl.sum(mask.to(tl.float32), 0)
        mean_b = tl.sum(x, 0) / tl.maximum(n_b, 1.0)
        off = tl.where(mask, x - mean_b, 0.0)
        n, mean, m2 = _merge(n, mean, m2, n_b, mean_b, tl.sum(off * off, 0))
        a, b = extremes(x, mask)
        low, high = wider(low, high, a, b)
    out = partial_ptr + (row * tl.num_programs(1) + tile) * 5
    tl.store(out, n)
    tl.store(out + 1, mean)
    tl.store(out + 2, m2)
    tl.store(out + 3, low)
    tl.store(out + 4, high)


@triton.jit
def merge_tiles(
    partial_ptr,
    out_ptr,  # (R, tiles, 5), (R, 4)
    tiles,
    correction,
):
    """Mean, variance, least and greatest of each row from those of its tiles, in their order."""
    row = tl.program_id(0).to(tl.int64)
    n, mean, m2, low, high = 0.0, 0.0, 0.0, float("inf"), float("-inf")
    for tile in range(tiles):
        part = partial_ptr + (row * tiles + tile) * 5
        n, mean, m2 = _merge(n, mean, m2, tl.load(part), tl.load(part + 1), tl.load(part + 2))
        low, high = wider(low, high, tl.load(part + 3), tl.load(part + 4))
    tl.store(out_ptr + row * 4, mean)
    tl.store(out_ptr + row * 4 + 1, m2 / (n - correction))
    tl.store(out_ptr + row * 4 + 2, low)
    tl.store(out_ptr + row * 4 + 3, high)


@triton.jit
def update_moments(
    x_ptr,
    mean_ptr,
    m2_ptr,  # (S, L), (L,), (L,)
    S,
    L,
    x_stride,
    seen,
    divisor,
    FIRST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds S samples to running means and squared deviations over samples; one program for each block of elements."""
    if ALIGNED:
        x_stride, L = whole_16(x_stride), whole_16(L)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < L
    mean, m2 = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if not FIRST:
        mean = tl.load(mean_ptr + at, mask=mask, other=0.0)
        m2 = tl.load(m2_ptr + at, mask=mask, other=0.0)
    count = seen
    here = x_ptr + at
    for _sample in range(S):
        x = tl.load(here, mask=mask, other=0.0).to(tl.float32)
        here += x_stride
        count += 1.0
        delta = x - mean
        mean += delta / count
        m2 += delta * (x - mean)
    tl.store(mean_ptr + at, mean, mask=mask)
    tl.store(m2_ptr + at, m2 / divisor, mask=mask)
