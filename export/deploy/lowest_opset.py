# SPDX-License-Identifier: Apache-2.0
"""The lowest opset that a graph means the same in, and the IR version that came with it.

Rules write operators of one opset (:data:`~portable_cam.export.graph.operators.OPSET`); most runtimes in use read an
older one, in which nearly all of these are what they are here.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from portable_cam.errors import ModelError, OptionError
from portable_cam.export.graph.operators import ONNX_DOMAINS, OPSET
from portable_cam.export.passes.convert import inline_standard_functions
from portable_cam.export.passes.fold import infer_model_shapes

#: None below: the ones before have reductions whose axes are attributes.
LOWEST = 18

#: Versions of operators whose older form reads the same and means something else.
_OTHER_MEANING = frozenset(
    {
        ("GroupNormalization", 21),  # scale and bias were per group
        ("GridSample", 20),  # its modes had other names
        ("DFT", 20),  # its axis was an attribute
    }
)
#: Values that an attribute could not have before a version of its operator.
_NEWER_VALUES: dict[tuple[str, int, str], set[Any]] = {
    ("Pad", 19, "mode"): {"wrap"},
    ("Resize", 19, "coordinate_transformation_mode"): {"half_pixel_symmetric"},
    ("AveragePool", 19, "ceil_mode"): {1},  # runtimes changed what they count with the version
}


def to_lowest_opset(model: ir.Model, opset: int | None = None, *, limit: int | None = None) -> ir.Model:
    """The model labelled with the lowest opset that it needs, or with the one asked for.

    Args:
        model: At :data:`OPSET`, with types inferred.
        opset: The one asked for.
        limit: The highest that is of use. Operators of a newer one are replaced by the standard's own bodies.

    Raises:
        OptionError: There is no file of the opset asked for.
        ModelError: A node has no form in it.
    """
    if opset is not None and not LOWEST <= opset <= OPSET:
        raise OptionError(f"files are written in opset {LOWEST} to {OPSET}, not {opset}")
    limit = opset if opset is not None else limit
    if limit is not None and (above := _above(model.graph, limit)):
        model = inline_standard_functions(model, {node.op_type for node in above}).model
        infer_model_shapes(model)
        for node in _above(model.graph, limit):
            raise ModelError(
                f"node '{node.name}': {node.op_type} as it is used here exists from opset {needed_opset(node)} on, "
                f"and the file is to have {limit}"
            )
    needed = max((needed_opset(n) for n in ir.traversal.RecursiveGraphIterator(model.graph)), default=LOWEST)
    label = max(needed, LOWEST) if opset is None else opset
    for graph in [model.graph, *model.graph.subgraphs()]:
        graph.opset_imports[""] = label
    model.ir_version = int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", label)]))
    return model


def _above(graph: ir.Graph, limit: int) -> list[ir.Node]:
    return [node for node in ir.traversal.RecursiveGraphIterator(graph) if needed_opset(node) > limit]


def needed_opset(node: ir.Node) -> int:
    """The lowest opset in which a node means what it means at :data:`OPSET`; not looked for below :data:`LOWEST`."""
    if node.domain not in ONNX_DOMAINS:
        return LOWEST
    schema = onnx.defs.get_schema(node.op_type, OPSET)
    while schema.since_version > LOWEST:
        before = int(schema.since_version) - 1
        if not onnx.defs.has(node.op_type, before):
            break
        older = onnx.defs.get_schema(node.op_type, before)
        if not _means_the_same(node, older, schema):
            break
        schema = older
    return max(int(schema.since_version), LOWEST)


def _means_the_same(node: ir.Node, older: Any, newer: Any) -> bool:
    """Whether a node of the newer version of its operator is also one of the older, and the same."""
    version = int(newer.since_version)
    if (node.op_type, version) in _OTHER_MEANING:
        return False
    for name, attribute in node.attributes.items():
        if name not in older.attributes or attribute.value in _NEWER_VALUES.get((node.op_type, version, name), set()):
            return False
    for name, declared in older.attributes.items():
        if name in node.attributes:
            continue
        if name not in newer.attributes or _default(declared) != _default(newer.attributes[name]):
            return False
    given = list(node.inputs)
    while given and given[-1] is None:
        given.pop()
    if not older.min_input <= len(given) <= older.max_input or len(node.outputs) > older.max_output:
        return False
    return _takes(older.inputs, newer.inputs, given) and _takes(older.outputs, newer.outputs, node.outputs)


def _default(declared: Any) -> bytes:
    return bytes(declared.default_value.SerializeToString())


def _takes(older: Any, newer: Any, values: Any) -> bool:
    """Whether the older version takes values of these types; one that is not known has to be taken whatever it is."""
    for i, value in enumerate(values):
        if value is None:
            continue
        then, now = older[min(i, len(older) - 1)].types, newer[min(i, len(newer) - 1)].types
        if now <= then:
            continue
        if not isinstance(value.type, ir.TensorType) or f"tensor({value.dtype.name.lower()})" not in then:
            return False
    return True
