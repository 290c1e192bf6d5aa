"""Graph time: a model's ONNX file to an explanation graph, in pure ONNX.

Imports numpy, onnx, onnx_ir and onnxscript (its graph passes); never ONNX Runtime, torch (but inside
:func:`from_torch`) or triton.
"""

from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.assemble.files import build_explanation, save_explanation
from portable_cam.export.compose.link import link
from portable_cam.export.compose.unroll import unroll
from portable_cam.export.diagnose.axis_trace import AxisTrace, trace_axes
from portable_cam.export.diagnose.doctor import DoctorReport, doctor
from portable_cam.export.diagnose.layers import list_layers
from portable_cam.export.diagnose.obstacles import Obstacle
from portable_cam.export.graph.operators import OPSET
from portable_cam.export.layers.candidates import Layer
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.passes.normalize import normalize
from portable_cam.export.read.from_torch import from_torch

__all__ = [
    "METHODS",
    "OPSET",
    "AxisTrace",
    "DoctorReport",
    "Layer",
    "Obstacle",
    "build_explanation",
    "differentiate",
    "doctor",
    "from_torch",
    "link",
    "list_layers",
    "normalize",
    "save_explanation",
    "trace_axes",
    "unroll",
]
