"""Overlays made where the maps are, so that only finished overlays cross to the host. Twin:
:func:`portable_cam.kernels.reference.overlay`."""

from __future__ import annotations

from collections.abc import Iterator

from portable_cam.errors import OptionError
from portable_cam.kernels.array import Array, check
from portable_cam.kernels.launch import Device, Variant, cdiv, run

_BLOCK = 1024


def overlay(device: Device, maps: Array, palette: Array, photos: Array, alpha: float = 0.5) -> Array:
    """``(1 - alpha) photo + alpha colour``, rounded to the nearest, halves to the even number.

    Args:
        device: Where the arrays are.
        maps: float32 (N, K, H, W), 0 to 1; values outside are clipped.
        palette: uint8 (257, 3), RGB: the colours of 0, 1/255, ... 1, and that of NaN.
        photos: uint8 (N, H, W, 3), RGB.
        alpha: How opaque the map is, 0 to 1.

    Returns:
        uint8 (N, K, H, W, 3). Moved: 10 H W bytes a map, where the photo is read again for each target.

    Raises:
        InputError: The arrays do not fit.
        OptionError: ``alpha`` is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha {alpha} is not between 0 and 1")
    check("the maps", maps, (None,) * 4, ("float32",))
    n, k, h, w = maps.shape
    check("the palette", palette, (257, 3), ("uint8",))
    check("the photos", photos, (n, h, w, 3), ("uint8",))
    out = device.empty((n, k, h, w, 3), "uint8")
    run(
        device,
        "overlay.overlay",
        (cdiv(h * w * 3, _BLOCK), n * k),
        [maps, palette, photos, out, k, h * w, float(alpha)],
        {"ALIGNED": h * w * 3 % 16 == 0, "BLOCK": _BLOCK},
        fp_fusion=False,  # one rounding less, and halves go to the other side
    )
    return out


def variants() -> Iterator[Variant]:
    """Both variants."""
    for aligned in (False, True):
        types = ("*fp32", "*u8", "*u8", "*u8", "i32", "i32", "fp32")
        yield Variant("overlay.overlay", types, (("ALIGNED", aligned), ("BLOCK", _BLOCK)), fp_fusion=False)
