# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the table is read down its columns
"""ONNX Runtime's own operators, decomposed: the values of its kernels, and gradients that are theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_after

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.graph.refusals import REFUSED
from portable_cam.export.passes.contrib import DECOMPOSITIONS, DOMAIN
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp

torch = pytest.importorskip("torch", reason="kernels that ONNX Runtime has on the GPU only are compared with torch")
F = torch.nn.functional


@dataclass(frozen=True)
class Case:
    """A node. ``inputs`` are shapes of normal numbers, arrays, or None for one that is absent; ``late`` the graph
    inputs of unknown shape. ``torch``: the definition, where ONNX Runtime has a kernel for the GPU only."""

    op: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    torch: Callable[..., Any] | None = None
    domain: str = DOMAIN
    opset: int = 17
    smooth: bool = True
    note: str = ""

    def __str__(self) -> str:
        shapes = "_".join(
            "x".join(map(str, np.shape(i) if isinstance(i, np.ndarray) else i)) for i in self.inputs if i is not None
        )
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return "-".join(p for p in (self.op, shapes, attributes, self.note) if p).replace(" ", "")


def ints(values: Any, dtype: Any = np.int32) -> np.ndarray:
    return np.asarray(values, dtype)


def conv(z: bool = False, op: str = "FusedConv", **attributes: Any) -> Case:
    inputs = [(2, 3, 6, 7), (4, 3, 3, 3), (4,), *([(2, 4, 6, 7)] if z else [])]
    name = attributes.get("activation", "")
    smooth = name in {"Tanh", "Sigmoid", ""}
    return Case(op, inputs, {"pads": [1, 1, 1, 1], **attributes}, smooth=smooth)


def mha(n: int = 2, s: int = 3, t: int = 4, bias: bool = True, v: int = 8, **kw: Any) -> Case:
    rest = kw.pop("rest", [])
    inputs = [(n, s, 8), (n, t, 8), (n, t, v), (16 + v,) if bias else None, *rest]
    return Case("MultiHeadAttention", inputs, {"num_heads": 2, **kw.pop("attributes", {})}, **kw)


def attention(rest: list[Any] | None = None, inputs: Any = None, **kw: Any) -> Case:
    attributes = {"num_heads": 2, **kw.pop("attributes", {})}
    return Case("Attention", [*(inputs or [(2, 4, 6), (6, 24), (24,)]), *(rest or [])], attributes, **kw)


def group_norm(t: Any, gamma: Any, beta: Any, last: bool, groups: int, silu: bool) -> Any:
    x = t.permute(0, 3, 1, 2) if last else t
    y = F.group_norm(x, groups, gamma, beta, 1e-5)
    y = F.silu(y) if silu else y
    return y.permute(0, 2, 3, 1) if last else y


#: y, x, y, x in shares of the image: within it, mirrored, and beyond it.
BOXES = np.array([[0.13, 0.21, 0.81, 0.74], [0.9, 0.1, 0.3, 0.66], [-0.4, 0.3, 0.55, 1.37]], np.float32)
#: Images without a kink between their pixels.
RAMPS = np.einsum("nck,kij->ncij", np.random.default_rng(5).standard_normal((2, 3, 2)), np.indices((7, 9))).astype(
    np.float32
)
CASES = [
    conv(), conv(activation="Relu"), conv(z=True, activation="Relu"), conv(activation="Tanh"), conv(activation="Sigmoid", group=1, strides=[2, 2]),
    conv(activation="LeakyRelu", activation_params=[0.2]), conv(activation="Clip", activation_params=[-0.5, 1.5]),
    conv(activation="HardSigmoid", activation_params=[0.3, 0.4]),
    Case("FusedGemm", [(3, 4), (4, 5), (5,)], {"activation": "Relu"}, smooth=False),
    Case("FusedGemm", [(4, 3), (5, 4)], {"activation": "LeakyRelu", "activation_alpha": 0.3, "transA": 1, "transB": 1, "alpha": 0.5}, smooth=False),
    Case("FusedGemm", [(3, 4), (4, 5), (3, 1)], {"beta": 2.0, "activation": "Tanh"}),
    *[Case("FusedMatMul", list(shapes), {"transA": a, "transB": b, "alpha": 0.5}) for a, b, shapes in (
        (0, 0, [(2, 3, 4), (4, 5)]), (0, 1, [(2, 2, 3, 4), (2, 2, 5, 4)]), (1, 0, [(2, 4, 3), (2, 4, 5)]), (1, 1, [(4, 3), (5, 4)]))],
    Case("FusedMatMul", [(3, 2, 4), (2, 4, 5)], {"transBatchA": 1}), Case("FusedMatMul", [(4, 2, 3), (2, 4, 5)], {"transBatchA": 1, "transA": 1}),
    Case("FusedMatMul", [(2, 3, 4), (4, 2, 5)], {"transBatchB": 1}), Case("FusedMatMul", [(2, 3, 4), (5, 2, 4)], {"transBatchB": 1, "transB": 1, "alpha": 2.0}),
    Case("TransposeMatMul", [(2, 4, 3), (2, 4, 5)], {"transA": 1}),
    Case("FusedMatMulActivation", [(2, 3, 4), (4, 5)], {"alpha": 0.5, "activation": "Relu"}, torch=lambda a, b: F.relu(0.5 * a @ b)),
    Case("Gelu", [(2, 3, 4)]), Case("BiasGelu", [(2, 3, 4), (4,)]), Case("FastGelu", [(2, 3, 4)]), Case("FastGelu", [(2, 3, 4), (4,)]),
    Case("GemmFastGelu", [(2, 3, 4), (4, 5), (5,)], torch=lambda x, w, b: F.gelu(x @ w + b, approximate="tanh")),
    Case("QuickGelu", [(2, 3, 4)]), Case("QuickGelu", [(2, 3, 4)], {"alpha": 1.0}), Case("QuickGelu", [(2, 3, 4)], {"alpha": 0.7}),
    Case("BiasSplitGelu", [(2, 3, 8), (8,)], torch=lambda x, b: (x + b)[..., :4] * F.gelu((x + b)[..., 4:])),
    Case("BiasAdd", [(2, 3, 4), (4,), (2, 3, 4)], torch=lambda x, b, s: x + b + s),
    Case("BiasSoftmax", [(2, 3, 4, 5), (2, 1, 1, 5)], {"axis": 3, "is_inner_broadcast": 1}, torch=lambda x, b: torch.softmax(x + b, -1)),
    Case("BiasSoftmax", [(2, 3, 4, 5), (1, 1, 4, 5)], {"axis": 2, "is_inner_broadcast": 0}, torch=lambda x, b: torch.softmax((x + b).flatten(2), -1).reshape(x.shape)),
    Case("BiasDropout", [(2, 3, 4), (4,), (2, 3, 4)], torch=lambda x, b, r: x + b + r), Case("BiasDropout", [(2, 3, 4), (4,)], torch=lambda x, b: x + b),
    Case("LayerNormalization", [(2, 3, 4), (4,), (4,)], {"axis": -1}, domain="", opset=13), Case("LayerNormalization", [(2, 3, 4), (3, 4), (3, 4)], {"axis": 1, "epsilon": 1e-3}, domain="", opset=12),
    Case("SkipLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,), (8,)]), Case("SkipLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,)]),
    Case("SkipLayerNormalization", [(2, 3, 8), (3, 8), (8,), (8,), (8,)], {"epsilon": 1e-3}, ("y", "", "", "s")), Case("SkipLayerNormalization", [(2, 3, 8), (1, 3, 8), (8,), None, (8,)]),
    Case("SimplifiedLayerNormalization", [(2, 3, 8), (8,)], {"axis": -1, "epsilon": 1e-3}, domain=""), Case("SimplifiedLayerNormalization", [(2, 3, 8), (8,)], {"axis": 2}, ("y", "inverse"), domain="", opset=13),
    Case("SkipSimplifiedLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,)]), Case("SkipSimplifiedLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,), (8,)], {"epsilon": 1e-3}, ("y", "", "", "s")),
    *[Case("GroupNorm", [(2, 3, 5, 6) if last else (2, 6, 3, 5), (6,), (6,)], {"groups": 3, "activation": silu, "channels_last": last},
           torch=lambda t, g, b, last=last, silu=silu: group_norm(t, g, b, bool(last), 3, bool(silu))) for last in (0, 1) for silu in (0, 1)],
    Case("SkipGroupNorm", [(2, 3, 5, 6), (6,), (6,), (2, 3, 5, 6), (6,)], {"groups": 3, "activation": 1}, torch=lambda t, g, b, s, a: group_norm(t + s + a, g, b, True, 3, True)),
    Case("SkipGroupNorm", [(2, 3, 5, 6), (6,), (6,), (2, 6)], {"groups": 2, "activation": 0}, ("y", "s"), torch=lambda t, g, b, s: (group_norm(t + s[:, None, None], g, b, True, 2, False), t + s[:, None, None])),
    Case("EmbedLayerNormalization", [ints([[1, 3, 0], [2, 2, 4]]), None, (5, 8), (6, 8), None, (8,), (8,)], {}, ("y", "m", "s")),
    Case("EmbedLayerNormalization", [ints([[1, 3, 0], [2, 2, 4]]), ints([[0, 1, 1], [0, 0, 1]]), (5, 8), (6, 8), (2, 8), (8,), (8,), ints([[1, 1, 0], [1, 1, 1]])], {"epsilon": 1e-3}, ("y", "m")),
    Case("EmbedLayerNormalization", [ints([[1, 3, 0], [2, 2, 4]]), ints([[0, 1, 1], [0, 0, 1]]), (5, 8), (6, 8), (2, 8), (8,), (8,), None, ints([[2, 1, 5], [0, 1, 2]])], {}, ("y", "m")),
    Case("NhwcMaxPool", [np.random.default_rng(0).integers(0, 255, (1, 6, 7, 3)).astype(np.uint8)], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    Case("NhwcFusedConv", [(2, 6, 7, 3), (4, 3, 3, 3), (4,), (2, 6, 7, 4)], {"pads": [1, 1, 1, 1], "activation": "Tanh"},
         torch=lambda x, w, b, z: torch.tanh(F.conv2d(x.permute(0, 3, 1, 2), w, b, padding=1).permute(0, 2, 3, 1) + z)),
    Case("NhwcConv", [(2, 6, 7, 3), (4, 3, 3, 3)], {"strides": [2, 2]}, torch=lambda x, w: F.conv2d(x.permute(0, 3, 1, 2), w, stride=2).permute(0, 2, 3, 1)),
    attention(), attention(attributes={"unidirectional": 1}), attention(attributes={"scale": 0.3}), attention(inputs=[(2, 4, 6), (6, 24), None]),
    attention([ints([[1, 1, 1, 0], [1, 1, 0, 0]])]), attention([ints([3, 4])]), attention([ints([[1, 1, 1, 0], [1, 1, 0, 0]])], attributes={"mask_filter_value": -2.0, "unidirectional": 1}),
    attention([ints(np.tril(np.ones((2, 4, 4))))]), attention([None, None, (2, 2, 4, 4)]), attention([ints([[1, 0, 1, 1], [1, 1, 1, 1]]), None, (1, 2, 4, 4)]),
    attention([None, (2, 2, 2, 3, 4)], outputs=("y", "present")), attention([None, (2, 2, 2, 3, 4)], attributes={"unidirectional": 1}, outputs=("y", "present")),
    attention(inputs=[(2, 4, 6), (6, 8 + 8 + 12), (28,)], attributes={"qkv_hidden_sizes": [8, 8, 12]}),
    mha(), mha(bias=False), mha(v=12), mha(attributes={"scale": 0.2}), mha(t=3, attributes={"unidirectional": 1}), mha(rest=[ints([3, 2])]),
    mha(rest=[ints([[1, 1, 1, 0], [1, 0, 1, 1]])]), mha(rest=[ints(np.arange(24).reshape(2, 3, 4) % 5 > 0)]), mha(rest=[None, (2, 2, 3, 4)]), mha(rest=[None, (1, 1, 3, 4)]),
    mha(t=3, rest=[None, None, (2, 2, 5, 4), (2, 2, 5, 4)], outputs=("y", "k", "v")), mha(t=3, rest=[None, None, (2, 2, 5, 4), (2, 2, 5, 4)], outputs=("y", "k", "v"), attributes={"unidirectional": 1}, note="past"),
    Case("MultiHeadAttention", [(2, 3, 8), (2, 2, 5, 4), (2, 2, 5, 4)], {"num_heads": 2}, note="keys by head"),
    Case("CropAndResize", [RAMPS, BOXES[:2], ints([1, 0]), ints([4, 5])]), Case("CropAndResize", [RAMPS, BOXES[:2], ints([1, 0]), ints([1, 5])], smooth=False, note="one row"),
    Case("CropAndResize", [(2, 3, 7, 9), BOXES, ints([1, 0, 1]), ints([4, 5])], {"extrapolation_value": -1.0}, smooth=False),
    Case("CropAndResize", [(2, 3, 7, 9), BOXES, ints([1, 0, 0]), ints([3, 6])], {"mode": "nearest", "extrapolation_value": 2.0}, smooth=False),
]  # fmt: skip


def build(case: Case, unknown: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    feeds = {}
    for i, given in enumerate(case.inputs):
        if given is not None:
            feeds[f"i{i}"] = (
                given if isinstance(given, np.ndarray) else (0.7 * rng.standard_normal(given)).astype(np.float32)
            )
    helper = onnx.helper
    node = helper.make_node(
        case.op,
        [f"i{i}" if given is not None else "" for i, given in enumerate(case.inputs)],
        case.outputs,
        name="node",
        domain=case.domain,
        **case.attributes,
    )
    inputs = [
        helper.make_tensor_value_info(
            k, helper.np_dtype_to_tensor_dtype(v.dtype), [f"{k}_{a}" for a in range(v.ndim)] if unknown else v.shape
        )
        for k, v in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in case.outputs if name]
    graph = helper.make_graph([node], "contrib", inputs, outputs)
    imports = [helper.make_opsetid("", case.opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir as ir

    proto = ir.to_proto(normalize(model))
    assert {n.domain for n in proto.graph.node} <= {"", "ai.onnx"}, [n.op_type for n in proto.graph.node]
    return proto


@pytest.mark.parametrize("case", slow_after(1, lambda case: case.op, CASES), ids=str)
def test_values_and_gradients(case: Case) -> None:
    """The values of ONNX Runtime's kernel, and the gradient of every floating-point input."""
    model, feeds = build(case)
    floats = [k for k, v in feeds.items() if v.dtype == np.float32]
    got = Session(decomposed(model), threads=1).run(feeds)
    if case.torch is None:
        want = Session(model, threads=1).run(feeds)
    else:
        tensors = {k: torch.tensor(v.astype(np.float64), requires_grad=True) for k, v in feeds.items()}
        results = case.torch(*tensors.values())
        results = results if isinstance(results, tuple) else (results,)
        want = {name: r.detach().numpy() for name, r in zip(case.outputs, results, strict=True)}
    for name in (n for n in case.outputs if n):
        assert got[name].shape == want[name].shape
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=4e-6, err_msg=name)
    if not floats:
        return
    if case.torch is not None:
        dy = np.random.default_rng(4).standard_normal(want[case.outputs[0]].shape)
        gradients = Session(differentiate(model, case.outputs[0], floats), threads=1).run(
            feeds | {"seed": dy.astype(np.float32)}
        )
        expected = torch.autograd.grad(results[0], list(tensors.values()), torch.tensor(dy))
        for name, gradient in zip(tensors, expected, strict=True):
            np.testing.assert_allclose(
                gradients[f"gradient.{name}"],
                gradient.numpy(),
                rtol=0,
                atol=2e-5 * max(1.0, gradient.abs().max().item()),
            )
    elif case.smooth:
        for name in (n for n in case.outputs if n and got[n].dtype == np.float32):
            used = [k for k in floats if reaches(decomposed(model), k, name)]
            check_vjp(model, feeds, name, used)


def reaches(model: onnx.ModelProto, source: str, output: str) -> bool:
    reached = {source}
    for node in model.graph.node:
        if reached & set(node.input):
            reached.update(node.output)
    return output in reached


def test_every_decomposition_has_a_case() -> None:
    assert {f"{DOMAIN}::{case.op}" for case in CASES} == set(DECOMPOSITIONS)


REFUSALS = [
    (Case("Attention", [(2, 4, 6), (6, 24), (24,)], {"num_heads": 2, "do_rotary": 1}), "rotates"),
    (Case("MultiHeadAttention", [(2, 3, 2, 3, 4)], {"num_heads": 2}), "packed into one tensor"),
    (Case("BiasDropout", [(2, 3, 4), (4,), None, np.array(0.5, np.float32), np.array(True)]), "in training mode"),
    (Case("FusedConv", [(1, 3, 5, 5), (2, 3, 3, 3)], {"activation": "Swish"}), "its activation is Swish"),
    (Case("SkipLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,)], {}, ("y",), domain="com.microsoft", note="fine"), ""),
    *[(Case(key.split("::")[1], [(2, 3, 4)], {}, domain=key.split("::")[0]), REFUSED[key][:40]) for key in REFUSED],
]  # fmt: skip


@pytest.mark.parametrize(("case", "why"), REFUSALS, ids=lambda v: str(v) if isinstance(v, Case) else "")
def test_what_is_refused_is_named_on_the_path_only(case: Case, why: str) -> None:
    """The node and the reason are in the message; off the path it is of no concern."""
    model, _ = build(case)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    helper = onnx.helper
    for name in ("i0", "y"):
        model.graph.node.append(helper.make_node("Exp", [name], [f"exp_{name}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"exp_{name}", 1, None))
    del model.graph.output[0]
    if not why:
        differentiated = differentiate(model, "exp_y", ["i0"])
        assert "gradient.i0" in {output.name for output in differentiated.graph.output}
        return
    with pytest.raises(UnsupportedOperatorError) as caught:
        differentiate(model, "exp_y", ["i0"])
    for part in (f"{case.domain}::{case.op}", "'node'", why):
        assert part in str(caught.value)
    differentiate(model, "exp_i0", ["i0"])


# -- files that ONNX Runtime's optimisers wrote --------------------------------------------------------------------


class Cnn(torch.nn.Module):
    """Convolutions with every kind of activation that the optimiser fuses, a residual, SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.norm, self.head = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        a = F.relu(self.norm(self.first(x)))
        b = F.relu(self.second(a) + a)
        return self.head(F.silu(self.third(b)).mean((2, 3)))


class Transformer(torch.nn.Module):
    """Patches, two blocks of a BERT or ViT written out as exporters of old wrote them, logits of the first token."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before, self.width, self.heads = before, 16, 4
        self.patches = torch.nn.Conv2d(3, self.width, 4, stride=4)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {name: torch.nn.Linear(self.width, self.width) for name in "qkvo"}
                | {"up": torch.nn.Linear(16, 32), "down": torch.nn.Linear(32, 16)}
                | {name: torch.nn.LayerNorm(self.width) for name in ("n1", "n2")}
            )
            for _ in range(2)
        )
        self.head = torch.nn.Linear(self.width, 5)

    def attend(self, block: Any, x: Any) -> Any:
        q, k, v = (block[n](x).reshape(1, -1, self.heads, 4).permute(0, 2, 1, 3) for n in "qkv")
        scores = torch.softmax(q @ k.transpose(2, 3) / 2.0, -1)
        return block["o"]((scores @ v).permute(0, 2, 1, 3).reshape(1, -1, self.width))

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            if self.before:
                x = x + self.attend(block, block["n1"](x))
                x = x + block["down"](F.gelu(block["up"](block["n2"](x))))
            else:
                x = block["n1"](self.attend(block, x) + x)
                x = block["n2"](block["down"](F.gelu(block["up"](x))) + x)
        return self.head(x[:, 0])


NETWORKS = {"cnn": Cnn, "post-norm": lambda: Transformer(False), "pre-norm": lambda: Transformer(True)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The networks, exported by torch."""
    folder = tmp_path_factory.mktemp("exported")
    paths = {}
    for name, make in NETWORKS.items():
        torch.manual_seed(1)
        paths[name] = folder / f"{name}.onnx"
        program = torch.onnx.export(
            make().eval(),
            (torch.randn(1, 3, 16, 16),),
            dynamo=True,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
        )
        program.save(str(paths[name]))
    return paths


def optimised(path: Path, how: str) -> onnx.ModelProto:
    import onnxruntime as ort

    if how == "transformers":
        optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
        return optimizer.optimize_model(str(path), model_type="bert", num_heads=4, hidden_size=16, opt_level=0).model  # type: ignore[no-any-return]
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{how.upper()}")
    options.optimized_model_filepath = str(path.with_suffix(f".{how}.onnx"))
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter and the optimiser warn about themselves
@pytest.mark.parametrize(
    ("network", "how", "fused"),
    [
        ("cnn", "extended", {"FusedConv", "QuickGelu"}),
        ("post-norm", "extended", {"SkipLayerNormalization", "FusedMatMul"}),
        ("pre-norm", "extended", {"FusedMatMul"}),
        ("post-norm", "transformers", {"Attention", "SkipLayerNormalization", "BiasGelu"}),
        ("pre-norm", "transformers", {"SkipLayerNormalization", "BiasGelu"}),
    ],
)
def test_optimised_files_have_the_gradients_of_the_originals(
    exported: dict[str, Path], network: str, how: str, fused: set[str]
) -> None:
    model = optimised(exported[network], how)
    found = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert fused <= found, f"the optimiser fused other things: {found}"
    point = np.random.default_rng(8).standard_normal((1, 3, 16, 16)).astype(np.float32)
    seed = np.random.default_rng(9).standard_normal((1, 5)).astype(np.float32)
    want, got = (
        Session(differentiate(m, "y", ["x"]), threads=1).run({"x": point, "seed": seed})
        for m in (exported[network], model)
    )
    np.testing.assert_allclose(got["y"], want["y"], rtol=0, atol=5e-6)
    scale = np.abs(want["gradient.x"]).max()
    np.testing.assert_allclose(got["gradient.x"], want["gradient.x"], rtol=0, atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_blocked_layouts_are_refused_with_a_way_out(exported: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"nchwc::.*save the optimised model at the level 'extended'"):
        differentiate(optimised(exported["cnn"], "all"), "y", ["x"])
