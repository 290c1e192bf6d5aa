# SPDX-License-Identifier: Apache-2.0
"""Networks of each family, exported by torch's two exporters and explained, against torch's own autograd.

Two comparisons for each. In float64 the exported graph and the module have no rounding left that could flip the mask of
a ReLU, so that one draw must agree: ONNX Runtime lacks float64 kernels of Conv and others, the reference evaluator of
the onnx package computes it. In float32 ONNX Runtime computes activation, gradient and map of the layer as a user gets
them; the input gradient may have a flipped mask (``docs/methods.md``), and must agree in one of a few draws.
"""

import functools
import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from onnx.reference import ReferenceEvaluator

import portable_cam as pcam
from portable_cam.export import build_explanation, differentiate, from_torch
from portable_cam.testing import widen
from portable_cam.verify.selfcheck import self_check

torch = pytest.importorskip("torch")
architectures = pytest.importorskip("benchmarks.architectures")
ARCHITECTURES = architectures.ARCHITECTURES
EXPORTERS = ("dynamo", "torchscript")
#: The onnx package's reference evaluator gives wrong Indices for a padded MaxPool of stride 1.
NO_REFERENCE = {"focus_spp"}
TARGET = 3
#: Those that run by default: a residual network, and tokens.
QUICK = ("resnet", "vit")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@functools.cache
def exported(name: str, exporter: str) -> tuple[Any, onnx.ModelProto]:
    """A network and its ONNX export with an open batch; made once."""
    architecture = ARCHITECTURES[name]
    module = architecture.build()
    x = torch.zeros(2, 3, *architecture.size)
    if exporter == "dynamo":
        return module, from_torch(module, x)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )
    return module, onnx.load_from_string(buffer.getvalue())


def picture(name: str, draw: int = 0, batch: int = 3) -> Any:
    """Random pixels; another batch than the one exported with."""
    generator = torch.Generator().manual_seed(draw)
    return torch.randn(batch, 3, *ARCHITECTURES[name].size, generator=generator)


def relative(got: Any, want: Any) -> float:
    """The largest difference, relative to the largest value; the shapes are equal."""
    got, want = np.asarray(got, np.float64), want.detach().double().numpy()
    assert got.shape == want.shape
    assert np.abs(want).max() > 1e-6, "a gradient of zero says nothing"
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("exporter", slow_but(["torchscript"], EXPORTERS))
@pytest.mark.parametrize("name", slow_but(["resnet"], [name for name in ARCHITECTURES if name not in NO_REFERENCE]))
def test_input_gradient_in_float64(name: str, exporter: str) -> None:
    module, model = exported(name, exporter)
    x, y = model.graph.input[0].name, model.graph.output[0].name
    wide = widen(differentiate(model, y, [x]))
    for node in wide.graph.node:  # the evaluator knows the attribute's default only, and computes in the input's type
        kept = [attribute for attribute in node.attribute if attribute.name != "stash_type"]
        del node.attribute[:]
        node.attribute.extend(kept)
    pixels = picture(name).double().requires_grad_()
    double = ARCHITECTURES[name].build().double()
    double.load_state_dict(module.state_dict())
    scores = double(pixels)
    seed = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1)).double()
    scores.backward(seed)
    feeds = {x: pixels.detach().numpy(), "seed": seed.numpy()}
    got, gradient = ReferenceEvaluator(wide).run([y, f"gradient.{x}"], feeds)
    assert relative(got, scores) < 1e-5  # the exporter's own constants, and folded normalisations, are float32
    assert relative(gradient, pixels.grad) < 1e-5


def torch_layer(name: str, module: Any, pixels: Any) -> tuple[Any, Any, Any, Any]:
    """By hooks, as pytorch-grad-cam does: activation and gradient of the layer as (N, C, h, w), Grad-CAM's map before
    the ReLU, and the gradient of the pixels, for one class."""
    architecture = ARCHITECTURES[name]
    kept = {}

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        output.retain_grad()
        kept["layer"] = output

    handle = module.get_submodule(architecture.layer).register_forward_hook(keep)
    pixels = pixels.clone().requires_grad_()
    module(pixels)[:, TARGET].sum().backward()
    handle.remove()
    activation = architecture.to_picture(kept["layer"].detach())
    gradient = architecture.to_picture(kept["layer"].grad)
    weights = gradient.mean((2, 3), keepdim=True)
    return activation, gradient, (weights * activation).sum(1), pixels.grad


@pytest.mark.parametrize("exporter", slow_but(["torchscript"], EXPORTERS))
@pytest.mark.parametrize("name", slow_but(QUICK, ARCHITECTURES))
def test_default_layer_and_its_map(name: str, exporter: str) -> None:
    """The layer that is chosen is the one a person would choose, and holds what torch has there."""
    module, model = exported(name, exporter)
    # the profile captum leaves the map signed: a ReLU might leave nothing to compare
    explainer = pcam.Explainer(model, ("gradcam", "gradient"), profile="captum", details=True, threads=1)
    flips = []
    for draw in range(5):
        pixels = picture(name, draw)
        activation, gradient, cam, input_gradient = torch_layer(name, module, pixels)
        result = explainer(pixels.numpy(), TARGET)
        assert result.activations is not None
        assert result.gradients is not None
        assert relative(result.activations, activation) < 1e-4
        assert relative(result.gradients[:, 0], gradient) < 1e-4
        assert relative(result.raw["gradcam"][:, 0], cam) < 1e-4
        flips.append(relative(result["gradient"][:, 0], input_gradient))
        if flips[-1] < 1e-4:
            return
    pytest.fail(f"the input gradient differs in every draw: {flips}")


@pytest.mark.parametrize(
    "name", slow_but(["vit"], [name for name, a in ARCHITECTURES.items() if a.grid is not None or a.channels_last])
)
def test_self_check_of_a_layer_that_is_no_map(name: str) -> None:
    """By finite differences of the model alone, in the layer's own layout."""
    _, model = exported(name, "torchscript")
    proof = self_check(model, build_explanation(model, ("gradcam",), targets_per_image=1))
    assert proof.passed, proof.describe()
    assert proof["layer"].passed, "the check found no gradient to look at"
    assert proof["maps"].passed or not ARCHITECTURES[name].prefix, "the check found no map to look at"
