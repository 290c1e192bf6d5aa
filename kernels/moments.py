"""Means, variances and extremes: of each row (what the metrics need, and the flags of a map), and over samples that
arrive batch by batch (SmoothGrad, Smilkov et al. 2017, arXiv 1706.03825).

Groups are merged as in Chan, Golub and LeVeque 1979, samples added as in Welford 1962: neither subtracts two large
sums, as the mean of the squares minus the square of the mean does. Twins: ``row_statistics`` and ``sample_moments`` in
:mod:`portable_cam.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from portable_cam.errors import InputError, OptionError
from portable_cam.kernels.array import FLOATS, Array, check
from portable_cam.kernels.launch import Device, Variant, cdiv, run

_BLOCK = 1024
_TILES = 64  # a row of more than 64 blocks is cut into 64 tiles


def row_statistics(device: Device, rows: Array, *, correction: int = 0) -> Array:
    """Mean, variance, least and greatest of each row.

    Args:
        device: Where the arrays are.
        rows: float32, float16 or bfloat16 (R, L), the elements of a row one after another.
        correction: Subtracted from L in the variance: 1 for that of a sample.

    Returns:
        float32 (R, 4); none of a row's four numbers is finite if one of its elements is NaN, and neither mean nor
        variance if one is infinite. Moved: the rows' bytes.

    Raises:
        InputError: The array does not fit.
        OptionError: ``correction`` is not 0 or 1.
    """
    check("the rows", rows, (None, None), FLOATS, contiguous=False)
    r, length = rows.shape
    if length > 1 and rows.strides[1] != 1:
        raise InputError(f"the elements of a row must lie one after another: the strides are {rows.strides}")
    if correction not in {0, 1}:
        raise OptionError(f"correction is 0 or 1, not {correction}")
    stride = rows.strides[0]
    blocks = cdiv(length, _BLOCK)
    steps = cdiv(blocks, _TILES)
    tiles = cdiv(blocks, steps)
    partial, out = device.empty((r, tiles, 5)), device.empty((r, 4))
    run(
        device,
        "moments.row_statistics",
        (r, tiles),
        [rows, partial, length, stride, steps],
        {"ALIGNED": stride % 16 == length % 16 == 0, "BLOCK": _BLOCK},
    )
    run(device, "moments.merge_tiles", (r,), [partial, out, tiles, float(correction)], {}, warps=1)
    return out


class SampleMoments:
    """The mean and variance over samples, element by element, added batch by batch.

    Args:
        device: Where the arrays are.
        size: Elements of a sample.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.seen = 0
        self._device, self._size = device, size
        self.mean, self._m2 = device.empty((size,)), device.empty((size,))

    def add(self, samples: Array) -> None:
        """Add float32, float16 or bfloat16 (S, size). Moved: their bytes and 16 for each element of a sample."""
        self._update(samples, samples.shape[0], 1.0)

    def variance(self, *, correction: int = 0) -> Array:
        """float32 (size,); the mean is ``mean``. No sample can be added afterwards.

        Raises:
            InputError: There are not more samples than ``correction``.
        """
        if self.seen <= correction:
            raise InputError(f"the variance of {self.seen} samples with correction {correction} is not defined")
        self._update(self.mean, 0, float(self.seen - correction))
        return self._m2

    def _update(self, samples: Array, count: int, divisor: float) -> None:
        if count:
            check("the samples", samples, (None, self._size), FLOATS, contiguous=False)
            if self._size > 1 and samples.strides[1] != 1:
                raise InputError(f"the elements of a sample must lie one after another: strides {samples.strides}")
        stride = samples.strides[0]
        run(
            self._device,
            "moments.update_moments",
            (cdiv(self._size, _BLOCK),),
            [samples, self.mean, self._m2, count, self._size, stride, float(self.seen), divisor],
            {"FIRST": self.seen == 0, "ALIGNED": stride % 16 == self._size % 16 == 0, "BLOCK": _BLOCK},
        )
        self.seen += count


def variants() -> Iterator[Variant]:
    """The variants that explanations need: statistics of rows."""
    yield Variant("moments.merge_tiles", ("*fp32", "*fp32", "i32", "fp32"), (), 1)
    for pointer, aligned in product(("*fp32", "*fp16"), (False, True)):
        row = (("ALIGNED", aligned), ("BLOCK", _BLOCK))
        yield Variant("moments.row_statistics", (pointer, "*fp32", "i32", "i32", "i32"), row)
