"""Operators that ONNX Runtime's optimiser writes (``com.microsoft``), decomposed before differentiating.

A model that was optimised and saved has fused nodes for which the standard has no name. Each is replaced by the
standard nodes that give the values of ONNX Runtime's own kernel, so that rules, targets and layers know the standard
alone. One small function per operator, grouped by kind; to add one, find the file of its kind, register a function, add
its case to ``tests/test_contrib.py``. A node that a function or :mod:`portable_cam.export.graph.refusals` refuses stays
in the graph; it is an error only on the path from the image to the scores.
"""

from portable_cam.export.passes.contrib import (
    activation,
    attention,
    linear,
    nhwc,
    norm,
    sampling,
)  # imported for their registrations
from portable_cam.export.passes.contrib.decompose import adopt_contrib, decompose_contrib
from portable_cam.export.passes.contrib.registry import DECOMPOSITIONS, DOMAIN, Contrib, decomposes

__all__ = [
    "DECOMPOSITIONS",
    "DOMAIN",
    "Contrib",
    "activation",
    "adopt_contrib",
    "attention",
    "decompose_contrib",
    "decomposes",
    "linear",
    "nhwc",
    "norm",
    "sampling",
]
