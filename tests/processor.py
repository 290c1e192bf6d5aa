"""What ONNX Runtime cannot compute on this processor."""

from __future__ import annotations

import pytest

from portable_cam.runtime.arithmetic import adds_bytes_exactly


def needs_exact_bytes() -> None:
    """Skip a test whose figures are those of exact sums, where there are none to be had."""
    if not adds_bytes_exactly():
        pytest.skip("ONNX Runtime's sums of 8-bit products overflow on this processor (AVX2 without VNNI)")
