# SPDX-License-Identifier: Apache-2.0
"""Tensors of a model as it runs, for tasks that decode them before they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.graph.values import dtype_of, known_dims, producer_of
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.runtime.gpu.options import Common, Cuda
from portable_cam.runtime.native import native_of
from portable_cam.runtime.session import Session

_INT64 = ir.DataType.INT64


def raw_session(model: AnyModel, names: Sequence[str], without: Sequence[str] = (), **options: Any) -> Session:
    """A session that gives these tensors of a model, whether they are its outputs or not.

    Args:
        model: The model.
        names: The tensors.
        without: Tensors that were chosen from others, each of which then is all of what it was chosen from.
        **options: As for :class:`~portable_cam.runtime.session.Session`.
    """
    return raw_graph_session(normalized(model).copy(), names, without, **options)


def raw_graph_session(model: ir.Model, names: Sequence[str], without: Sequence[str] = (), **options: Any) -> Session:
    """As :func:`raw_session`, of a model to write into."""
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    for name in without:
        _pass_on(producer_of(values[name]))
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    if without:
        for node in graph:
            for value in node.outputs:
                value.shape = None  # there are more of them now
    passes.RemoveUnusedNodesPass()(model)
    apply_ort_workarounds(graph)
    return Session(model, **options)


def _pass_on(node: ir.Node) -> None:
    """Let all that a node chooses from take the place of what it chose."""
    whole, chosen = node.inputs[0], node.outputs[0]
    if whole is None or node.graph is None:
        return
    before, behind = known_dims(whole), known_dims(chosen)
    taken = whole
    if before is not None and behind is not None and len(behind) != len(before):
        more = max(len(behind) - len(before), 0)  # else images and boxes come to stand on one axis
        rest = before[max(len(before) - len(behind), 0) + 1 :]
        dims = [*[1] * more, -1, *(-1 if d is None else d for d in rest)]
        name = f"{chosen.name}/all"
        shape = ir.Value(name=name, const_value=ir.tensor(dims, dtype=_INT64, name=name))
        shape.dtype, shape.shape = _INT64, ir.Shape([len(dims)])
        node.graph.register_initializer(shape)
        flat = ir.node("Reshape", [whole, shape], name=f"{name}/flat")
        flat.outputs[0].name, flat.outputs[0].dtype = flat.name, dtype_of(whole)
        node.graph.insert_before(node, flat)
        taken = flat.outputs[0]
    for reader, at in list(chosen.uses()):
        reader.replace_input_with(at, taken)


def session_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an explainer's options that say where and how a session runs: of a device with options, its provider."""
    found = {name: options[name] for name in ("device", "providers", "threads", "time_limit") if name in options}
    device = Cuda() if found.get("device") == "cuda" else found.get("device")
    if isinstance(device, Common):
        del found["device"]
        if found.get("providers") is None:
            found["providers"] = [*([device.provider()] if isinstance(device, Cuda) else []), "CPUExecutionProvider"]
    return found | native_of(options)
