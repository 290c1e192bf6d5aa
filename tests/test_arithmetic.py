# SPDX-License-Identifier: Apache-2.0
"""Quantised models on a processor that adds products of bytes inexactly say so."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam.cli import app
from portable_cam.export.passes.normalized import normalized
from portable_cam.runtime import arithmetic

BODIES = {
    "float": ("c = Conv(x, k)", False),
    "uint8 by int8": (
        "q = QuantizeLinear(x, s, zu) d = DequantizeLinear(q, s, zu) w = DequantizeLinear(k8, s, zs) c = Conv(d, w)",
        True,
    ),
    "uint8 by uint8": (
        "q = QuantizeLinear(x, s, zu) d = DequantizeLinear(q, s, zu) w = DequantizeLinear(ku, s, zu) c = Conv(d, w)",
        False,
    ),
    "weights alone": ("w = DequantizeLinear(k8, s, zs) c = Conv(x, w)", False),
    "dynamic": (
        "q, qs, qz = DynamicQuantizeLinear(x) i = ConvInteger(q, k8, qz) f = Cast<to = 1>(i) c = Mul(f, qs)",
        True,
    ),
}


def made(body: str) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weights = {
        "k": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "k8": random.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "ku": random.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8),
        "s": np.float32(0.02),
        "zu": np.uint8(128),
        "zs": np.int8(0),
    }
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,4] y) {{ {body} '
    model = onnx.parser.parse_model(text + "r = Relu(c) g = GlobalAveragePool(r) y = Flatten(g) }")
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items() if n in used
    )
    return model


@pytest.mark.parametrize("kind", BODIES)
def test_which_models_multiply_uint8_by_int8(kind: str) -> None:
    body, mixed = BODIES[kind]
    assert arithmetic.has_mixed_bytes(normalized(made(body)).graph) is mixed


def test_the_processor_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic.adds_bytes_exactly.cache_clear()
    found = arithmetic.adds_bytes_exactly()
    monkeypatch.setattr(arithmetic, "Session", None)  # would fail if it were asked again
    assert arithmetic.adds_bytes_exactly() is found


@pytest.mark.parametrize("exact", [True, False])
def test_inexact_sums_are_said(exact: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arithmetic, "adds_bytes_exactly", lambda: exact)
    for kind, (body, mixed) in BODIES.items():
        assert (arithmetic.INEXACT in pcam.Explainer(made(body)).notes) is (mixed and not exact), kind
    onnx.save(made(BODIES["uint8 by int8"][0]), tmp_path / "m.onnx")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "m.onnx"), "--json"])
    assert ("without VNNI" in done.stdout) is not exact


@pytest.mark.parametrize("kind", ["uint8 by int8", "uint8 by uint8", "dynamic"])
def test_gradients_of_quantised_models_are_tested(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against differences of the model whose roundings are held: no longer "not tested"."""
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    checks = {c.name: c for c in pcam.Explainer(made(BODIES[kind][0]), ("gradcam", "gradient")).check(x, 1)}
    for name in ("outputs", "score", "layer", "input", "maps"):
        assert checks[name].passed, (name, checks[name].detail)
    assert checks["input"].value is not None
    assert checks["input"].value < 1e-3
