# SPDX-License-Identifier: Apache-2.0
"""Writes what a script trained: the ONNX files and the plain files beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnxscript import optimizer

FOLDER = Path(__file__).parent / "models"


def write_model(
    name: str,
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> Path:
    """Export with the named inputs and outputs; ``axes`` names the open dimensions of each input."""
    open_axes = tuple({i: torch.export.Dim(label) for i, label in axes[key].items()} for key in inputs)
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        dynamo=True,
        dynamic_shapes=open_axes,
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=18,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    model = ir.from_proto(program.model_proto)
    # large limits: the weights in ONNX's order of gates are to be stored, not computed
    optimizer.optimize(model, input_size_limit=1 << 20, output_size_limit=1 << 20)
    proto = ir.to_proto(model)
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for values in (proto.graph.value_info, proto.graph.input, proto.graph.output):
        for value in values:
            del value.metadata_props[:]
    onnx.checker.check_model(proto)
    path = FOLDER / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {len(proto.graph.node)} nodes")
    return path


def write_words(name: str, words: Sequence[str]) -> None:
    """A vocabulary or list of answers: a word a line, in the order of the ids."""
    (FOLDER / name).write_text("\n".join(words) + "\n", encoding="utf-8")


def write_preprocessing(name: str) -> None:
    """The pictures' values are 0 to 1."""
    content = {"preset": "unit", "resize": "stretch"}
    (FOLDER / f"{name}.preprocess.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
