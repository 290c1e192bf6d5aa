# SPDX-License-Identifier: Apache-2.0
"""How a tensor's axes were derived, shown operator by operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from portable_cam.cli import app
from portable_cam.errors import InputError, LayerError
from portable_cam.export import AxisTrace, doctor, list_layers, trace_axes

RANDOM = np.random.default_rng(7)
INTS = {
    "flat": [0, 6, 24], "first": [0], "rows": [2], "minus": [-1], "least": [-100], "crop": [2, 3], "end": [14, 19],
    "both": [2, 3], "height": [2], "zero": [0], "one": [1], "lengths": [4],
}  # fmt: skip
WEIGHTS = {
    **{name: np.array(value, np.int64) for name, value in INTS.items()},
    "patch": RANDOM.standard_normal((6, 3, 4, 4)).astype(np.float32),
    "w": RANDOM.standard_normal((6, 6)).astype(np.float32),
    "token": RANDOM.standard_normal((1, 1, 6)).astype(np.float32),
    "bent": RANDOM.uniform(-1, 1, (1, 16, 24, 2)).astype(np.float32),
}
PATCHES = "p = Conv<strides = [4, 4]>(x, patch) f = Reshape(p, flat) t = Transpose<perm = [0, 2, 1]>(f) "
MEAN = "m = ReduceMean<axes = [1], keepdims = 0>(t) y = Gemm(m, w)"


def model(make_model: Any, body: str, x: str = "float[1,3,16,24] x", y: str = "float[N,6] y") -> onnx.ModelProto:
    return make_model(body, WEIGHTS, x, y, 17)  # type: ignore[no-any-return]


def operators(trace: AxisTrace) -> list[str]:
    return [step.operator for step in trace.steps]


def test_a_map(make_model: Any) -> None:
    body = "v = Slice(x, crop, end, both) c = Conv<strides = [4, 4]>(v, patch) r = Relu(c) "
    trace = trace_axes(model(make_model, body + "g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, w)"), "r")
    assert operators(trace) == ["input", "Slice", "Conv", "Relu"]
    assert [step.tensor for step in trace.steps] == ["x", "v", "c", "r"]
    assert trace.steps[1].describe()[2:] == ["rows 12 at i + 2, 1 wide", "columns 16 at i + 3, 1 wide"]
    wanted = ["images 1", "channels 6", "rows 3 at 4 i + 3.5, 4 wide", "columns 4 at 4 i + 4.5, 4 wide"]
    assert trace.steps[3].describe() == wanted
    assert trace.layer
    assert trace.verdict.startswith("a layer: NCHW, 3 x 4 cells, placed where it looks at; 33% of the image unseen")


def test_tokens_and_another_branch(make_model: Any) -> None:
    body = PATCHES + "a = MatMul(t, w) b = Softmax<axis = 1>(a) c = Add(t, b) "
    trace = trace_axes(model(make_model, body + MEAN.replace("(t)", "(c)")), "c")
    assert operators(trace)[:4] == ["input", "Conv", "Reshape", "Transpose"]
    assert trace.steps[-1].describe()[1] == "rows 4 at 4 i + 1.5, all wide by columns 6 at 4 i + 1.5, all wide"
    assert operators(trace)[-3:] == ["MatMul", "Softmax", "Add"]
    assert trace.steps[-1].others == ()  # the other operand, t, is on the way
    assert trace.verdict == "a layer: NTC, 4 x 6 cells, stretched over the image"
    (fact,) = [f for f in trace.steps[-1].axes or () if f.kind == "rows"]
    assert (fact.axis, fact.size, fact.step, fact.offset, fact.span) == (1, 4, 4, 1.5, None)


@pytest.mark.parametrize(
    ("body", "tensor", "lost_by", "verdict"),
    [
        (
            "v = GridSample(x, bent) c = Conv<strides = [4, 4]>(v, patch) r = Relu(c) ",
            "r",
            "GridSample",
            "axis 2 is not known behind GridSample 'node': its grid is no affine map of rows and columns",
        ),
        (
            "c = Conv<strides = [4, 4]>(x, patch) u = Slice(c, minus, least, rows, minus) r = Add(c, u) ",
            "r",
            "Add",
            "it joins two views of the image that do not lie over each other",
        ),
        (
            "c = Conv<strides = [4, 4]>(x, patch) k = Transpose<perm = [2, 0, 1, 3]>(c) "
            "q = ReverseSequence<batch_axis = 1, time_axis = 0>(k, lengths) r = Transpose<perm = [1, 2, 0, 3]>(q) ",
            "r",
            "ReverseSequence",
            "axis 2 is not known behind ReverseSequence",
        ),
    ],
)
def test_what_is_lost_names_its_operator(make_model: Any, body: str, tensor: str, lost_by: str, verdict: str) -> None:
    head = "g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, w)"
    made = make_model(body + head, WEIGHTS, "float[1,3,16,24] x", "float[N,6] y", 20)
    trace = trace_axes(made, tensor)
    assert not trace.layer
    assert verdict in trace.verdict
    unknown = [step.operator for step in trace.steps if any(f.kind == "unknown" for f in step.axes or ())]
    assert unknown[0] == lost_by


def test_views_name_their_operator(make_model: Any) -> None:
    """Where the regions of an image lie is known at run time alone: rows and columns count in them."""
    more = {"boxes": np.array([[2, 3, 12, 14], [0, 0, 8, 8]], np.float32), "which": np.array([0, 0], np.int64)}
    body = "q = RoiAlign<output_height = 8, output_width = 8>(x, boxes, which) r = Conv<strides = [4, 4]>(q, patch) "
    body += "g = ReduceMean<keepdims = 0>(r, places) y = Gemm(g, w)"
    weights = {**WEIGHTS, **more, "places": np.array([2, 3], np.int64)}
    trace = trace_axes(make_model(body, weights, "float[1,3,16,24] x", "float[N,6] y", 20), "r")
    assert trace.steps[-1].describe() == [
        "views 2 by images 1",
        "channels 6",
        "rows 2 at 4 i + 1.5, 4 wide, in a view by RoiAlign 'q'",
        "columns 2 at 4 i + 1.5, 4 wide, in a view by RoiAlign 'q'",
    ]
    assert trace.layer
    assert trace.verdict == "a layer: NCHW, 2 x 2 cells, put back by the views of RoiAlign 'q'"


def test_names(make_model: Any) -> None:
    made = model(make_model, PATCHES + MEAN)
    made.graph.node[0].name = "the_patches"
    assert trace_axes(made, "the_patches") == trace_axes(made, "p")
    with pytest.raises(LayerError, match=r"'the_patch' is neither a tensor nor a node .* near it: the_patches"):
        trace_axes(made, "the_patch")


def test_the_command(make_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(make_model, PATCHES + "n = Tanh(t) " + MEAN.replace("(t)", "(n)")).SerializeToString())
    done = CliRunner().invoke(app, ["doctor", str(path), "--why", "n"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert all(operator in done.stdout for operator in ("Conv", "Reshape", "Transpose", "Tanh"))
    assert "as before" in done.stdout
    assert "n: a layer: NTC, 4 x 6 cells" in done.stdout
    content = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--why", "n", "--json"]).stdout)
    assert content == json.loads(json.dumps(trace_axes(path, "n").to_dict()))
    assert [step["operator"] for step in content["steps"]] == ["input", "Conv", "Reshape", "Transpose", "Tanh"]


# -- what a person declares --------------------------------------------------------------------------------------------

LOST = """
    v = GridSample(x, bent) c = Conv<strides = [4, 4]>(v, patch) r = Relu(c)
    g = GlobalAveragePool(r) f = Flatten(g) y = Gemm(f, w)
"""


def test_axes_that_are_declared(make_model: Any, tmp_path: Path) -> None:
    """For layers and doctor, as for explain: in Python and on the command line."""
    made = make_model(LOST, WEIGHTS, "float[1,3,16,24] x", "float[N,6] y", 20)
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    axes = {"r": "NCHW"}
    assert list_layers(made) == []
    assert doctor(made).layers == []
    assert [(layer.name, layer.grid) for layer in list_layers(made, axes=axes)] == [("r", (4, 6))]
    assert doctor(made, axes=axes).layers == ["r"]
    assert trace_axes(made, "r", axes).verdict == "declared: NCHW, 4 x 6 cells, stretched over the image"
    given = ["--task", "classify", "--axes", "r=NCHW", "--json"]
    layers = json.loads(CliRunner().invoke(app, ["layers", str(path), *given]).stdout)
    assert [layer["name"] for layer in layers] == ["r"]
    assert json.loads(CliRunner().invoke(app, ["doctor", str(path), *given]).stdout)["layers"] == ["r"]
    why = json.loads(CliRunner().invoke(app, ["doctor", str(path), *given, "--why", "r"]).stdout)
    assert why["layer"]
    wrong = CliRunner().invoke(app, ["layers", str(path), "--axes", "r=NTC"])
    assert isinstance(wrong.exception, InputError)


def test_an_image_that_is_declared(make_model: Any, tmp_path: Path) -> None:
    weights = {"w": np.ones((2 * 6 * 5, 3), np.float32)}
    made = make_model("f = Flatten(x) y = MatMul(f, w)", weights, "float[1,2,6,5] x", "float[N,3] y")
    assert doctor(made, axes={"x": "NHWC"}).layout == "NHWC"
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    found = CliRunner().invoke(app, ["doctor", str(path), "--axes", "x=NCHW", "--json"])
    assert json.loads(found.stdout)["layout"] == "NCHW"
