# SPDX-License-Identifier: Apache-2.0
"""Files that ONNX Runtime loads and the standard does not allow: they are explained as the same model written by the
book."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import portable_cam as pcam
from portable_cam.errors import ModelError
from portable_cam.export import build_explanation, doctor, list_layers
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.testing import node_model
from portable_cam.verify.selfcheck import self_check

METHODS = ("gradcam", "cam", "gradient", "guided_gradcam", "layercam")
X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def by_the_book() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Add", ["r", "c"], ["s"], "sum"),
        helper.make_node("Relu", ["s"], ["a"], "second"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "fc"),
    ]
    constants = {"k": rng.standard_normal((4, 3, 3, 3)), "w": rng.standard_normal((4, 5))}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    return node_model(nodes, {"x": X}, ["y"], constants, dims={"x": ["N", 3, 8, 8]})


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def without_a_name(model: onnx.ModelProto) -> None:
    model.graph.ClearField("name")
    for node in model.graph.node:
        node.ClearField("name")


def long_domain(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node[::2]:
        node.domain = "ai.onnx"


def twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def everything(model: onnx.ModelProto) -> None:
    for spoil in (unsorted, without_a_name, long_domain, twice):
        spoil(model)


SPOILS = (unsorted, without_a_name, long_domain, twice, everything)


def spoilt(spoil: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = by_the_book()
    spoil(model)
    assert Session(model).run({"x": X})["y"].shape == (2, 5), "ONNX Runtime runs it"
    return model


@pytest.mark.parametrize("spoil", [*(pytest.param(s, marks=pytest.mark.slow) for s in SPOILS[:-1]), everything])
def test_explained_as_the_same_model_by_the_book(spoil: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    want = pcam.Explainer(by_the_book(), METHODS, layer="r")(X, [[1, 3], [0, 2]])
    path = tmp_path / "loose.onnx"
    path.write_bytes(spoilt(spoil).SerializeToString())
    got = pcam.Explainer(path, METHODS, layer="r")(X, [[1, 3], [0, 2]])
    assert got.outputs.keys() == want.outputs.keys() == {"y"}
    for method in METHODS:
        np.testing.assert_allclose(got[method], want[method], atol=1e-6)


def test_every_way_in_takes_it() -> None:
    model = spoilt(everything)
    whole, report = by_the_book(), doctor(model)
    assert report.opset == doctor(whole).opset
    assert report.methods == doctor(whole).methods
    assert [layer.name for layer in list_layers(model)] == [layer.name for layer in list_layers(whole)]
    built = ir.from_proto(build_explanation(model, ("gradcam",)))
    assert self_check(model, built).passed
    assert [str(v.name) for v in normalize(model.SerializeToString()).graph.outputs] == ["y"]
    with pytest.raises(ModelError, match=r"sort\(\)"):
        normalize(ir.from_proto(model))


def test_a_circle_of_nodes() -> None:
    model = by_the_book()
    model.graph.node[0].input[0] = "a"
    with pytest.raises(ModelError, match="wait for one another"):
        normalize(model)


def test_a_real_one(zoo: Path) -> None:
    """Unnamed, in the domain "ai.onnx", its output listed twice."""
    explainer = pcam.Explainer(zoo / "brought" / "cls_mnist_djl_unnamed.onnx", ("gradcam", "gradient"))
    result = explainer(np.random.default_rng(0).random((1, 1, 28, 28), np.float32), 3)
    assert np.isfinite(result["gradcam"]).all()
    assert np.abs(result["gradient"]).max() > 0
