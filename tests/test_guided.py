"""Guided rules for activations that exporters write out as several nodes."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

import portable_cam as pcam
from portable_cam import assets
from portable_cam.runtime.session import Session

SILU = "s = Sigmoid(x) y = Mul(x, s)"
GELU = """
    root = Constant<value_float = 1.4142135>() one = Constant<value_float = 1.0>() half = Constant<value_float = 0.5>()
    scaled = Div(x, root) e = Erf(scaled) f = Add(e, one) p = Mul(x, f) y = Mul(p, half)
"""


def silu_slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    s = 1 / (1 + np.exp(-x))
    return s + x * s * (1 - s)


def gelu_slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    cumulative = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)
    return cumulative + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(("body", "slope"), [(SILU, silu_slope), (GELU, gelu_slope)], ids=["SiLU", "GELU"])
@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
@pytest.mark.parametrize("policy", ["relu", "all"])
def test_written_out_activation(body: str, slope, rule: str, policy: str) -> None:
    """Under policy ``all`` what arrives is rectified and the derivative kept; otherwise it is the plain gradient."""
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[2, 5] x) => (float[2, 5] y) {{ {body} }}'
    graph = pcam.export.differentiate(onnx.parser.parse_model(text), "y", ["x"], relu_rule=rule, relu_policy=policy)
    random = np.random.default_rng(0)
    x, seed = random.standard_normal((2, 2, 5)).astype(np.float32)
    assert (seed < 0).any()
    gradient = Session(graph).run({"x": x, "seed": seed})["gradient.x"]
    arriving = np.maximum(seed, 0) if policy == "all" and rule != "standard" else seed
    np.testing.assert_allclose(gradient, arriving * slope(x.astype(np.float64)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("methods", [("gradcam",), ("guided_gradcam",)])
def test_captum_profile_takes_one_layer(methods: tuple[str, ...]) -> None:
    with pytest.raises(pcam.Error, match="one layer at a time"):
        pcam.Explainer(assets.model(), methods, layer=["fire9_concat", "conv10_relu"], profile="captum")
