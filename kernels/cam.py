"""Channel weights, weighted sum and ReLU: from activation and gradient to the low-resolution map.

N images, K targets, C channels, P = h w pixels. Twin: :mod:`portable_cam.kernels.reference`.

=========================  ======================================  ==================================================
method                     map before the ReLU                     source
=========================  ======================================  ==================================================
``weights``                sum_c w_c A_c, w given                  Zhou et al. 2016, arXiv 1512.04150; Grad-CAM where
                                                                   the gradient is the same everywhere
``gradcam``                sum_c mean(g_c) A_c                     Selvaraju et al. 2017, arXiv 1610.02391
``gradcam_plus_plus``      w_c = sum(relu(g_c) alpha_c), alpha_c   Chattopadhay et al. 2018, arXiv 1710.11063
                           = g^2 / (2 g^2 + sum(A_c) g^3 + 1e-6)
``xgradcam``               w_c = sum(g_c A_c) / (sum(A_c) + 1e-7)  Fu et al. 2020, arXiv 2008.02312
``hirescam``               sum_c g_c A_c                           Draelos and Carin 2020, arXiv 2011.08891
``elementwise_gradcam``    sum_c relu(g_c A_c)                     pytorch-grad-cam
``layercam``               sum_c relu(g_c) A_c                     Jiang et al. 2021, IEEE TIP 30
=========================  ======================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from portable_cam.errors import InputError, OptionError
from portable_cam.kernels.array import FLOATS, Array, check
from portable_cam.kernels.launch import Constant, Device, Variant, cdiv, run

METHODS = ("weights", "gradcam", "gradcam_plus_plus", "xgradcam", "hirescam", "elementwise_gradcam", "layercam")
#: Methods whose weight of a channel needs all of its pixels.
MEANS = frozenset({"gradcam", "gradcam_plus_plus", "xgradcam"})
_TILE = 2048  # elements a program holds at once: 16 for each of 128 threads
_BLOCK_P = (64, 256)
_PROGRAMS = 512  # about four for each of a large GPU's 132 multiprocessors; a constant, so that sums add up alike
_FINISH = 256


def weighted_sum(
    device: Device,
    activation: Array,
    gradient: Array,
    *,
    method: str = "gradcam",
    scale: float = 1.0,
    relu: bool = True,
    channels_last: bool = False,
) -> tuple[Array, Array]:
    """The map of each image and target, in one pass over activation and gradient.

    Maps of more than 256 pixels take two passes over the gradient where a channel's weight needs all of its pixels.

    Args:
        device: Where the arrays are.
        activation: float32, float16 or bfloat16 (N, C, h, w), or (N, h, w, C) with ``channels_last``; pixels (or, if
            last, channels) lie one after another, other axes may have any stride.
        gradient: Of the same types, (N, K, C, h, w) or (N, K, h, w, C); for the method ``weights`` (N, K, C).
        method: One of :data:`METHODS`.
        scale: Multiplies the gradient or the weights: -1 for counterfactual maps, 1 / s where the seed was s.
        relu: Whether negative values of the map become 0.
        channels_last: The layout of both.

    Returns:
        The maps, float32 (N, K, h, w), and their ranges before the ReLU, float32 (N, K, 2), NaN if the map holds one.
        Moved: the bytes of activation (once for each of the K targets) and gradient, and 4 h w a map.

    Raises:
        InputError: The arrays do not fit.
        OptionError: The method does not exist.
    """
    if method not in METHODS:
        raise OptionError(f"method '{method}' has no kernel; those that have are {', '.join(METHODS)}")
    n, k, c, h, w = _sizes(activation, gradient, method, channels_last)
    a_strides = _strides(activation, channels_last)
    # the stride of the weights' only inner axis is 1, and not used
    g_strides = (*gradient.strides[:2], 0) if method == "weights" else _strides(gradient, channels_last)
    pixels = h * w
    block_p = next((b for b in _BLOCK_P if b >= pixels), _BLOCK_P[-1])
    block_c = _TILE // block_p
    inner = c if channels_last else pixels
    sizes: list[int] = [k, c, pixels, *a_strides, *g_strides]
    layout: dict[str, Constant] = {"CHANNELS_LAST": channels_last, "ALIGNED": _aligned(inner, *a_strides, *g_strides)}
    if method in MEANS and pixels > block_p:
        weights = device.empty((n, k, c))
        constants: dict[str, Constant] = {"METHOD": method, **layout, "BLOCK_C": block_c, "BLOCK_P": block_p}
        run(
            device,
            "cam.channel_weights",
            (n * k, cdiv(c, block_c)),
            [activation, gradient, weights, *sizes, float(scale)],
            constants,
        )
        method, gradient, scale = "weights", weights, 1.0
        sizes[5:] = [k * c, c, 0]
        layout["ALIGNED"] = _aligned(inner, *sizes[3:])
    tiles = cdiv(pixels, block_p)
    splits = max(1, min(cdiv(_PROGRAMS, n * k * tiles), cdiv(c, 2 * block_c)))
    split_size = cdiv(cdiv(c, splits), block_c) * block_c
    splits = cdiv(c, split_size)
    partial = device.empty((n, k, splits, pixels))
    constants = {"METHOD": method, **layout, "BLOCK_C": block_c, "BLOCK_P": block_p}
    run(
        device,
        "cam.weighted_sum",
        (n * k, splits, tiles),
        [activation, gradient, partial, *sizes, split_size, float(scale)],
        constants,
    )
    return _finish(device, partial, (n, k, h, w), splits, 1.0, relu)


def finish(device: Device, maps: Array, *, scale: float = 1.0, relu: bool = True) -> tuple[Array, Array]:
    """Ready sums (N, K, h, w) times ``scale``: the maps after the ReLU and their ranges before it, as
    :func:`weighted_sum` returns them. For CAM of a network that has one channel per class."""
    check("maps", maps, (None,) * 4, FLOATS)
    n, k, h, w = maps.shape
    return _finish(device, maps, (n, k, h, w), 1, scale, relu)


def _finish(
    device: Device, partial: Array, shape: tuple[int, int, int, int], splits: int, scale: float, relu: bool
) -> tuple[Array, Array]:
    n, k, h, w = shape
    raw, ranges = device.empty(shape), device.empty((n, k, 2))
    run(
        device,
        "cam.finish_maps",
        (n * k,),
        [partial, raw, ranges, splits, h * w, float(scale)],
        {"RELU": relu, "BLOCK_P": _FINISH},
    )
    return raw, ranges


def _sizes(activation: Array, gradient: Array, method: str, channels_last: bool) -> tuple[int, int, int, int, int]:
    check("the activation", activation, (None,) * 4, FLOATS, contiguous=False)
    n, *rest = activation.shape
    h, w, c = rest if channels_last else (rest[1], rest[2], rest[0])
    if method == "weights":
        check("the weights", gradient, (n, None, c), FLOATS, contiguous=False)
        if c > 1 and gradient.strides[2] != 1:
            raise InputError(f"the weights of a map must lie one after another: their strides are {gradient.strides}")
    else:
        check("the gradient", gradient, (n, None, *rest), FLOATS, contiguous=False)
    return n, gradient.shape[1], c, h, w


def _strides(array: Array, channels_last: bool) -> tuple[int, ...]:
    """Of the axes before channel and space, and of the outer of channel and pixel; rows must make one pixel axis."""
    lead, sizes, steps = array.strides[:-3], array.shape[-3:], array.strides[-3:]
    if channels_last:
        (h, w, c), (step_h, step_w, step_c) = sizes, steps
        fits = (h == 1 or w == 1 or step_h == w * step_w) and (c == 1 or step_c == 1)
        outer = step_w if w > 1 else step_h
    else:
        (_, h, w), (outer, step_h, step_w) = sizes, steps
        fits = (w == 1 or step_w == 1) and (h == 1 or step_h == w)
    if not fits:
        kind = "channels of a pixel" if channels_last else "pixels of a channel"
        raise InputError(
            f"the {kind} must lie one after another: shape {array.shape}, strides {array.strides}; copy it first"
        )
    return (*lead, outer)


def _aligned(*sizes: int) -> bool:
    return all(size % 16 == 0 for size in sizes)


def variants() -> Iterator[Variant]:
    """What explanation graphs need, channels first: every method, on activations of both types. Gradients are float32,
    since a gradient that went through halves has its loss scale undone in float32."""
    for pointer, aligned, block_p in product(("*fp32", "*fp16"), (False, True), _BLOCK_P):
        layout: dict[str, Constant] = {"CHANNELS_LAST": False, "ALIGNED": aligned}
        blocks: dict[str, Constant] = {"BLOCK_C": _TILE // block_p, "BLOCK_P": block_p}
        for method in METHODS:
            constants = tuple({"METHOD": method, **layout, **blocks}.items())
            yield Variant("cam.weighted_sum", (pointer, "*fp32", "*fp32", *["i32"] * 9, "fp32"), constants)
            if method in MEANS and block_p == _BLOCK_P[-1]:
                yield Variant("cam.channel_weights", (pointer, "*fp32", "*fp32", *["i32"] * 8, "fp32"), constants)
    for pointer, relu in product(("*fp32", "*fp16"), (False, True)):
        types = (pointer, "*fp32", "*fp32", "i32", "i32", "fp32")
        yield Variant("cam.finish_maps", types, (("RELU", relu), ("BLOCK_P", _FINISH)))
