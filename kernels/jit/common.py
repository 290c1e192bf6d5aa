"""What several kernels share: NaN-safe extremes and ReLU."""

import triton
import triton.language as tl


@triton.jit
def relu(x):
    """max(x, 0); NaN stays NaN."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def whole_16(x):
    """``x``, which is a multiple of 16, written so that the compiler sees it: ``tl.multiple_of`` says nothing of a
    kernel's own argument."""
    return x // 16 * 16


@triton.jit
def extremes(x, mask):
    """The least and the greatest of the masked values, both NaN if one of them is: the hardware's minimum and maximum
    leave NaN out."""
    low = tl.min(tl.where(mask, x, float("inf")), 0)
    high = tl.max(tl.where(mask, x, float("-inf")), 0)
    bad = tl.max((mask & (x != x)).to(tl.int32), 0) > 0
    return tl.where(bad, float("nan"), low), tl.where(bad, float("nan"), high)


@triton.jit
def wider(low, high, other_low, other_high):
    """The range that covers two ranges; NaN if one of them is."""
    bad = (low != low) | (other_low != other_low)
    least, most = tl.minimum(low, other_low), tl.maximum(high, other_high)
    return tl.where(bad, float("nan"), least), tl.where(bad, float("nan"), most)


@triton.jit
def spread_of(low, high, NORM: tl.constexpr):
    """What ``x - low`` is divided by: the span, 1 where a map is flat, or the span and pytorch-grad-cam's 1e-7."""
    span = high - low
    if NORM == "pytorch_grad_cam":
        span = span + 1e-7
    else:
        span = tl.where(span > 0, span, tl.where(span != span, span, 1.0))
    return span
