# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line
"""Guided backpropagation and the deconvnet: what each policy rectifies, and the gradient that it then has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from portable_cam.errors import ModelError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.runtime.session import Session
from portable_cam.testing import node_model

F = torch.nn.functional


def rectifying(function: Callable[..., Any], rule: str, is_relu: bool) -> Callable[..., Any]:
    """``function`` with the gradient that the papers give a ReLU: written here a second time, from their formulas."""

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Any) -> Any:
            ctx.save_for_backward(t)
            return function(t)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (t,) = ctx.saved_tensors
            with torch.enable_grad():
                leaf = t.detach().requires_grad_()
                (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
            g = g if rule == "standard" else g.clamp(min=0)
            return g if rule == "deconvnet" and is_relu else g * slope

    return Rule.apply


ACTIVATIONS = [
    ("Relu", {}, [], F.relu, "relu"), ("Clip", {}, [0.0, 6.0], F.relu6, "relu+clip"), ("Clip", {}, [0.0, 0.4], lambda t: F.hardtanh(t, 0.0, 0.4), "relu+clip"),
    ("LeakyRelu", {"alpha": 0.2}, [], lambda t: F.leaky_relu(t, 0.2), "all"), ("PRelu", {}, [0.3], lambda t: F.leaky_relu(t, 0.3), "all"),
    ("Elu", {}, [], F.elu, "all"), ("Selu", {}, [], F.selu, "all"), ("Celu", {"alpha": 0.7}, [], lambda t: F.celu(t, 0.7), "all"),
    ("Gelu", {}, [], F.gelu, "all"), ("Gelu", {"approximate": "tanh"}, [], lambda t: F.gelu(t, approximate="tanh"), "all"),
    ("HardSwish", {}, [], F.hardswish, "all"), ("Mish", {}, [], F.mish, "all"), ("ThresholdedRelu", {"alpha": 0.1}, [], lambda t: torch.where(t > 0.1, t, 0.0), "all"),
]  # fmt: skip


@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
@pytest.mark.parametrize(("op", "attributes", "extra", "function", "policy"), ACTIVATIONS)
def test_guided_rules(op: str, attributes: Any, extra: Any, function: Any, policy: Any, rule: Any, dtype: Any) -> None:
    """Two layers, the gradient of each activation replaced; a policy that does not name it leaves the derivative."""
    rng = np.random.default_rng(5)
    weights = [rng.standard_normal((6, 6)).astype(dtype) for _ in range(3)]
    names = [f"e{i}" for i in range(len(extra))]
    nodes = []
    for i in range(3):
        nodes.append(onnx.helper.make_node("MatMul", [f"a{i - 1}" if i else "x", f"w{i}"], [f"z{i}"]))
        if i < 2:
            nodes.append(onnx.helper.make_node(op, [f"z{i}", *names], [f"a{i}"], **attributes))
    point = rng.standard_normal((4, 6)).astype(dtype)
    constants = {f"w{i}": weight for i, weight in enumerate(weights)} | {
        n: np.array(v, dtype) for n, v in zip(names, extra, strict=True)
    }
    model = node_model(nodes, {"x": point}, ["z2"], constants)
    try:
        Session(model)
    except ModelError:
        assert dtype == np.float64
        pytest.skip("ONNX Runtime has no kernel of this type")
    for used in ("relu", "relu+clip", "all"):
        session = Session(differentiate(model, "z2", ["x"], rule, used), threads=1)  # type: ignore[arg-type]
        dy = np.random.default_rng(6).standard_normal((4, 6)).astype(dtype)
        got = session.run({"x": point, "seed": dy})["gradient.x"]
        named = ["relu", "relu+clip", "all"].index(used) >= ["relu", "relu+clip", "all"].index(policy)
        act = rectifying(function, rule if named else "standard", op in {"Relu", "Clip"})
        t = torch.tensor(point.astype(np.float64), requires_grad=True)
        m = [torch.tensor(weight.astype(np.float64)) for weight in weights]
        (want,) = torch.autograd.grad(act(act(t @ m[0]) @ m[1]) @ m[2], t, torch.tensor(dy.astype(np.float64)))
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=3e-6 * want.abs().max().item())


def counted(module: Any, *shape: int, policy: str = "all", opset: int = 18) -> list[str]:
    """The operators that a policy names in a module exported by torch, normalised."""
    from portable_cam.export.autodiff.relu_policy import guided_nodes
    from portable_cam.export.passes.normalize import normalize

    module = module.eval()
    program = torch.onnx.export(module, (torch.randn(*shape),), dynamo=True, opset_version=opset, verbose=False)
    return [n.op_type for n in guided_nodes(normalize(program.model_proto).graph, policy)]  # type: ignore[arg-type]


class SqueezeExcite(torch.nn.Module):
    def __init__(self, gate: Any, inner: Any = torch.nn.ReLU) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(4, 2, 1), inner(), torch.nn.Conv2d(2, 4, 1), gate()
        )

    def forward(self, t: Any) -> Any:
        return t * self.net(t)


class Lambda(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, t: Any) -> Any:
        return self.function(t)


nn = torch.nn


class All(torch.nn.Module):
    """Each module on its own convolution, the results side by side: exporting takes seconds, so it is done once."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 4, 3), module) for module in modules)

    def forward(self, t: Any) -> list[Any]:
        return [branch(t) for branch in self.branches]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
@pytest.mark.parametrize("opset", [18, 20])
def test_policy_all_finds_smooth_activations_and_nothing_else(opset: int) -> None:
    one = [
        nn.SiLU(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.Hardswish(),
        nn.Mish(),
        nn.ReLU(),
        nn.ReLU6(),
        Lambda(lambda t: t * torch.sigmoid(t)),
        Lambda(lambda t: torch.sigmoid(t) * t),
        Lambda(lambda t: t * torch.sigmoid(1.702 * t)),
        Lambda(lambda t: t * (F.relu6(t + 3) / 6)),
        Lambda(lambda t: t * torch.clamp(t / 6 + 0.5, 0, 1)),
        Lambda(lambda t: 0.5 * t * (1 + torch.erf(t / math.sqrt(2)))),
        Lambda(lambda t: t * torch.tanh(F.softplus(t))),
    ]
    none = [
        SqueezeExcite(nn.Sigmoid, nn.Identity),
        SqueezeExcite(nn.Hardsigmoid, nn.Identity),
        nn.GLU(1),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Hardsigmoid(),
        Lambda(lambda t: t * torch.sigmoid(t.mean(1, keepdim=True))),
        Lambda(lambda t: t * torch.sigmoid(t - t.mean((2, 3), keepdim=True))),
        SqueezeExcite(lambda: Lambda(lambda t: F.relu6(t + 3) / 6), nn.Identity),
        Lambda(lambda t: t * t),
        nn.Hardtanh(-1, 6),
    ]
    assert len(counted(All(one), 1, 3, 8, 8, opset=opset)) == len(one)
    assert counted(All(none), 1, 3, 8, 8, opset=opset) == []
    assert counted(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), SqueezeExcite(nn.Sigmoid, nn.SiLU)), 1, 3, 8, 8, opset=opset
    ) == ["Mul", "Mul"]
