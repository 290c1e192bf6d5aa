# SPDX-License-Identifier: Apache-2.0
"""An explanation graph, which is written for ONNX Runtime's CPU provider, as a GPU does it best (docs/adr/0004)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, dtype_of, input_of

_DEFAULTS: dict[str, Any] = {"ceil_mode": 0, "storage_order": 0, "auto_pad": "NOTSET"}


def optimize_for_cuda(graph: ir.Graph) -> None:
    """Without poolings of one element, which enter the CPU provider's blocked layout and are a copy elsewhere; with one
    MaxPool where the gradient runs a second one for its indices, which would keep the first from that layout; and with
    transposed convolutions and dequantised biases that the CUDA provider has kernels for."""
    constants = Builder(graph)
    for each in [graph, *graph.subgraphs()]:
        _tidy(each)
        _pad_evenly(each, constants)
        _dequantize_biases(each, constants)


def _dequantize_biases(graph: ir.Graph, constants: Builder) -> None:
    """Constants of int32, the biases of quantised models, as floats: the CUDA provider dequantises only 8 bits."""
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
            continue
        stored, scale, zero = (constant_of(node.inputs[i]) if i < len(node.inputs) else None for i in range(3))
        if stored is None or scale is None or stored.dtype != np.int32 or (zero is not None and zero.any()):
            continue
        axis = node.attributes.get_int("axis", 1)
        if scale.size > 1:
            scale = scale.reshape([-1 if i == axis % stored.ndim else 1 for i in range(stored.ndim)])
        (out,) = node.outputs
        value = constants.constant(stored.astype(scale.dtype) * scale, dtype_of(out))
        ir.convenience.replace_all_uses_with(out, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _pad_evenly(graph: ir.Graph, constants: Builder) -> None:
    """Transposed convolutions whose pads differ at the two ends of an axis: what both ends share stays, the rest is cut
    off behind. The CUDA provider leaves such a node to the CPU, with copies both ways, and then refuses CUDA graphs."""
    for node in list(graph):
        pads = node.attributes.get_ints("pads", [])
        begin, end = pads[: len(pads) // 2], pads[len(pads) // 2 :]
        if node.op_type != "ConvTranspose" or node.domain not in ONNX_DOMAINS or begin == end:
            continue
        even = [min(pair) for pair in zip(begin, end, strict=True)]
        node.attributes["pads"] = ir.AttrInt64s("pads", [*even, *even])
        (out,) = node.outputs
        starts = [p - q for p, q in zip(begin, even, strict=True)]
        # counted from the end; a cut of nothing is an end beyond all
        ends = [q - p if p > q else 2**62 for p, q in zip(end, even, strict=True)]
        limits = [constants.ints(values) for values in (starts, ends, range(2, 2 + len(even)))]
        cut = ir.node("Slice", [out, *limits], name=f"{node.name}/even")
        graph.insert_after(node, cut)
        ir.convenience.replace_all_uses_with(out, cut.outputs[0], replace_graph_outputs=True)
        cut.replace_input_with(0, out)
        (shown,) = cut.outputs
        shown.name, shown.type, shown.shape = out.name, out.type, out.shape
        out.name, out.shape = f"{out.name}/wide", None


def _tidy(graph: ir.Graph) -> None:
    pools: dict[tuple[Any, ...], ir.Node] = {}
    for node in list(graph):
        if node.op_type != "MaxPool" or node.domain not in ONNX_DOMAINS:
            continue
        x, asked = input_of(node, 0), _attributes(node)
        copies = set(asked) == {"kernel_shape"} and set(asked["kernel_shape"]) == {1} and len(node.outputs) == 1
        if copies and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], x)
            graph.remove(node, safe=True)
            continue
        key = (x, repr(sorted(asked.items())))
        first = pools.setdefault(key, node)
        if first is node:
            continue
        if len(first.outputs) < len(node.outputs):
            first = pools[key] = _with_indices(graph, first)
        for old, new in zip(node.outputs, first.outputs, strict=False):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _attributes(node: ir.Node) -> dict[str, Any]:
    """Those that are not their defaults."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    idle = {"strides": 1, "dilations": 1, "pads": 0}
    return {
        name: value
        for name, value in given.items()
        if _DEFAULTS.get(name) != value and not (name in idle and set(value) == {idle[name]})
    }


def _with_indices(graph: ir.Graph, pool: ir.Node) -> ir.Node:
    """The same node, in its place, with its second output."""
    both = ir.Node("", "MaxPool", pool.inputs, pool.attributes.values(), num_outputs=2, name=pool.name)
    values, indices = both.outputs
    (old,) = pool.outputs
    values.name, values.type, values.shape = old.name, old.type, old.shape
    indices.name, indices.dtype = f"{old.name}/indices", ir.DataType.INT64
    graph.insert_before(pool, both)
    ir.convenience.replace_all_uses_with(old, values, replace_graph_outputs=True)
    graph.remove(pool, safe=True)
    return both
