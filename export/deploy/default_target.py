# SPDX-License-Identifier: Apache-2.0
"""What a file explains where the caller names no target: the top classes of each image."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export import format
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims


def give_default_target(graph: ir.Graph, image: str, *, ranked: bool) -> None:
    """Give ``targets`` a default, in place: -1, -2 ... for as many targets as the file takes, the top class for any
    number; 0 where nothing is ranked. One row of targets then holds for all images."""
    targets = next(value for value in graph.inputs if value.name == format.TARGETS)
    dims = known_dims(targets) or [None, None]
    rows = dims[0] or 1
    ranks = -np.arange(1, (dims[1] or 1) + 1, dtype=np.int64)
    default = np.tile(ranks if ranked else np.zeros_like(ranks), (rows, 1))
    if dims[0] is None:
        _hold_for_all_images(graph, targets, image)
    targets.const_value = ir.Tensor(default, name=format.TARGETS)
    graph.initializers[format.TARGETS] = targets


def _hold_for_all_images(graph: ir.Graph, targets: ir.Value, image: str) -> None:
    readers = list(targets.uses())
    b = Builder(graph, "default").nested()
    count = b.op("Shape", next(value for value in graph.inputs if value.name == image), start=0, end=1)
    every = b.op("Expand", targets, b.op("Concat", count, b.ints([1]), axis=0))
    every.shape = targets.shape
    nodes = list(b.graph)
    b.graph.remove(nodes)
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    for reader, place in readers:
        reader.replace_input_with(place, every)
