# SPDX-License-Identifier: Apache-2.0
"""The table of rules for axes against brute force: which cells change where pixels of the image change.

Each network is run on one image and on copies of it in each of which one row or one column of pixels is brighter.
Weights and pixels are positive, so that nothing cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from costs import slow_after
from onnx import TensorProto, helper, numpy_helper

import portable_cam.export.autodiff.backward  # noqa: F401 - registers the rules of gradients
from portable_cam.export.autodiff.registry import NO_GRADIENT, RULES
from portable_cam.export.layers.axis_rules import AXIS_RULES
from portable_cam.export.layers.candidates import find_axes
from portable_cam.export.layers.frames import Pieces
from portable_cam.export.layers.relation import Relation
from portable_cam.export.layers.spatial import SpatialAxes, is_feature_map
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session


def test_every_operator_has_its_row() -> None:
    """One for each operator of the table of gradients; and none is for an operator that does not exist."""
    assert sorted({*RULES, *NO_GRADIENT} - AXIS_RULES.keys()) == []
    for key in AXIS_RULES:
        assert key in RULES or key in NO_GRADIENT or onnx.defs.has(key, onnx.defs.onnx_opset_version()), key


# -- networks ------------------------------------------------------------------------------------------------------


@dataclass
class Net:
    """Nodes one behind the other, and what they are made of."""

    shape: tuple[int, int, int] = (3, 17, 22)
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    last: str = "x"
    exact: bool = True

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.uniform(0.5, 1.5, shape), np.float32)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        self.last = name
        return name

    def model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])
        y = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        initializers = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "net", [x], [y], initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def as_map(value: np.ndarray, axes: SpatialAxes, rows: int, columns: int) -> np.ndarray:
    """(N, h, w, anything)."""
    value = np.moveaxis(value, (axes.batch, *axes.axes), range(1 + len(axes.axes)))
    if axes.tokens:
        value = value[:, axes.prefix : value.shape[1] - axes.suffix]
        if axes.columns_first:
            value = value.reshape(len(value), columns, rows, -1).swapaxes(1, 2)
    return value.reshape(len(value), rows, columns, -1)


def probe(net: Net, channels_last: bool = False) -> dict[str, tuple[SpatialAxes, np.ndarray, list[np.ndarray]]]:
    """For each tensor with rows and columns its axes, and for each of the two which cells see which pixels: (cells,
    pixels)."""
    model = ir.to_proto(normalize(net.model()))
    known = {v: a for v, a in find_axes(ir.from_proto(model).graph).items() if v.producer() is not None}
    h, w = net.shape[:2] if channels_last else net.shape[1:]
    pixels = net.random.uniform(0.5, 1.5, (1, *net.shape)).astype(np.float32)
    batch = np.repeat(pixels, 1 + h + w, axis=0)
    bands = batch if not channels_last else batch.transpose(0, 3, 1, 2)  # a view
    for i in range(h):
        bands[1 + i, :, i] += 5
    for j in range(w):
        bands[1 + h + j, :, :, j] += 5
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=str(v.name)) for v in known)
    values = Session(model, threads=1).run({"x": batch})
    found = {}
    for value, axes in known.items():
        rows, columns = axes.size
        if rows is None or columns is None or axes.prefix < 0:
            continue
        maps = as_map(values[str(value.name)].astype(np.float64), axes, rows, columns)
        changed = np.abs(maps[1:] - maps[:1]) > 1e-4 * np.abs(maps[:1]).max()
        seen = [changed[:h].any((2, 3)).T, changed[h:].any((1, 3)).T]
        found[str(value.name)] = (axes, maps, seen)
    return found


def looks_at(relation: Relation, index: float, reach: float) -> list[tuple[float, float]]:
    """The intervals of pixels that an entry and ``reach`` others on either side of it may see."""
    middle, width = relation.at(index), relation.span / 2 - 0.5 + reach * abs(relation.step)
    if not isinstance(relation.frame, Pieces):
        return [(middle - width, middle + width)]
    found = []
    for begin, count, piece in relation.frame.spans():
        first, last = max(middle - width, begin) - begin, min(middle + width, begin + count - 1) - begin
        if first <= last + 1e-6:
            found += looks_at(piece, (first + last) / 2, (last - first) / 2)
    return found


def check_parts(relation: Relation, seen: np.ndarray, name: str) -> None:
    """Each cell sees pixels of its intervals alone, and some."""
    for i, pixels in enumerate(seen):
        for pixel in np.nonzero(pixels)[0]:
            around = looks_at(relation, i, 0)
            assert any(a - 1e-4 <= pixel <= b + 1e-4 for a, b in around), (name, i, pixel, around)
    assert seen.any(1).all(), name


def check(relation: Relation | None, seen: np.ndarray, exact: bool, name: str) -> None:
    """Each cell sees pixels of its interval alone; and some cell all of them, or one in the middle nearly all."""
    assert relation is not None, name
    if isinstance(relation.frame, Pieces):
        check_parts(relation, seen, name)
        return
    cells, pixels = seen.shape
    reach = relation.span / 2 - 0.5
    most = 0.0
    for i in range(cells):
        at = np.nonzero(seen[i])[0]
        if at.size:
            assert relation.at(i) - reach - 1e-4 <= at.min(), (name, i, at, relation)
            assert at.max() <= relation.at(i) + reach + 1e-4, (name, i, at, relation)
            most = max(most, at.max() - at.min() + 1)
    slack = 1e-3 if exact else 1 + 2.01 * abs(relation.step)
    if relation.span < pixels / 4:  # not cut off everywhere by a border of the image or of a crop
        assert most >= relation.span - slack, (name, most, relation)


def check_all(net: Net, *expected: str, channels_last: bool = False) -> None:
    """Every tensor with rows and columns; ``expected`` ones must be among those that can be explained."""
    found = probe(net, channels_last)
    for name, (axes, _, seen) in found.items():
        for relation, of_axis in zip(axes.relations, seen, strict=True):
            check(relation, of_axis, net.exact, name)
    for name in expected or [net.last]:
        assert name in found, f"{name} is not known"
        assert found[name][0].features, name


WINDOWS = [
    {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 0]},
    {"kernel_shape": [2, 5], "strides": [1, 3], "pads": [0, 2, 1, 2]},
    {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 1, 1, 0]},
    {"kernel_shape": [4, 3], "strides": [3, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [4, 4], "strides": [2, 3], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool", "LpPool"])
def test_windows(op: str, window: dict[str, Any]) -> None:
    for ceil in [0, 1] if op in {"MaxPool", "AveragePool"} and "auto_pad" not in window else [0]:
        net = Net()
        more: dict[str, Any] = {"ceil_mode": ceil} if ceil else {}
        weights = [net.weight(4, 3, *window["kernel_shape"])] if op == "Conv" else []
        net.add(op, "x", *weights, **window, **more)
        inputs = [net.weight(4, 4, 3, 3)] if op == "Conv" else []
        net.add(op, net.last, *inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        check_all(net)


@pytest.mark.parametrize(
    "window",
    [
        {"strides": [2, 3], "pads": [1, 0, 1, 0]},
        {"strides": [2, 2], "pads": [0, 1, 2, 1], "output_padding": [1, 0]},
        {"strides": [1, 2], "dilations": [2, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [18, 43]},
    ],
)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
def test_conv_transpose(window: dict[str, Any], kernel: tuple[int, int]) -> None:
    net = Net()
    net.add("Conv", "x", net.weight(3, 3, 3, 3), strides=[2, 1], pads=[1, 1, 1, 1])
    net.add("ConvTranspose", net.last, net.weight(3, 2, *kernel), **window)
    net.exact = False  # with a stride the cells in between see fewer pixels than the hull of all
    check_all(net)


MODES = [
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
    "tf_crop_and_resize",
]


@pytest.mark.parametrize("size", slow_after(2, lambda size: "size", [(23, 13), (34, 44), (9, 11), (51, 22)]))
@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("mode", MODES)
def test_resize(mode: str, kind: str, size: tuple[int, int]) -> None:
    net = Net(exact=False)
    sizes = net.constant([*size])
    roi = net.constant([0.1, 0.2, 0.8, 0.9], np.float32) if mode == "tf_crop_and_resize" else ""
    net.add("Resize", "x", roi, "", sizes, axes=[2, 3], mode=kind, coordinate_transformation_mode=mode)
    net.add("Conv", net.last, net.weight(2, 3, 1, 1))
    check_all(net)


@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("scale", [2.0, 3.0, 0.5, 1.6])
def test_resize_by_scales(nearest: str, scale: float) -> None:
    for mode in ("half_pixel", "asymmetric"):
        net = Net(exact=False)
        scales = net.constant([1, 1, scale, 1], np.float32)
        net.add("Resize", "x", "", scales, mode="nearest", nearest_mode=nearest, coordinate_transformation_mode=mode)
        net.add("Conv", net.last, net.weight(2, 3, 1, 1))
        check_all(net)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_and_crop(mode: str) -> None:
    net = Net()
    net.add("Pad", "x", net.constant([0, 0, 2, 1, 0, 0, 0, 3]), mode=mode)
    net.add("Conv", net.last, net.weight(2, 3, 1, 1), strides=[2, 2])
    net.exact = mode == "constant"
    if mode == "constant":
        check_all(net)
        net.add("Pad", net.last, net.constant([0, 0, -1, 2, 0, 0, -2, -1]))
        net.add("Conv", net.last, net.weight(2, 2, 3, 3))
        check_all(net)
    found = probe(net)
    assert found[net.last][0].relations[0] is not None


@pytest.mark.parametrize("cut", [(3, 14, 1), (1, 22, 3), (-1, -30, -1), (20, 2, -2), (-9, 100, 2), (5, -3, 1)])
def test_slice(cut: tuple[int, int, int]) -> None:
    net = Net()
    start, end, step = ([n] for n in cut)
    net.add("Slice", "x", net.constant(start), net.constant(end), net.constant([3]), net.constant(step))
    net.add("Conv", net.last, net.weight(2, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    check_all(net)
    relation = probe(net)[net.last][0].relations[1]
    assert relation is not None
    assert relation.step == 2 * cut[2]


def test_gather_by_constants() -> None:
    net = Net()
    net.add("Gather", "x", net.constant(np.arange(15, 1, -2)), axis=2)
    net.add("Conv", net.last, net.weight(2, 3, 3, 3))
    check_all(net)


def test_center_crop_pad() -> None:
    net = Net()
    net.add("CenterCropPad", "x", net.constant([12, 27]), axes=[2, 3])
    net.add("Conv", net.last, net.weight(2, 3, 3, 3))
    check_all(net)


def test_space_and_depth() -> None:
    for mode in ("DCR", "CRD"):
        net = Net(shape=(3, 16, 24))
        deep = net.add("SpaceToDepth", "x", blocksize=2)
        mixed = net.add("Conv", deep, net.weight(8, 12, 3, 3), pads=[1, 1, 1, 1])
        back = net.add("DepthToSpace", mixed, blocksize=2, mode=mode)
        net.add("Conv", back, net.weight(2, 2, 3, 3))
        net.exact = False  # pixels of one cell see the same
        check_all(net, deep, mixed, back, net.last)


def test_views_that_differ_by_less_than_a_step() -> None:
    """Patch merging by slices, and a pooled shortcut beside a strided convolution."""
    net = Net(shape=(3, 16, 24))
    parts = []
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        cut = net.constant([i, j]), net.constant([100, 100]), net.constant([2, 3]), net.constant([2, 2])
        parts.append(net.add("Slice", "x", *cut))
    merged = net.add("Concat", *parts, axis=1)
    a = net.add("Conv", merged, net.weight(4, 12, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    pooled = net.add("AveragePool", merged, kernel_shape=[2, 2], strides=[2, 2])
    b = net.add("Conv", pooled, net.weight(4, 12, 1, 1))
    net.add("Add", a, b)
    net.exact = False  # the two see different numbers of pixels
    check_all(net, merged, a, b, net.last)


def test_views_that_do_not_lie_over_each_other() -> None:
    """The image and its mirror image, and its two halves, are no one view."""
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(4, 3, 1, 1))
    turned = net.add("Slice", conv, net.constant([-1]), net.constant([-100]), net.constant([3]), net.constant([-1]))
    both = net.add("Add", conv, turned)
    halves = net.add("Split", conv, outputs=2, axis=2, num_outputs=2)
    folded = net.add("Add", halves, f"{halves}.1")
    net.add(
        "Add",
        net.add("ReduceMean", both, net.constant([1, 2, 3])),
        net.add("ReduceMean", folded, net.constant([1, 2, 3])),
    )
    found = probe(net)
    assert {conv, turned, halves, f"{halves}.1"} <= found.keys()
    assert not {both, folded} & found.keys()


def test_patches_by_reshape_and_product() -> None:
    """A vision transformer's patches cut out by Reshape and Transpose: tokens of rows and columns."""
    net = Net(shape=(3, 16, 24))
    cut = net.add("Reshape", "x", net.constant([0, 3, 4, 4, 6, 4]))
    turned = net.add("Transpose", cut, perm=[0, 2, 4, 3, 5, 1])
    flat = net.add("Reshape", turned, net.constant([0, 24, 48]))
    net.add("MatMul", flat, net.weight(48, 5))
    check_all(net, flat, net.last)
    axes = probe(net)[net.last][0]
    assert (axes.size, axes.layout, axes.columns_first) == ((4, 6), "NTC", False)


def test_columns_before_rows() -> None:
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(4, 3, 4, 4), strides=[4, 4])
    turned = net.add("Transpose", conv, perm=[0, 3, 2, 1])
    net.add("Reshape", turned, net.constant([0, 24, 4]))
    check_all(net)
    axes = probe(net)[net.last][0]
    assert (axes.size, axes.columns_first) == ((4, 6), True)
    assert probe(net)[turned][0].axes == (2, 1)


def test_windows_rolled_and_back() -> None:
    """Swin's: a roll, windows, an attention within them, and back."""
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(4, 3, 2, 2), strides=[2, 2])
    image = net.add("Transpose", conv, perm=[0, 2, 3, 1])  # (N, 8, 12, 4)

    def roll(value: str, axis: int, by: int) -> str:
        one = net.add("Slice", value, net.constant([by]), net.constant([100]), net.constant([axis]))
        two = net.add("Slice", value, net.constant([0]), net.constant([by]), net.constant([axis]))
        return net.add("Concat", one, two, axis=axis)

    rolled = roll(roll(image, 1, 2), 2, 2)
    cut = net.add("Reshape", rolled, net.constant([0, 2, 4, 3, 4, 4]))
    windows = net.add("Reshape", net.add("Transpose", cut, perm=[0, 1, 3, 2, 4, 5]), net.constant([-1, 16, 4]))
    shares = net.add("Softmax", net.add("MatMul", windows, net.add("Transpose", windows, perm=[0, 2, 1])))
    mixed = net.add("MatMul", shares, windows)
    cut = net.add("Reshape", mixed, net.constant([-1, 2, 3, 4, 4, 4]))
    joined = net.add("Reshape", net.add("Transpose", cut, perm=[0, 1, 3, 2, 4, 5]), net.constant([-1, 8, 12, 4]))
    back = roll(roll(joined, 1, -2), 2, -2)
    net.add("Add", image, back)
    found = probe(net)
    assert {conv, image, back, net.last} <= found.keys()
    assert not {windows, shares, mixed} & found.keys()
    check_all(net, rolled, joined)
    assert found[net.last][0].features
    relations = found[net.last][0].relations
    assert [(r.step, r.offset) for r in relations if r is not None] == [(2, 0.5), (2, 0.5)]


@pytest.mark.parametrize("by", [5, -3])
def test_windows_over_a_rolled_image(by: int) -> None:
    """Each part looks elsewhere, windows over the seam at both; rolled again, in a frame within a frame."""
    net = Net(shape=(3, 16, 24))

    def roll(value: str, axis: int, by: int) -> str:
        one = net.add("Slice", value, net.constant([by]), net.constant([100]), net.constant([axis]))
        two = net.add("Slice", value, net.constant([0]), net.constant([by]), net.constant([axis]))
        return net.add("Concat", one, two, axis=axis)

    rolled = roll(roll("x", 2, 3), 3, by)
    conv = net.add("Conv", rolled, net.weight(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    again = roll(conv, 3, 4)
    net.add("Conv", again, net.weight(4, 4, 3, 3), pads=[1, 1, 1, 1])
    check_all(net, rolled, conv, again, net.last)
    back = Net(shape=(3, 16, 24))
    net = back
    conv = net.add("Conv", roll("x", 3, 8), net.weight(4, 3, 2, 2), strides=[2, 2])
    there = roll(conv, 3, -4)
    relation = probe(net)[there][0].relations[1]
    assert relation is not None
    assert (relation.step, relation.offset, relation.frame) == (2, 0.5, None)
    check_all(net, conv, there)


def test_attention_is_no_map() -> None:
    """Queries by keys has the tokens twice, in one head or several."""
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(4, 3, 4, 4), strides=[4, 4])
    tokens = net.add("Transpose", net.add("Reshape", conv, net.constant([0, 4, 24])), perm=[0, 2, 1])
    heads = net.add("Transpose", net.add("Reshape", tokens, net.constant([0, 24, 2, 2])), perm=[0, 2, 1, 3])
    logits = net.add("MatMul", heads, net.add("Transpose", heads, perm=[0, 1, 3, 2]))
    shares = net.add("Softmax", logits)
    mixed = net.add("Transpose", net.add("MatMul", shares, heads), perm=[0, 2, 1, 3])
    out = net.add("Reshape", mixed, net.constant([0, 24, 4]))
    graph = normalize(net.model()).graph
    known = {str(v.name): (v, a) for v, a in find_axes(graph).items()}
    for name in (logits, shares):
        assert name not in known or not is_feature_map(*known[name])
    assert is_feature_map(*known[out])
    assert is_feature_map(*known[tokens])


# -- sizes that the graph computes itself ----------------------------------------------------------------------------


def size(net: Net, value: str, axis: int) -> str:
    """A size as a number, as torch's older exporter writes it; shape inference does not follow it."""
    return net.add("Gather", net.add("Shape", value), net.constant(axis), axis=0)


def torch_pads(net: Net, *amounts: str) -> str:
    """Pads from the last axis inwards, front and back, as torch has them, in ONNX's order."""
    one = net.constant([1])
    given = net.add("Concat", *(net.add("Reshape", amount, one) for amount in amounts), axis=0)
    none = net.add("ConstantOfShape", net.constant([8 - len(amounts)]), value=numpy_helper.from_array(np.array([0])))
    pairs = net.add("Reshape", net.add("Concat", given, none, axis=0), net.constant([-1, 2]))
    ends = net.constant([-1]), net.constant([-(2**63) + 1]), net.constant([0]), net.constant([-1])
    turned = net.add("Transpose", net.add("Slice", pairs, *ends), perm=[1, 0])
    return net.add("Cast", net.add("Reshape", turned, net.constant([-1])), to=TensorProto.INT64)


def test_pads_by_a_remainder() -> None:
    """Up to a multiple of the window, as Swin pads before it cuts windows."""
    for shape in ((3, 17, 22), (3, 16, 20), (3, 19, 24)):
        net = Net(shape=shape)
        x = net.add("Conv", "x", net.weight(4, 3, 1, 1))
        four, zero = net.constant(4), net.constant(0)
        missing = [net.add("Mod", net.add("Sub", four, net.add("Mod", size(net, x, a), four)), four) for a in (3, 2)]
        padded = net.add("Pad", x, torch_pads(net, zero, missing[0], zero, missing[1]))
        net.add("Conv", padded, net.weight(4, 4, 4, 4), strides=[4, 4])
        check_all(net, net.last)  # the Pad, whose amounts are known, is the convolution's
        assert probe(net)[net.last][0].size == (-(-shape[1] // 4), -(-shape[2] // 4))


def test_pads_by_a_quotient_of_floats() -> None:
    """As much as keeps ceil(size / stride), half of it in front, as TensorFlow's networks have it."""
    for shape in ((3, 17, 22), (3, 18, 25), (3, 21, 24)):
        net = Net(shape=shape)
        x = net.add("Conv", "x", net.weight(4, 3, 1, 1))
        amounts = []
        for axis in (3, 2):
            n = net.add("Cast", size(net, x, axis), to=TensorProto.FLOAT)
            count = net.add("Ceil", net.add("Div", n, net.constant(2.0, np.float32)))
            reach = net.add("Mul", net.add("Sub", count, net.constant(1.0, np.float32)), net.constant(2.0, np.float32))
            total = net.add("Sub", net.add("Add", reach, net.constant(3.0, np.float32)), n)
            total = net.add("Cast", net.add("Clip", total, net.constant(0.0, np.float32)), to=TensorProto.INT64)
            half = net.add("Div", total, net.constant(2))
            amounts += [half, net.add("Sub", total, half)]
        padded = net.add("Pad", x, torch_pads(net, *amounts))
        net.add("Conv", padded, net.weight(4, 4, 3, 3), strides=[2, 2])
        check_all(net, net.last)  # the Pad, whose amounts are known, is the convolution's
        assert probe(net)[net.last][0].size == (-(-shape[1] // 2), -(-shape[2] // 2))


def test_patches_by_computed_indices() -> None:
    """torch's unfold in the older exporter: indices of a Range and the steps within a patch."""
    net = Net(shape=(3, 16, 24))
    x = net.add("Conv", "x", net.weight(4, 3, 1, 1))
    zero, four, three = net.constant(0), net.constant(4), net.constant(3)
    steps = net.add("Unsqueeze", net.constant([0, 1, 2, 3]), net.constant([1]))
    cut = x
    for axis in (2, 4):
        end = net.add("Sub", size(net, x, axis if axis == 2 else 3), three)
        starts = net.add("Unsqueeze", net.add("Range", zero, end, four), net.constant([0]))
        cut = net.add("Gather", cut, net.add("Add", starts, steps), axis=axis)
    turned = net.add("Transpose", cut, perm=[0, 3, 5, 1, 2, 4])  # (N, 4, 6, C, 4, 4)
    net.add("Reshape", turned, net.constant([0, 24, 64]))
    check_all(net)
    assert probe(net)[net.last][0].size == (4, 6)


def test_split_of_channels_behind_open_sizes() -> None:
    """Queries, keys and values of different widths, whose shapes nothing infers."""
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(12, 3, 4, 4), strides=[4, 4])
    count = net.add("Reshape", net.add("Mul", size(net, conv, 2), size(net, conv, 3)), net.constant([1]))
    images = net.add("Shape", conv, end=1)

    def shape(*rest: int) -> str:
        return net.add("Concat", images, count, net.constant(rest), axis=0)

    flat = net.add("Reshape", conv, net.add("Concat", images, net.constant([12]), count, axis=0))
    tokens = net.add("Transpose", flat, perm=[0, 2, 1])
    parts = net.add("Split", net.add("Reshape", tokens, shape(2, -1)), net.constant([1, 1, 4]), outputs=3, axis=3)
    queries, values = (net.add("Transpose", name, perm=[0, 2, 1, 3]) for name in (parts, f"{parts}.2"))
    keys = net.add("Transpose", f"{parts}.1", perm=[0, 2, 3, 1])
    shares = net.add("Softmax", net.add("MatMul", queries, keys))
    mixed = net.add("Transpose", net.add("MatMul", shares, values), perm=[0, 2, 1, 3])
    back = net.add("MatMul", net.add("Reshape", mixed, shape(8)), net.weight(8, 12))
    net.add("Add", tokens, back)
    found = probe(net)
    assert found[net.last][0].size == (4, 6)
    assert shares not in found or not found[shares][0].features


def test_places_of_patches_in_the_batch() -> None:
    """MobileViT: for each place within a patch a sequence of patches of its own, the batch open."""
    net = Net(shape=(3, 16, 24))
    conv = net.add("Conv", "x", net.weight(5, 3, 2, 2), strides=[2, 2])  # (N, 5, 8, 12)
    images = net.add("Gather", net.add("Shape", conv), net.constant(0), axis=0)

    def shape(factor: int, *rest: int) -> str:
        count = net.add("Mul", images, net.constant(factor))
        one = net.constant([1])
        return net.add("Concat", net.add("Reshape", count, one), net.constant(rest), axis=0)

    rows = net.add("Transpose", net.add("Reshape", conv, shape(5 * 4, 2, 6, 2)), perm=[0, 2, 1, 3])
    places = net.add("Transpose", net.add("Reshape", rows, shape(1, 5, 24, 4)), perm=[0, 3, 2, 1])
    tokens = net.add("Reshape", places, shape(4, 24, -1))
    shares = net.add("Softmax", net.add("MatMul", tokens, net.add("Transpose", tokens, perm=[0, 2, 1])))
    mixed = net.add("MatMul", net.add("MatMul", shares, tokens), net.weight(5, 5))
    places = net.add("Transpose", net.add("Reshape", mixed, shape(1, 4, 24, 5)), perm=[0, 3, 2, 1])
    rows = net.add("Transpose", net.add("Reshape", places, shape(5 * 4, 6, 2, 2)), perm=[0, 2, 1, 3])
    net.add("Reshape", rows, shape(1, 5, 8, 12))
    found = probe(net)
    assert found[net.last][0].features
    assert [(r.step, r.offset) for r in found[net.last][0].relations if r is not None] == [(2, 0.5), (2, 0.5)]
    assert not {tokens, shares, mixed} & found.keys()


# -- chains --------------------------------------------------------------------------------------------------------


def chain(seed: int) -> Net:
    """A network of up to six operators drawn at random, in channels first; each keeps enough rows and columns."""
    net = Net(shape=(2, 29, 34), seed=seed)
    random = np.random.default_rng(seed)
    c, h, w = net.shape

    def pick(*values: Any) -> Any:
        return values[int(random.integers(len(values)))]

    for _ in range(6):
        kind = pick("conv", "conv", "pool", "slice", "pad", "flip", "resize", "depth", "sum", "tokens", "turn", "gate")
        if kind == "conv":
            k, s, d = int(random.integers(1, 4)), pick(1, 1, 2), pick(1, 2)
            p = int(random.integers(0, 2))
            if min(h, w) + 2 * p < (k - 1) * d + 1 + 4 * s:
                continue
            net.add("Conv", net.last, net.weight(3, c, k, k), strides=[s, s], dilations=[d, d], pads=[p, p, 0, p])
            h, w = (h + p - (k - 1) * d - 1) // s + 1, (w + 2 * p - (k - 1) * d - 1) // s + 1
            c = 3
        elif kind == "pool" and min(h, w) >= 8:
            net.add("MaxPool", net.last, kernel_shape=[3, 2], strides=[1, 2])
            h, w = h - 2, w // 2
        elif kind == "slice" and min(h, w) >= 10:
            start, step = int(random.integers(0, 3)), pick(1, 2)
            ends = net.constant([start]), net.constant([10**6]), net.constant([2]), net.constant([step])
            net.add("Slice", net.last, *ends)
            h = -(-(h - start) // step)
        elif kind == "pad":
            net.add("Pad", net.last, net.constant([0, 0, 1, 0, 0, 0, -1, 2]))
            w += 2
        elif kind == "flip":
            ends = net.constant([-1]), net.constant([-(10**6)]), net.constant([3]), net.constant([-1])
            net.add("Slice", net.last, *ends)
        elif kind == "resize" and max(h, w) < 40:
            mode, how = pick("nearest", "linear"), pick("half_pixel", "align_corners", "asymmetric")
            h, w = h + int(random.integers(-2, 9)), w + int(random.integers(-2, 9))
            sizes = net.constant([h, w])
            net.add("Resize", net.last, "", "", sizes, axes=[2, 3], mode=mode, coordinate_transformation_mode=how)
            net.exact = False
        elif kind == "depth" and h % 2 == w % 2 == 0:
            net.add("SpaceToDepth", net.last, blocksize=2)
            c, h, w = 4 * c, h // 2, w // 2
        elif kind == "sum":
            before = net.last
            net.add("Conv", before, net.weight(c, c, 3, 3), pads=[1, 1, 1, 1])
            net.add("Add", before, net.last)
        elif kind == "tokens":
            flat = net.add("Reshape", net.last, net.constant([0, c, h * w]))
            turned = net.add("Transpose", flat, perm=[0, 2, 1])
            mixed = net.add("MatMul", turned, net.weight(c, 3))
            back = net.add("Transpose", mixed, perm=[0, 2, 1])
            net.add("Reshape", back, net.constant([-1, 3, h, w]))
            c = 3
        elif kind == "turn":
            net.add("Transpose", net.last, perm=[0, 1, 3, 2])
            h, w = w, h
        elif kind == "gate":
            before = net.last
            net.add("GlobalAveragePool", before)
            net.add("Mul", before, net.last)
    net.add("Conv", net.last, net.weight(2, c, 1, 1))
    return net


@pytest.mark.parametrize("seed", slow_after(12, lambda seed: "chain", range(40)))
def test_chains(seed: int) -> None:
    check_all(chain(seed))
