"""What ONNX Runtime cannot compute on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from portable_cam.runtime.session import Session


@cache
def adds_bytes_exactly() -> bool:
    """False where a quantised convolution of uint8 with int8 adds pairs of products in 16 bits, which overflow: with
    AVX2 and without VNNI."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (uint8[1,8,1,1] x) => (uint8[1,1,1,1] y) '
        "{ y = QLinearConv(x, one, zero, w, one, wz, scale, zero) }"
    )
    x, w = np.full((1, 8, 1, 1), 255, np.uint8), np.full((1, 8, 1, 1), 127, np.int8)
    exact = 8 * 255 * 127
    constants = {"w": w, "one": np.float32(1), "zero": np.uint8(0), "wz": np.int8(0), "scale": np.float32(exact / 200)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return int(Session(model).run({"x": x})["y"][0, 0, 0, 0]) == 200


def needs_exact_bytes() -> None:
    """Skip a test whose figures are those of exact sums, where there are none to be had."""
    if not adds_bytes_exactly():
        pytest.skip("ONNX Runtime's sums of 8-bit products overflow on this processor (AVX2 without VNNI)")
