"""Upsampling to the image's size and normalisation: two passes that both compute the upsampled map, one to find its
range and one to write it, so that the map is written once and never read.

M = N K maps. Half-pixel centres, as cv2's INTER_LINEAR and torch with ``align_corners=False``. Twin:
:mod:`portable_cam.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

from portable_cam.errors import InputError
from portable_cam.kernels.array import Array, check
from portable_cam.kernels.launch import Constant, Device, Variant, cdiv, run

#: ``minmax``: (x - min) / (max - min), a flat map becomes 0. ``pytorch_grad_cam``: (x - min) / (1e-7 + max - min).
Normalisation: TypeAlias = Literal["none", "minmax", "pytorch_grad_cam"]
BLOCK = 32  # rows and columns of a tile: 1024 pixels, and whole 128-byte lines of float32
TILES = 64  # at most: each program of the second pass reads that many ranges
_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Upsampling:
    """How a map (N, K, h, w) becomes one of the image's size: what the kernels need to compute any of its pixels.

    Attributes:
        maps: float32 (N, K, h, w).
        size: (H, W).
        scale_by: float32 (N, K, 2): the maps' ranges, if they are first scaled as pytorch-grad-cam does.
        relu: Whether those ranges are of the maps before a ReLU.
        nearest: The nearest pixel (floor(x w / W), as torch's) instead of bilinear; cannot be normalised.
    """

    maps: Array
    size: tuple[int, int]
    scale_by: Array | None = None
    relu: bool = True
    nearest: bool = False

    def check(self) -> None:
        """Refuse what the kernels would misread: :class:`~portable_cam.errors.InputError`."""
        check("the maps", self.maps, (None,) * 4, ("float32",))
        if self.scale_by is not None:
            check("the ranges", self.scale_by, (*self.maps.shape[:2], 2), ("float32",))
        (h, w), (H, W) = self.maps.shape[2:], self.size
        if min(H, W) < 1 or 2 * (H + BLOCK) * h > _LIMIT or 2 * (W + BLOCK) * w > _LIMIT or H * W > _LIMIT // 4:
            raise InputError(f"maps of {h} x {w} cannot be resized to {H} x {W}")

    @property
    def constants(self) -> dict[str, Constant]:
        """The compile-time constants of every kernel that samples the map."""
        return {"SCALED": self.scale_by is not None, "RELU": self.relu and self.scale_by is not None}

    @property
    def sizes(self) -> list[int]:
        """h, w, H, W."""
        return [*self.maps.shape[2:], *self.size]


def find_range(device: Device, of: Upsampling) -> Array:
    """The range of each upsampled map, tile by tile: float32 (N, K, tiles, 2), NaN where a tile holds one.

    A bilinear map has its extremes at the ends of its cells: 256 pixels instead of 50,176 from 7 x 7 to 224 x 224.

    Moved: 4 h w bytes a map.
    """
    of.check()
    n, k = of.maps.shape[:2]
    rows, columns = (min(2 * size + 2, length) for size, length in zip(of.maps.shape[2:], of.size, strict=True))
    blocks = tiles_in(rows, columns)
    steps = cdiv(blocks, TILES)
    tiles = cdiv(blocks, steps)
    partial = device.empty((n, k, tiles, 2))
    run(
        device,
        "upsample.upsampled_range",
        (tiles, n * k),
        [of.maps, of.scale_by or partial, partial, *of.sizes, rows, columns, steps],
        {**of.constants, "BLOCK": BLOCK},
    )
    return partial


def upsample(
    device: Device,
    of: Upsampling,
    norm: Normalisation = "minmax",
    *,
    ranges: Array | None = None,
    factor: float = 1.0,
    add_to: Array | None = None,
) -> tuple[Array, Array]:
    """The upsampled, normalised map.

    Args:
        device: Where the arrays are.
        of: What is upsampled, and to which size.
        norm: How it is normalised.
        ranges: What :func:`find_range` gave; None to find it here. Not used by ``none``.
        factor: Multiplies the result.
        add_to: float32 (N, K, H, W) to add the result to, in place: the mean over layers.

    Returns:
        The map, float32 (N, K, H, W), and the range of the normalised map, float32 (N, K, 2) (undefined for ``none``).
        Moved: 4 H W bytes a map, twice that and once more read for ``add_to``.

    Raises:
        InputError: The arrays do not fit, or the map is too large.
    """
    of.check()
    if of.nearest and norm != "none":
        raise InputError("a map resized to the nearest pixel has its own range: normalise it before")
    n, k = of.maps.shape[:2]
    H, W = of.size
    if norm != "none" and ranges is None:
        ranges = find_range(device, of)
    out = add_to or device.empty((n, k, H, W))
    check("the sum", out, (n, k, H, W), ("float32",))
    extent = device.empty((n, k, 2))
    constants: dict[str, Constant] = {
        "NORM": norm,
        "NEAREST": of.nearest,
        **of.constants,
        "ADD": add_to is not None,
        "ALIGNED": W % 16 == 0,
        "TILES": TILES,
        "BLOCK": BLOCK,
    }
    run(
        device,
        "upsample.upsample",
        (tiles_in(H, W), n * k),
        [of.maps, of.scale_by or extent, ranges or extent, out, extent, *of.sizes, tiles_of(ranges), float(factor)],
        constants,
    )
    return out, extent


def tiles_in(rows: int, columns: int) -> int:
    """How many tiles cover a map."""
    return cdiv(rows, BLOCK) * cdiv(columns, BLOCK)


def tiles_of(ranges: Array | None) -> int:
    """How many tiles the ranges are of."""
    return 0 if ranges is None else ranges.shape[2]


def variants() -> Iterator[Variant]:
    """The variants that the profiles need."""
    pointers = ("*fp32",) * 5
    for scaled, relu in ((False, False), (True, True)):
        of: dict[str, Constant] = {"SCALED": scaled, "RELU": relu}
        yield Variant("upsample.upsampled_range", (*pointers[:3], *["i32"] * 7), tuple({**of, "BLOCK": BLOCK}.items()))
        norms: tuple[tuple[str, bool], ...] = (("minmax", False), ("pytorch_grad_cam", False), ("none", False))
        for (norm, nearest), add, aligned in product(norms, (False, True), (False, True)):
            if (norm == "minmax" and scaled) or (norm == "none" and not scaled):
                continue
            constants: dict[str, Constant] = {
                "NORM": norm,
                "NEAREST": nearest,
                **of,
                "ADD": add,
                "ALIGNED": aligned,
                "TILES": TILES,
                "BLOCK": BLOCK,
            }
            yield Variant("upsample.upsample", (*pointers, *["i32"] * 5, "fp32"), tuple(constants.items()))
