# SPDX-License-Identifier: Apache-2.0
"""The shapes that a file states of tensors inside it and of its outputs decide nothing: with false ones, everything is
as it is without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import portable_cam as pcam
from portable_cam.export import doctor, list_layers
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import known_dims
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session

FLOAT = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(5)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), f"{op}_{outputs.split()[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    x: Sequence[int | str],
    constants: Mapping[str, np.ndarray],
    stated: Mapping[str, Sequence[int | str] | None],
    opset: int = 18,
) -> onnx.ModelProto:
    """From ``x`` to ``y``; ``stated``: shapes of tensors inside and of the output, which is None by default."""
    inside = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in stated.items() if n != "y"]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, x)],
        [helper.make_tensor_value_info("y", FLOAT, stated.get("y"))],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=inside,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CONV = {"k": rand(4, 3, 3, 3)}
RECURRENT = {
    "w": rand(1, 15, 4),
    "r": rand(1, 15, 5),
    **{n: np.array([i]) for i, n in enumerate(("zero", "one", "two"))},
}
_Sample: TypeAlias = tuple[
    list[onnx.NodeProto], list[int | str], dict[str, np.ndarray], dict[str, Any], tuple[int, ...]
]
#: What is open in the input, the shapes stated of its example, and a size that is none of them.
SAMPLES: dict[str, _Sample] = {
    "the length behind a GRU, then a mean over it": (
        [
            node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
            node("ReduceMean", "c two", "rows", keepdims=0),
            node("Transpose", "rows", "steps", perm=[2, 0, 1]),
            node("GRU", "steps w r", "h", hidden_size=5, linear_before_reset=1),
            node("Squeeze", "h one", "s"),
            node("ReduceMean", "s zero", "y", keepdims=0),
        ],
        ["N", 3, 8, "W"],
        CONV | RECURRENT,
        {"h": [10, 1, "N", 5], "s": [10, "N", 5], "c": ["N", 4, 8, "W"]},
        (2, 3, 8, 14),
    ),
    "a batch opened by editing": (
        [
            node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
            node("Relu", "c", "a"),
            node("GlobalAveragePool", "a", "p"),
            node("Flatten", "p", "f"),
            node("ReduceMean", "f zero", "m", keepdims=1),
            node("Sub", "f m", "y"),
        ],
        ["N", 3, 8, 8],
        {**CONV, "zero": np.array([0])},
        {name: [1, 4, 8, 8] for name in "ca"} | {"p": [1, 4, 1, 1], "f": [1, 4], "m": [1, 4], "y": [1, 4]},
        (3, 3, 8, 8),
    ),
    "a size opened by editing": (
        [
            node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
            node("Softplus", "c", "a"),
            node("ReduceMean", "a axes", "y", keepdims=0),
        ],
        [1, 3, "H", "W"],
        {**CONV, "axes": np.array([2, 3])},
        {"c": [1, 4, 8, 8], "a": [1, 4, 8, 8], "y": [1, 4]},
        (1, 3, 6, 12),
    ),
    "an output of another rank": (
        [node("Conv", "x k", "c", strides=[2, 2]), node("ReduceMax", "c axes", "y", keepdims=0)],
        ["N", 3, 9, 9],
        {**CONV, "axes": np.array([2, 3])},
        {"y": ["N", 4, 1, 1]},
        (2, 3, 9, 9),
    ),
    "a tensor that was resized in the file": (
        [
            node("Conv", "x k", "c"),
            node("Flatten", "c", "f"),
            node("Sigmoid", "f", "s"),
            node("ReduceSum", "s one", "y"),
        ],
        ["N", 3, 5, 5],
        {**CONV, "one": np.array([1])},
        {"c": ["N", 8, 2, 2], "f": ["N", 32], "y": [7, 9]},
        (2, 3, 5, 5),
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_false_shapes_change_nothing(name: str) -> None:
    nodes, dims, constants, stated, size = SAMPLES[name]
    told, untold = (model(nodes, dims, constants, claims) for claims in (stated, {}))
    x = rand(*size)
    values = [ir.convenience.create_value_mapping(normalize(m).graph, include_subgraphs=False) for m in (told, untold)]
    assert {n: known_dims(v) for n, v in values[0].items()} == {n: known_dims(v) for n, v in values[1].items()}
    results = []
    for m in (told, untold):
        session = Session(differentiate(m, "y", ["x"]))
        y = Session(untold).run({"x": x})["y"]
        results.append(session.run({"x": x, "seed": np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape)}))
    np.testing.assert_array_equal(results[0]["y"], y)
    np.testing.assert_array_equal(results[0]["gradient.x"], results[1]["gradient.x"])


def test_false_shapes_of_a_branch_and_a_loop() -> None:
    """Those inside bodies are claims too."""
    branches = {}
    for key, op in (("then_branch", "Relu"), ("else_branch", "Tanh")):
        out = helper.make_tensor_value_info(f"{op}_o", FLOAT, [1, 9, 9])
        branches[key] = helper.make_graph([node(op, "c", f"{op}_o")], op, [], [out])
    step = helper.make_graph(
        [node("Identity", "going", "go"), node("Mul", "state half", "next")],
        "step",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [1, 4, 2, 2]),
        ],
        [
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [1, 4, 2, 2]),
        ],
    )
    nodes = [
        node("Conv", "x k", "c"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top half", "bright"),
        node("If", "bright", "b", **branches),
        node("ReduceMax", "x", "rounds", keepdims=0),
        node("Cast", "rounds", "count", to=onnx.TensorProto.INT64),
        node("Loop", "count bright b", "l", body=step),
        node("ReduceMean", "l axes", "y", keepdims=0),
    ]
    constants = {**CONV, "half": np.float32(0.5), "axes": np.array([2, 3])}
    told = model(nodes, ["N", 3, 5, 5], constants, {"b": [9, 9], "l": [1, 4, 2, 2], "y": [1]})
    x, seed = rand(2, 3, 5, 5), rand(2, 4)
    x[0, 0, 0, 0] = 2.5
    got = Session(differentiate(told, "y", ["x"])).run({"x": x, "seed": seed})
    plain = [node("Conv", "x k", "c"), node("Relu", "c", "r"), node("Mul", "r quarter", "l"), nodes[-1]]
    want = model(plain, ["N", 3, 5, 5], {**CONV, "quarter": np.float32(0.25), "axes": np.array([2, 3])}, {})
    want = Session(differentiate(want, "y", ["x"])).run({"x": x, "seed": seed})
    np.testing.assert_allclose(got["gradient.x"], want["gradient.x"], rtol=1e-5, atol=1e-7)


def network(batch: int | str = "N", **stated: Any) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "y"),
    ]
    return model(nodes, [batch, 3, 8, 8], CONV, stated)


def test_layers_and_doctor_report_what_runs() -> None:
    stale = network(a=[1, 4, 16, 16], c=[1, 4, 16, 16], y=[1, 4, 1, 1])
    (layer, *_) = list_layers(stale)
    assert layer.shape == (None, 4, 8, 8)
    assert doctor(stale).batch == "symbolic"
    assert [o.split(" ")[1] for o in doctor(stale).outputs] == ["FLOAT[N,4]"]


def test_maps_of_a_batch_that_was_opened() -> None:
    """Every image has the map that it has alone."""
    x = rand(3, 3, 8, 8)
    opened = pcam.Explainer(network(a=[1, 4, 8, 8], y=[1, 4]), ("gradcam", "gradient", "cam"))
    fixed = pcam.Explainer(network(1), ("gradcam", "gradient", "cam"))
    together, alone = opened(x, 2), [fixed(x[i : i + 1], 2) for i in range(3)]
    for method in ("gradcam", "gradient", "cam"):
        np.testing.assert_allclose(together[method], np.concatenate([r[method] for r in alone]), atol=1e-6)


def test_shapes_behind_an_operator_of_a_custom_library_are_kept() -> None:
    """There is nothing else to know them from."""
    nodes = [node("Sharpen", "x", "s", domain="acme"), node("Conv", "s k", "c"), node("Relu", "c", "y")]
    custom = model(nodes, ["N", 3, 8, 8], CONV, {"s": ["N", 3, 8, 8], "c": [1, 1, 1, 1], "y": [5]})
    custom.opset_import.append(helper.make_opsetid("acme", 1))
    values = ir.convenience.create_value_mapping(normalize(custom).graph, include_subgraphs=False)
    assert known_dims(values["s"]) == [None, 3, 8, 8]
    assert known_dims(values["y"]) == [None, 4, 6, 6]


def test_of_what_nothing_is_known_the_rank_is_taken() -> None:
    """Behind an operator of a custom library whose own output the file does not describe."""
    nodes = [node("Sharpen", "x", "s", domain="acme"), node("Sigmoid", "s", "a"), node("Flatten", "a", "y")]
    custom = model(nodes, ["N", 3, 8, 8], {}, {"a": ["N", 3, 8, 8], "y": [4]})
    custom.opset_import.append(helper.make_opsetid("acme", 1))
    values = ir.convenience.create_value_mapping(normalize(custom).graph, include_subgraphs=False)
    assert known_dims(values["a"]) == [None] * 4
    assert known_dims(values["y"]) == [None, None], "Flatten's own, whatever is stated"


def test_names_of_new_sizes_are_no_others() -> None:
    """What is inferred of nodes added later shares no name of a size with the rest of the graph by accident."""
    graph = normalize(model([node("Relu", "x", "y")], ["N"], {}, {})).graph
    added = []
    for value in graph.inputs[0], graph.outputs[0]:
        indices = ir.node("NonZero", [value])
        indices.name = f"at_{value.name}"
        indices.outputs[0].name = f"{value.name}_nonzero"
        infer_shapes([indices])
        added.append(indices.outputs[0])
    names = [value.shape.dims[1].value for value in added if value.shape is not None]  # type: ignore[union-attr]
    assert len(set(names)) == len(names) == 2
