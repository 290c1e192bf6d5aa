# SPDX-License-Identifier: Apache-2.0
"""Sizes that are known while the batch is open: what is computed from them folds, and an open height and width can be
fixed for a command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam.cli import app
from portable_cam.errors import OptionError
from portable_cam.export import doctor, list_layers
from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.graph.values import known_dims
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import assert_unchanged, node_model

RNG = np.random.default_rng(2)
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
CONSTANTS: dict[str, Any] = {
    **{str(i): np.array([i]) for i in range(5)},
    "zero": np.array(0),
    "two": np.array(2),
    "stride": np.array([2.0, 2.0], np.float32),
    "step": np.array([2, 2]),
    "kernel": np.array([3, 3]),
    "none": np.array([0, 0]),
    "-1": np.array([-1]),
    "columns": np.array([2, -1]),
    "flat": np.array([-1]),
    "k": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "w": RNG.standard_normal((4, 5)).astype(np.float32),
}


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), f"{op}_{outputs.split()[0]}", **attributes)


#: Forms of padding to the same size: the total is (ceil(size / stride) - 1) * stride + kernel - size.
SAME = {
    "by floats, sliced": [
        node("Shape", "x", "shape"),
        node("Slice", "shape 2 4", "size"),
        node("Cast", "size", "sizes", to=FLOAT),
        node("Div", "sizes stride", "steps"),
        node("Ceil", "steps", "whole"),
        node("Cast", "whole", "out", to=INT64),
    ],
    "by integers, gathered": [
        node("Shape", "x", "shape"),
        node("Gather", "shape 2", "h"),
        node("Gather", "shape 3", "width"),
        node("Concat", "h width", "size", axis=0),
        node("Add", "size step", "more"),
        node("Sub", "more one", "less"),
        node("Div", "less step", "out"),
    ],
    "by scalars": [
        node("Shape", "x", "shape"),
        node("Split", "shape", "n channels h v", num_outputs=4),
        node("Shape", "x", "size", start=2, end=4),
        node("Neg", "size", "negative"),
        node("Sub", "negative step", "further"),
        node("Add", "further one", "furthest"),
        node("Div", "furthest step", "floor"),
        node("Neg", "floor", "out"),
    ],
}
PADS = [
    node("Sub", "out one", "gaps"),
    node("Mul", "gaps step", "reach"),
    node("Add", "reach kernel", "end"),
    node("Sub", "end size", "missing"),
    node("Max", "missing none", "total"),
    node("Div", "total two", "before"),
    node("Sub", "total before", "behind"),
    node("Concat", "none before none behind", "pads", axis=0),
]


def network(form: str, dims: Sequence[int | str]) -> onnx.ModelProto:
    head = [
        *SAME[form],
        *PADS,
        node("Pad", "x pads", "padded"),
        node("Conv", "padded k", "c", strides=[2, 2]),
        node("Relu", "c", "a"),
        node("GlobalAveragePool", "a", "g"),
        node("Flatten", "g", "f"),
        node("MatMul", "f w", "y"),
    ]
    used = {name for each in head for name in each.input}
    constants = {name: value for name, value in {**CONSTANTS, "one": np.array([1])}.items() if name in used}
    x = np.zeros([d if isinstance(d, int) else 9 for d in dims], np.float32)
    return node_model(head, {"x": x}, ["y"], constants, dims={"x": list(dims)})


@pytest.mark.parametrize(("form", "size"), [*itertools.product(SAME, [(9, 9), (8, 12)])])
def test_pads_of_a_known_size_fold(form: str, size: tuple[int, int]) -> None:
    model = network(form, ["N", 3, *size])
    graph = normalize(model).graph
    assert {n.op_type for n in graph} == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "MatMul"}
    x = RNG.standard_normal((2, 3, *size)).astype(np.float32)
    assert_unchanged(model, Session(model).run({"x": x}), Session(normalize(model)).run({"x": x}))
    assert known_dims(graph.outputs[0]) == [None, 5]


def test_pads_of_an_open_size_stay() -> None:
    model = network("by floats, sliced", ["N", 3, "H", 8])
    assert any(n.op_type == "Pad" for n in normalize(model).graph)
    for size in ((5, 8), (6, 8)):
        x = RNG.standard_normal((2, 3, *size)).astype(np.float32)
        assert_unchanged(model, Session(model).run({"x": x}), Session(normalize(model)).run({"x": x}))


def test_sizes_among_open_ones() -> None:
    """The batch goes through; what does not depend on it is a constant."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n 0", "batch"),
        node("Gather", "shape columns", "hw"),
        node("ReduceProd", "hw", "area", keepdims=1),
        node("Concat", "batch area -1", "target", axis=0),
        node("Reshape", "x target", "r"),
        node("ReduceMean", "r 1", "y", keepdims=0),
    ]
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    x = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    model = node_model(nodes, {"x": x}, ["y"], constants, dims={"x": ["N", 3, 4, 5]})
    normal = normalize(model)
    assert not any(n.op_type == "ReduceProd" for n in normal.graph)
    assert_unchanged(model, Session(model).run({"x": x}), Session(normal).run({"x": x}))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("batch -1 4", [None, 15, 4]),
        ("batch 5 -1", [None, 5, 12]),
        ("-1 4 batch", [15, 4, None]),
        ("batch batch -1", None),
    ],
)
def test_rows_of_a_reshape_with_an_open_batch(target: str, expected: list[int | None] | None) -> None:
    """As heads of detectors write it. Without the batch among the sizes, or with it twice, nothing follows."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        node("Shape", "t", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n 0", "batch"),
        node("Concat", target, "sizes", axis=0),
        node("Reshape", "t sizes", "r"),
        node("Relu", "r", "y"),
    ]
    used = {name for each in nodes for name in each.input}
    constants = {n: v for n, v in {**CONSTANTS, "5": np.array([5])}.items() if n in used}
    model = node_model(nodes, {"x": np.zeros((1, 3, 4, 5), np.float32)}, ["y"], constants, dims={"x": ["N", 3, 4, 5]})
    dims = known_dims(normalize(model).graph.outputs[0])
    assert dims == (expected or [None] * 3)
    if expected is not None:
        x = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
        run = Session(normalize(model)).run({"x": x})
        assert [d for d, e in zip(run["y"].shape, expected, strict=True) if e is not None] == [d for d in expected if d]
        assert_unchanged(model, Session(model).run({"x": x}), run)


def test_what_is_resized_with_an_open_batch() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape 0 2", "front"),
        node("Slice", "shape 2 4", "size"),
        node("Mul", "size step", "larger"),
        node("Concat", "front larger", "sizes", axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["r"], "resize", mode="nearest"),
        node("Relu", "r", "y"),
    ]
    used = {name for each in nodes for name in each.input}
    constants = {n: v for n, v in CONSTANTS.items() if n in used}
    x = np.zeros((1, 3, 4, 5), np.float32)
    for dims, expected in ((["N", 3, 4, 5], [None, 3, 8, 10]), (["N", 3, "H", 5], [None, 3, None, 10])):
        (output,) = normalize(node_model(nodes, {"x": x}, ["y"], constants, dims={"x": dims})).graph.outputs
        assert known_dims(output) == expected


def test_numbers_are_rounded_as_the_model_rounds_them() -> None:
    """10 times 0.7 is 7 in float32, and a little less than that exactly: the floor is taken of what runs."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape 2 3", "rows"),
        node("Cast", "rows", "size", to=FLOAT),
        node("Mul", "size share", "part"),
        node("Floor", "part", "whole"),
        node("Cast", "whole", "end", to=INT64),
        node("Slice", "x 0 end 2", "y"),
    ]
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    constants["share"] = np.float32(0.7)
    x = RNG.standard_normal((2, 3, 10, 4)).astype(np.float32)
    model = node_model(nodes, {"x": x}, ["y"], constants, dims={"x": ["N", 3, 10, 4]})
    normal = normalize(model)
    assert [n.op_type for n in normal.graph] == ["Slice"]
    assert known_dims(normal.graph.outputs[0]) == [None, 3, 7, 4]
    assert_unchanged(model, Session(model).run({"x": x}), Session(normal).run({"x": x}))


# -- an open size, fixed -------------------------------------------------------------------------------------------


def open_network() -> onnx.ModelProto:
    return network("by floats, sliced", ["N", 3, "H", "W"])


def test_layers_and_doctor_at_a_size() -> None:
    assert list_layers(open_network())[0].grid == (None, None)
    (layer, *_) = list_layers(open_network(), size=(32, 16))
    assert (layer.shape, layer.stride) == ((None, 4, 16, 8), 2)
    report = doctor(open_network(), size=(32, 16))
    assert report.inputs == ["x FLOAT[N,3,32,16]"]
    assert report.cost is not None
    assert not report.cost.assumed


def test_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    onnx.save(open_network(), path)
    run = CliRunner().invoke
    layers = run(app, ["layers", str(path), "--size", "32x16", "--json"])
    assert json.loads(layers.stdout)[0]["grid"] == [16, 8]
    Image.new("RGB", (24, 40)).save(tmp_path / "tall.png")
    layers = run(app, ["layers", str(path), str(tmp_path / "tall.png"), "--json"])
    assert json.loads(layers.stdout)[0]["grid"] == [20, 12]
    found = run(app, ["doctor", str(path), str(tmp_path / "tall.png"), "--json"])
    assert json.loads(found.stdout)["inputs"] == ["x FLOAT[N,3,40,24]"]
    found = run(app, ["doctor", str(path), "--size", "32", "--json"])
    assert json.loads(found.stdout)["inputs"] == ["x FLOAT[N,3,32,32]"]
    out = tmp_path / "explainer.onnx"
    written = run(app, ["export", str(path), "-o", str(out), "--size", "32x16", "--methods", "gradcam"])
    assert written.exit_code == 0, written.output
    dims = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dims] == ["N", 3, 32, 16]


def test_tasks_read_a_model_at_the_size_of_their_photos(make_model: Any) -> None:
    """A rolled image of open size has parts of unknown size, and a segmentation an unknown number of pixels."""
    photo = np.zeros((48, 40, 3), np.uint8)
    body = "a = Slice(x, five, far, columns) b = Slice(x, none, five, columns) r = Concat<axis = 3>(a, b) "
    body += "c = Conv<pads = [1, 1, 1, 1]>(r, w) k = Relu(c) "
    weights = {name: np.array([value]) for name, value in {"five": 5, "far": 2**31, "none": 0, "columns": 3}.items()}
    weights |= {"w": np.ones((4, 3, 3, 3), np.float32), "v": np.ones((4, 2), np.float32)}
    made = make_model(body + "g = GlobalAveragePool(k) f = Flatten(g) y = MatMul(f, v)", weights, "float[1,3,H,W] x")
    assert list_layers(made) == []
    found = pcam.explain(made, photo, task="classify", preprocessing={"size": (32, 24)})
    assert (found.layer, found["gradcam"].shape) == ("k", (1, 1, 32, 24))
    weights["u"] = np.ones((2, 4, 1, 1), np.float32)
    made = make_model(body + "s = Conv(k, u) y = Softmax<axis = 1>(s)", weights, "float[1,3,H,W] x", "float[1,2,P,Q] y")
    found = pcam.explain(made, photo, task="segment", targets=1, preprocessing={"size": (32, 24)})
    assert (found.layer, found["layercam"].shape) == ("k", (1, 1, 32, 24))


def test_the_same_maps_at_a_size() -> None:
    nodes = [node("Conv", "x k", "c", strides=[2, 2]), node("Relu", "c", "a"), node("GlobalAveragePool", "a", "g")]
    nodes += [node("Flatten", "g", "f"), node("MatMul", "f w", "y")]
    x = RNG.standard_normal((2, 3, 32, 16)).astype(np.float32)
    free = node_model(nodes, {"x": x}, ["y"], {name: CONSTANTS[name] for name in "kw"}, dims={"x": ["N", 3, "H", "W"]})
    maps = [pcam.Explainer(model, ("gradcam", "gradient"))(x, 1) for model in (free, at_size(free, (32, 16)))]
    for method in ("gradcam", "gradient"):
        np.testing.assert_allclose(maps[0][method], maps[1][method], atol=1e-6)


def test_another_size_than_the_model_takes() -> None:
    with pytest.raises(OptionError, match="takes images of 9x9, not 32x16"):
        at_size(network("by scalars", ["N", 3, 9, 9]), (32, 16))
    with pytest.raises(OptionError, match="takes images of 9xany"):
        at_size(network("by scalars", ["N", 3, 9, "W"]), (32, 16))
