# SPDX-License-Identifier: Apache-2.0
"""The model inside an explanation file, which is the model as it was, and what explains it beside."""

from __future__ import annotations

import json
from collections.abc import Iterable

import onnx_ir as ir

from portable_cam.export.graph.values import reads

#: Where an explanation file names the inputs and outputs of its model, as JSON.
MODEL_KEY = "portable_cam.model"
#: Where a model that was read from an explanation file says so.
INSIDE_KEY = "portable_cam.inside"
_OURS = "portable_cam."
_KEPT = frozenset({"portable_cam.description", "portable_cam.preprocessing", "portable_cam.widened"})


def name_model(built: ir.Model, inputs: Iterable[ir.Value], outputs: Iterable[ir.Value]) -> None:
    """Write into an explanation's metadata which of its inputs and outputs are the model's."""
    names = {"inputs": [value.name for value in inputs], "outputs": [value.name for value in outputs]}
    built.metadata_props[MODEL_KEY] = json.dumps(names)


def model_inside(model: ir.Model) -> ir.Model:
    """The model itself, changed in place; of an explanation file the model that it explains.

    Its tensors have the names that they had in the model, its nodes are those of the normalised one.
    """
    if MODEL_KEY not in model.metadata_props:
        return model
    names = json.loads(model.metadata_props[MODEL_KEY])
    graph = model.graph
    outputs = [value for value in graph.outputs if value.name in names["outputs"]]
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    needed = set(outputs)
    for node in reversed(list(graph)):
        if needed.isdisjoint(node.outputs):
            graph.remove(node)  # not one by its uses: those in the body of a loop that is gone still count
        else:
            needed.update(reads(node))
    for name in [name for name, value in graph.initializers.items() if value not in needed]:
        del graph.initializers[name]
    for value in [value for value in graph.inputs if value.name not in names["inputs"]]:
        graph.inputs.remove(value)
    for new, old in json.loads(model.metadata_props.get(f"{_OURS}renamed", "{}")).items():
        renamed = ir.convenience.create_value_mapping(graph, include_subgraphs=False).get(new)
        if renamed is not None:
            renamed.name = old
    for key in [key for key in model.metadata_props if key.startswith(_OURS) and key not in _KEPT]:
        del model.metadata_props[key]
    model.metadata_props[INSIDE_KEY] = "true"
    return model
