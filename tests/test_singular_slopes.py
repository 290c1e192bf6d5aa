# SPDX-License-Identifier: Apache-2.0
"""Slopes that are infinite at 0, behind a ReLU that is 0: the gradient is torch's, finite where torch's is."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.runtime.session import Session

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

#: What stands behind the ReLU, whose output has zeros, single ones and whole pixels.
BEHIND: dict[str, Callable[[Any], Any]] = {
    "Sqrt": torch.sqrt,
    "Pow 0.5": lambda a: a**0.5,
    "Pow 1/3": lambda a: a ** (1 / 3),
    "Pow 0.3 of a maximum": lambda a: F.max_pool2d(a, 2) ** 0.3,
    "Sqrt of a mean": lambda a: F.avg_pool2d(a, 2).sqrt(),
    "Sqrt of a mean that overlaps": lambda a: F.avg_pool2d(a, 3, 2, 1).sqrt(),
    "Sqrt of a resized map": lambda a: F.interpolate(a, scale_factor=2, mode="bilinear").sqrt(),
    "L2 pooling": lambda a: F.lp_pool2d(a, 2, 2),
    "norm over channels": lambda a: a.norm(dim=1),
    "norm over pixels": lambda a: a.norm(dim=(2, 3)),
    "norm by hand": lambda a: a.pow(2).sum(1).sqrt(),
    "normalised": lambda a: F.normalize(a, dim=1),
    "normalised by hand": lambda a: a / (a.pow(2).sum(1, keepdim=True).sqrt() + 1e-6),
    "normalised, epsilon inside": lambda a: a / (a.pow(2).sum(1, keepdim=True) + 1e-6).sqrt(),
    "signed square root": lambda a: torch.sign(a) * torch.sqrt(a.abs()),
    "square root of a larger one": lambda a: torch.maximum(a, a.flip(1)).sqrt(),
    "GeM": lambda a: a.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
    "power of a norm": lambda a: a.norm(dim=1) ** 0.5,
    "Log": lambda a: torch.log(a).clamp(min=-5),
    "standard deviation": lambda a: a.std((2, 3)),
}
GATES: dict[str, Callable[[Any], Any]] = {
    "relu6": F.relu6,
    "clamp": lambda t: t.clamp(min=0),
    "leaky": lambda t: F.relu(F.leaky_relu(t)),
    "two": lambda t: F.relu(2 * F.relu(t)),
}


class Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, gate: Callable[[Any], Any], behind: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.gate, self.behind = gate, behind

    def forward(self, x: Any) -> Any:
        return self.behind(self.gate(self.conv(x))).flatten(1)


def pixels() -> Any:
    """With a part where no channel answers."""
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, :, :3] = 0
    return x


def exported(net: Any, x: Any) -> onnx.ModelProto:
    """By torch's older exporter, which is quick."""
    written = io.BytesIO()
    torch.onnx.export(net, x, written, dynamo=False, input_names=["x"], output_names=["y"], opset_version=18)
    return onnx.load_from_string(written.getvalue())


def compared(net: Any, x: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Ours and torch's gradient for the input, and the model."""
    with torch.no_grad():
        net.conv.bias.copy_(torch.tensor([-0.3, -0.1, -0.2, -0.05]))
    model = exported(net, x)
    leaf = x.clone().requires_grad_()
    y = net(leaf)
    (want,) = torch.autograd.grad(y.sum(), leaf)
    seed = np.ones(tuple(y.shape), np.float32)
    got = Session(differentiate(model, "y", ["x"])).run({"x": x.numpy(), "seed": seed})
    return got["gradient.x"], want.numpy(), model


@pytest.mark.parametrize("name", BEHIND)
def test_behind_a_relu(name: str) -> None:
    torch.manual_seed(1)
    got, want, _ = compared(Net(F.relu, BEHIND[name]), pixels())
    kept = np.isfinite(want)
    np.testing.assert_allclose(got[kept], want[kept], rtol=5e-3, atol=1e-4 * max(np.abs(want[kept]).max(initial=0), 1))


@pytest.mark.parametrize("gate", GATES)
def test_behind_other_gates(gate: str) -> None:
    torch.manual_seed(1)
    got, want, _ = compared(Net(GATES[gate], BEHIND["norm by hand"]), pixels())
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_on_a_blank_picture() -> None:
    """Nothing answers: the map is flat, not NaN."""
    torch.manual_seed(1)
    net = Net(F.relu, lambda a: torch.sqrt(a).mean((2, 3)))
    with torch.no_grad():
        net.conv.bias.fill_(-1.0)
    model = exported(net, pixels())
    result = pcam.Explainer(model, ("gradient", "guided_backprop"))(np.zeros((2, 3, 6, 6), np.float32), 1)
    for method in ("gradient", "guided_backprop"):
        np.testing.assert_array_equal(result[method], 0)


def test_of_a_layer_behind_the_relu() -> None:
    """A signed square root whose epsilon the exporter took out: its slope at 0 is 0 times infinity, and counts as 0."""
    torch.manual_seed(1)
    net = Net(F.relu, lambda a: torch.sign(a) * torch.sqrt(a.abs()))
    model = exported(net, pixels())
    (relu,) = (n.output[0] for n in model.graph.node if n.op_type == "Relu")
    y = Session(model).run({"x": pixels().numpy()})["y"]
    got = Session(differentiate(model, "y", [relu])).run({"x": pixels().numpy(), "seed": np.ones_like(y)})
    activations = np.square(y).reshape(got[f"gradient.{relu}"].shape)
    want = np.where(activations > 0, 0.5 / np.sqrt(np.where(activations > 0, activations, 1)), 0)
    np.testing.assert_allclose(got[f"gradient.{relu}"], want, rtol=1e-3)


def test_masks_are_multiplied_where_no_slope_is_infinite() -> None:
    """The faster form stays, a normalisation's square root with its epsilon and GeM behind a bound included."""
    for name in ("normalised, epsilon inside", "GeM"):
        _, _, model = compared(Net(F.relu, BEHIND[name]), pixels())
        assert any(node.op_type == "HardSigmoid" for node in differentiate(model, "y", ["x"]).graph.node)
