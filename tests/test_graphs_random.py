# SPDX-License-Identifier: Apache-2.0
"""Random graphs of pictures and tokens: values shared by several consumers, branches of other sizes, gates, layouts.

The outputs of each stay as they were, and the gradient for the input and for a weight is what finite differences say.
These are taken in float64 by ONNX's reference implementation: it knows every operator in that type, so that the step
is too small to meet a kink, and it shares nothing with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import assert_unchanged, node_model, widen

STEP = 1e-6
#: Forwards and backwards a value is rounded a few times; float32 rounds by 2^-24 at most.
ROUNDING = 4 * 2.0**-24
# none with the error function, of which the reference has only a float32
ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Elu", "HardSigmoid", "Abs")


class Drawing:
    """A graph that is being drawn: its nodes, weights, and the shape (N, C, H, W) of each value."""

    def __init__(self, draw: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes = {"x": shape}
        self.unread = {"x"}
        self.weights: list[str] = []
        self.rng = np.random.default_rng(draw(st.integers(0, 5)))

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def value(self, fits: Callable[[tuple[int, ...]], bool] = lambda shape: True) -> str | None:
        names = [name for name, shape in self.shapes.items() if fits(shape)]
        if not names:
            return None
        # the latest more often than the others: deep graphs as well as wide ones
        name: str = self.draw(st.sampled_from([*names, *names[-2:]]))
        self.unread.discard(name)
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, inputs, [out], **attributes))
        return out

    def const(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def weight(self, *shape: int, around: float = 0.0) -> str:
        scale = 1.0 / np.sqrt(max(1, np.prod(shape[1:])))
        name = self.const(around + scale * self.rng.standard_normal(shape), np.float32)
        self.weights.append(name)
        return name

    def done(self, name: str, *shape: int) -> None:
        self.shapes[name] = shape
        self.unread.add(name)


Step = Callable[[Drawing], None]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


@step
def convolution(d: Drawing) -> None:
    name = d.value()
    assert name is not None
    n, c, h, w = d.shapes[name]
    kernel, stride = d.pick(1, 2, 3), d.pick(1, 1, 2)
    if h + 2 < kernel or w + 2 < kernel:
        return
    depthwise = d.pick(False, False, True)
    m = c if depthwise else d.pick(2, 4)
    pads = [d.pick(0, 1) if kernel > 1 else 0 for _ in range(4)]
    out = [(s + pads[i] + pads[2 + i] - kernel) // stride + 1 for i, s in enumerate((h, w))]
    if min(out) < 1:
        return
    inputs = [name, d.weight(m, 1 if depthwise else c, kernel, kernel), *([d.weight(m)] if d.pick(True, False) else [])]
    y = d.op("Conv", *inputs, strides=[stride] * 2, pads=pads, group=c if depthwise else 1)
    d.done(y, n, m, *out)


@step
def transposed_convolution(d: Drawing) -> None:
    name = d.value(lambda s: s[2] <= 4 and s[3] <= 4)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    d.done(d.op("ConvTranspose", name, d.weight(c, 2, 2, 3), strides=[2, 1]), n, 2, 2 * h, w + 2)


@step
def activation(d: Drawing) -> None:
    name = d.value()
    assert name is not None
    d.done(d.op(d.pick(*ACTIVATIONS), name), *d.shapes[name])


@step
def normalisation(d: Drawing) -> None:
    name = d.value()
    assert name is not None
    shape = d.shapes[name]
    c = shape[1]
    if d.pick("batch", "layer") == "batch":
        variance = d.const(d.rng.uniform(0.5, 2, c), np.float32)
        y = d.op("BatchNormalization", name, d.weight(c, around=1), d.weight(c), d.weight(c), variance)
    else:
        width = shape[3]
        y = d.op("LayerNormalization", name, d.weight(width, around=1), d.weight(width), epsilon=0.1)
    d.done(y, *shape)


@step
def pooling(d: Drawing) -> None:
    name = d.value(lambda s: s[2] >= 2 and s[3] >= 2)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    kind = d.pick("MaxPool", "AveragePool")
    if d.pick(True, False):
        d.done(d.op(kind, name, kernel_shape=[2, 2], strides=[2, 2]), n, c, h // 2, w // 2)
    else:
        d.done(d.op(kind, name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), n, c, h, w)


@step
def gate(d: Drawing) -> None:
    """Squeeze and excite: the mean over space decides on the channels."""
    name = d.value()
    assert name is not None
    shape = d.shapes[name]
    c = shape[1]
    pooled = d.op(d.pick("GlobalAveragePool", "GlobalMaxPool"), name)
    gates = d.op("Sigmoid", d.op("Conv", pooled, d.weight(c, c, 1, 1)))
    d.done(d.op("Mul", *d.pick((name, gates), (gates, name))), *shape)


@step
def arithmetic(d: Drawing) -> None:
    """Two values of one shape, possibly the same one, or one and a mean of it that is broadcast back."""
    first = d.value()
    assert first is not None
    shape = d.shapes[first]
    second = d.value(lambda s: s == shape)
    assert second is not None
    if d.pick(True, False, False):
        second = d.op("ReduceMean", second, d.const(d.pick([1], [2, 3], [0, 2], [-1])), keepdims=1)
    d.done(d.op(d.pick("Add", "Mul", "Sub", "Max", "Sum"), *d.pick((first, second), (second, first))), *shape)


@step
def concatenation(d: Drawing) -> None:
    first = d.value(lambda s: s[1] <= 6)
    if first is None:
        return
    n, c, h, w = d.shapes[first]
    second = d.value(lambda s: s[2:] == (h, w) and s[1] <= 6)
    assert second is not None
    d.done(d.op("Concat", first, second, axis=1), n, c + d.shapes[second][1], h, w)


@step
def moving(d: Drawing) -> None:
    """Crops, pads, strides, and channels in another order."""
    name = d.value(lambda s: s[2] >= 3 and s[3] >= 3)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    kind = d.pick("crop", "stride", "pad", "shuffle", "part", "flip")
    if kind == "crop":
        y = d.op("Slice", name, d.const([1, 0]), d.const([2**31, -1]), d.const([2, 3]))
        d.done(y, n, c, h - 1, w - 1)
    elif kind == "stride":
        y = d.op("Slice", name, d.const([1]), d.const([2**31]), d.const([3]), d.const([2]))
        d.done(y, n, c, h, w // 2)
    elif kind == "flip":
        d.done(d.op("Slice", name, d.const([-1]), d.const([-(2**31)]), d.const([2]), d.const([-1])), n, c, h, w)
    elif kind == "pad":
        y = d.op("Pad", name, d.const([0, 0, 1, 0, 0, 0, 0, 2]), mode=d.pick("constant", "reflect", "edge"))
        d.done(y, n, c, h + 1, w + 2)
    elif kind == "shuffle":
        d.done(d.op("Gather", name, d.const(d.rng.permutation(c)), axis=1), n, c, h, w)
    else:
        indices = [int(i) for i in d.rng.integers(0, c, 2)]
        d.done(d.op("Gather", name, d.const(indices), axis=1), n, 2, h, w)


@step
def resizing(d: Drawing) -> None:
    name = d.value(lambda s: s[2] <= 5 and s[3] <= 5)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    mode = d.pick("nearest", "linear")
    coordinates = "asymmetric" if mode == "nearest" else d.pick("half_pixel", "align_corners")
    scales = d.const([1, 1, 2, 1], np.float32)
    y = d.op("Resize", name, "", scales, mode=mode, coordinate_transformation_mode=coordinates, nearest_mode="floor")
    d.done(y, n, c, 2 * h, w)


@step
def blocks(d: Drawing) -> None:
    name = d.value(lambda s: s[1] % 4 == 0 or s[2] % 2 == s[3] % 2 == 0)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    if c % 4 == 0:
        d.done(d.op("DepthToSpace", name, blocksize=2, mode=d.pick("DCR", "CRD")), n, c // 4, 2 * h, 2 * w)
    elif min(h, w) >= 2:
        d.done(d.op("SpaceToDepth", name, blocksize=2), n, 4 * c, h // 2, w // 2)


@step
def channels_last(d: Drawing) -> None:
    """There and back, as exporters from channels-last frameworks write it, with a dense layer in between."""
    name = d.value()
    assert name is not None
    n, c, h, w = d.shapes[name]
    last = d.op("Transpose", name, perm=[0, 2, 3, 1])
    mixed = d.op("Add", d.op("MatMul", last, d.weight(c, 3)), d.weight(3))
    d.done(d.op("Transpose", mixed, perm=[0, 3, 1, 2]), n, 3, h, w)


@step
def attention(d: Drawing) -> None:
    """Every place looks at every other one."""
    name = d.value(lambda s: s[2] * s[3] <= 36)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    tokens = d.op("Transpose", d.op("Reshape", name, d.const([0, 0, -1])), perm=[0, 2, 1])
    q, k, v = (d.op("MatMul", tokens, d.weight(c, c)) for _ in "qkv")
    weights = d.op("Softmax", d.op("MatMul", q, d.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    mixed = d.op("Transpose", d.op("MatMul", weights, v), perm=[0, 2, 1])
    y = d.op("Reshape", mixed, d.op("Shape", name))
    d.done(y, n, c, h, w)


@step
def halves(d: Drawing) -> None:
    """Split, one half gates the other."""
    name = d.value(lambda s: s[1] % 2 == 0)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    left, right = f"v{len(d.nodes)}a", f"v{len(d.nodes)}b"
    d.nodes.append(onnx.helper.make_node("Split", [name], [left, right], axis=1, num_outputs=2))
    d.done(d.op("Mul", left, d.op("Sigmoid", right)), n, c // 2, h, w)


@settings(max_examples=4 * settings().max_examples, suppress_health_check=list(HealthCheck))
@given(st.data(), st.booleans())
def test_graphs_of_pictures(data: Any, dynamic: bool) -> None:
    shape = (2, data.draw(st.sampled_from([2, 3, 4])), data.draw(st.integers(3, 6)), data.draw(st.integers(3, 6)))
    d = Drawing(data.draw, shape)
    for _ in range(data.draw(st.integers(2, 9))):
        data.draw(st.sampled_from(STEPS))(d)
    if len(d.shapes) == 1:
        channels_last(d)
    # everything that nobody read counts for something
    last = list(d.shapes)[-1]
    parts = [d.op("ReduceMean", name, keepdims=1) for name in d.shapes if name in d.unread and name != last]
    y = d.op("Sum", d.op("Identity", last), *parts)
    x = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    dims = {"x": ["n", shape[1], "h", "w"]} if dynamic else None
    model = node_model(d.nodes, {"x": x}, [y], d.constants, dims=dims)
    agrees(model, y, x, d.weights[-1:])


def agrees(model: onnx.ModelProto, y: str, x: np.ndarray, weights: list[str]) -> None:
    before = Session(model, threads=1).run({"x": x})
    rng = np.random.default_rng(8)
    dy = rng.standard_normal(before[y].shape).astype(np.float32)
    after = Session(differentiate(model, y, ["x", *weights]), threads=1).run({"x": x, "seed": dy})
    assert_unchanged(model, before, after)

    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    start = {"x": x, **{name: constants[name] for name in weights}}
    direction = {name: rng.standard_normal(array.shape) for name, array in start.items()}
    terms = np.concatenate([(after[f"gradient.{n}"].astype(np.float64) * direction[n]).reshape(-1) for n in start])
    ends = [in_float64(model, {n: a + sign * STEP * direction[n] for n, a in start.items()}) for sign in (1, -1)]
    assert ends[0][y].dtype == np.float64
    moves = {n: (ends[0][n] - ends[1][n]) / (2 * STEP) for n in ends[0] if ends[0][n].dtype == np.float64}
    numeric = float((dy.astype(np.float64) * moves[y]).sum())

    off = abs(terms.sum() - numeric)
    of_differences = 64 * 2.0**-53 * float(np.linalg.norm(dy)) * float(np.linalg.norm(ends[0][y])) / STEP
    magnitude = float(np.abs(terms).sum() + np.abs(dy * moves[y]).sum())
    if off > ROUNDING * magnitude + of_differences:  # then what was accumulated inside counts too
        magnitude += accumulated(model, y, {**moves, **direction}, x, dy)
    allowed = ROUNDING * magnitude + of_differences
    message = (
        f"the gradient graph gives {terms.sum():.9g}, central differences give {numeric:.9g} (within {allowed:.3g})"
    )
    assert off <= allowed, message


def in_float64(model: onnx.ModelProto, point: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the model by ONNX's reference implementation, at a point of inputs and initialisers."""
    wide = widen(model)
    for tensor in [t for t in wide.graph.initializer if t.name in point]:
        wide.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        wide.graph.initializer.remove(tensor)
    for node in wide.graph.node:
        if node.op_type == "LayerNormalization":  # the reference knows no other type to compute in than the input's
            node.attribute.remove(next(a for a in node.attribute if a.name == "stash_type"))
    names = [name for node in wide.graph.node for name in node.output]
    del wide.graph.output[:]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, ReferenceEvaluator(wide).run(names, point), strict=True))


def accumulated(model: onnx.ModelProto, y: str, moves: dict[str, np.ndarray], x: np.ndarray, dy: np.ndarray) -> float:
    """What rounding is relative to: the sum over all nodes of |gradient of the output| times how much output and inputs
    move in the direction.

    A node's output t contributes <g, dt> to the derivative, where g is the gradient for t and dt the move of t.
    Rounding changes g and the node's own derivative by a few units of 2^-24 of what was added up to them: by the first,
    terms of the size |g| |dt| change; by the second, where the derivative itself comes out of a difference as that of
    Tanh, 1 - t^2, or Sigmoid does, terms of the size |g| |input's move|. Where they cancel further down, as in a
    normalisation, which takes the mean from the gradient, the change stays.
    """
    known = {output.name for node in normalize(model).graph for output in node.outputs}
    inner = [name for name in moves if name in known and name != y]
    found = Session(differentiate(model, y, inner), threads=1).run({"x": x, "seed": dy})
    gradients = {name: found[f"gradient.{name}"].astype(np.float64) for name in inner} | {y: dy.astype(np.float64)}
    return sum(
        float(np.abs(gradients[output] * moves[name]).sum())
        for node in model.graph.node
        for output in node.output
        if output in gradients
        for name in {output, *node.input}
        if name in moves and moves[name].shape == gradients[output].shape
    )
