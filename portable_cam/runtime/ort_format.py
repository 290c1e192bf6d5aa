# SPDX-License-Identifier: Apache-2.0
"""Files in ONNX Runtime's own format, which its reduced builds for phones and browsers read."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from portable_cam.errors import ModelError
from portable_cam.export.read.weights import to_proto


def save_ort(model: ir.Model, path: Path) -> list[Path]:
    """Convert a model and write it.

    What is constant is computed then, transposed weights among it, so that the file may be larger than the ONNX one.
    Nothing is arranged for the processor that converts it.

    Args:
        model: The model.
        path: The file.

    Returns:
        The files written.

    Raises:
        ModelError: ONNX Runtime refuses the model, or it is too large for one file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    data = to_proto(model).SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime cannot convert the model to its own format: {first}") from error
    return [path]
