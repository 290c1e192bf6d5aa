"""The guided product: the input gradient times the upsampled map, which is computed where it is used and not written.

Selvaraju et al. 2017, arXiv 1610.02391, section 3.2. Twin: :func:`portable_cam.kernels.reference.guided_product`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from portable_cam.kernels.array import FLOATS, Array, check
from portable_cam.kernels.launch import Constant, Device, Variant, run
from portable_cam.kernels.upsample import BLOCK, TILES, Normalisation, Upsampling, find_range, tiles_in, tiles_of


def guided_product(
    device: Device,
    gradient: Array,
    of: Upsampling,
    norm: Normalisation = "none",
    *,
    ranges: Array | None = None,
    scale: float = 1.0,
    channels_last: bool = False,
) -> Array:
    """The product, float32, of the gradient's shape.

    Args:
        device: Where the arrays are.
        gradient: float32, float16 or bfloat16 (N, K, C, H, W), or (N, K, H, W, C) with ``channels_last``.
        of: The map, to be upsampled to (H, W).
        norm: How the upsampled map is normalised before it multiplies.
        ranges: What :func:`~portable_cam.kernels.upsample.find_range` gave; None to find it here if needed.
        scale: Multiplies the result: 1 / s where the seed of the gradient was s.
        channels_last: The layout of the gradient.

    Returns:
        float32, of the gradient's shape. Moved: the gradient's bytes, and 4 C H W written.

    Raises:
        InputError: The arrays do not fit.
    """
    of.check()
    n, k = of.maps.shape[:2]
    H, W = of.size
    check("the gradient", gradient, (n, k, H, W, None) if channels_last else (n, k, None, H, W), FLOATS)
    channels = gradient.shape[4 if channels_last else 2]
    columns = W * channels if channels_last else W
    if norm != "none" and ranges is None:
        ranges = find_range(device, of)
    out = device.empty(gradient.shape)
    constants: dict[str, Constant] = {
        "NORM": norm,
        "NEAREST": of.nearest,
        **of.constants,
        "CHANNELS_LAST": channels_last,
        "ALIGNED": columns % 16 == 0,
        "TILES": TILES,
        "BLOCK": BLOCK,
    }
    run(
        device,
        "guided.guided_product",
        (tiles_in(H, columns), n * k),
        [
            gradient,
            of.maps,
            of.scale_by or out,
            ranges or out,
            out,
            channels,
            *of.sizes,
            tiles_of(ranges),
            float(scale),
        ],
        constants,
    )
    return out


def variants() -> Iterator[Variant]:
    """The variants that the profiles need: plain, nearest, and pytorch-grad-cam's normalised map."""
    kinds = (
        ("none", False, False),
        ("none", True, False),
        ("pytorch_grad_cam", False, True),
        ("pytorch_grad_cam", False, False),
    )
    for pointer, (norm, nearest, scaled), last, aligned in product(
        ("*fp32", "*fp16"), kinds, (False, True), (False, True)
    ):
        constants: dict[str, Constant] = {
            "NORM": norm,
            "NEAREST": nearest,
            "SCALED": scaled,
            "RELU": scaled,
            "CHANNELS_LAST": last,
            "ALIGNED": aligned,
            "TILES": TILES,
            "BLOCK": BLOCK,
        }
        types = (pointer, *["*fp32"] * 4, *["i32"] * 6, "fp32")
        yield Variant("guided.guided_product", types, tuple(constants.items()))
