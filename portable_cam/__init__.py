"""Explain what a vision model saw, from its ONNX file alone.

>>> import portable_cam as pcam
>>> explainer = pcam.Explainer("model.onnx", methods=("gradcam",))       # doctest: +SKIP
>>> result = explainer(x, targets=[[243, 282]])                          # doctest: +SKIP

Names are imported on first use: ``import portable_cam.export`` must load neither ONNX Runtime nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from portable_cam.errors import Error

if TYPE_CHECKING:
    from portable_cam import batch as batch
    from portable_cam import export, kernels, targets
    from portable_cam.explanation import Explanation
    from portable_cam.methods.explainer import Explainer
    from portable_cam.metrics.evaluation import evaluate
    from portable_cam.metrics.outcome import Evaluation
    from portable_cam.result import Result
    from portable_cam.runtime.gpu.options import Cuda
    from portable_cam.tasks.api import explain
    from portable_cam.tasks.classify import PhotoExplainer
    from portable_cam.tasks.detect.explainer import DetectExplainer
    from portable_cam.tasks.segment import SegmentExplainer

__version__ = "0.1.0"

__all__ = [
    "Cuda",
    "DetectExplainer",
    "Error",
    "Evaluation",
    "Explainer",
    "Explanation",
    "PhotoExplainer",
    "Result",
    "SegmentExplainer",
    "__version__",
    "evaluate",
    "explain",
    "export",
    "kernels",
    "targets",
]

_HOME = {
    "Cuda": "portable_cam.runtime.gpu.options",
    "Explainer": "portable_cam.methods.explainer",
    "Explanation": "portable_cam.explanation",
    "explain": "portable_cam.tasks.api",
    "Evaluation": "portable_cam.metrics.outcome",
    "evaluate": "portable_cam.metrics.evaluation",
    "Result": "portable_cam.result",
    "PhotoExplainer": "portable_cam.tasks.classify",
    "DetectExplainer": "portable_cam.tasks.detect.explainer",
    "SegmentExplainer": "portable_cam.tasks.segment",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in {"batch", "export", "kernels", "targets", "errors"}:
        return import_module(f"portable_cam.{name}")
    raise AttributeError(f"module 'portable_cam' has no attribute {name!r}")
