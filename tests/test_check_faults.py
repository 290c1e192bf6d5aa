# SPDX-License-Identifier: Apache-2.0
"""Each kind of fault in reading a model, put into an explanation: the check that is there for it sees it.

What is injected are faults that were found in models of others, each in a network that is otherwise right, where all
checks pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from checking import X, run_checks
from costs import slow_but

from portable_cam.export.autodiff.registry import RULES
from portable_cam.export.targets import scores as scores_of_models
from portable_cam.export.targets.scores import Scores
from portable_cam.targets import Class
from portable_cam.verify import checks as checks_of_explanations

Patch = pytest.MonkeyPatch
RNG = np.random.default_rng(9)
WEIGHTS = {
    "k": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) * 0.3,
    "k2": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) * 0.3,
    "w": RNG.normal(size=(4, 5)).astype(np.float32),
    "bright": np.full((4, 3, 3, 3), 0.1, np.float32),
    "many": np.full((4, 5), 0.5, np.float32),
    "inner": np.array([1, 2], np.int64),
    "scale": np.float32(0.02),
    "zero": np.uint8(128),
    "axes": np.array([2, 3], np.int64),
    "axis0": np.array([0], np.int64),
}
PLAIN = "c = Conv<pads = [1, 1, 1, 1]>(x, k) r = Relu(c) g = ReduceMean<keepdims = 0>(r, axes) y = MatMul(g, w)"
#: What is bright speaks for every class; the same with the channels of the layer last.
BRIGHT = PLAIN.replace("(x, k)", "(x, bright)").replace("(g, w)", "(g, many)")
LAST = BRIGHT.replace(
    "g = ReduceMean<keepdims = 0>(r, axes)",
    "t = Transpose<perm = [0, 2, 3, 1]>(r) o = Sqrt(t) g = ReduceMean<keepdims = 0>(o, inner)",
)
SOFT = PLAIN.replace("y =", "l =") + " y = Softmax(l)"
#: A quantised branch beside one that goes round it.
QUANTISED = """
    c = Conv<pads = [1, 1, 1, 1]>(x, k) r = Relu(c)
    q = QuantizeLinear(r, scale, zero) d = DequantizeLinear(q, scale, zero)
    e = Conv<pads = [1, 1, 1, 1]>(d, k2) s = Add(r, e) m = Relu(s) g = ReduceMean<keepdims = 0>(m, axes)
    y = MatMul(g, w)
"""


def made(body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> g (float[N,3,8,8] x) => (float[N,5] y) {{ {body} }}'
    )
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in WEIGHTS.items() if n in used
    )
    return model


def spot() -> np.ndarray:
    """An image that is bright around a place near one corner, no two pixels alike."""
    rows, columns = np.indices((8, 8))
    bright = 2 * np.exp(-((rows - 6) ** 2 + (columns - 1) ** 2) / 6) + 1e-3 * rows
    return np.broadcast_to(bright, (1, 3, 8, 8)).astype(np.float32)


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        seen_by: The check that sees it.
        body: The network.
        patch: Puts the fault into the library.
        spoil: Puts it into what the explanation gave.
        options: Of the explanation.
        wrong_options: Those that are wrong.
        x: The image.
    """

    seen_by: str
    body: str = PLAIN
    patch: Callable[[Patch], None] | None = None
    spoil: Callable[[dict[str, Any]], None] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    wrong_options: tuple[tuple[str, Any], ...] = ()
    x: Any = None


def rule(operator: str, change: Callable[[Any, Any], Any]) -> Callable[[Patch], None]:
    """The gradient of an operator's first input changed."""

    def patch(monkeypatch: Patch) -> None:
        entry = RULES[operator]

        def wrong(v: Any) -> Any:
            found = entry.rule(v)
            first, *rest = found if isinstance(found, (list, tuple)) else [found]
            return [change(v, first), *rest]

        monkeypatch.setitem(RULES, operator, replace(entry, rule=wrong))

    return patch


def another_column(monkeypatch: Patch) -> None:
    right = Class.score
    monkeypatch.setattr(
        Class, "score", lambda self, b, s, index, extra: right(self, b, s, b.op("Add", index, b.ints(1)), extra)
    )


def sum_over_rows(monkeypatch: Patch) -> None:
    """All classes at once, as a sum over rows or columns by accident gives."""

    def score(self: Class, b: Any, s: Any, index: Any, extra: Any) -> Any:
        return b.op("ReduceSum", s[0], b.ints([1]), keepdims=0)

    monkeypatch.setattr(Class, "score", score)


def probability_for_logit(monkeypatch: Patch) -> None:
    """The tensor behind the softmax, said to be the one before."""
    right = scores_of_models.cut_before

    def wrong(value: Any, *more: Any) -> Scores:
        found = right(value, *more)
        return Scores(value, found.output, found.cut)

    monkeypatch.setattr(scores_of_models, "cut_before", wrong)


def inexact_bytes(monkeypatch: Patch) -> None:
    monkeypatch.setattr(checks_of_explanations, "has_mixed_bytes", lambda graph: True)
    monkeypatch.setattr(checks_of_explanations, "adds_bytes_exactly", lambda: False)


def of_another_class(values: dict[str, Any]) -> None:
    """The maps of class 3 where class 1 was asked for."""
    others = EXPLAINED_OTHERWISE["values"]
    values.update({name: value for name, value in others.items() if name.startswith(("raw", "heatmap"))})


EXPLAINED_OTHERWISE: dict[str, dict[str, Any]] = {}


def changed(name: str, how: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update({name: how(values[name])})


FAULTS: dict[str, Fault] = {
    "another column": Fault("score", patch=another_column),
    "a sum over columns": Fault("score", patch=sum_over_rows),
    "a probability for the logit": Fault("score", SOFT, patch=probability_for_logit, x=X / 20),
    "a stale size of what is averaged": Fault("input", patch=rule("ReduceMean", lambda v, g: v.b.op("Mul", g, 1.4))),
    "channels and rows exchanged": Fault(
        "input",
        patch=rule("Conv", lambda v, g: v.b.op("Transpose", v.b.op("Slice", *_square(v, g)), perm=[0, 1, 3, 2])),
    ),
    "an integer path cut": Fault("input", QUANTISED, patch=rule("QuantizeLinear", lambda v, g: None)),
    "an integer path cut, at the layer": Fault(
        "layer", QUANTISED, patch=rule("QuantizeLinear", lambda v, g: None), options=(("layer", "r"),)
    ),
    "a quantised path scaled": Fault(
        "input", QUANTISED, patch=rule("DequantizeLinear", lambda v, g: v.b.op("Mul", g, 50.0))
    ),
    "images that mix": Fault(
        "images", PLAIN.replace("r = Relu(c)", "a = ReduceMean(c, axis0) b = Sub(c, a) r = Relu(b)")
    ),
    "a map mirrored": Fault("maps", spoil=changed("raw.gradcam", lambda m: m[..., ::-1])),
    "a map moved": Fault("maps", spoil=changed("raw.gradcam", lambda m: np.roll(m, 2, axis=-1))),
    "another class's map": Fault("maps", spoil=of_another_class),
    "a map laid mirrored over the image": Fault(
        "occlusion", BRIGHT, spoil=changed("heatmap.gradcam", lambda m: m[..., ::-1, ::-1]), x=spot()
    ),
    "a map laid beside": Fault(
        "occlusion", BRIGHT, spoil=changed("heatmap.gradcam", lambda m: np.roll(m, 4, axis=(-1, -2))), x=spot()
    ),
    "a layer's channels taken for rows": Fault(
        "occlusion", LAST, options=(("layer", "o"),), wrong_options=(("axes", {"o": "NCHW"}),), x=spot()
    ),
    "a forward pass that is not the model's": Fault("outputs", spoil=changed("y", lambda y: y * 1.01)),
    "bytes added inexactly": Fault("arithmetic", QUANTISED, patch=inexact_bytes),
}


def _square(v: Any, g: Any) -> tuple[Any, ...]:
    """All of a gradient, as operands of a Slice."""
    return (g, v.b.ints([0]), v.b.ints([2**31]), v.b.ints([2]))


#: One for each check runs by default.
QUICK = [
    "another column",
    "a stale size of what is averaged",
    "an integer path cut",
    "an integer path cut, at the layer",
    "images that mix",
    "a map mirrored",
    "a map laid mirrored over the image",
]


@pytest.mark.parametrize("name", slow_but(QUICK, FAULTS))
def test_a_fault_is_seen(name: str, monkeypatch: Patch) -> None:
    fault, kept = FAULTS[name], {}
    x, options = (X if fault.x is None else fault.x), {"methods": ("gradcam",), **dict(fault.options)}
    body = PLAIN if fault.seen_by == "images" else fault.body
    right = run_checks(made(body), x=x, spoil=kept.update, **options)
    if fault.seen_by != "arithmetic":
        assert right[fault.seen_by].passed is True, right[fault.seen_by].detail
    run_checks(made(body), (3,), x=x, spoil=lambda values: EXPLAINED_OTHERWISE.update(values=values), **options)
    if fault.patch is not None:
        fault.patch(monkeypatch)
    wrong = run_checks(made(fault.body), x=x, spoil=fault.spoil, **options, **dict(fault.wrong_options))
    assert wrong[fault.seen_by].passed is False, wrong[fault.seen_by].detail


def test_every_check_is_shown_to_fail() -> None:
    assert {fault.seen_by for fault in FAULTS.values()} == set(checks_of_explanations.CHECKS)
