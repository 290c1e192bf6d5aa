"""The explainer on models small enough to work out by hand, and on the bundled one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import DeviceError, LayerError, ModelError, OptionError, TargetError
from portable_cam.export import build_explanation, doctor, list_layers
from portable_cam.kernels import reference
from portable_cam.verify.selfcheck import record, self_check

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((2, 3, 8, 8)).astype(np.float32)
ALL = ("cam", "gradcam", "guided_backprop", "guided_gradcam", "gradient", "deconvnet")
PROFILES = ("paper", "pytorch_grad_cam", "captum")


def plain(model: onnx.ModelProto, x: np.ndarray, *names: str) -> list[np.ndarray]:
    """Tensors of the untouched model, by ONNX Runtime alone."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), {session.get_inputs()[0].name: x})


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


# -- what a Result promises --------------------------------------------------------------------------------------------


def test_shapes_and_dtypes(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn, ALL, details=True)
    result = explainer(X, targets=[[0, 4, 2], [1, 1, 3]])
    assert len(result) == 2
    assert result.scores.shape == (2, 3)
    assert result.scores.dtype == np.float32
    assert result.targets.dtype == np.int64
    np.testing.assert_array_equal(result.targets, [[0, 4, 2], [1, 1, 3]])
    assert result.layer == "r2"
    assert list(result) == list(ALL)
    for method in ("cam", "gradcam"):
        assert result[method].shape == (2, 3, 8, 8)
        assert result.raw[method].shape == (2, 3, 4, 4)
        assert result.raw[method].dtype == np.float32
        assert result[method].min() >= 0
        assert result[method].max() <= 1
    for method in ALL[2:]:
        assert result[method].shape == (2, 3, 3, 8, 8)
    assert all(result[method].dtype == np.float32 for method in result)
    assert np.shape(result.flags)[:2] == (2, 3)
    assert len(result.guided_nodes) == 2
    assert result.activations is not None
    assert result.activations.shape == (2, 6, 4, 4)
    assert result.gradients is not None
    assert result.gradients.shape == (2, 3, 6, 4, 4)
    assert result.channel_axis == 1
    with pytest.raises(OptionError, match=r"'scorecam' was not computed; this result has cam, gradcam"):
        result["scorecam"]


def test_details_only_on_request(small_cnn: onnx.ModelProto) -> None:
    result = pcam.Explainer(small_cnn)(X)
    assert result.activations is None
    assert result.gradients is None
    assert list(result.maps) == list(result.raw) == ["gradcam"]


def test_own_outputs_are_unchanged(small_cnn: onnx.ModelProto) -> None:
    (expected,) = plain(small_cnn, X, "y")
    for targets in ([[0], [1]], [[0, 2], [3, 3]]):
        result = pcam.Explainer(small_cnn, ALL)(X, targets)
        assert list(result.outputs) == ["y"]
        np.testing.assert_allclose(result.outputs["y"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.scores, np.take_along_axis(expected, np.array(targets), 1), rtol=1e-5)


def test_targets(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn)
    (scores,) = plain(small_cnn, X, "y")
    best_first = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(explainer(X).targets, best_first[:, :1])
    np.testing.assert_array_equal(explainer.top(X, 3).targets, best_first[:, :3])
    np.testing.assert_array_equal(explainer.top(X, 5).targets, best_first)
    np.testing.assert_array_equal(explainer(X, 2).targets, [[2], [2]])
    np.testing.assert_array_equal(explainer(X, [2, 4]).targets, [[2], [4]])
    np.testing.assert_array_equal(explainer(X, np.array([[2, 4], [0, 0]], np.uint8)).targets, [[2, 4], [0, 0]])
    top, named = explainer.top(X, 2), explainer(X, best_first[:, :2])
    np.testing.assert_array_equal(top["gradcam"], named["gradcam"])
    assert explainer.classes == 5
    with pytest.raises(TargetError, match="top6: between 1 and 5"):
        explainer.top(X, 6)


def test_dict_of_inputs(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn)
    np.testing.assert_array_equal(explainer({"x": X})["gradcam"], explainer(X)["gradcam"])
    np.testing.assert_array_equal(explainer(X.astype(np.float64)).scores, explainer(X).scores)


@pytest.mark.parametrize("kind", ["path", "bytes", "proto", "ir"])
def test_kinds_of_model(kind: str, small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    import onnx_ir

    path = tmp_path / "model.onnx"
    path.write_bytes(small_cnn.SerializeToString())
    model: Any = {"path": path, "bytes": path.read_bytes(), "proto": small_cnn, "ir": onnx_ir.from_proto(small_cnn)}[
        kind
    ]
    before = small_cnn.SerializeToString(deterministic=True)
    np.testing.assert_array_equal(pcam.Explainer(model)(X).scores, pcam.Explainer(small_cnn)(X).scores)
    assert small_cnn.SerializeToString(deterministic=True) == before  # the user's object is not touched


def test_bundled_model() -> None:
    explainer = pcam.Explainer(assets.model(), ("cam", "gradcam", "guided_gradcam"))
    x = RANDOM.uniform(-100, 100, (1, 3, 227, 227)).astype(np.float32)
    result = explainer.top(x, 2)
    assert result["cam"].shape == (1, 2, 227, 227)
    assert result["guided_gradcam"].shape == (1, 2, 3, 227, 227)
    assert explainer.classes == 1000
    assert any("before the final Softmax" in note for note in result.notes)
    (prob,) = result.outputs.values()
    np.testing.assert_allclose(prob.sum(), 1, rtol=1e-4)


def test_explain_in_one_call(small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_cnn.SerializeToString())
    photo = RANDOM.integers(0, 255, (20, 30, 3), np.uint8)
    result = pcam.explain(path, photo, methods=("cam",), targets=[1, 3], preprocessing="unit")
    assert result["cam"].shape == (1, 2, 8, 8)
    assert result.labels == [["class 1", "class 3"]]
    assert pcam.explain(assets.model(), assets.photo(), targets="tabby").targets[0, 0] == 281


# -- the numbers -------------------------------------------------------------------------------------------------------


ONE_CONV = {
    "w": np.ones((2, 1, 3, 3), np.float32),
    "b": np.array([-50, -75], np.float32),
    "fc": np.concatenate([np.ones((4, 5)), -np.ones((4, 3))], axis=1).astype(np.float32),
}
ONE_CONV_BODY = """
conv1 = Conv(x, w, b)
relu1 = Relu(conv1)
flat = Reshape(relu1, shape)
fc1 = Gemm<transB = 1>(flat, fc)
y = Relu(fc1)
"""
GUIDED = [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
GUIDED_GRADCAM = [[0, 0, 4, 4], [0, 0, 12, 8], [28, 84, 97.5, 65], [28, 56, 65, 32.5]]


@pytest.fixture
def one_conv(make_model: Any) -> onnx.ModelProto:
    """Captum's BasicModel_ConvNet_One_Conv, whose maps its own tests spell out."""
    weights = {**ONE_CONV, "shape": np.array([-1, 8], np.int64)}
    return make_model(ONE_CONV_BODY, weights, "float[N,1,4,4] x", "float[N,4] y")


def test_golden_vectors_of_captum(one_conv: onnx.ModelProto) -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    result = pcam.Explainer(one_conv, ("gradcam",), layer="conv1", profile="captum")(x, 0)
    np.testing.assert_array_equal(result["gradcam"][0, 0], [[11.25, 13.5], [20.25, 22.5]])
    methods = ("gradcam", "guided_backprop", "guided_gradcam")
    result = pcam.Explainer(one_conv, methods, layer="relu1", profile="captum")(x, [[0, 0]])
    for k in range(2):
        np.testing.assert_array_equal(result["gradcam"][0, k], [[0, 4], [28, 32.5]])
        np.testing.assert_array_equal(result["guided_backprop"][0, k, 0], GUIDED)
        np.testing.assert_array_equal(result["guided_gradcam"][0, k, 0], GUIDED_GRADCAM)


def test_channels_last_stays_channels_last(make_model: Any) -> None:
    body = "t = Transpose<perm = [0, 3, 1, 2]>(x)" + ONE_CONV_BODY.replace("Conv(x,", "Conv(t,")
    weights = {**ONE_CONV, "shape": np.array([-1, 8], np.int64)}
    model = make_model(body, weights, "float[N,4,4,1] x", "float[N,4] y")
    methods = ("gradcam", "guided_backprop", "guided_gradcam")
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    result = pcam.Explainer(model, methods, layer="relu1", profile="captum")(x, 0)
    assert result.channel_axis == 3
    assert result["guided_backprop"].shape == (1, 1, 4, 4, 1)
    np.testing.assert_array_equal(result["guided_backprop"][0, 0, :, :, 0], GUIDED)
    np.testing.assert_array_equal(result["guided_gradcam"][0, 0, :, :, 0], GUIDED_GRADCAM)
    np.testing.assert_array_equal(result["gradcam"][0, 0], [[0, 4], [28, 32.5]])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_profiles_by_the_reference(small_cnn: onnx.ModelProto, profile: Any, sign: str) -> None:
    explainer = pcam.Explainer(
        small_cnn, ("gradcam", "guided_backprop", "guided_gradcam"), "r1", profile=profile, sign=sign, details=True
    )
    result = explainer(X, [[0, 1, 2], [2, 3, 4]])
    assert result.gradients is not None
    assert result.activations is not None
    weights = reference.channel_weights(result.gradients) * (1 if sign == "positive" else -1)
    raw = reference.weighted_sum(weights, result.activations, relu=profile != "captum")
    np.testing.assert_allclose(result.raw["gradcam"], raw, rtol=1e-4, atol=1e-5)
    wide = reference.upsample_bilinear(raw, (8, 8))
    if profile == "paper":
        np.testing.assert_allclose(result["gradcam"], reference.minmax(wide), atol=1e-4)
        factor = wide
    elif profile == "pytorch_grad_cam":
        small = raw - raw.min(axis=(2, 3), keepdims=True)
        small = small / (1e-7 + small.max(axis=(2, 3), keepdims=True))
        factor = reference.minmax(reference.upsample_bilinear(small, (8, 8)))
        np.testing.assert_allclose(result["gradcam"], factor, atol=1e-4)
    else:
        np.testing.assert_array_equal(result["gradcam"], result.raw["gradcam"])
        factor = np.maximum(raw, 0)  # the layer has the picture's size: nearest is the map itself
    np.testing.assert_allclose(
        result["guided_gradcam"], result["guided_backprop"] * factor[:, :, None], rtol=1e-3, atol=1e-4
    )


def test_captums_nearest_upsampling(small_cnn: onnx.ModelProto) -> None:
    methods = ("gradcam", "guided_backprop", "guided_gradcam")
    result = pcam.Explainer(small_cnn, methods, "r2", profile="captum")(X)
    nearest = np.maximum(result.raw["gradcam"], 0).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(
        result["guided_gradcam"], result["guided_backprop"] * nearest[:, :, None], rtol=1e-5, atol=1e-6
    )


def test_several_layers(small_cnn: onnx.ModelProto) -> None:
    def raw(layer: str) -> np.ndarray:
        return pcam.Explainer(small_cnn, layer=layer)(X, [1, 2]).raw["gradcam"]

    result = pcam.Explainer(small_cnn, layer=["r1", "r2"])(X, [1, 2])
    assert result.layer == ["r1", "r2"]
    assert set(result.raw) == {"gradcam.r1", "gradcam.r2"}
    np.testing.assert_allclose(result.raw["gradcam.r2"], raw("r2"), rtol=1e-4, atol=1e-6)
    wide = [reference.upsample_bilinear(raw(layer), (8, 8)) for layer in ("r1", "r2")]
    mean = np.mean([reference.minmax(w) for w in wide], axis=0)
    np.testing.assert_allclose(result["gradcam"], reference.minmax(mean), atol=1e-4)
    with pytest.raises(OptionError, match="captum gives a map per layer"):
        pcam.Explainer(small_cnn, layer=["r1", "r2"], profile="captum")


def test_guided_and_deconvnet_by_hand(small_cnn: onnx.ModelProto) -> None:
    """The backward pass written out in torch, ReLU by ReLU."""
    torch = pytest.importorskip("torch")
    conv, grad = torch.nn.functional.conv2d, torch.nn.grad.conv2d_input
    w1, w2, w3 = (torch.tensor(weight(small_cnn, n)).double() for n in ("w1", "w2", "w3"))
    x = torch.tensor(X).double()
    c1 = conv(x, w1, torch.tensor(weight(small_cnn, "b1")).double(), padding=1)
    c2 = conv(c1.relu(), w2, stride=2, padding=1)
    seed = (w3[3] / 16)[None, :, None, None].expand_as(c2)
    rules = {
        "gradient": lambda g, y: g * (y > 0),
        "guided_backprop": lambda g, y: g.relu() * (y > 0),
        "deconvnet": lambda g, y: g.relu(),
    }
    result = pcam.Explainer(small_cnn, tuple(rules))(X, [3, 3])
    for method, rule in rules.items():
        g = grad(c1.shape, w2, rule(seed, c2), stride=2, padding=1)
        expected = grad(x.shape, w1, rule(g, c1), padding=1).numpy()
        np.testing.assert_allclose(result[method][:, 0], expected, rtol=1e-3, atol=1e-4)


def test_targets_together_are_targets_alone(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn, ALL)
    together = explainer(X, [[0, 1, 2, 3, 4]] * 2)
    for k in range(5):
        alone = explainer(X, [k, k])
        for method in ALL:
            np.testing.assert_allclose(together[method][:, k], alone[method][:, 0], rtol=1e-4, atol=1e-5)


# -- the rule's nodes --------------------------------------------------------------------------------------------------


RELATIVES = """
c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
r1 = Clip(c1, zero, six)
c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
r2 = LeakyRelu(c2)
p = GlobalAveragePool(r2)
f = Flatten(p)
y = Gemm(f, w3)
"""


@pytest.fixture
def relatives(make_model: Any) -> onnx.ModelProto:
    """A Clip as ReLU6, a LeakyRelu, and no Relu."""
    random = np.random.default_rng(1)
    weights = {
        "w1": random.standard_normal((4, 3, 3, 3)),
        "w2": random.standard_normal((5, 4, 3, 3)),
        "w3": random.standard_normal((5, 5)),
        "zero": np.array(0),
        "six": np.array(6),
    }
    return make_model(RELATIVES, {name: value.astype(np.float32) for name, value in weights.items()})


def test_relu_policy(relatives: onnx.ModelProto) -> None:
    methods = ("guided_backprop", "gradient")
    with pytest.warns(UserWarning, match="no node counts as a ReLU"):
        none = pcam.Explainer(relatives, methods)
    result = none(X, [0, 0])
    assert result.guided_nodes == []
    assert any("plain gradient" in note for note in result.notes)
    np.testing.assert_array_equal(result["guided_backprop"], result["gradient"])
    clip = pcam.Explainer(relatives, methods, relu_policy="relu+clip")
    assert len(clip.guided_nodes) == 1
    every = pcam.Explainer(relatives, methods, relu_policy="all")
    assert len(every.guided_nodes) == 2
    maps = [e(X, [0, 0])["guided_backprop"] for e in (none, clip, every)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    assert np.abs(maps[1] - maps[2]).max() > 1e-3
    with pytest.raises(OptionError, match=r"relu_policy= is one of relu, relu\+clip, all, not 'relu6'"):
        pcam.Explainer(relatives, methods, relu_policy="relu6")  # type: ignore[arg-type]


# -- flags -------------------------------------------------------------------------------------------------------------


FLAGS_BODY = "r = Relu(x) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w)"


@pytest.fixture
def flagging(make_model: Any) -> onnx.ModelProto:
    """Scores that only rise with the picture, only fall with it, and do not depend on it."""
    w = np.array([[1, 1, 1], [-1, -1, -1], [0, 0, 0]], np.float32)
    return make_model(FLAGS_BODY, {"w": w}, y="float[N,3] y")


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_flags(flagging: onnx.ModelProto, method: str) -> None:
    result = pcam.Explainer(flagging, (method,))(X[:1], [[0, 1, 2]])
    assert result.flags == [[(), ("flat", "all_negative"), ("flat",)]]
    assert result[method][0, 0].max() == 1
    assert not result[method][0, 1:].any()


def test_a_signed_map_is_not_flat(flagging: onnx.ModelProto) -> None:
    result = pcam.Explainer(flagging, profile="captum")(X[:1], [[0, 1, 2]])
    assert result["gradcam"][0, 1].min() < 0
    assert result.flags == [[(), ("all_negative",), ("flat",)]]


def test_constant_picture_is_flat(flagging: onnx.ModelProto) -> None:
    result = pcam.Explainer(flagging)(np.ones((1, 3, 8, 8), np.float32), 0)
    assert result.flags == [[("flat",)]]
    assert not result["gradcam"].any()


def test_guided_maps_alone_are_flagged_too(flagging: onnx.ModelProto) -> None:
    result = pcam.Explainer(flagging, ("guided_gradcam",))(X[:1], [[0, 1]])
    assert result.flags == [[(), ("flat",)]]


def test_nan_is_flagged(make_model: Any) -> None:
    body = "s = Sqrt(x) " + FLAGS_BODY.replace("Relu(x)", "Relu(s)")
    model = make_model(body, {"w": np.ones((3, 3), np.float32)}, y="float[N,3] y")
    x = np.stack([np.abs(X[0]), -np.abs(X[0])])
    result = pcam.Explainer(model, ("gradcam", "gradient"))(x, [0, 1])
    assert result.flags[0] == [()]
    assert "nan" in result.flags[1][0]


# -- CAM ---------------------------------------------------------------------------------------------------------------


W1 = RANDOM.standard_normal((6, 3, 3, 3)).astype(np.float32)
W2 = RANDOM.standard_normal((5, 6)).astype(np.float32)
B2 = RANDOM.standard_normal(5).astype(np.float32)
STEM = "a = Conv(x, w1) r = Relu(a) "
CAM_ENDS = {
    "gemm": "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w2, b2)",
    "matmul, add": "p = GlobalAveragePool(r) f = Flatten(p) m = MatMul(f, w2t) y = Add(m, b2)",
    "bias first": "p = GlobalAveragePool(r) f = Flatten(p) m = MatMul(f, w2t) y = Add(b2, m)",
    "reduce mean": "f = ReduceMean<axes = [2, 3], keepdims = 0>(r) y = Gemm<transB = 1>(f, w2, b2)",
    "reduce mean, negative axes": "f = ReduceMean<axes = [-1, -2], keepdims = 0>(r) y = Gemm(f, w2t, b2)",
    "full-size pool": "p = AveragePool<kernel_shape = [6, 6]>(r) f = Flatten(p) y = Gemm<transB = 1>(f, w2, b2)",
    "one axis, then the other": "q = ReduceMean<axes = [3]>(r) p = ReduceMean<axes = [2]>(q) f = Flatten(p) "
    "y = Gemm(f, w2t, b2)",
    "one axis, then the other, both gone": "q = ReduceMean<axes = [2], keepdims = 0>(r) "
    "f = ReduceMean<axes = [2], keepdims = 0>(q) y = Gemm(f, w2t, b2)",
    "sum, multiplied": "s = ReduceSum<keepdims = 0>(r, space) f = Mul(s, share) y = Gemm(f, w2t, b2)",
    "sum, multiplied the other way round": "s = ReduceSum(r, space) p = Mul(share, s) f = Flatten(p) y = Gemm(f, w2t)",
    "sum, divided": "s = ReduceSum<keepdims = 0>(r, space) f = Div(s, area) y = Gemm(f, w2t, b2)",
    "1x1 convolution": "p = ReduceMean<axes = [2, 3]>(r) c = Conv(p, w4, b2) y = Flatten(c)",
    "dropout, softmax": "p = GlobalAveragePool(r) f = Flatten(p) d = Dropout(f) g = Gemm<transB = 1>(d, w2, b2) "
    "y = Softmax(g)",
}


#: The same behind an activation in another layout: its name, and the order of its axes as a map of (N, C, h, w).
CAM_LAYOUTS = {
    "NHWC": ("t", (0, 3, 1, 2), "f = ReduceMean<axes = [1, 2], keepdims = 0>(t) y = Gemm(f, w2t, b2)"),
    "NHWC, kept": ("t", (0, 3, 1, 2), "p = ReduceMean<axes = [1, 2]>(t) f = Reshape(p, rows) y = MatMul(f, w2t)"),
    "NHWC, negative axes": ("t", (0, 3, 1, 2), "f = ReduceMean<axes = [-3, -2], keepdims = 0>(t) y = Gemm(f, w2t)"),
    "NHWC, summed": ("t", (0, 3, 1, 2), "s = ReduceSum<keepdims = 0>(t, last) f = Div(s, area) y = Gemm(f, w2t)"),
    "NHWC, one axis, then the other": (
        "t",
        (0, 3, 1, 2),
        "q = ReduceMean<axes = [1], keepdims = 0>(t) f = ReduceMean<axes = [1], keepdims = 0>(q) y = Gemm(f, w2t)",
    ),
    "NHWC, turned when pooled": (
        "t",
        (0, 3, 1, 2),
        "p = ReduceMean<axes = [1, 2]>(t) u = Transpose<perm = [0, 3, 1, 2]>(p) c = Conv(u, w4) y = Flatten(c)",
    ),
    "NHWC, turned before": (
        "u",
        (0, 1, 2, 3),
        "u = Transpose<perm = [0, 3, 1, 2]>(t) p = GlobalAveragePool(u) f = Flatten(p) y = Gemm(f, w2t)",
    ),
    "flattened": ("v", None, "v = Reshape(r, flat) f = ReduceMean<axes = [2], keepdims = 0>(v) y = Gemm(f, w2t, b2)"),
    "flattened, last axis": (
        "v",
        None,
        "v = Reshape(r, flat) p = ReduceMean<axes = [-1]>(v) f = Flatten(p) y = Gemm(f, w2t)",
    ),
    "tokens": (
        "u",
        None,
        "v = Reshape(r, flat) u = Transpose<perm = [0, 2, 1]>(v) f = ReduceMean<axes = [1], keepdims = 0>(u) "
        "y = Gemm(f, w2t)",
    ),
    "flattened, summed": (
        "v",
        None,
        "v = Reshape(r, flat) s = ReduceSum<keepdims = 0>(v, two) f = Mul(s, share) y = Gemm(f, w2t)",
    ),
}


def cam_weights() -> dict[str, np.ndarray]:
    sizes = {"space": [2, 3], "last": [1, 2], "two": [2], "rows": [0, -1], "flat": [0, 6, -1]}
    return {
        "w1": W1,
        "w2": W2,
        "w2t": np.ascontiguousarray(W2.T),
        "b2": B2,
        "w4": W2[:, :, None, None],
        "share": np.float32(1 / 36),
        "area": np.float32(36),
        **{name: np.array(value) for name, value in sizes.items()},
    }


@pytest.mark.parametrize("end", CAM_LAYOUTS)
def test_cam_of_every_layout(make_model: Any, end: str) -> None:
    layer, order, text = CAM_LAYOUTS[end]
    turned = "t = Transpose<perm = [0, 2, 3, 1]>(r) " if order is not None else ""
    model = make_model(STEM + turned + text, cam_weights())
    result = pcam.Explainer(model, ("cam",))(X, [[0, 3], [4, 4]])
    assert result.layer == layer
    (a,) = plain(model, X, "r")
    expected = np.maximum(np.einsum("nkc,nchw->nkhw", W2[[[0, 3], [4, 4]]], a), 0)
    np.testing.assert_allclose(result.raw["cam"], expected, rtol=1e-4, atol=1e-5)
    assert doctor(model).methods["cam"] == "yes"


@pytest.mark.parametrize(
    "end",
    [
        "s = ReduceSum<keepdims = 0>(r, space) f = Div(s, share) y = Gemm(f, w2t)",  # by another number
        "f = ReduceMean<axes = [1, 2], keepdims = 0>(r) y = Gemm(f, w2t)",  # over channels
        "q = ReduceMean<axes = [3], keepdims = 0>(r) f = ReduceMax<axes = [2], keepdims = 0>(q) y = Gemm(f, w2t)",
    ],
)
def test_cam_of_another_mean(make_model: Any, end: str) -> None:
    model = make_model(STEM + end, cam_weights())
    with pytest.raises(LayerError, match="CAM needs a"):
        pcam.Explainer(model, ("cam",))
    assert doctor(model).methods["cam"].startswith("CAM needs a")


@pytest.mark.parametrize("end", CAM_ENDS)
def test_cam_ends(make_model: Any, end: str) -> None:
    model = make_model(STEM + CAM_ENDS[end], cam_weights())
    result = pcam.Explainer(model, ("cam", "gradcam"))(X, [[0, 3], [4, 4]])
    assert result.layer == "r"
    (a,) = plain(model, X, "r")
    expected = np.maximum(np.einsum("nkc,nchw->nkhw", W2[[[0, 3], [4, 4]]], a), 0)
    np.testing.assert_allclose(result.raw["cam"], expected, rtol=1e-4, atol=1e-5)
    # for this structure CAM and Grad-CAM are the same map up to the pool's area (Selvaraju et al. 2017, section 3.1)
    np.testing.assert_allclose(result.raw["gradcam"] * 36, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("end", ["GlobalAveragePool(r) y = Flatten(p)", "ReduceMean<axes = [2, 3]>(r) y = Flatten(p)"])
def test_cam_of_a_map_per_class(make_model: Any, end: str) -> None:
    model = make_model("a = Conv(x, w) r = Relu(a) p = " + end, {"w": W1}, y="float[N,6] y")
    result = pcam.Explainer(model, ("cam",))(X, [[5, 0], [2, 2]])
    (a,) = plain(model, X, "r")
    np.testing.assert_allclose(result.raw["cam"][0], a[0, [5, 0]], rtol=1e-5)
    np.testing.assert_allclose(result.raw["cam"][1], a[1, [2, 2]], rtol=1e-5)


def test_cam_against_the_class(make_model: Any) -> None:
    model = make_model(STEM + CAM_ENDS["gemm"], cam_weights())
    result = pcam.Explainer(model, ("cam", "gradcam"), sign="negative")(X, [1, 1])
    (a,) = plain(model, X, "r")
    expected = np.maximum(-np.einsum("c,nchw->nhw", W2[1], a), 0)
    np.testing.assert_allclose(result.raw["cam"][:, 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.raw["gradcam"][:, 0] * 36, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("end", "culprit"),
    [
        ("f = Flatten(r) y = Gemm<transB = 1>(f, wide)", "Relu"),
        ("q = MaxPool<kernel_shape = [6, 6]>(r) f = Flatten(q) y = Gemm<transB = 1>(f, w2)", "MaxPool"),
        ("q = AveragePool<kernel_shape = [3, 3]>(r) f = Flatten(q) y = Gemm<transB = 1>(f, part)", "AveragePool"),
        ("p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB = 1>(f, w2) h = Relu(g) y = Gemm(h, w3)", "Relu"),
        ("p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB = 1>(f, w2) y = Gemm(g, w3)", "Gemm"),
    ],
)
def test_cam_names_what_stands_between(make_model: Any, end: str, culprit: str) -> None:
    extra = {
        "wide": np.ones((5, 216), np.float32),
        "part": np.ones((5, 96), np.float32),
        "w3": np.ones((5, 5), np.float32),
    }
    model = make_model(STEM + end, {**cam_weights(), **extra})
    with pytest.raises(LayerError, match=rf"between them and the scores 'y' stands {culprit} node '.+'. Use gradcam"):
        pcam.Explainer(model, ("cam",))
    assert doctor(model).methods["cam"].startswith("CAM needs")


def test_cam_has_its_layer_in_the_graph(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(LayerError, match="before the global average pool, 'r2'"):
        pcam.Explainer(small_cnn, ("cam",), layer="r1")


# -- the scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid", "LogSoftmax", "Hardmax"])
def test_score_is_cut_before(make_model: Any, operator: str) -> None:
    end = CAM_ENDS["gemm"].replace("y =", "z =") + f" y = {operator}(z)"
    model = make_model(STEM + end, cam_weights())
    logits, probabilities = plain(model, X, "z", "y")
    explainer = pcam.Explainer(model)
    result = explainer(X, [[1, 2], [0, 4]])
    np.testing.assert_allclose(result.scores, np.take_along_axis(logits, result.targets, 1), rtol=1e-5)
    np.testing.assert_allclose(result.outputs["y"], probabilities, rtol=1e-5, atol=1e-6)
    assert explainer.metadata["portable_cam.cut"] == operator
    assert explainer.metadata["portable_cam.scores"] == "z"
    assert any(f"before the final {operator}" in note for note in explainer.notes)


def test_output_names_any_tensor(make_model: Any) -> None:
    end = CAM_ENDS["gemm"].replace("y =", "z =") + " y = Softmax(z)"
    model = make_model(STEM + end, cam_weights())
    logits, probabilities = plain(model, X, "z", "y")
    cut = pcam.Explainer(model, ("gradcam", "gradient"), output="y")
    np.testing.assert_allclose(cut(X, [1, 2]).scores[:, 0], logits[[0, 1], [1, 2]], rtol=1e-5)
    assert cut.notes == ("the score is 'z', before the final Softmax",)
    taken = pcam.Explainer(model, ("gradcam", "gradient"), output="y", as_is=True)
    result = taken(X, [1, 2])
    np.testing.assert_allclose(result.scores[:, 0], probabilities[[0, 1], [1, 2]], rtol=1e-5)
    assert taken.notes == ("the score is a probability ('y'), not a logit: near 0 and 1 its gradient vanishes",)
    by_logits = pcam.Explainer(model, ("gradient",), output="z")(X, [1, 2])
    np.testing.assert_allclose(by_logits.scores[:, 0], logits[[0, 1], [1, 2]], rtol=1e-5)
    # the softmax couples the classes: d p_k / dx = p_k (d z_k - sum_j p_j d z_j)
    each = pcam.Explainer(model, ("gradient",), output="z")(X, [[0, 1, 2, 3, 4]] * 2)["gradient"]
    for n, k in ((0, 1), (1, 2)):
        mean = np.einsum("k,kchw->chw", probabilities[n], each[n])
        expected = probabilities[n, k] * (each[n, k] - mean)
        np.testing.assert_allclose(result["gradient"][n, 0], expected, rtol=1e-3, atol=1e-5)
    hidden = pcam.Explainer(model, output="f", layer="r")(X, [5, 0])  # one unit of the pooled features
    assert hidden.scores.shape == (2, 1)


def test_several_outputs(make_model: Any) -> None:
    two = STEM + "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w2) v = Gemm(f, w2t)"
    model = make_model(two, cam_weights(), y="float[N,5] y, float[N,5] v")
    with pytest.raises(TargetError, match=r"several outputs could hold the scores: 'y' .*, 'v' .*Choose one"):
        pcam.Explainer(model)
    assert list(pcam.Explainer(model, output="v")(X).outputs) == ["y", "v"]


def test_logits_beside_their_softmax_are_one_vector_of_scores(make_model: Any) -> None:
    body = STEM + CAM_ENDS["gemm"].replace("y =", "z =") + " y = Softmax(z)"
    model = make_model(body, cam_weights(), y="float[N,5] z, float[N,5] y")
    explainer = pcam.Explainer(model)
    result = explainer(X, [1, 2])
    np.testing.assert_allclose(result.scores[:, 0], result.outputs["z"][[0, 1], [1, 2]], rtol=1e-6)


@pytest.mark.parametrize("name", ["scores", "cam", "targets", "explained", "gradient"])
def test_a_tensor_that_has_the_name_of_one_of_ours(make_model: Any, name: str) -> None:
    """The model's own output keeps its name for the user; in the file it is called ``model.<name>``."""
    model = make_model(STEM + CAM_ENDS["gemm"].replace("y =", f"{name} ="), cam_weights(), y=f"float[N,5] {name}")
    (own,) = plain(model, X, name)
    result = pcam.Explainer(model, ("cam", "gradient"))(X, [1, 2])
    assert list(result.outputs) == [name]
    np.testing.assert_allclose(result.outputs[name], own, rtol=1e-5)
    np.testing.assert_allclose(result.scores[:, 0], own[[0, 1], [1, 2]], rtol=1e-5)
    proto = build_explanation(model, ("cam", "gradient"))
    assert proto.graph.output[-1].name == f"model.{name}"
    assert self_check(model, proto).passed


def test_a_tensor_inside_that_has_the_name_of_one_of_ours(make_model: Any) -> None:
    body = (STEM + CAM_ENDS["gemm"]).replace("a = ", "scores = ").replace("Relu(a)", "Relu(scores)")
    explainer = pcam.Explainer(make_model(body.replace("w2", "cam"), {**cam_weights(), "cam": W2}), layer="scores")
    assert explainer.layer == "scores"
    assert explainer(X).scores.shape == (2, 1)


def test_an_input_that_has_the_name_of_one_of_ours(make_model: Any) -> None:
    body = (STEM + CAM_ENDS["gemm"]).replace("Conv(x,", "Conv(targets,")
    with pytest.raises(ModelError, match=r"input 'targets' has the name .* rename it"):
        pcam.Explainer(make_model(body, cam_weights(), "float[N,3,8,8] targets"))


# -- the batch ---------------------------------------------------------------------------------------------------------


def one_by_one(explainer: pcam.Explainer, x: np.ndarray, targets: Any) -> dict[str, np.ndarray]:
    parts = [explainer(x[i : i + 1], targets[i : i + 1]) for i in range(len(x))]
    return {method: np.concatenate([part[method] for part in parts]) for method in parts[0]}


def test_fixed_batch_is_freed(make_model: Any) -> None:
    body = STEM + "p = GlobalAveragePool(r) f = Reshape(p, one) y = Gemm<transB = 1>(f, w2, b2)"
    weights = {**cam_weights(), "one": np.array([1, 6], np.int64)}
    model = make_model(body, weights, "float[1,3,8,8] x", "float[1,5] y")
    explainer = pcam.Explainer(model, ("cam", "gradcam", "guided_gradcam"))
    assert not isinstance(explainer.input_shape()[0], int)
    x, targets = RANDOM.standard_normal((3, 3, 8, 8)).astype(np.float32), np.array([[0, 1], [2, 3], [4, 4]])
    result, apart = explainer(x, targets), one_by_one(explainer, x, targets)
    assert result.outputs["y"].shape == (3, 5)
    for method in result:
        np.testing.assert_allclose(result[method], apart[method], rtol=1e-4, atol=1e-5)


def test_batch_that_cannot_be_freed_runs_one_by_one(make_model: Any) -> None:
    # the mean over everything mixes images, should there be more than one
    body = STEM + "m = ReduceMean<keepdims = 1>(r) s = Sub(r, m) " + CAM_ENDS["gemm"].replace("Pool(r)", "Pool(s)")
    model = make_model(body, cam_weights(), "float[1,3,8,8] x", "float[1,5] y")
    explainer = pcam.Explainer(model, ("gradcam", "guided_backprop"))
    assert explainer.input_shape()[0] == 1
    assert doctor(model).batch == "fixed at 1, run one by one"
    x, targets = RANDOM.standard_normal((3, 3, 8, 8)).astype(np.float32), np.array([[0], [2], [4]])
    result = explainer(x, targets)
    apart = one_by_one(explainer, x, targets)
    for method in result:
        np.testing.assert_array_equal(result[method], apart[method])
    assert explainer.top(x, 2)["gradcam"].shape == (3, 2, 8, 8)


def test_fixed_batch_of_several_takes_no_other(make_model: Any) -> None:
    body = STEM + "m = ReduceMean<keepdims = 1>(r) s = Sub(r, m) " + CAM_ENDS["gemm"].replace("Pool(r)", "Pool(s)")
    explainer = pcam.Explainer(make_model(body, cam_weights(), "float[2,3,8,8] x", "float[2,5] y"))
    assert explainer(X).scores.shape == (2, 1)
    with pytest.raises(pcam.Error, match=r"\(2, 3, 8, 8\), not \(3, 3, 8, 8\)"):
        explainer(np.zeros((3, 3, 8, 8), np.float32))


@pytest.mark.parametrize("place", ["bias", "slope"])
def test_a_constant_for_each_image_keeps_the_batch_fixed(make_model: Any, place: str) -> None:
    mid = "r2 = PRelu(a, slope) " if place == "slope" else "r2 = Relu(a) "
    end = "p = GlobalAveragePool(r2) f = Flatten(p) y = Gemm<transB = 1>(f, w2, bias)"
    bias = np.arange(10, dtype=np.float32).reshape(2, 5)
    weights = {**cam_weights(), "slope": np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)}
    weights["bias"] = bias if place == "bias" else bias[0]
    model = make_model("a = Conv(x, w1) " + mid + end, weights, "float[2,3,8,8] x", "float[2,5] y")
    explainer = pcam.Explainer(model)
    assert explainer.input_shape()[0] == 2
    np.testing.assert_allclose(explainer(X).outputs["y"], plain(model, X, "y")[0], rtol=1e-5)


def test_open_batch_written_as_minus_one(make_model: Any) -> None:
    model = make_model(STEM + CAM_ENDS["gemm"], cam_weights(), "float[N,3,8,8] x")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    report = doctor(model)
    assert report.batch == "symbolic"
    assert pcam.Explainer(model)(X).scores.shape == (2, 1)


# -- layers ------------------------------------------------------------------------------------------------------------


def test_layer_by_tensor_and_by_node(small_cnn: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_cnn)
    model.graph.node[1].name = "first activation"
    by_tensor, by_node = pcam.Explainer(model, layer="r1"), pcam.Explainer(model, layer="first activation")
    assert by_tensor.layer == by_node.layer == "r1"
    np.testing.assert_array_equal(by_tensor(X)["gradcam"], by_node(X)["gradcam"])
    assert pcam.Explainer(model, layer=["r1"]).layer == "r1"


RESIDUAL = """
c1 = Conv<pads = [1, 1, 1, 1]>(x, w)
r1 = Relu(c1)
c2 = Conv<pads = [1, 1, 1, 1]>(r1, w)
r2 = Relu(c2)
c3 = Conv<pads = [1, 1, 1, 1]>(r2, w)
s = Add(c3, r1)
r3 = Relu(s)
p = GlobalAveragePool(r3)
y = Flatten(p)
"""


def test_list_layers_of_a_residual_block(make_model: Any) -> None:
    w = RANDOM.standard_normal((3, 3, 3, 3)).astype(np.float32)
    model = make_model(RESIDUAL, {"w": w}, y="float[N,3] y")
    found = list_layers(model)
    assert [layer.name for layer in found] == ["r3", "s", "r1", "c1", "c3", "r2", "c2"]
    assert [layer.why.split()[0] for layer in found] == ["every"] * 4 + ["on"] * 3
    assert found[0].shape == (None, 3, 8, 8)
    assert found[0].operator == "Relu"
    assert found[0].stride == 1
    assert pcam.Explainer(model).layer == "r3"


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_on_a_good_model(small_cnn: onnx.ModelProto) -> None:
    report = doctor(small_cnn)
    assert report.explainable
    assert set(report.methods.values()) == {"yes"}
    assert (report.image, report.layout, report.scores, report.cut, report.opset) == ("x", "NCHW", "y", None, 17)
    assert report.layers[:2] == ["r2", "c2"]
    assert not report.obstacles
    assert not report.problems
    json.dumps(report.to_dict())


def test_an_integer_input_is_explained_as_the_numbers_it_is_cast_to(make_model: Any) -> None:
    body = "xf = Cast<to = 1>(x) " + (STEM + CAM_ENDS["gemm"]).replace("Conv(x,", "Conv(xf,")
    model = make_model(body, cam_weights(), "uint8[N,3,8,8] x")
    report = doctor(model)
    assert report.explainable
    assert set(report.methods.values()) == {"yes"}
    x = RANDOM.integers(0, 255, (2, 3, 8, 8), np.uint8)
    methods = ("cam", "gradcam", "guided_backprop", "guided_gradcam", "gradient")
    of_bytes = pcam.Explainer(model, methods)(x)
    of_floats = pcam.Explainer(make_model(STEM + CAM_ENDS["gemm"], cam_weights()), methods)(x.astype(np.float32))
    for method in methods:
        np.testing.assert_allclose(of_bytes[method], of_floats[method], rtol=1e-4, atol=1e-5)


def test_doctor_without_an_image_input(make_model: Any) -> None:
    report = doctor(make_model("y = Gemm(x, w)", {"w": np.ones((3, 5), np.float32)}, "float[N,3] x"))
    assert not report.explainable
    assert "no image input" in report.problems[0]
    assert all("no image input" in answer for answer in report.methods.values())


@pytest.mark.parametrize("where", ["before", "behind"])
def test_doctor_names_the_operator_without_a_rule(make_model: Any, where: str) -> None:
    odd = (
        "o = MaxRoiPool<pooled_shape = [1, 1]>(q, region) "
        if where == "behind"
        else "q = MaxRoiPool<pooled_shape = [8, 8]>(x, region) u = Mul(x, q) "
    )
    body = "u = Identity(x) " if where == "behind" else odd
    body += "a = Conv(u, w1) r = Relu(a) "
    body += (
        "q = Reshape(r, square) " + odd + "y = Reshape(o, flat)"
        if where == "behind"
        else "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w2)"
    )
    weights = {
        **cam_weights(),
        "square": np.array([0, 6, 6, 6], np.int64),
        "flat": np.array([0, 6], np.int64),
        "region": np.array([[0, 0, 0, 5, 5]], np.float32),
    }
    model = make_model(body, weights, y="float[N,6] y" if where == "behind" else "float[N,5] y")
    report = doctor(model)
    operator = "MaxRoiPool"
    assert [o.operator for o in report.obstacles] == [f"ai.onnx::{operator}"]
    assert operator in report.obstacles[0].path
    assert "without a rule" in report.methods["guided_backprop"]
    with pytest.raises(pcam.errors.UnsupportedOperatorError, match=operator):
        pcam.Explainer(model, ("gradient",))
    if where == "before":  # the layers behind it can be explained
        assert report.methods["gradcam"] == "yes"
        assert pcam.Explainer(model)(X[:1]).scores.shape == (1, 1)  # its region is one of the first image
    else:
        assert "without a rule" in report.methods["gradcam"]
        assert not report.explainable


# -- the explanation file ----------------------------------------------------------------------------------------------


def test_metadata(small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "model.onnx"
    path.write_bytes(small_cnn.SerializeToString())
    proto = build_explanation(path, ("gradcam", "guided_backprop"), preprocessing='{"color": "rgb"}')
    facts = {p.key.removeprefix("portable_cam."): p.value for p in proto.metadata_props}
    assert facts["version"] == pcam.__version__
    assert facts["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(facts["layer"]) == ["r2"]
    assert json.loads(facts["target"]) == {"kind": "class"}
    assert json.loads(facts["methods"]) == ["gradcam", "guided_backprop"]
    assert (facts["profile"], facts["sign"], facts["relu_policy"]) == ("paper", "positive", "relu")
    assert len(json.loads(facts["guided_nodes"])) == 2
    assert (facts["scores"], facts["output"], facts["image"], facts["classes"]) == ("y", "y", "x", "5")
    assert "cut" not in facts
    assert json.loads(facts["preprocessing"]) == {"color": "rgb"}


@pytest.mark.parametrize("targets_per_image", [1, None])
def test_explanation_runs_in_bare_onnxruntime(small_cnn: onnx.ModelProto, targets_per_image: int | None) -> None:
    proto = build_explanation(small_cnn, ALL, targets_per_image=targets_per_image)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["x", "targets"]
    names = [o.name for o in session.get_outputs()]
    explained = pcam.Explainer(small_cnn, ALL)
    for k in [1] if targets_per_image else [1, 3]:
        targets = RANDOM.integers(0, 5, (2, k))
        values = dict(zip(names, session.run(None, {"x": X, "targets": targets}), strict=True))
        result = explained(X, targets)
        np.testing.assert_allclose(values["scores"], result.scores, rtol=1e-6)
        np.testing.assert_allclose(values["heatmap.gradcam"], result["gradcam"], atol=1e-5)
        np.testing.assert_array_equal(values["cam"], values["heatmap.cam"])
        assert values["raw.gradcam"].shape == (2, k, 4, 4)
        for method in ALL[2:]:
            np.testing.assert_allclose(values[method], result[method], rtol=1e-4, atol=1e-5)
    assert names[-1] == "y"


def test_differentiate_by_name(small_cnn: onnx.ModelProto) -> None:
    proto = pcam.export.differentiate(small_cnn, of="y", wrt=["x", "r2"])
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["x", "seed"]
    assert [o.name for o in session.get_outputs()] == ["y", "gradient.x", "gradient.r2"]
    seed = np.eye(5, dtype=np.float32)[[3, 3]]
    _, to_x, to_r2 = session.run(None, {"x": X, "seed": seed})
    result = pcam.Explainer(small_cnn, ("gradient", "gradcam"), details=True)(X, 3)
    np.testing.assert_allclose(to_x, result["gradient"][:, 0], rtol=1e-4, atol=1e-5)
    assert result.gradients is not None
    np.testing.assert_allclose(to_r2, result.gradients[:, 0], rtol=1e-5)


def test_cuda_is_never_a_silent_cpu_run(small_cnn: onnx.ModelProto) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider is not in this build .*\[gpu\]"):
        pcam.Explainer(small_cnn, device="cuda")
    with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
        pcam.Explainer(small_cnn, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="device= is 'cpu' or 'cuda', not 'tpu'"):
        pcam.Explainer(small_cnn, device="tpu")


# -- self-check --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_self_check_passes_on_the_bundled_model() -> None:
    proto = build_explanation(assets.model(), ("gradcam", "guided_gradcam"))
    proof = self_check(assets.model(), proto)
    assert proof.passed, proof.describe()
    assert proof["input"].passed
    model = ir.from_proto(proto)
    record(model, proof)
    assert json.loads(model.metadata_props["portable_cam.self_check"])["passed"] is True


def flip(proto: onnx.ModelProto, name: str, forward: str) -> None:
    """Change a weight's sign for all nodes but the one of the forward pass that makes ``forward``."""
    other = onnx.numpy_helper.from_array(-weight(proto, name), "flipped")
    readers = [node for node in proto.graph.node if name in node.input and forward not in node.output]
    assert readers
    proto.graph.initializer.append(other)
    for node in readers:
        node.input[list(node.input).index(name)] = "flipped"


def test_self_check_fails_on_a_wrong_gradient(small_cnn: onnx.ModelProto) -> None:
    """A weight that only the backward pass reads has its sign flipped."""
    proto = build_explanation(small_cnn, ("gradient", "gradcam"), targets_per_image=1)
    assert self_check(small_cnn, proto).passed
    flip(proto, "w1", "c1")
    proof = self_check(small_cnn, proto)
    assert not proof.passed
    assert "FAILED" in proof.describe()


def test_self_check_fails_on_a_wrong_layer_gradient(small_cnn: onnx.ModelProto) -> None:
    """Grad-CAM alone: the file's own weights are wrong, though the picture's gradient is not in it."""
    proto = build_explanation(small_cnn, ("gradcam",), layer="r1", targets_per_image=1)
    assert self_check(small_cnn, proto).passed
    flip(proto, "w2", "c2")
    assert not self_check(small_cnn, proto).passed


def test_self_check_fails_on_a_wrong_forward_pass(small_cnn: onnx.ModelProto) -> None:
    proto = build_explanation(small_cnn)
    for tensor in proto.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), "w1"))
    assert not self_check(small_cnn, proto).passed


@pytest.mark.parametrize("axes", [[1], [2], [3], [1, 2], [2, 3]])
def test_gradcam_of_a_layer_that_is_averaged_over_any_axes(axes: list[int]) -> None:
    """The gradient is constant along the averaged axes, whichever they are: the weights are its mean over space."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[N, 3, 6, 5] x) => (float[N, 4] y)
        <int64[{len(axes)}] axes = {{{", ".join(map(str, axes))}}}>
        {{ a = Conv(x, w) m = ReduceMean<keepdims = 1>(a, axes) f = Flatten(m) y = Gemm(f, v) }}"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    width = int(np.prod([1 if i in axes else d for i, d in ((1, 8), (2, 6), (3, 5))]))
    weights = {"w": random.standard_normal((8, 3, 1, 1)), "v": random.standard_normal((width, 4))}
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    result = pcam.Explainer(model, layer="a", details=True)(random.standard_normal((2, 3, 6, 5)), targets=[1, 2])
    expected = pcam.kernels.reference.weighted_sum(
        pcam.kernels.reference.channel_weights(result.gradients), result.activations
    )
    np.testing.assert_allclose(result.raw["gradcam"], expected, rtol=1e-4, atol=1e-5)
