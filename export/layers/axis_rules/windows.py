"""Rules for operators that read windows of positions: convolution, pooling, resizing, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.layers.axes import (
    BATCH,
    Axis,
    Digit,
    Known,
    Part,
    Source,
    axis_of,
    channels,
    free,
    holds,
    lost,
    position,
    why_lost,
)
from portable_cam.export.layers.axis_rules import views
from portable_cam.export.layers.axis_rules.at import At, Lost, rule, spatial_of
from portable_cam.export.layers.frames import rolled
from portable_cam.export.layers.relation import Size


@dataclass(frozen=True)
class Window:
    """Entry j of an output reads the entries of its input around ``step`` j + ``offset``, ``extra`` more than one.
    ``count``: how many entries, None where the graph's own inference is left to say it."""

    step: float
    offset: float
    extra: float
    count: int | None = None


def through(at: At, axis: Axis, window: Window | None, size: Size) -> Axis:
    """The axis that a window makes of one of positions; channels where it has none."""
    if window is not None and (window.step, window.offset, window.extra) == (1, 0, 0):
        return axis
    if size is None or isinstance(size, str):
        size = size if window is None or window.count is None else window.count
    found = position(axis) or rolled(axis)
    if found is not None and window is not None:
        relation = found.relation.through(window.step, window.offset, window.extra)
        return axis_of(Source("position", size, found.spatial, relation))
    if (why := why_lost(axis)) is not None:
        return lost(size, why)
    if holds(axis, "position", *BATCH):
        return at.lost(size, "" if window is None else "a window over more than one axis of the image")
    return channels(size)


def _attribute(at: At, name: str, rank: int, default: int) -> list[int]:
    return at.ints_attr(name) or [default] * rank


def _kernel(at: At, weight: int | None) -> list[int] | None:
    """The sizes of the kernel, those of the weights where the attribute is not given."""
    kernel = at.ints_attr("kernel_shape")
    if kernel or weight is None or weight >= len(at.node.inputs):
        return kernel or None
    value = at.node.inputs[weight]
    dims = known_dims(value) if value is not None else None
    return None if dims is None or None in dims[2:] else [d for d in dims[2:] if d is not None]


def _windows(at: At, kernel: Sequence[int] | None) -> list[Window | None]:
    """One for each spatial axis of a convolution or pooling."""
    if len(at.first) < 3:
        raise Lost("its input has no axes for its windows")
    dims = at.dims(0)[2:]
    if kernel is None:
        return [None] * len(dims)
    rank = len(dims)
    strides, dilations = _attribute(at, "strides", rank, 1), _attribute(at, "dilations", rank, 1)
    pads, auto = at.ints_attr("pads") or [0] * 2 * rank, at.str_attr("auto_pad", "NOTSET")
    found: list[Window | None] = []
    for i, size in enumerate(dims):
        reach, stride, begin, more = (kernel[i] - 1) * dilations[i], strides[i], float(pads[i]), 0.0
        if auto == "VALID":
            begin = 0
        elif auto in {"SAME_UPPER", "SAME_LOWER"}:
            if isinstance(size, int):
                total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
                begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            else:  # between the padding of a size that the stride divides, and of one that it does not
                low, high = max(reach + 1 - stride, 0), reach
                begin = (low + high) / 4 if stride > 1 else (reach // 2 if auto == "SAME_UPPER" else reach - reach // 2)
                more = (high - low) / 2 + 1 if stride > 1 else 0
        count = None
        if isinstance(size, int) and auto in {"NOTSET", "VALID"} and not at.int_attr("ceil_mode", 0):
            total = 0 if auto == "VALID" else pads[i] + pads[i + rank]
            count = (size + total - reach - 1) // stride + 1
        found.append(Window(stride, reach / 2 - begin, reach + more, count))
    return found


def _slid(at: At, windows: Sequence[Window | None], channel: Axis, wide: frozenset[int] = frozenset()) -> Known:
    """The output of an operator with windows over all axes behind the channels."""
    axes = at.first
    out = at.out() or [None] * len(axes)
    spatial = [through(at, a, w, s) for a, w, s in zip(axes[2:], windows, out[2:], strict=True)]
    return Known((axes[0], channel, *spatial), at.wide | wide)


@rule("Conv", "ConvInteger", "DeformConv")
def conv(at: At) -> Known:
    """step s, offset (k - 1) d / 2 - p, span + (k - 1) d; new channels, but the same ones where each is convolved on
    its own. A deformable one looks anywhere."""
    axes = at.first
    out, group = at.out() or [None] * len(axes), at.int_attr("group", 1)
    channel = axes[1] if group != 1 and group == at.dims(0)[1] == out[1] else channels(out[1])
    if holds(axes[1], "unknown", *BATCH):
        channel = at.lost(out[1], "its channels are not channels")
    everywhere = spatial_of(axes[1])
    if at.node.op_type == "DeformConv":
        everywhere |= frozenset().union(*(spatial_of(axis) for axis in axes[2:]))
    return _slid(at, _windows(at, _kernel(at, 1)), channel, everywhere)


@rule("MaxPool", "AveragePool", "LpPool")
def pool(at: At) -> list[Known]:
    """As Conv, with the channels as they are."""
    windows = _windows(at, _kernel(at, None))
    return [_slid(at, windows, at.first[1])] * len(at.node.outputs)


@rule("ConvTranspose", "MaxUnpool")
def conv_transpose(at: At) -> Known:
    """step 1 / s, offset (p - (k - 1) d / 2) / s, span + (k - 1) d / s."""
    axes = at.axes(0)
    kernel = _kernel(at, 1 if at.node.op_type == "ConvTranspose" else None)
    if axes is None or kernel is None:
        return at.all_lost()
    rank, dims, out = len(axes) - 2, at.dims(0), at.out() or [None] * len(axes)
    strides, dilations = _attribute(at, "strides", rank, 1), _attribute(at, "dilations", rank, 1)
    pads, auto = at.ints_attr("pads") or [0] * 2 * rank, at.str_attr("auto_pad", "NOTSET")
    more, given = _attribute(at, "output_padding", rank, 0), at.ints_attr("output_shape")
    windows: list[Window | None] = []
    for i in range(rank):
        reach, stride, size, begin = (kernel[i] - 1) * dilations[i], strides[i], dims[i + 2], float(pads[i])
        if auto.startswith("SAME") or given:
            wanted = given[i] if given else size * stride if isinstance(size, int) else None
            if not isinstance(size, int) or wanted is None:
                windows.append(None)
                continue
            total = max(stride * (size - 1) + more[i] + reach + 1 - wanted, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        elif auto == "VALID":
            begin = 0
        windows.append(Window(1 / stride, (begin - reach / 2) / stride, reach / stride))
    channel = channels(out[1]) if at.node.op_type == "ConvTranspose" else axes[1]
    return _slid(at, windows, channel, spatial_of(axes[1]) if at.node.op_type == "ConvTranspose" else frozenset())


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(at: At) -> Known:
    """Positions end here; what is spread out again depends on the whole image."""
    axes = at.first
    gone = frozenset().union(*(spatial_of(axis) for axis in axes[2:]))
    return Known((*axes[:2], *(((),) for _ in axes[2:])), at.wide | gone)


@rule("Pad")
def pad(at: At) -> Known:
    """offset - p, p negative where it cuts, in every mode: what stands in the padding has no position of its own."""
    axes, pads = at.first, at.partly(1)
    rank, out = len(axes), at.out() or [None] * len(axes)
    chosen = at.const(3) if at.given(3) else list(range(rank))
    if pads is None or chosen is None:
        return at.all_lost(why="how much is padded is computed at run time")
    if not all(isinstance(amount, int) for amount in pads[: len(chosen)]):  # at the end is no matter
        moving = {a % rank for i, a in enumerate(chosen) if (pads[i], pads[i + len(chosen)]) != (0, 0)}
        return views.moved_at_run_time(at, moving, "how much is padded is computed at run time")
    mode, found, wide = at.str_attr("mode", "constant"), list(axes), at.wide
    for i, axis in enumerate(a % rank for a in chosen):
        begin, end = pads[i], pads[i + len(chosen)]
        assert isinstance(begin, int)
        if (begin, end) == (0, 0):
            continue
        before, size = axes[axis], at.dims(0)[axis]
        if position(before) is not None:
            new = size + begin + end if isinstance(size, int) and isinstance(end, int) else out[axis]
            found[axis] = _at_offset(before, -begin, new)
        elif free(before):
            found[axis] = channels(out[axis])
        elif (
            isinstance(end, int)
            and min(begin, end) >= 0
            and mode == "constant"
            and not holds(before, *BATCH, "unknown")
        ):
            found[axis] = (*extra(begin), *before, *extra(end))
        else:
            found[axis] = at.lost(out[axis])
        if mode == "wrap":
            wide |= spatial_of(before)
    return Known(tuple(found), wide)


def extra(count: int) -> list[Part]:
    """So many entries that are not of the image, as one part; none if there are none."""
    return [(Digit(Source("extra", count), count),)] if count else []


def _at_offset(axis: Axis, offset: float, size: Size) -> Axis:
    found = position(axis)
    assert found is not None
    return axis_of(Source("position", size, found.spatial, found.relation.through(1, offset)))


@rule("CenterCropPad")
def center_crop_pad(at: At) -> Known:
    """Cuts or pads half of the difference at the front: the smaller half."""
    axes, sizes = at.first, at.const(1)
    dims, out, found = at.dims(0), at.out(), list(axes)
    chosen = [a % len(axes) for a in at.ints_attr("axes") or range(len(axes))]
    for axis in chosen:
        size, new = dims[axis], out[axis]
        if size == new:
            continue
        if position(axes[axis]) is None or not isinstance(size, int) or not isinstance(new, int):
            found[axis] = channels(new) if free(axes[axis]) else at.lost(new)
            continue
        begin = (size - new) // 2 if size > new else -((new - size) // 2)
        found[axis] = _at_offset(axes[axis], begin, new)
    return Known(tuple(found), at.wide) if sizes is not None else at.all_lost(why="its size is computed at run time")


@rule("Resize")
def resize(at: At) -> Known:
    """Where an entry of the output looks at, by the coordinate mode; for the nearest neighbour the middle of all."""
    axes = at.first
    rank, dims, out = len(axes), at.dims(0), at.out() or [None] * len(axes)
    chosen = [a % rank for a in at.ints_attr("axes") or range(rank)]
    scales = constant_of(at.node.inputs[2]) if at.given(2) else None
    roi = constant_of(at.node.inputs[1]) if at.given(1) else None
    found, wide = list(axes), at.wide
    for i, axis in enumerate(chosen):
        scale = None if scales is None or not scales.size else float(scales.reshape(-1)[i])
        ends = None if roi is None or not roi.size else (float(roi[i]), float(roi[i + len(chosen)]))
        if scale == 1 or (scale is None and dims[axis] == out[axis] and dims[axis] is not None):
            continue
        if holds(axes[axis], *BATCH):
            continue  # nothing interpolates between images
        if free(axes[axis]) and not (isinstance(dims[axis], int) and isinstance(out[axis], int)):
            continue
        if dims[axis] == 1:  # one entry repeated, as the mean over the image is
            found[axis], wide = channels(out[axis]), wide | spatial_of(axes[axis])
            continue
        window = _resized(at, dims[axis], out[axis], scale or _kept_aspect(at, chosen, dims, out), ends)
        if window is None and position(axes[axis]) is not None and _is_plain(at):
            moving = [a for a in chosen if position(axes[a]) is not None]
            return views.moved_at_run_time(at, moving, "its scale is known at run time")
        found[axis] = through(at, axes[axis], window, out[axis])
    return Known(tuple(found), wide)


def _is_plain(at: At) -> bool:
    """A Resize whose entries look where the ratio of the sizes says."""
    mode, kind = at.str_attr("coordinate_transformation_mode", "half_pixel"), at.str_attr("mode", "nearest")
    return mode in {"half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"} and (
        kind != "nearest" or mode == "half_pixel" or at.str_attr("nearest_mode", "") == "floor"
    )


def _kept_aspect(at: At, chosen: Sequence[int], dims: Sequence[Size], out: Sequence[Size]) -> float | None:
    """The one scale of all axes where the proportions are kept."""
    policy, sizes = at.str_attr("keep_aspect_ratio_policy", "stretch"), at.const(3)
    if policy == "stretch" or sizes is None or any(not isinstance(dims[a], int) for a in chosen):
        return None
    scales = [size / dims[a] for size, a in zip(sizes, chosen, strict=True)]  # type: ignore[operator]
    return min(scales) if policy == "not_larger" else max(scales)


def _resized(at: At, size: Size, new: Size, scale: float | None, roi: tuple[float, float] | None) -> Window | None:
    """The window of one axis; None where it depends on a size that is open."""
    mode, kind = at.str_attr("coordinate_transformation_mode", "half_pixel"), at.str_attr("mode", "nearest")
    known = isinstance(size, int) and isinstance(new, int)
    if scale is None and known:
        scale = new / size  # type: ignore[operator]
    if scale is None or (not known and mode not in {"half_pixel", "asymmetric", "pytorch_half_pixel"}):
        return None
    n, m = (size, new) if known else (64, round(64 * scale))
    assert isinstance(n, int)
    assert isinstance(m, int)
    j = np.arange(m, dtype=np.float64)
    x: NDArray[np.floating[Any]]
    if mode == "asymmetric":
        x = j / scale
    elif mode == "align_corners":
        x = j * ((n - 1) / (m - 1)) if m > 1 else j * 0.0
    elif mode == "tf_crop_and_resize":
        start, end = roi or (0.0, 1.0)
        x = start * (n - 1) + (j * (end - start) * (n - 1) / (m - 1) if m > 1 else j + (end - start) * (n - 1) / 2)
    elif mode == "pytorch_half_pixel" and m == 1:
        x = j * 0.0
    else:
        x = (j + 0.5) / scale - 0.5
        if mode == "half_pixel_symmetric":
            x = x + n / 2 * (1 - m / (scale * n))
    support = 1 / scale if at.int_attr("antialias", 0) and scale < 1 else 1.0
    if kind == "nearest":
        rounded = _ROUND[at.str_attr("nearest_mode", "round_prefer_floor")](x.astype(np.float32)).clip(0, n - 1)
        step = float(x[1] - x[0]) if m > 1 else 1 / scale
        rest = rounded - step * j
        return Window(step, float(rest.max() + rest.min()) / 2, float(rest.max() - rest.min()))
    step = float(x[1] - x[0]) if m > 1 else 1 / scale
    taps = 2 if kind == "linear" else 4
    # an entry of its own: all taps fall on whole indices less than half of them away
    extra = 0.0 if bool(np.all(x == np.round(x))) and support == 1 and kind == "linear" else taps * support
    return Window(step, float(x[0]), extra)


_ROUND: dict[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}
