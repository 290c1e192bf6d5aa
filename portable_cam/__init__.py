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
    from portable_cam import export, kernels, targets
    from portable_cam.explainer import Explainer, explain
    from portable_cam.result import Result
    from portable_cam.tasks.classify import PhotoExplainer
    from portable_cam.tasks.detect.photos import DetectExplainer
    from portable_cam.tasks.segment import SegmentExplainer

__version__ = "0.1.0"

__all__ = [
    "DetectExplainer",
    "Error",
    "Explainer",
    "PhotoExplainer",
    "Result",
    "SegmentExplainer",
    "__version__",
    "explain",
    "export",
    "kernels",
    "targets",
]

_HOME = {
    "Explainer": "portable_cam.explainer",
    "explain": "portable_cam.explainer",
    "Result": "portable_cam.result",
    "PhotoExplainer": "portable_cam.tasks.classify",
    "DetectExplainer": "portable_cam.tasks.detect.photos",
    "SegmentExplainer": "portable_cam.tasks.segment",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in {"export", "kernels", "targets", "errors"}:
        return import_module(f"portable_cam.{name}")
    raise AttributeError(f"module 'portable_cam' has no attribute {name!r}")
