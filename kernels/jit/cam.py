"""Channel weights, weighted sum and ReLU."""

import triton
import triton.language as tl

from portable_cam.kernels.jit.common import extremes, relu, whole_16, wider


@triton.jit
def _tile(pointer, channel, pixel, mask, outer_stride, CHANNELS_LAST: tl.constexpr):
    """[channel, pixel] in float32, 0 outside; the stride of the inner axis is 1."""
    if CHANNELS_LAST:
        offsets = pixel[None, :] * outer_stride + channel[:, None]
    else:
        offsets = channel[:, None] * outer_stride + pixel[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _plus_plus(g, total):
    """relu(g) alpha of Grad-CAM++, ``total`` the sum of the activation over space."""
    square = g * g
    alpha = tl.where(g != 0, square / (2 * square + total[:, None] * square * g + 1e-6), 0.0)
    return relu(g) * alpha


@triton.jit
def weighted_sum(
    a_ptr,
    g_ptr,
    partial_ptr,  # (N, C, P); (N, K, C) or (N, K, C, P); (N, K, splits, P)
    K,
    C,
    P,
    a_stride_n,
    a_stride,
    g_stride_n,
    g_stride_k,
    g_stride,
    split_size,
    scale,
    METHOD: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """The sum over a range of channels; one program for each map, range and block of pixels."""
    if ALIGNED:
        a_stride = whole_16(a_stride)
        g_stride = whole_16(g_stride)
        a_stride_n = whole_16(a_stride_n)
        g_stride_n = whole_16(g_stride_n)
        g_stride_k = whole_16(g_stride_k)
        if CHANNELS_LAST:
            C = whole_16(C)
        else:
            P = whole_16(P)
    row = tl.program_id(0)
    split = tl.program_id(1)
    n, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    a_ptr += n * a_stride_n
    g_ptr += n * g_stride_n + k * g_stride_k
    pixel = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    first = split * split_size
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for start in range(first, tl.minimum(first + split_size, C), BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = (channel < C)[:, None] & (pixel < P)[None, :]
        a = _tile(a_ptr, channel, pixel, mask, a_stride, CHANNELS_LAST)
        if METHOD == "weights":
            w = tl.load(g_ptr + channel, mask=channel < C, other=0.0).to(tl.float32) * scale
            total += w[:, None] * a
        else:
            g = _tile(g_ptr, channel, pixel, mask, g_stride, CHANNELS_LAST) * scale
            if METHOD == "gradcam":
                total += (tl.sum(g, 1) / P)[:, None] * a
            elif METHOD == "gradcam_plus_plus":
                total += tl.sum(_plus_plus(g, tl.sum(a, 1)), 1)[:, None] * a
            elif METHOD == "xgradcam":
                total += (tl.sum(g * a, 1) / (tl.sum(a, 1) + 1e-7))[:, None] * a
            elif METHOD == "hirescam":
                total += g * a
            elif METHOD == "elementwise_gradcam":
                total += relu(g * a)
            else:
                tl.static_assert(METHOD == "layercam")
                total += relu(g) * a
    at = (row.to(tl.int64) * tl.num_programs(1) + split) * P + pixel
    tl.store(partial_ptr + at, tl.sum(total, 0), mask=pixel < P)


@triton.jit
def finish_maps(
    partial_ptr,
    raw_ptr,
    range_ptr,  # (N, K, splits, P), (N, K, P), (N, K, 2)
    splits,
    P,
    scale,
    RELU: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Adds the ranges of channels up, in their order; one program for each map."""
    row = tl.program_id(0).to(tl.int64)
    low, high = float("inf"), float("-inf")
    for start in range(0, P, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        mask = pixel < P
        total = tl.zeros([BLOCK_P], tl.float32)
        for split in range(splits):
            total += tl.load(partial_ptr + (row * splits + split) * P + pixel, mask=mask, other=0.0).to(tl.float32)
        total *= scale
        least, most = extremes(total, mask)
        low, high = wider(low, high, least, most)
        if RELU:
            total = relu(total)
        tl.store(raw_ptr + row * P + pixel, total, mask=mask)
    tl.store(range_ptr + row * 2, low)
    tl.store(range_ptr + row * 2 + 1, high)


@triton.jit
def channel_weights(
    a_ptr,
    g_ptr,
    weight_ptr,  # (N, C, P), (N, K, C, P), (N, K, C)
    K,
    C,
    P,
    a_stride_n,
    a_stride,
    g_stride_n,
    g_stride_k,
    g_stride,
    scale,
    METHOD: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One weight per channel from maps too large for one tile; one program for each map and block of channels."""
    if ALIGNED:
        a_stride = whole_16(a_stride)
        g_stride = whole_16(g_stride)
        a_stride_n = whole_16(a_stride_n)
        g_stride_n = whole_16(g_stride_n)
        g_stride_k = whole_16(g_stride_k)
        if CHANNELS_LAST:
            C = whole_16(C)
        else:
            P = whole_16(P)
    row = tl.program_id(0)
    n, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    a_ptr += n * a_stride_n
    g_ptr += n * g_stride_n + k * g_stride_k
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    sum_a = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    if METHOD != "gradcam":
        for start in range(0, P, BLOCK_P):
            pixel = start + tl.arange(0, BLOCK_P)
            mask = (channel < C)[:, None] & (pixel < P)[None, :]
            sum_a += _tile(a_ptr, channel, pixel, mask, a_stride, CHANNELS_LAST)
    total_a = tl.sum(sum_a, 1)
    sum_w = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for start in range(0, P, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        mask = (channel < C)[:, None] & (pixel < P)[None, :]
        g = _tile(g_ptr, channel, pixel, mask, g_stride, CHANNELS_LAST) * scale
        if METHOD == "gradcam":
            sum_w += g
        elif METHOD == "gradcam_plus_plus":
            sum_w += _plus_plus(g, total_a)
        else:
            tl.static_assert(METHOD == "xgradcam")
            sum_w += g * _tile(a_ptr, channel, pixel, mask, a_stride, CHANNELS_LAST)
    w = tl.sum(sum_w, 1)
    if METHOD == "gradcam":
        w = w / P
    elif METHOD == "xgradcam":
        w = w / (total_a + 1e-7)
    tl.store(weight_ptr + row.to(tl.int64) * C + channel, w, mask=channel < C)
