# SPDX-License-Identifier: Apache-2.0
"""From a method's raw map to the one that a person looks at, by the same graph that one-pass methods end in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.builder import Builder
from portable_cam.export.layers.placement import Along, Placement, weights_of
from portable_cam.export.layers.relation import Relation
from portable_cam.export.methods.profiles import Profile, heat_map
from portable_cam.runtime.session import Session

_RAW, _FINAL = "raw", "final"


def finished(
    raw: NDArray[Any], size: tuple[int, int], profile: Profile, where: Placement | None
) -> NDArray[np.float32]:
    """The heat maps (N, K, H, W), in the profile captum (N, K, h, w), of raw maps (N, K, h, w) after the ReLU."""
    session = _session(raw.shape[2:], size, profile, where)
    found: NDArray[np.float32] = session.run({_RAW: raw.astype(np.float32)})[_FINAL]
    return found


@lru_cache(maxsize=32)
def _session(cells: tuple[int, int], size: tuple[int, int], profile: Profile, where: Placement | None) -> Session:
    value = ir.Value(name=_RAW, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", "K", *cells]))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 21}, name="heat_map")
    b = Builder(graph)
    final, _ = heat_map(b, [value], b.ints(size), profile, [where])
    out = b.op("Identity", final)
    out.name = _FINAL
    graph.outputs.append(out)
    return Session(ir.Model(graph, ir_version=10), threads=1)


def widened(
    maps: NDArray[Any], size: tuple[int, int], where: Placement | None, *, corners: bool = False
) -> NDArray[np.float64]:
    """Maps (C, h, w) brought to (C, H, W), bilinear, where their layer looks at; or, with ``corners``, the centres of
    the first and the last cell on those of the first and the last pixel, as pytorch-grad-cam's Score-CAM has it."""
    weights = []
    for i, pixels in enumerate(size):
        cells = maps.shape[1 + i]
        if corners and cells > 1 and pixels > 1:
            relation: Relation | None = Relation((pixels - 1) / (cells - 1), 0.0, 1.0)
        else:
            along = Along(None, cells, pixels)
            relation = along.index() if where is None else (where.rows, where.columns)[i].index() or along.index()
        assert relation is not None
        weights.append(weights_of(relation, cells, pixels))
    found: NDArray[np.float64] = weights[0] @ maps.astype(np.float64) @ weights[1].T
    return found
