# SPDX-License-Identifier: Apache-2.0
"""The classifiers that the onnx package carries without their weights (``light_*``, opset 9, from Caffe2): with random
weights, the gradient of the top class judged by finite differences, the outputs by ONNX Runtime on the file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from portable_cam.export.assemble.explanation import build_explanation
from portable_cam.runtime.session import Session
from portable_cam.verify.selfcheck import self_check

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = """
bvlc_alexnet densenet121 inception_v1 inception_v2 resnet50 shufflenet squeezenet vgg19 zfnet512
""".split()
_BATCH_NORM = {1: "scale", 2: "shift", 3: "shift", 4: "scale"}


def with_random_weights(path: Path) -> onnx.ModelProto:
    """The file's constants of one value replaced: matrices and kernels keep the variance (He et al. 2015), scales and
    variances lie around 1 (a half in residual networks), everything else around 0."""
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    uses = {(name, node.op_type): i for node in model.graph.node for i, name in enumerate(node.input)}
    feeds = {name: node for node in model.graph.node for name in node.input}
    # each block of a residual network adds to the variance: smaller scales keep differences above float32's rounding
    residual = any(node.op_type == "Sum" for node in model.graph.node)
    low, high = (0.3, 0.7) if residual else (0.7, 1.3)
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        name, shape = node.output[0], tuple(int(d) for d in shapes[node.input[0]])
        kind = _BATCH_NORM.get(uses.get((name, "BatchNormalization"), -1), "shift")
        reader = feeds[name]
        if reader.op_type == "Unsqueeze" and feeds[reader.output[0]].op_type == "Mul":
            kind = "scale"
        if len(shape) > 1:
            fan_in = shape[-1] if len(shape) == 2 else int(np.prod(shape[1:]))
            value = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        elif kind == "scale":
            value = rng.uniform(low, high, shape).astype(np.float32)
        else:
            value = rng.standard_normal(shape, np.float32) * np.float32(0.1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        declared = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        model.graph.input.append(declared)  # an initialiser of this age is an input, too
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def test_all_light_models_are_here() -> None:
    assert [f"light_{name}.onnx" for name in MODELS] == sorted(path.name for path in FOLDER.glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradient_of_a_light_model(name: str) -> None:
    model = with_random_weights(FOLDER / f"light_{name}.onnx")
    explanation = build_explanation(model, ("gradcam", "gradient"), targets_per_image=1)
    proof = self_check(model, explanation)
    assert proof["input"].passed, "a gradient that vanished would agree with anything"
    assert proof.forward < 1e-4
    assert proof.passed, proof.describe()
    assert "heatmap.gradcam" in Session(explanation).outputs
