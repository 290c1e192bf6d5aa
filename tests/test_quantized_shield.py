# SPDX-License-Identifier: Apache-2.0
"""Quantised models that ONNX Runtime's QDQPropagationTransformer would break: each in a process of its own, which it
would abort."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from costs import slow_after
from onnx import parser

import portable_cam as pcam
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.targets import Dense

_START = """
import sys
import onnxruntime as ort
ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""

# From DequantizeLinear to what a body reads; the last three start where ONNX Runtime removes what does nothing.
PATHS = {
    "reshape": "r = Reshape(d, shape)",
    "transpose": "r = Transpose <perm = [0, 1, 2]> (d)",
    "two": "a = Squeeze(d, axis) r = Unsqueeze(a, axis)",
    "also read outside": "r = Reshape(d, shape) other = Relu(r)",
    "identity behind": "a = Reshape(d, shape) r = Identity(a)",
    "identity before": "a = Identity(d) r = Reshape(a, shape)",
    "times one": "a = Mul(d, one) r = Reshape(a, shape)",
}


def reading(path: str) -> onnx.ModelProto:
    """A Scan that adds r to each of three numbers."""
    return parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        g (uint8[1, 2, 3] x, float[1, 3] t) => (float[1, 3, 1, 2, 3] y, float[1, 2, 3] other)
        <float s = {{0.1}}, uint8 z = {{3}}, float one = {{1.0}}, int64[3] shape = {{1, 2, 3}}, int64[1] axis = {{0}}>
        {{
            d = DequantizeLinear(x, s, z)
            {path if "other" in path else path + " other = Relu(d)"}
            y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                      body = each (float[1] one_t) => (float[1, 2, 3] sum) {{ sum = Add(one_t, r) }}> (t)
        }}""")


def segmentation() -> onnx.ModelProto:
    """Two classes of pixels, the logits quantised: the sum over a mask is a product with the logits reshaped, which do
    not depend on the target and thus are read from outside of the Scan."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float s = {0.02}, uint8 z = {120}, float ws = {0.01}>
        {
            k1 = DequantizeLinear(w1, ws)
            k2 = DequantizeLinear(w2, ws)
            c = Conv(x, k1)
            q = QuantizeLinear(c, s, z)
            d = DequantizeLinear(q, s, z)
            a = Sigmoid(d)
            b = Conv(a, k2)
            l = QuantizeLinear(b, s, z)
            y = DequantizeLinear(l, s, z)
        }""")
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (4, 3, 1, 1)), ("w2", (2, 4, 1, 1))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.integers(-99, 99, shape, np.int8), name))
    return model


def started(model: onnx.ModelProto, folder: Path) -> int:
    """How a process ends that opens the model."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return subprocess.run([sys.executable, "-c", _START, str(path)], capture_output=True, check=False).returncode


def shielded(model: onnx.ModelProto) -> onnx.ModelProto:
    read = ir.from_proto(model)
    apply_ort_workarounds(read.graph)
    return ir.to_proto(read)


@pytest.mark.parametrize("path", slow_after(2, lambda path: "path", PATHS.values()), ids=PATHS)
def test_what_a_body_reads_does_not_abort_the_process(path: str, tmp_path: Path) -> None:
    model = shielded(reading(path))
    assert started(model, tmp_path) == 0
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feeds = {"x": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "t": np.array([[1, 2, 3]], np.float32)}
    plain = ort.InferenceSession(reading(path).SerializeToString(), options).run(["y"], feeds)[0]
    np.testing.assert_array_equal(ort.InferenceSession(model.SerializeToString()).run(["y"], feeds)[0], plain)


@pytest.mark.parametrize(
    "path",
    [
        "r = Relu(d)",
        "r = Identity(d)",
        "a = Relu(d) r = Reshape(a, shape)",
        "a, i = MaxPool <kernel_shape = [1]> (d) r = Cast <to = 1> (i)",
    ],
)
def test_what_is_safe_has_no_copy(path: str, tmp_path: Path) -> None:
    model = reading(path)
    assert started(model, tmp_path) == 0
    assert [n.op_type for n in shielded(model).graph.node] == [n.op_type for n in model.graph.node]


def test_a_bodys_own_bodies_are_shielded_too() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (uint8[2, 3] x, bool c) => (float[3, 2] y)
        <float s = {0.1}, uint8 z = {3}>
        {
            y = If (c) <
                then_branch = a () => (float[3, 2] ya) {
                    d = DequantizeLinear(x, s, z)
                    r = Transpose(d)
                    ya = If (c) <then_branch = b () => (float[3, 2] yb) { yb = Neg(r) },
                                 else_branch = e () => (float[3, 2] ye) { ye = Abs(r) }>
                },
                else_branch = f () => (float[3, 2] yf) { g = DequantizeLinear(x, s, z) yf = Transpose(g) }>
        }""")
    branch = next(a.g for a in shielded(model).graph.node[0].attribute if a.name == "then_branch")
    assert [node.op_type for node in branch.node] == ["DequantizeLinear", "Transpose", "Max", "If"]


@pytest.mark.slow
def test_two_targets_of_a_quantised_segmentation(tmp_path: Path) -> None:
    target = Dense("mask")
    explanation = pcam.export.build_explanation(segmentation(), ("layercam", "gradcam"), "d", target)
    assert started(explanation, tmp_path) == 0
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    mask = np.zeros((1, 2, 4, 4), np.float32)
    mask[:, :, 1:3, 1:3] = 1
    both = pcam.Explainer(segmentation(), ("layercam", "gradcam"), "d", target=target)(x, [[0, 1]], mask=mask)
    for k in range(2):
        alone = pcam.Explainer(segmentation(), ("layercam", "gradcam"), "d", target=target)(
            x, [[k]], mask=mask[:, k : k + 1]
        )
        for method in ("layercam", "gradcam"):
            np.testing.assert_allclose(both[method][:, k], alone[method][:, 0], rtol=1e-5, atol=1e-6)
