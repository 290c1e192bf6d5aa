# SPDX-License-Identifier: Apache-2.0
"""LayerCAM and HiResCAM against the same written in torch, for both signs, several targets and layers."""

from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but

import portable_cam as pcam
from portable_cam.kernels import reference

torch = pytest.importorskip("torch")

BODY = """
c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
r1 = LeakyRelu<alpha = 0.3>(c1)
c2 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r1, w2)
r2 = LeakyRelu<alpha = 0.3>(c2)
flat = Flatten(r2)
y = MatMul(flat, w3)
"""
RANDOM = np.random.default_rng(7)
WEIGHTS = {
    "w1": RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "w2": RANDOM.standard_normal((5, 4, 3, 3)).astype(np.float32),
    "w3": RANDOM.standard_normal((80, 3)).astype(np.float32),
}
X = RANDOM.standard_normal((2, 3, 8, 8)).astype(np.float32)
LAYERS = ("r1", "r2")


@pytest.fixture
def model(make_model: Any) -> onnx.ModelProto:
    """Two layers with values of both signs, and a head whose gradient differs from place to place."""
    return make_model(BODY, WEIGHTS, "float[N,3,8,8] x", "float[N,3] y")


def by_torch(target: int) -> dict[str, tuple[Any, Any]]:
    """Activation and gradient of each layer."""
    w1, w2, w3 = (torch.tensor(WEIGHTS[name]).double() for name in ("w1", "w2", "w3"))
    leaky, conv = torch.nn.functional.leaky_relu, torch.nn.functional.conv2d
    r1 = leaky(conv(torch.tensor(X).double(), w1, padding=1), 0.3).requires_grad_()
    r2 = leaky(conv(r1, w2, stride=2, padding=1), 0.3)
    score = (r2.flatten(1) @ w3)[:, target].sum()
    gradients = torch.autograd.grad(score, [r1, r2])
    return {name: (a.detach(), g) for name, a, g in zip(LAYERS, (r1, r2), gradients, strict=True)}


@pytest.mark.parametrize("sign", slow_but(["positive"], ["positive", "negative"]))
@pytest.mark.parametrize("layer", slow_but(["r1"], LAYERS))
def test_against_torch(model: onnx.ModelProto, layer: str, sign: str) -> None:
    result = pcam.Explainer(model, ("layercam", "hirescam"), layer, sign=sign)(X, [[0, 1, 2]] * 2)
    for k in range(3):
        a, g = by_torch(k)[layer]
        g = g if sign == "positive" else -g
        layercam, hirescam = (g.relu() * a).sum(1).relu().numpy(), (g * a).sum(1).relu().numpy()
        np.testing.assert_allclose(result.raw["layercam"][:, k], layercam, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(result.raw["hirescam"][:, k], hirescam, rtol=1e-4, atol=1e-4)
        wide = reference.minmax(reference.upsample_bilinear(layercam, (8, 8)))
        np.testing.assert_allclose(result["layercam"][:, k], wide, atol=1e-4)


def test_several_layers_are_the_mean_of_their_maps(model: onnx.ModelProto) -> None:
    result = pcam.Explainer(model, ("layercam",), list(LAYERS))(X, [2, 2])
    wide = []
    for layer in LAYERS:
        a, g = by_torch(2)[layer]
        raw = (g.relu() * a).sum(1).relu().numpy()
        np.testing.assert_allclose(result.raw[f"layercam.{layer}"][:, 0], raw, rtol=1e-4, atol=1e-4)
        wide.append(reference.minmax(reference.upsample_bilinear(raw, (8, 8))))
    np.testing.assert_allclose(result["layercam"][:, 0], reference.minmax(np.mean(wide, axis=0)), atol=1e-4)


def test_captum_leaves_the_sign(model: onnx.ModelProto) -> None:
    result = pcam.Explainer(model, ("hirescam",), "r2", profile="captum")(X, [1, 1])
    a, g = by_torch(1)["r2"]
    np.testing.assert_allclose(result["hirescam"][:, 0], (g * a).sum(1).numpy(), rtol=1e-4, atol=1e-4)
    assert result["hirescam"].min() < 0
