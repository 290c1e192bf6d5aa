"""Graph time: a model's ONNX file to an explanation graph, in pure ONNX.

Imports numpy, onnx, onnx_ir and onnxscript (its graph passes); never ONNX Runtime, torch (but inside
:func:`from_torch`) or triton.
"""

from portable_cam.export.builder import OPSET
from portable_cam.export.differentiate import differentiate
from portable_cam.export.doctor import Report, doctor
from portable_cam.export.explanation import build_explanation, save_explanation
from portable_cam.export.from_torch import from_torch
from portable_cam.export.layers import Layer, list_layers
from portable_cam.export.link import link
from portable_cam.export.methods import METHODS
from portable_cam.export.normalize import normalize
from portable_cam.export.obstacles import Obstacle
from portable_cam.export.unroll import unroll

__all__ = [
    "METHODS", "OPSET", "Layer", "Obstacle", "Report", "build_explanation", "differentiate", "doctor", "from_torch",
    "link", "list_layers", "normalize", "save_explanation", "unroll",
]  # fmt: skip
