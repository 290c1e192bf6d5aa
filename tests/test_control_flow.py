# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the table is read down its columns
"""If, Loop and Scan on the path from the picture to the scores, and sequences: by finite differences of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp

RNG = np.random.default_rng(12)
X = RNG.standard_normal((3, 4)).astype(np.float32)
W = (0.5 * RNG.standard_normal((4, 4))).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A model as ONNX text: its inputs ``x`` (3, 4) and ``w`` (4, 4), the others by value. ``op`` is what it is about."""

    op: str
    note: str
    signature: str
    body: str
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    of: str = "y"

    def __str__(self) -> str:
        return f"{self.op}-{self.note}".replace(" ", "_")

    def model(self) -> onnx.ModelProto:
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g ({self.signature}) => (float {self.of}) {{ {self.body} }}'
        )
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return model

    def arrays(self) -> dict[str, np.ndarray]:
        known = {"x": X, "w": W, **self.feeds}
        return {i.name: known[i.name] for i in self.model().graph.input}


def yes_no(name: str) -> list[dict[str, np.ndarray]]:
    return [{name: np.array(value)} for value in (True, False)]


IF = """k = Exp(x) y = If (c) <then_branch = t () => (a) { p = MatMul(k, w) a = Tanh(p) }, else_branch = e () => (b) { b = Mul(k, x) }>"""
SCAN = """s = MatMul(x, w) h0 = ReduceMean<axes = [0], keepdims = 0>(s)
    h, y = Scan <num_scan_inputs = 1, {attributes} body = b (float[4] h_in, float[4] row) => (h_out, out) {{ m = MatMul(h_in, w) z = Add(m, row) h_out = Tanh(z) out = Mul(h_out, row) }}> (h0, {given})"""
LOOP = """y, rows = Loop (n, go, x) <body = b (int64 i, bool on, float[3, 4] h) => (more, h_out, out) {{ more = {more} m = MatMul(h, w) h_out = Tanh(m) out = Mul(h_out, x) }}>"""

CASES = [
    *[Case("If", f"captured, {c['c']}", "float[3,4] x, float[4,4] w, bool c", IF, c) for c in yes_no("c")],
    *[Case("If", f"unknown shapes, {c['c']}", "float[a,b] x, float[b,b] w, bool c", IF, c) for c in yes_no("c")],
    *[Case("If", f"two outputs, {c['c']}", "float[3,4] x, float[4,4] w, bool c",
           "p, q = If (c) <then_branch = t () => (a, a2) { a = Tanh(x) a2 = Exp(x) }, else_branch = e () => (b, b2) { b = MatMul(x, w) b2 = Identity(b) }> y = Mul(p, q)", c) for c in yes_no("c")],
    *[Case("If", f"one in the other, {c['c']}", "float[3,4] x, float[4,4] w, bool c, bool d",
           "y = If (c) <then_branch = t () => (a) { s = Sin(x) a = If (d) <then_branch = t2 () => (a2) { a2 = Mul(s, x) }, else_branch = e2 () => (b2) { b2 = MatMul(s, w) }> }, else_branch = e () => (b) { b = Exp(x) }>",
           c | d) for c in yes_no("c") for d in yes_no("d")],
    Case("If", "a branch that is a constant", "float[3,4] x, bool c", "k = Exp(x) p = If (c) <then_branch = t () => (a) { a = Constant<value_float = 2.0>() }, else_branch = e () => (b) { b = ReduceSum<keepdims = 0>(k) }> y = Mul(p, k)", {"c": np.array(True)}),
    Case("If", "the condition is computed from the picture", "float[3,4] x, float[4,4] w", "t = ReduceSum<keepdims = 0>(x) o = Constant<value_float = 0.0>() c = Greater(t, o) " + IF),
    Case("Scan", "states and rows", "float[3,4] x, float[4,4] w", SCAN.format(attributes="", given="s")),
    Case("Scan", "last state", "float[3,4] x, float[4,4] w", SCAN.format(attributes="", given="s").replace("h, y =", "y, rows =")),
    Case("Scan", "unknown length", "float[T,4] x, float[4,4] w", SCAN.format(attributes="", given="s")),
    Case("Scan", "backwards", "float[3,4] x, float[4,4] w", SCAN.format(attributes="scan_input_directions = [1],", given="s")),
    Case("Scan", "backwards, results too", "float[3,4] x, float[4,4] w", SCAN.format(attributes="scan_input_directions = [1], scan_output_directions = [1],", given="s")),
    Case("Scan", "along the last axis", "float[4,3] x, float[4,4] w", "s = MatMul(w, x) t = Transpose(x) h0 = ReduceMean<axes = [1], keepdims = 0>(s) " + SCAN.split("\n")[1].format(attributes="scan_input_axes = [1], scan_output_axes = [1], scan_output_directions = [1],", given="s"), {"x": X.T.copy()}),
    Case("Scan", "two rows, no state", "float[3,4] x, float[3,4] z", "e = Exp(x) y = Scan <num_scan_inputs = 2, body = b (float[4] p, float[4] q) => (r) { r = Mul(p, q) }> (e, z)", {"z": X[::-1].copy()}),
    Case("Scan", "a result is a state", "float[3,4] x", "z = ReduceMax<axes = [0], keepdims = 0>(x) h, y = Scan <num_scan_inputs = 1, body = b (float[4] p, float[4] q) => (r, r2) { r = Mul(p, q) r2 = Identity(r) }> (z, x)"),
    Case("Scan", "in a Scan", "float[3,4] x, float[4,4] w", "y = Scan <num_scan_inputs = 1, body = b (float[4] p) => (r) { z = ReduceMax<axes = [0], keepdims = 0>(x) r, u = Scan <num_scan_inputs = 1, body = c (float[4] p2, float[4] q2) => (r2, s2) { r3 = Mul(p2, q2) r2 = Add(r3, p) s2 = Identity(r2) }> (z, x) }> (w)"),
    Case("Loop", "a known number of steps", "float[3,4] x, float[4,4] w", "n = Constant<value_int = 3>() go = Constant<value = bool {1}>() " + LOOP.format(more="Identity(on)")),
    Case("Loop", "a number known at run time", "float[3,4] x, float[4,4] w, int64 n, bool go", LOOP.format(more="Identity(on)"), {"n": np.array(3), "go": np.array(True)}),
    Case("Loop", "rows", "float[3,4] x, float[4,4] w, int64 n, bool go", LOOP.format(more="Identity(on)"), {"n": np.array(2), "go": np.array(True)}, "rows"),
    Case("Loop", "no step", "float[3,4] x, float[4,4] w, int64 n, bool go", LOOP.format(more="Identity(on)"), {"n": np.array(0), "go": np.array(True)}),
    Case("Loop", "until it says so", "float[3,4] x, float[4,4] w, int64 n", "go = Constant<value = bool {1}>() " + LOOP.format(more="Less(i, n)"), {"n": np.array(2)}),
    Case("Loop", "the step's number counts", "float[3,4] x, int64 n, bool go", "y = Loop (n, go, x) <body = b (int64 i, bool on, float[3, 4] h) => (more, h_out) { more = Identity(on) f = Cast<to = 1>(i) s = Sin(h) u = Mul(s, f) h_out = Add(u, h) }>", {"n": np.array(3), "go": np.array(True)}),
    Case("Loop", "with an If", "float[3,4] x, float[4,4] w, int64 n, bool go", "y = Loop (n, go, x) <body = b (int64 i, bool on, float[3, 4] h) => (more, h_out) { more = Identity(on) two = Constant<value_int = 1>() c = Less(i, two) h_out = If (c) <then_branch = t () => (a) { a = MatMul(h, w) }, else_branch = e () => (f) { f = Tanh(h) }> }>", {"n": np.array(3), "go": np.array(True)}),
    Case("Loop", "an integer state", "float[3,4] x, int64 n, bool go", "z = Constant<value_int = 2>() y, last = Loop (n, go, x, z) <body = b (int64 i, bool on, float[3, 4] h, int64 k) => (more, h_out, k_out) { more = Identity(on) f = Cast<to = 1>(k) s = Sin(h) h_out = Mul(s, f) k_out = Add(k, i) }>", {"n": np.array(3), "go": np.array(True)}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case) -> None:
    model, arrays = case.model(), case.arrays()
    wrt = [name for name, value in arrays.items() if value.dtype == np.float32]
    if str(case).startswith(("If-captured", "If-unknown", "If-the_condition")):
        wrt = ["x"]  # one branch alone reads the weights
    check_vjp(model, arrays, case.of, wrt)


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_a_relu_inside_a_subgraph_is_guided(rule: str) -> None:
    """The gradient is that of the same nodes without If and Loop around them."""
    plain = "a = MatMul(x, w) r = Relu(a) m = MatMul(r, w) r2 = Relu(m) p = MatMul(r2, w) y = Relu(p)"
    around = """a = MatMul(x, w) r = If (go) <then_branch = t () => (u) { u = Relu(a) }, else_branch = e () => (v) { v = Exp(a) }>
        y = Loop (n, go, r) <body = b (int64 i, bool on, float[3, 4] h) => (more, h_out) { more = Identity(on) m = MatMul(h, w) h_out = Relu(m) }>"""
    signature = "float[3,4] x, float[4,4] w"
    seed = RNG.standard_normal((3, 4)).astype(np.float32)
    feeds = {"x": X + np.float32(0.5), "w": W + np.float32(0.2), "seed": seed}
    gradients = []
    for body, more, given in (
        (plain, "", {}),
        (around, ", int64 n, bool go", {"n": np.array(2), "go": np.array(True)}),
    ):
        model = Case("If", "", signature + more, body).model()
        session = Session(differentiate(model, "y", ["x"], rule), threads=1)  # type: ignore[arg-type]
        gradients.append(session.run(feeds | given)["gradient.x"])
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
    standard = Session(differentiate(Case("If", "", signature, plain).model(), "y", ["x"])).run(feeds)["gradient.x"]
    assert np.abs(standard - gradients[0]).max() > 1e-3


def test_targets_together_through_a_loop_and_a_branch() -> None:
    """Loops and branches of the gradient move into the Scan over the targets."""
    from portable_cam import Explainer

    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (float[N,3,4,4] picture) => (float[N,5] logits) {
        k = Constant<value_ints = [5, 3, 3, 3]>() e = Constant<value_float = 0.05>()
        zero = ConstantOfShape(k) some = Add(zero, e) kernel = Sin(some)
        features = Conv<pads = [1, 1, 1, 1]>(picture, kernel) active = Relu(features)
        pooled = GlobalAveragePool(active) flat = Flatten(pooled)
        n = Size(flat) one = Constant<value_int = 1>() c = Greater(n, one)
        both = If (c) <then_branch = t () => (u) { s = Sin(flat) u = Mul(s, flat) }, else_branch = f () => (v) { v = Exp(flat) }>
        empty = Constant<value = float[1, 5] {0.1, 0.2, 0.3, 0.4, 0.5}>()
        last, rows = Scan <num_scan_inputs = 1, body = b (float[1, 5] h, float[5] row) => (h2, out) { h3 = Mul(h, row) h2 = Tanh(h3) out = Squeeze(h2) }> (empty, both)
        logits = Add(rows, both)
    }""")
    pictures = np.random.default_rng(3).standard_normal((2, 3, 4, 4)).astype(np.float32)
    together = Explainer(model, methods=("gradient",))(pictures, targets=[[0, 3], [4, 1]])
    seed = np.zeros((2, 5), np.float32)
    for k, chosen in enumerate(([0, 4], [3, 1])):
        seed[:] = 0
        seed[np.arange(2), chosen] = 1
        want = Session(differentiate(model, "logits", ["picture"])).run({"picture": pictures, "seed": seed})
        np.testing.assert_allclose(together["gradient"][0, k], want["gradient.picture"][0], rtol=1e-5, atol=1e-8)


def test_an_operator_without_a_rule_inside_a_loop_is_named() -> None:
    body = "y = Loop (n, go, x) <body = b (int64 i, bool on, float[4, 4] h) => (more, h_out) { more = Identity(on) d = mine.Special(h) h_out = Mul(h, d) }>"
    model = Case("Loop", "", "float[4,4] x, int64 n, bool go", body).model()
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    with pytest.raises(UnsupportedOperatorError, match="mine::Special"):
        differentiate(model, "y", ["x"])


# -- what is known before running is written out -------------------------------------------------------------------

ONE, TWO, GO = "one = Constant<value_int = 1>()", "two = Constant<value_int = 2>()", "go = Constant<value = bool {1}>()"
SPLIT = "parts = SplitToSequence<axis = 0>(x, sizes)"
ROW = "row = SequenceAt(parts, one) y = Exp(row)"
RESOLVED = [
    Case("SequenceConstruct", "at", "float[3,4] x, float[4,4] w", f"{ONE} a = MatMul(x, w) b = Sin(x) s = SequenceConstruct(a, b) p = SequenceAt(s, one) y = Mul(p, a)"),
    Case("SequenceConstruct", "at the last, by concatenation", "float[3,4] x", "m = Constant<value_int = -1>() a = Sin(x) s = SequenceConstruct(x, a) p = SequenceAt(s, m) c = ConcatFromSequence<axis = 1>(s) d = Exp(c) e = Constant<value_int = 1>() q, r = Split<axis = 1>(d) y = Mul(q, p)"),
    Case("ConcatFromSequence", "new axis", "float[3,4] x", "a = Sin(x) s = SequenceConstruct(x, a) c = ConcatFromSequence<axis = -1, new_axis = 1>(s) e = Exp(c) y = ReduceL2<axes = [-1], keepdims = 0>(e)"),
    Case("SequenceInsert", "anywhere", "float[3,4] x", f"{ONE} z = Constant<value_int = 0>() e = SequenceEmpty() a = Sin(x) b = Exp(x) s = SequenceInsert(e, a) t = SequenceInsert(s, b, z) u = SequenceInsert(t, x) v = SequenceErase(u, one) p = SequenceAt(v, z) q = SequenceAt(v, one) y = Mul(p, q)"),
    Case("SequenceErase", "the last", "float[3,4] x", "z = Constant<value_int = 0>() a = Sin(x) s = SequenceConstruct(a, x) t = SequenceErase(s) p = SequenceAt(t, z) y = Exp(p)"),
    Case("SequenceLength", "as a number", "float[3,4] x", "s = SequenceConstruct(x, x) n = SequenceLength(s) f = Cast<to = 1>(n) a = Mul(x, f) y = Exp(a)"),
    Case("SplitToSequence", "sizes", "float[3,4] x", f"{ONE} sizes = Constant<value_ints = [1, 2]>() {SPLIT} {ROW}"),
    Case("SplitToSequence", "one size", "float[3,4] x", f"{ONE} sizes = Constant<value_int = 2>() {SPLIT} {ROW}"),
    Case("SplitToSequence", "rows", "float[3,4] x", f"{ONE} parts = SplitToSequence<axis = 0, keepdims = 0>(x) {ROW}"),
    Case("SplitToSequence", "columns", "float[N,4] x", f"{ONE} parts = SplitToSequence<axis = -1>(x) {ROW}"),
    Case("SequenceMap", "over columns, with a tensor", "float[3,4] x", "a = Sin(x) parts = SplitToSequence<axis = 1>(x) others = SplitToSequence<axis = 1>(a) s = SequenceMap<body = b (float[3,1] p, float[3,1] q, float[3,4] r) => (o) { m = Mul(p, q) o = Add(m, r) }>(parts, others, x) y = ConcatFromSequence<axis = 1>(s)"),
    Case("Loop", "gathers a sequence", "float[3,4] x, float[4,4] w", f"n = Constant<value_int = 3>() {GO} e = SequenceEmpty() last, all = Loop (n, go, x, e) <body = b (int64 i, bool on, float[3,4] h, seq(float[3,4]) s) => (more, h_out, s_out) {{ more = Identity(on) m = MatMul(h, w) h_out = Tanh(m) s_out = SequenceInsert(s, h_out) }}> y = ConcatFromSequence<axis = 0>(all)"),
    Case("Loop", "reads a sequence by its step", "float[3,4] x, float[4,4] w", f"{GO} parts = SplitToSequence<axis = 0>(x) n = SequenceLength(parts) z = ReduceSum(x) last = Loop (n, go, z) <body = b (int64 i, bool on, float[1,1] h) => (more, h_out) {{ more = Identity(on) p = SequenceAt(parts, i) q = MatMul(p, w) r = ReduceSum(q) t = Tanh(r) h_out = Mul(h, t) }}> y = Exp(last)"),
    Case("Loop", "its state grows", "float[3,4] x", f"n = Constant<value_int = 2>() {GO} y = Loop (n, go, x) <body = b (int64 i, bool on, float[M,4] h) => (more, h_out) {{ more = Identity(on) s = Sin(h) h_out = Concat<axis = 0>(h, s) }}>"),
    Case("Loop", "in a Loop", "float[3,4] x", f"{TWO} {GO} y = Loop (two, go, x) <body = b (int64 i, bool on, float[3,4] h) => (more, h_out) {{ more = Identity(on) h_out = Loop (two, go, h) <body = c (int64 j, bool on2, float[3,4] k) => (more2, k_out) {{ more2 = Identity(on2) t = Sin(k) f = Cast<to = 1>(i) u = Mul(t, f) k_out = Add(u, k) }}> }}>"),
    Case("Optional", "has an element", "float[3,4] x", "a = Sin(x) o = Optional(a) has = OptionalHasElement(o) y = If (has) <then_branch = t () => (g) { e = OptionalGetElement(o) g = Exp(e) }, else_branch = f () => (h) { h = Identity(x) }>"),
    Case("Optional", "has none", "float[3,4] x", "o = Optional<type = seq(tensor(float))>() has = OptionalHasElement(o) y = If (has) <then_branch = t () => (g) { g = Exp(x) }, else_branch = f () => (h) { h = Sin(x) }>"),
    Case("OptionalGetElement", "of a sequence", "float[3,4] x", "z = Constant<value_int = 0>() a = Sin(x) s = SequenceConstruct(a) o = Optional(s) g = OptionalGetElement(o) p = SequenceAt(g, z) y = Exp(p)"),
]  # fmt: skip


@pytest.mark.parametrize("case", [c for c in RESOLVED if "has none" not in c.note], ids=str)
def test_what_is_known_is_written_out(case: Case) -> None:
    """Nothing but tensors and no loop is left, and the gradient is right."""
    model, arrays = case.model(), case.arrays()
    normal = normalize(model)
    left = {node.op_type for node in normal.graph}
    assert not {
        op
        for op in left
        if op.startswith(("Sequence", "Optional", "Loop", "If", "Split", "ConcatFrom")) and op != "Split"
    }
    if case.op == "SequenceMap":  # ONNX Runtime has no kernel, and refuses the function's body
        model = ir.to_proto(normal)
        want = np.concatenate([X[:, i : i + 1] * np.sin(X[:, i : i + 1]) + X for i in range(4)], axis=1)
        np.testing.assert_allclose(Session(model).run(arrays)["y"], want, rtol=1e-5)
    check_vjp(model, arrays, case.of, list(arrays))


INNER = "k_out = Loop (n, go, h) <body = c (int64 j, bool on2, float[3,4] k) => (more2, k2) { more2 = Identity(on2) k2 = Sin(k) }>"


@pytest.mark.parametrize(
    ("steps", "body", "at_most"),
    [(10**6, "k_out = Sin(h)", 4), pytest.param(100, INNER, 10_000, marks=pytest.mark.slow)],
    ids=["long", "nested"],
)
def test_a_loop_of_a_hostile_number_of_steps_stays_a_loop(steps: int, body: str, at_most: int) -> None:
    """It is differentiated as a loop, and loops in loops do not multiply beyond the bound."""
    model = Case(
        "Loop",
        "",
        "float[3,4] x",
        f"n = Constant<value_int = {steps}>() {GO} y = Loop (n, go, x) <body = b (int64 i, bool on, float[3,4] h) => (more, k_out) {{ more = Identity(on) {body} }}>",
    ).model()
    graph = normalize(model).graph
    assert any(node.op_type == "Loop" for node in graph)
    assert sum(1 for _ in ir.traversal.RecursiveGraphIterator(graph)) <= at_most
    differentiate(model, "y", ["x"])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("s = SequenceConstruct(x, x) p = SequenceAt(s, i) y = Exp(p)", "SequenceAt"),
        ("parts = SplitToSequence<axis = 0>(x, i) y = ConcatFromSequence<axis = 0>(parts)", "ConcatFromSequence"),
    ],
)
def test_what_is_known_only_at_run_time_is_named_on_the_path_only(body: str, name: str) -> None:
    model = Case(name, "", "float[3,4] x, int64 i", f"{body} aside = Sin(x)").model()
    model.graph.output.append(onnx.ValueInfoProto(name="aside"))
    with pytest.raises(UnsupportedOperatorError, match=rf"{name}.*known only at run time"):
        differentiate(model, "y", ["x"])
    feeds = {"x": X, "i": np.array(1)}
    out = Session(differentiate(model, "aside", ["x"])).run(feeds | {"seed": np.ones_like(X)})
    np.testing.assert_array_equal(out["y"], Session(model).run(feeds)["y"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
def test_a_branch_and_a_scan_exported_by_torch() -> None:
    """torch.cond and scan, as torch exports them: the gradient of the picture is autograd's."""
    torch = pytest.importorskip("torch")
    higher_order = pytest.importorskip("torch._higher_order_ops.scan")

    class Network(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.positive, self.negative = (torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, picture: Any) -> Any:
            rows = picture.flatten(1).reshape(picture.shape[0], -1, 8).transpose(0, 1)

            def step(state: Any, row: Any) -> Any:
                after = torch.tanh(self.inside(state) + row)
                return after, after * row

            last, every = higher_order.scan(step, torch.zeros_like(rows[0]), rows)
            both = last + every.mean(0)
            return torch.cond(
                picture.sum() > 0, lambda t: torch.tanh(self.positive(t)), lambda t: self.negative(t).sin(), (both,)
            )

    torch.manual_seed(4)
    module, picture = Network().eval(), torch.randn(2, 3, 8, 8)
    model = torch.onnx.export(
        module, (picture,), dynamo=True, verbose=False, input_names=["picture"], output_names=["y"]
    ).model_proto
    assert {"If", "Scan"} <= {node.op_type for node in model.graph.node}
    session = Session(differentiate(model, "y", ["picture"]), threads=1)
    for point in (picture, -picture):  # one for each branch
        leaf = point.clone().requires_grad_()
        y = module(leaf)
        dy = torch.randn_like(y)
        (want,) = torch.autograd.grad(y, leaf, dy)
        out = session.run({"picture": point.numpy(), "seed": dy.numpy()})
        np.testing.assert_allclose(out["y"], y.detach().numpy(), rtol=0, atol=2e-6)
        np.testing.assert_allclose(out["gradient.picture"], want.numpy(), rtol=0, atol=5e-6 * want.abs().max().item())


SHAPES = [
    Case(
        "Scan",
        "a constant of the body",
        "float[3,4] x, float[4,4] w",
        "s = MatMul(x, w) h0 = ReduceMax<axes = [0], keepdims = 0>(s) h, rows = Scan <num_scan_inputs = 1, body = b (float[4] p, float[4] r) => (o, q) { a = Constant<value_ints = [0]>() u = Unsqueeze(r, a) m = MatMul(u, w) v = Squeeze(m, a) o = Add(p, v) q = Tanh(v) }> (h0, s) y = MatMul(rows, w)",
    ),
    Case(
        "If",
        "shapes behind both branches",
        "float[3,4] x, float[4,4] w, bool c",
        "p = If (c) <then_branch = t () => (a) { n = Constant<value_ints = [1, 3, 4]>() r = Reshape(x, n) a = Sin(r) }, else_branch = e () => (b) { m = Constant<value_ints = [0]>() b = Unsqueeze(x, m) }> y = MatMul(p, w)",
        {"c": np.array(True)},
    ),
    Case(
        "GroupNormalization",
        "shapes behind it",
        "float[2,4,5] x, float[4] g, float[5,3] w",
        "n = GroupNormalization<num_groups = 2>(x, g, g) y = MatMul(n, w)",
        {
            "x": RNG.standard_normal((2, 4, 5)).astype(np.float32),
            "g": np.ones(4, np.float32),
            "w": RNG.standard_normal((5, 3)).astype(np.float32),
        },
    ),
]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes_that_onnx_does_not_infer(case: Case) -> None:
    """Its inference sees no constants outside of a subgraph, and has no rule for GroupNormalization."""
    model, arrays = case.model(), case.arrays()
    model.opset_import[0].version = 21 if case.op == "GroupNormalization" else 17
    for node in normalize(model).graph:
        assert all(output.shape is not None for output in node.outputs), node.op_type
    check_vjp(model, arrays, case.of, [k for k, v in arrays.items() if v.dtype == np.float32])
