"""What each axis of a tensor is, in a word: the rows and columns of the image, both flattened, a sequence along one."""

from __future__ import annotations

from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.axes import Axis, Known, digits_of
from portable_cam.export.layers.candidates import derived_axes

Role: TypeAlias = Literal["images", "channels", "rows", "columns", "grid", "given", "mixed", "unknown"]


def axis_roles(graph: ir.Graph, value: ir.Value) -> tuple[Role, ...] | None:
    """What the axes of a tensor are; None if its rank is not known or it does not depend on the image.

    ``grid`` is rows and columns flattened to tokens, class tokens and the like included: one entry per patch of the
    image. ``rows`` and ``columns`` are positions along that axis of the image alone, as the time steps of a line of
    text, whose encoder folds the height into the channels or averages over it. ``mixed`` holds images and more, as
    windows or regions merged into the batch do. ``channels`` is all that mixes freely; an axis of one entry is one,
    too.

    Args:
        graph: A normalised graph.
        value: One of its tensors.
    """
    known = derived_axes(graph).get(value)
    return None if known is None else roles_of(value, known)


def roles_of(value: ir.Value, known: Known) -> tuple[Role, ...] | None:
    """As :func:`axis_roles`, of what is known already."""
    if known.axes is None or known_dims(value) is None:
        return None
    return tuple(_role(axis) for axis in known.axes)


def _role(axis: Axis) -> Role:
    digits = digits_of(axis)
    kinds = {digit.kind for digit in digits}
    if "unknown" in kinds:
        return "unknown"
    if "given" in kinds:
        return "given"
    if "image" in kinds:
        return "images" if len(digits) == 1 else "mixed"
    spatial = {digit.source.spatial for digit in digits if digit.kind == "position" and digit.outermost}
    if not spatial or (len(axis) == 1 and axis[0][:1] and axis[0][0].kind == "channel"):
        return "channels"  # also features by rows, as (N, C, H, W) whose channels and rows are folded together
    return "grid" if len(spatial) > 1 else ("rows", "columns")[spatial.pop()]
