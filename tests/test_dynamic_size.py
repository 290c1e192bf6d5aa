# SPDX-License-Identifier: Apache-2.0
"""Models whose height and width are open, and models with channels last: the maps of a static export, at any size."""

import functools
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam.export import from_torch, list_layers

torch = pytest.importorskip("torch")
ARCHITECTURES = pytest.importorskip("benchmarks.architectures").ARCHITECTURES
SIZES = ((32, 32), (64, 96))
METHODS = ("gradcam", "gradient")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class ChannelsLast(torch.nn.Module):  # type: ignore[misc]
    """Takes (N, H, W, C), as TensorFlow's models do."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x.permute(0, 3, 1, 2))


@functools.cache
def module(name: str) -> Any:
    return ARCHITECTURES[name].build()


@functools.cache
def open_export(name: str) -> onnx.ModelProto:
    return from_torch(module(name), torch.zeros(2, 3, 48, 64), dynamic_size=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "convnext", "hybrid"])
def test_open_height_and_width(name: str) -> None:
    """A pooled map, channels last within, tokens: rows and columns are found at run time."""
    model = open_export(name)
    assert all(d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim[2:])
    layer = list_layers(model)[0]
    assert layer.grid == (None, None)
    assert layer.layout == ("NTC" if name == "hybrid" else "NCHW")
    explainer = pcam.Explainer(model, METHODS, profile="captum", details=True, threads=1)
    for height, width in SIZES:
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        result = explainer(pixels.numpy(), 3)
        pixels.requires_grad_()
        scores = module(name)(pixels)
        scores[:, 3].sum().backward()
        stride = 8
        assert result.raw["gradcam"].shape == (2, 1, height // stride, width // stride)
        np.testing.assert_allclose(result.scores[:, 0], scores[:, 3].detach(), rtol=1e-4, atol=1e-5)
        want = pixels.grad.numpy()
        np.testing.assert_allclose(result["gradient"][:, 0], want, atol=1e-4 * np.abs(want).max())
        fixed = from_torch(module(name), torch.zeros(2, 3, height, width))
        static = pcam.Explainer(fixed, METHODS, profile="captum", details=True, threads=1)(pixels.detach().numpy(), 3)
        for got, expected in (
            (result.raw["gradcam"], static.raw["gradcam"]),
            (result.activations, static.activations),
            (result.gradients, static.gradients),
        ):
            assert got is not None
            np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_channels_last_with_an_open_size() -> None:
    """The picture's Transpose, and maps in the picture's own layout, at two sizes."""
    example = torch.zeros(2, 48, 64, 3)
    model = from_torch(ChannelsLast(module("resnet")), example, dynamic_size=True)
    last = pcam.Explainer(model, ("gradcam", "guided_gradcam"), threads=1)
    first = pcam.Explainer(open_export("resnet"), ("gradcam", "guided_gradcam"), threads=1)
    for height, width in SIZES:
        pixels = np.random.default_rng(height).standard_normal((2, 3, height, width), np.float32)
        got, want = last(pixels.transpose(0, 2, 3, 1), 3), first(pixels, 3)
        assert got.channel_axis == 3
        np.testing.assert_allclose(got["gradcam"], want["gradcam"], atol=1e-4)
        guided = want["guided_gradcam"].transpose(0, 1, 3, 4, 2)
        assert got["guided_gradcam"].shape == (2, 1, height, width, 3)
        np.testing.assert_allclose(got["guided_gradcam"], guided, atol=1e-4 * np.abs(guided).max())
