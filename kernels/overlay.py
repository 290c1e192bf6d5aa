"""Overlays made where the maps are, so that only finished overlays cross to the host. Twin:
:func:`portable_cam.kernels.reference.overlay`."""

from __future__ import annotations

from collections.abc import Iterator

from portable_cam.kernels.array import Array, check
from portable_cam.kernels.launch import Device, Variant, cdiv, run

_BLOCK = 1024


def overlay(device: Device, maps: Array, palette: Array, opacities: Array, photos: Array, *, gray: bool) -> Array:
    """``(1 - a) photo + a colour``, rounded to the nearest, halves to the even number; ``a`` by the map's value.

    Args:
        device: Where the arrays are.
        maps: float32 (N, K, H, W), 0 to 1; values outside are clipped.
        palette: uint8 (257, 3), RGB: the colours of 0, 1/255, ... 1, and that of NaN.
        opacities: float32 (257,): how opaque each of them is, 0 to 1.
        photos: uint8 (N, H, W, 3), RGB.
        gray: Whether the photo's ITU-R 601 luma is taken for it.

    Returns:
        uint8 (N, K, H, W, 3). Moved: 10 H W bytes a map, where the photo is read again for each target.

    Raises:
        InputError: The arrays do not fit.
    """
    check("the maps", maps, (None,) * 4, ("float32",))
    n, k, h, w = maps.shape
    check("the palette", palette, (257, 3), ("uint8",))
    check("the opacities", opacities, (257,), ("float32",))
    check("the photos", photos, (n, h, w, 3), ("uint8",))
    out = device.empty((n, k, h, w, 3), "uint8")
    run(
        device,
        "overlay.overlay",
        (cdiv(h * w * 3, _BLOCK), n * k),
        [maps, palette, opacities, photos, out, k, h * w],
        {"ALIGNED": h * w * 3 % 16 == 0, "GRAY": gray, "BLOCK": _BLOCK},
        fp_fusion=False,  # one rounding less, and halves go to the other side
    )
    return out


def variants() -> Iterator[Variant]:
    """Every variant."""
    types = ("*fp32", "*u8", "*fp32", "*u8", "*u8", "i32", "i32")
    for aligned in (False, True):
        for gray in (False, True):
            constants = (("ALIGNED", aligned), ("GRAY", gray), ("BLOCK", _BLOCK))
            yield Variant("overlay.overlay", types, constants, fp_fusion=False)
