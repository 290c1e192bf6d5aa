# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the table is read down its columns
"""LSTM, GRU and RNN: against torch autograd on the operators' definition written out step by step, against torch's own
modules, and by finite differences of the ONNX model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_after

from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp, node_model

torch = pytest.importorskip("torch", reason="the rules are compared with torch autograd")
F = torch.nn.functional
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Case:
    """A node with T steps, N sequences, I features and H units. ``without`` names optional inputs that are left out,
    ``of`` the outputs that the score uses. ``smooth``: finite differences are taken too."""

    op: str
    attributes: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    without: str = "P"
    of: tuple[str, ...] = ("Y", "Y_h", "Y_c")
    steps: int = 4
    dynamic: bool = False
    smooth: bool = True

    def __str__(self) -> str:
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items()).replace(" ", "").replace("'", "")
        lengths = "" if self.lengths is None else f"lengths{self.lengths}"
        without = "" if self.without == "P" else f"without {self.without or 'nothing'}"
        parts = (self.op, attributes, lengths, without, "+".join(self.of), f"T{self.steps}", "dynamic" * self.dynamic)
        return "-".join(part for part in parts if part).replace(" ", "")

    @property
    def outputs(self) -> list[str]:
        return ["Y", "Y_h", "Y_c"][: 3 if self.op == "LSTM" else 2]

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1


CASES = [
    *[Case(op, {"direction": d}, lengths) for op in GATES for d in ("forward", "reverse", "bidirectional")
      for lengths in (None, (4, 2, 3), (1, 0, 4))],
    *[Case(op, of=of) for op in GATES for of in (("Y",), ("Y_h",))],
    Case("LSTM", of=("Y_c",)), Case("LSTM", of=("Y_h", "Y_c")), Case("LSTM", {"direction": "reverse"}, (2, 4, 1), of=("Y_c",)),
    *[Case(op, without="B h0 c0 P") for op in GATES], Case("LSTM", without="c0 P"), Case("LSTM", without="h0 P"),
    *[Case(op, steps=1) for op in GATES], *[Case(op, {"direction": "bidirectional"}, (1, 1, 0), steps=1) for op in GATES],
    *[Case(op, {"direction": d}, lengths, dynamic=True) for op in GATES for d in ("forward", "bidirectional") for lengths in (None, (4, 2, 3))],
    *[Case(op, {"clip": 0.5}, smooth=False) for op in GATES],
    *[Case("LSTM", {"direction": d, "input_forget": i}, lengths, without="") for d in ("forward", "bidirectional")
      for i in (0, 1) for lengths in (None, (4, 2, 3))],
    Case("LSTM", {"input_forget": 1}), Case("LSTM", {"clip": 0.7}, without="", smooth=False),
    *[Case("GRU", {"linear_before_reset": 1, "direction": d}, lengths) for d in ("forward", "reverse", "bidirectional") for lengths in (None, (4, 2, 3))],
    Case("GRU", {"linear_before_reset": 1}, without="B h0"), Case("GRU", {"linear_before_reset": 1, "clip": 0.6}, smooth=False),
    *[Case("RNN", {"activations": [name]}, smooth=name in {"Softsign", "Softplus", "Sigmoid"})
      for name in ("Relu", "Sigmoid", "HardSigmoid", "LeakyRelu", "ThresholdedRelu", "Elu", "Softsign", "Softplus", "Affine", "ScaledTanh")],
    *[Case("RNN", {"activations": [name], "activation_alpha": [0.3], "activation_beta": [0.6]}, smooth=False)
      for name in ("HardSigmoid", "LeakyRelu", "ThresholdedRelu", "Elu", "Affine", "ScaledTanh")],
    Case("LSTM", {"activations": ["HardSigmoid", "Relu", "ScaledTanh"], "activation_alpha": [0.3, 0.8], "activation_beta": [0.4, 0.6]}, smooth=False),
    Case("LSTM", {"direction": "bidirectional", "activations": ["Sigmoid", "Affine", "Tanh", "HardSigmoid", "Softsign", "Elu"],
                  "activation_alpha": [0.9, 0.3, 0.5], "activation_beta": [0.1, 0.45]}, smooth=False),
    Case("GRU", {"activations": ["HardSigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.1], "activation_beta": [0.4]}, smooth=False),
    Case("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Softplus"]}),
]  # fmt: skip


def inputs_of(case: Case, units: int = 3) -> dict[str, np.ndarray]:
    """An array for each input of the node, in its order."""
    rng, gates, count, batch = np.random.default_rng(11), GATES[case.op], case.directions, 3
    shapes = {
        "X": (case.steps, batch, 2),
        "W": (count, gates * units, 2),
        "R": (count, gates * units, units),
        "B": (count, 2 * gates * units),
        "lengths": (batch,),
        "h0": (count, batch, units),
        "c0": (count, batch, units),
        "P": (count, 3 * units),
    }
    if case.op != "LSTM":
        del shapes["c0"], shapes["P"]
    arrays = {k: np.asarray(0.6 * rng.standard_normal(s), np.float32) for k, s in shapes.items()}
    for name in case.without.split():
        arrays.pop(name, None)
    del arrays["lengths"]
    return arrays if case.lengths is None else arrays | {"lengths": np.array(case.lengths, np.int32)}


def model_of(case: Case, arrays: dict[str, np.ndarray], constant: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The node, and its outputs side by side in one vector, ``all``."""
    order = ["X", "W", "R", "B", "lengths", "h0", "c0", "P"][: 8 if case.op == "LSTM" else 6]
    names = [name if name in arrays else "" for name in order]
    units = arrays["R"].shape[2]
    used = [o for o in case.outputs if o in case.of]
    nodes = [
        onnx.helper.make_node(
            case.op, names, [o if o in used else "" for o in case.outputs], hidden_size=units, **case.attributes
        ),
        onnx.helper.make_node("Constant", [], ["flat"], value_ints=[-1]),
        *[onnx.helper.make_node("Reshape", [o, "flat"], [f"{o}_flat"]) for o in used],
        onnx.helper.make_node("Concat", [f"{o}_flat" for o in used], ["all"], axis=0),
    ]
    feeds = {k: v for k, v in arrays.items() if k not in constant}
    dims = {"X": ["T", None, 2]} if case.dynamic else None
    return node_model(nodes, feeds, ["all"], {k: arrays[k] for k in constant}, dims=dims)


ACTIVATIONS = {
    "relu": lambda t, a, b: F.relu(t), "tanh": lambda t, a, b: torch.tanh(t), "sigmoid": lambda t, a, b: torch.sigmoid(t),
    "affine": lambda t, a, b: a * t + b, "leakyrelu": lambda t, a, b: torch.where(t >= 0, t, a * t),
    "thresholdedrelu": lambda t, a, b: torch.where(t > a, t, 0.0), "scaledtanh": lambda t, a, b: a * torch.tanh(b * t),
    "hardsigmoid": lambda t, a, b: torch.clamp(a * t + b, 0, 1), "elu": lambda t, a, b: F.elu(t, a),
    "softsign": lambda t, a, b: F.softsign(t), "softplus": lambda t, a, b: F.softplus(t),
}  # fmt: skip
TAKES = {"affine": 2, "leakyrelu": 1, "thresholdedrelu": 1, "scaledtanh": 2, "hardsigmoid": 2, "elu": 1}
DEFAULTS = {"affine": (0.0, 0.0), "leakyrelu": (0.01,), "thresholdedrelu": (0.0,), "scaledtanh": (0.0, 0.0), "hardsigmoid": (0.2, 0.5), "elu": (1.0,)}  # fmt: skip


def functions_of(case: Case) -> list[Any]:
    standard = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[case.op]
    given = [list(case.attributes.get(f"activation_{k}", [])) for k in ("alpha", "beta")]
    found = []
    for name in case.attributes.get("activations", standard * case.directions):
        key = name.lower()
        values = [given[i].pop(0) if given[i] else DEFAULTS[key][i] for i in range(TAKES.get(key, 0))]
        a, b = (*values, 0.0, 0.0)[:2]
        is_cells = case.op == "LSTM" and len(found) % 3 == 2  # ONNX Runtime does not clip the cell state
        bound = float("inf") if is_cells else case.attributes.get("clip", float("inf"))
        found.append(lambda t, f=ACTIVATIONS[key], a=a, b=b, c=bound: f(t.clamp(-c, c), a, b))
    return found


def reference(case: Case, t: dict[str, Any]) -> list[Any]:
    """The definition of the operators, one sequence and one step after the other."""
    functions, per = functions_of(case), {"LSTM": 3, "GRU": 2, "RNN": 1}[case.op]
    steps, batch, _ = t["X"].shape
    units = t["R"].shape[2]
    directions = []
    for d in range(case.directions):
        backwards = case.attributes.get("direction") == "reverse" or d == 1
        act = functions[d * per : (d + 1) * per]
        zero = torch.zeros(units, dtype=torch.float64)
        outputs, lasts, cells = [], [], []
        for n in range(batch):
            length = case.lengths[n] if case.lengths else steps
            h = t["h0"][d, n] if "h0" in t else zero
            c = t["c0"][d, n] if "c0" in t else zero
            rows = [zero] * steps
            for s in reversed(range(length)) if backwards else range(length):
                h, c = one_step(case, act, {k: v[d] for k, v in t.items() if k not in {"X"}}, t["X"][s, n], h, c)
                rows[s] = h
            outputs.append(torch.stack(rows))
            lasts.append(h if length else zero)
            cells.append(c if length else zero)
        directions.append((torch.stack(outputs, 1), torch.stack(lasts), torch.stack(cells)))
    y, y_h, y_c = (
        torch.stack(parts, axis) for parts, axis in zip(zip(*directions, strict=True), (1, 0, 0), strict=True)
    )
    return [value for value, name in zip((y, y_h, y_c), case.outputs, strict=False) if name in case.of]


def one_step(case: Case, act: list[Any], p: dict[str, Any], x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    gates, units = GATES[case.op], h.shape[0]
    bias = p.get("B", torch.zeros(2 * gates * units, dtype=torch.float64)).reshape(2, gates, units)
    w, r = p["W"].reshape(gates, units, -1), p["R"].reshape(gates, units, units)
    from_x = [w[g] @ x + bias[0, g] for g in range(gates)]
    if case.op == "RNN":
        return act[0](from_x[0] + r[0] @ h + bias[1, 0]), c
    if case.op == "LSTM":
        peep = p.get("P", torch.zeros(3 * units, dtype=torch.float64)).reshape(3, units)
        i, o, f, g = (from_x[k] + r[k] @ h + bias[1, k] for k in range(4))
        i = act[0](i + peep[0] * c)
        f = 1 - i if case.attributes.get("input_forget") else act[0](f + peep[2] * c)
        c = f * c + i * act[1](g)
        return act[0](o + peep[1] * c) * act[2](c), c
    z, reset = (act[0](from_x[k] + r[k] @ h + bias[1, k]) for k in range(2))
    if case.attributes.get("linear_before_reset"):
        new = act[1](from_x[2] + reset * (r[2] @ h + bias[1, 2]))
    else:
        new = act[1](from_x[2] + r[2] @ (reset * h) + bias[1, 2])
    return (1 - z) * new + z * h, c


@pytest.mark.parametrize("case", slow_after(4, lambda case: case.op, CASES), ids=str)
def test_against_the_definition(case: Case) -> None:
    arrays = inputs_of(case)
    floats = [k for k, v in arrays.items() if v.dtype == np.float32]
    model = model_of(case, arrays)
    tensors = {k: torch.tensor(arrays[k].astype(np.float64), requires_grad=True) for k in floats}
    want = torch.cat([value.reshape(-1) for value in reference(case, tensors)])
    got = Session(model, threads=1).run(arrays)["all"]
    np.testing.assert_allclose(
        got, want.detach().numpy(), rtol=0, atol=2e-6, err_msg="the reference is another operator"
    )
    dy = np.random.default_rng(3).standard_normal(got.shape).astype(np.float32)
    expected = torch.autograd.grad(want, list(tensors.values()), torch.tensor(dy.astype(np.float64)), allow_unused=True)
    gradients = Session(differentiate(model, "all", floats), threads=1).run(arrays | {"seed": dy})
    for name, gradient in zip(floats, expected, strict=True):
        plain = np.zeros(arrays[name].shape) if gradient is None else gradient.numpy()
        np.testing.assert_allclose(
            gradients[f"gradient.{name}"], plain, rtol=0, atol=5e-6 * max(1.0, abs(plain).max()), err_msg=name
        )
    if case.smooth:
        check_vjp(model, arrays, "all", floats)


@pytest.mark.parametrize("op", GATES)
def test_weights_stay_constants_and_the_forward_node_as_it_is(op: str) -> None:
    case = Case(op, {"direction": "bidirectional"})
    arrays = inputs_of(case)
    model = model_of(case, arrays, constant=("W", "R", "B"))
    differentiated = differentiate(model, "all", ["X", "h0"])
    assert [n.op_type for n in differentiated.graph.node].count(op) == 1
    sizes = {tuple(t.dims) for t in differentiated.graph.initializer}
    assert tuple(arrays["R"].shape) in sizes
    assert tuple(arrays["R"].shape[1:]) not in sizes, "a direction's weights were copied"
    check_vjp(model, {k: v for k, v in arrays.items() if k not in {"W", "R", "B"}}, "all", ["X", "h0"])


@pytest.mark.parametrize("op", GATES)
def test_against_torch_modules(op: str) -> None:
    """torch's own layer, both directions, with the gates put into ONNX's order."""
    torch.manual_seed(0)
    steps, batch, features, units = 5, 2, 3, 4
    module = getattr(torch.nn, op)(features, units, bidirectional=True).double()
    order = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}[op]  # torch has i f g o and r z n

    def gates(name: str) -> np.ndarray:
        both = [getattr(module, f"{name}_l0{end}").detach().numpy() for end in ("", "_reverse")]
        return np.stack([np.concatenate([np.split(v, len(order))[g] for g in order]) for v in both]).astype(np.float32)

    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")], 1)
    weights = {"W": gates("weight_ih"), "R": gates("weight_hh"), "B": bias}
    attributes = {"linear_before_reset": 1} if op == "GRU" else {}
    node = onnx.helper.make_node(
        op, ["X", "W", "R", "B"], ["Y"], hidden_size=units, direction="bidirectional", **attributes
    )
    point = np.random.default_rng(2).standard_normal((steps, batch, features)).astype(np.float32)
    dy = np.random.default_rng(3).standard_normal((steps, 2, batch, units)).astype(np.float32)
    out = Session(differentiate(node_model([node], {"X": point}, ["Y"], weights), "Y", ["X"])).run(
        {"X": point, "seed": dy}
    )
    t = torch.tensor(point.astype(np.float64), requires_grad=True)
    y = module(t)[0].reshape(steps, batch, 2, units).transpose(1, 2)
    np.testing.assert_allclose(out["Y"], y.detach().numpy(), atol=1e-6)
    (want,) = torch.autograd.grad(y, t, torch.tensor(dy.astype(np.float64)))
    np.testing.assert_allclose(out["gradient.X"], want.numpy(), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("without", ["P", "h0 c0 P"])
@pytest.mark.parametrize("of", [("Y", "Y_h", "Y_c"), ("Y_h", "Y_c")])
@pytest.mark.parametrize("op", GATES)
def test_sequences_first(op: str, of: tuple[str, ...], without: str) -> None:
    """Layout 1, for which ONNX Runtime has no kernel, gives the outputs and gradients of layout 0, transposed."""
    case = Case(op, {"direction": "bidirectional"}, (4, 2, 3), without=without, of=of)
    arrays = inputs_of(case)
    plain = model_of(case, arrays)
    turned = onnx.ModelProto()
    turned.CopyFrom(plain)
    turned.graph.node[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    axes = {"X": (1, 0, 2), "h0": (1, 0, 2), "c0": (1, 0, 2)}
    given = {k: np.ascontiguousarray(v.transpose(axes[k])) if k in axes else v for k, v in arrays.items()}
    for value in turned.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, given[value.name].shape, strict=True):
            dim.dim_value = size
    floats = [k for k, v in arrays.items() if v.dtype == np.float32]
    want = Session(plain).run(arrays)["all"]
    shapes = {"Y": (4, 2, 3, 3), "Y_h": (2, 3, 3), "Y_c": (2, 3, 3)}
    perms = {"Y": (2, 0, 1, 3), "Y_h": (1, 0, 2), "Y_c": (1, 0, 2)}
    used = [o for o in case.outputs if o in of]

    def turn(flat: np.ndarray) -> np.ndarray:
        parts = np.split(flat, np.cumsum([int(np.prod(shapes[o])) for o in used])[:-1])
        pairs = zip(used, parts, strict=True)
        return np.concatenate([part.reshape(shapes[o]).transpose(perms[o]).reshape(-1) for o, part in pairs])

    dy = np.random.default_rng(5).standard_normal(want.shape).astype(np.float32)
    expected = Session(differentiate(plain, "all", floats)).run(arrays | {"seed": dy})
    got = Session(differentiate(turned, "all", floats)).run(given | {"seed": turn(dy)})
    np.testing.assert_allclose(got["all"], turn(want), atol=1e-6)
    for name in floats:
        gradient = expected[f"gradient.{name}"]
        gradient = gradient.transpose(axes[name]) if name in axes else gradient
        np.testing.assert_allclose(got[f"gradient.{name}"], gradient, atol=2e-6)


def captioner(activation: str = "Relu") -> onnx.ModelProto:
    """A picture, a convolution, an LSTM over the picture's rows, logits: with any batch and any height."""
    rng = np.random.default_rng(5)
    shapes = {"kernel": (4, 3, 3, 3), "W": (2, 24, 32), "R": (2, 24, 6), "B": (2, 48), "head": (12, 7)}
    weights = {k: (0.4 * rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    captioner (float[N,3,H,8] picture) => (float[N,7] logits) {{
        features = Conv<pads = [1, 1, 1, 1]>(picture, kernel)
        active = {activation}(features)
        rows = Transpose<perm = [2, 0, 1, 3]>(active)
        shape = Constant<value_ints = [0, 0, 32]>()
        sequence = Reshape(rows, shape)
        Y, Y_h = LSTM<hidden_size = 6, direction = "bidirectional">(sequence, W, R, B)
        per_picture = Transpose<perm = [1, 0, 2]>(Y_h)
        flat = Flatten(per_picture)
        logits = MatMul(flat, head)
    }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    return model


@pytest.mark.slow
def test_an_explanation_through_an_lstm() -> None:
    """Several targets are explained in one pass: the backward Scan moves into the Scan over the targets."""
    from portable_cam import Explainer

    pictures = np.random.default_rng(6).standard_normal((2, 3, 5, 8)).astype(np.float32)
    model = captioner()
    together = Explainer(model, methods=("gradcam", "guided_backprop", "gradient"), layer="active")(
        pictures, targets=[[0, 3], [6, 3]]
    )
    for k in (0, 1):
        targets = [[[0], [6]], [[3], [3]]][k]
        alone = Explainer(model, methods=("gradcam", "gradient"), layer="active")(pictures, targets=targets)
        np.testing.assert_allclose(together["gradient"][:, k], alone["gradient"][:, 0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(together["gradcam"][:, k], alone["gradcam"][:, 0], rtol=1e-4, atol=1e-6)
        seed = np.zeros((2, 7), np.float32)
        seed[np.arange(2), np.ravel(targets)] = 1
        want = Session(differentiate(model, "logits", ["picture"])).run({"picture": pictures, "seed": seed})
        np.testing.assert_allclose(alone["gradient"][:, 0], want["gradient.picture"], rtol=1e-5, atol=1e-7)
    check_vjp(captioner("Softplus"), {"picture": pictures})


class Captioner(torch.nn.Module):
    """Convolution, a GRU over the picture's rows, an LSTM of two layers over the words, logits of each next word."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Embedding(11, 10)
        self.encoder = torch.nn.GRU(6 * 8, 5, bidirectional=True, batch_first=True)
        self.decoder = torch.nn.LSTM(10, 8, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(8, 11)

    def forward(self, picture: Any, words: Any) -> Any:
        rows = torch.relu(self.conv(picture)).permute(0, 2, 1, 3).flatten(2)
        start = self.encoder(rows)[0].mean(1, keepdim=True)
        return self.head(self.decoder(torch.cat([start, self.embed(words)], 1))[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
def test_a_captioner_exported_by_torch() -> None:
    """Picture to logits through convolution, GRU and LSTM: the gradient of the picture is autograd's."""
    torch.manual_seed(3)
    module = Captioner().eval()
    picture, words = torch.randn(2, 3, 8, 8), torch.tensor([[1, 2, 3], [4, 5, 6]])
    model = torch.onnx.export(
        module, (picture, words), dynamo=True, verbose=False, input_names=["picture", "words"], output_names=["logits"]
    ).model_proto
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LSTM") == 2
    assert operators.count("GRU") == 1
    leaf = picture.clone().requires_grad_()
    logits = module(leaf, words)
    dy = torch.randn_like(logits)
    (want,) = torch.autograd.grad(logits, leaf, dy)
    out = Session(differentiate(model, "logits", ["picture"]), threads=1).run(
        {"picture": picture.numpy(), "words": words.numpy(), "seed": dy.numpy()}
    )
    np.testing.assert_allclose(out["logits"], logits.detach().numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(out["gradient.picture"], want.numpy(), rtol=0, atol=5e-6 * want.abs().max().item())
