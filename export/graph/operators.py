"""Operator sets, domains and element types."""

from __future__ import annotations

import onnx_ir as ir

#: The opset that everything is written in: the newest for which ONNX Runtime's CUDA provider has all kernels.
OPSET = 21


FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


#: Names under which the ONNX standard's own domain is imported.
ONNX_DOMAINS = frozenset({"", "ai.onnx"})


HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def key_of(domain: str, op_type: str) -> str:
    """The key of an operator in the tables of rules: ``Conv``, ``com.microsoft::QLinearAdd``."""
    return op_type if domain in ONNX_DOMAINS else f"{domain}::{op_type}"
