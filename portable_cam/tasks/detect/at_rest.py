"""Which numbers of a box are what, by where the boxes lie while the network says nothing.

A dense detector decodes a box around each cell of its grids. With zero in place of the network's last features its
boxes stand in rows and columns over the whole input, and which number is a left edge, a top edge or a width shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import Error
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import constant_of, dtype_of, known_dims
from portable_cam.export.read.load import untied
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.choices import is_network
from portable_cam.tasks.detect.head import BoxForm, Unit
from portable_cam.tasks.raw_outputs import raw_graph_session

_FEW = 4  # boxes of one size, in a grid: fewer tell nothing


def box_form(
    graph: ir.Graph, image: str, size: Size, boxes: str, without: Sequence[str]
) -> tuple[BoxForm, Unit] | None:
    """The form and unit of a tensor of boxes (.., boxes, 4); None where they are not told.

    Args:
        graph: A normalised graph at a known size.
        image: The name of its image.
        size: Of the image.
        boxes: The tensor's name.
        without: Tensors of chosen boxes, see :class:`~portable_cam.tasks.detect.head.Head`.
    """
    found = _at_rest(graph, image, boxes, without)
    if found is None:
        return None
    corners, center = _unit(found, "xyxy", size), _unit(found, "cxcywh", size)
    if corners is not None and center is None:
        unit, swapped = corners
        return ("yxyx" if swapped else "xyxy"), unit
    if center is not None and corners is None and not center[1]:
        return "cxcywh", center[0]
    return None


def _at_rest(graph: ir.Graph, image: str, boxes: str, without: Sequence[str]) -> NDArray[np.float64] | None:
    model = untied(ir.Model(graph.clone(), ir_version=10))
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for value in _last_features(values[boxes]):
        dims = [1 if d is None else d for d in known_dims(value) or []]
        zeros = np.zeros(dims, dtype_of(value).numpy())
        at_rest = ir.Value(name=f"{value.name}/at_rest", const_value=ir.tensor(zeros, name=f"{value.name}/at_rest"))
        at_rest.shape, at_rest.dtype = ir.Shape(dims), dtype_of(value)
        model.graph.register_initializer(at_rest)
        for node, at in list(value.uses()):
            node.replace_input_with(at, at_rest)
    try:
        session = raw_graph_session(model, [boxes], without)
        feeds = {}
        for name, given in session.inputs.items():
            dims = [d if isinstance(d, int) else 1 for d in given.shape]
            feeds[name] = np.zeros(dims, session.dtype(name))
        found = session.run(feeds)[boxes]
    except (Error, ValueError):
        return None
    rows = np.asarray(found, np.float64)
    return rows.reshape(-1, 4) if rows.size and rows.shape[-1] == 4 and np.isfinite(rows).all() else None


def _last_features(value: ir.Value) -> list[ir.Value]:
    """The tensors in which the network ends on the way to a tensor."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        node = current.producer()
        if node is None or current in seen:
            continue
        seen.add(current)
        if is_network(node) and current.dtype in FLOATS:
            if constant_of(current) is None:
                found[current] = None
            continue
        pending.extend(v for v in node.inputs if v is not None)
    return list(found)


def _unit(boxes: NDArray[np.float64], form: str, size: Size) -> tuple[Unit, bool] | None:
    """The unit, and whether y comes first, if boxes read in a form stand in a grid over the input."""
    first, second = boxes[:, :2], boxes[:, 2:]
    centers, extents = ((first + second) / 2, second - first) if form == "xyxy" else (first, second)
    if (extents < -1e-6).any():
        return None
    spread = np.ptp(centers, axis=0)
    unit: Unit = "fraction" if centers.max() <= 1.01 else "pixels"
    wide = np.array([size[1], size[0]], np.float64) if unit == "pixels" else np.ones(2)
    changes = (np.abs(np.diff(centers, axis=0)) > 1e-6 * spread.max(initial=1e-9)).sum(axis=0)
    if len(boxes) < _FEW or (spread <= 0).any() or changes[0] == changes[1]:
        return None
    swapped = bool(changes[1] > changes[0])  # row by row, x changes at every step and y once a row
    if swapped:
        centers, extents = centers[:, ::-1], extents[:, ::-1]
    _, group = np.unique(np.round(extents / wide, 5), axis=0, return_inverse=True)
    groups = [centers[group.reshape(-1) == g] for g in range(int(group.max()) + 1)]
    tested = [rows for rows in groups if len(rows) >= _FEW and (np.ptp(rows, axis=0) > 0).all()]
    if not tested or sum(map(len, tested)) < len(boxes) / 2:
        return None
    return (unit, swapped) if all(_covers(rows, wide) for rows in tested) else None


def _covers(centers: NDArray[np.float64], wide: NDArray[Any]) -> bool:
    """Whether centres of boxes of one size stand around the middle of the input, give or take half a cell, and reach
    over most of it."""
    steps = np.array([np.diff(np.unique(np.round(axis, 4))).max() for axis in centers.T])
    off = np.abs((centers.min(axis=0) + centers.max(axis=0)) / 2 - wide / 2)
    return bool((off <= 0.75 * steps).all() and (np.ptp(centers, axis=0) >= wide - 2.5 * steps).all())
