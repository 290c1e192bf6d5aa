"""Methods of many passes: each against a plain twin, an identity of its paper, or a peer."""

import itertools
import math
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import LayerError, OptionError
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.compose.cut import cut
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets import Contrast
from portable_cam.kernels import reference
from portable_cam.methods.budget import Budget
from portable_cam.methods.explainer import Explainer
from portable_cam.methods.finish import widened
from portable_cam.methods.fullgrad import Contributions
from portable_cam.methods.occlusion import windows
from portable_cam.methods.registry import PASS_METHODS
from portable_cam.methods.rise import make_masks
from portable_cam.runtime.scorer import Scorer
from portable_cam.runtime.session import Session

random = np.random.default_rng(3)
TARGETS = [[1, 4]]


def pixels(count: int = 1) -> np.ndarray:
    return random.standard_normal((count, 3, 8, 8), dtype=np.float32)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.fixture(scope="module")
def masked_cnn(small_cnn: onnx.ModelProto, make_model: Any) -> Scorer:
    """The small network with r1 multiplied by a further input ``m``: what lies behind, without cutting anything."""
    model = make_model(
        """
        c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        r1 = Relu(c1)
        k1 = Mul(r1, m)
        c2 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(k1, w2)
        r2 = Relu(c2)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w3, b3)
        """,
        weights_of(small_cnn),
        x="float[N,3,8,8] x, float[N,4,8,8] m",
    )
    return Session(model)  # type: ignore[return-value]


# -- the graph in two ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["a", "s"])
def test_both_halves_make_the_whole(layer: str, make_model: Any) -> None:
    """Also where the back reads the image itself, and a tensor of the front past the layer."""
    model = make_model(
        """
        a = Conv<pads = [1, 1, 1, 1]>(x, w)
        r = Relu(a)
        s = Add(r, x)
        t = Mul(s, a)
        p = GlobalAveragePool(t)
        y = Flatten(p)
        """,
        {"w": random.standard_normal((3, 3, 3, 3), dtype=np.float32)},
        y="float[N,3] y",
    )
    whole = explanation_model(normalized(model), Options(methods=()))
    halves = cut(whole, layer, ["x"], ["scores"])
    assert halves.rest == {"a": ("x",), "s": ("a",)}[layer]
    x, targets = pixels(2), np.array([[0, 2], [1, 1]])
    front = Session(halves.front).run({"x": x})
    feeds = {name: front.get(name, x) for name in (layer, *halves.rest)}
    found = Session(halves.back).run({**feeds, "targets": targets}, ["scores"])["scores"]
    np.testing.assert_allclose(found, Session(whole).run({"x": x, "targets": targets})["scores"], rtol=1e-5)
    with pytest.raises(LayerError, match="no tensor 'q'"):
        cut(whole, "q", ["x"], ["scores"])


# -- input attributions --------------------------------------------------------------------------------------------


def test_integrated_gradients_add_up(small_cnn: onnx.ModelProto) -> None:
    """To the score less the baseline's, within one per cent; and they are the sum that the quadrature says."""
    x = pixels(2)
    explainer = Explainer(small_cnn, ("integrated_gradients",), parameters={"integrated_gradients": {"steps": 400}})
    result = explainer(x, [[1, 4], [0, 2]])
    base = pcam.Explainer(small_cnn, ("gradient",))(np.zeros_like(x), [[1, 4], [0, 2]])
    sums = result["integrated_gradients"].sum(axis=(2, 3, 4))
    np.testing.assert_allclose(sums, result.scores - base.scores, rtol=0.01)
    assert result["integrated_gradients"].shape == (2, 2, 3, 8, 8)
    few = Explainer(small_cnn, ("integrated_gradients",), parameters={"integrated_gradients": {"steps": 1}})
    assert any("take more steps" in note for note in few(x, [[1, 4], [0, 2]]).notes)


def torch_twin(model: onnx.ModelProto) -> Any:
    torch = pytest.importorskip("torch")
    w = {name: torch.from_numpy(value.copy()) for name, value in weights_of(model).items()}

    def forward(x: Any) -> Any:
        h = torch.relu(torch.nn.functional.conv2d(x, w["w1"], w["b1"], padding=1))
        h = torch.relu(torch.nn.functional.conv2d(h, w["w2"], stride=2, padding=1))
        return h.mean(dim=(2, 3)) @ w["w3"].T + w["b3"]

    return torch, forward


@pytest.mark.slow
def test_captum_agrees(small_cnn: onnx.ModelProto) -> None:
    """Integrated Gradients and occlusion, live."""
    attr = pytest.importorskip("captum.attr")
    torch, forward = torch_twin(small_cnn)
    x = pixels()
    given = {
        "integrated_gradients": {"steps": 50, "baseline": "zero"},
        "occlusion": {"window": 3, "stride": 2, "baseline": "zero"},
    }
    ours = Explainer(small_cnn, tuple(given), parameters=given, profile="captum")(x, [[1]])
    theirs = attr.IntegratedGradients(forward).attribute(torch.from_numpy(x), target=1, n_steps=50)
    np.testing.assert_allclose(ours["integrated_gradients"][:, 0], theirs.numpy(), rtol=1e-3, atol=1e-4)
    covered = attr.Occlusion(forward).attribute(torch.from_numpy(x), (3, 3, 3), target=1, strides=(3, 2, 2))
    np.testing.assert_allclose(ours.raw["occlusion"][0, 0], covered.numpy()[0, 0], rtol=1e-3, atol=1e-4)


def test_smoothgrad(small_cnn: onnx.ModelProto) -> None:
    names = ("smoothgrad", "smoothgrad_squared", "vargrad")
    given = {name: {"samples": 5, "noise": 0.1} for name in names}
    x = pixels()
    found = Explainer(small_cnn, names, parameters=given, seed=7)(x, TARGETS)
    noise = np.random.default_rng(7).normal(0, 0.1 * float(np.ptp(x)), (5, 3, 8, 8))
    noisy = (x + noise).astype(np.float32)
    gradients = pcam.Explainer(small_cnn, ("gradient",))(noisy, TARGETS * 5)["gradient"].astype(np.float64)
    scale = np.abs(gradients).max()
    np.testing.assert_allclose(found["smoothgrad"][0], gradients.mean(axis=0), atol=1e-5 * scale)
    np.testing.assert_allclose(found["smoothgrad_squared"][0], (gradients**2).mean(axis=0), atol=1e-5 * scale**2)
    np.testing.assert_allclose(found["vargrad"][0], gradients.var(axis=0), atol=1e-5 * scale**2)
    again = Explainer(small_cnn, names, parameters=given, seed=7, batch=2)(x, TARGETS)
    np.testing.assert_allclose(again["smoothgrad"], found["smoothgrad"], atol=1e-6 * scale)  # however it is divided


# -- perturbations of the image --------------------------------------------------------------------------------------


def test_windows_cover_the_image() -> None:
    for size, window, stride in (((8, 8), 3, 2), ((7, 5), 2, 2), ((4, 4), 9, 3)):
        covered = np.zeros(size, int)
        for place in windows(size, window, stride):
            covered[place] += 1
        assert covered.min() > 0


def test_occlusion_finds_what_counts(make_model: Any) -> None:
    """Of a linear model, with windows of one pixel: the weight times what the pixel is above the baseline."""
    w = random.standard_normal((5, 192)).astype(np.float32)
    model = make_model("f = Flatten(x) y = Gemm<transB = 1>(f, w)", {"w": w})
    x = pixels()
    given = {"occlusion": {"window": 1, "stride": 1, "baseline": "zero"}}
    found = Explainer(model, ("occlusion",), parameters=given, profile="captum")(x, TARGETS)
    expected = (w[[1, 4]].reshape(2, 3, 8, 8) * x).sum(axis=1)
    np.testing.assert_allclose(found.raw["occlusion"][0], expected, atol=1e-4)
    against = Explainer(model, ("occlusion",), parameters=given, sign="negative")(x, TARGETS)
    np.testing.assert_allclose(against.raw["occlusion"][0], np.maximum(-expected, 0), atol=1e-4)


@pytest.mark.slow
def test_rise_converges_to_the_expectation(make_model: Any) -> None:
    """On 4 x 4 pixels with 2 x 2 cells: all 16 grids and 4 shifts, each as likely as the others."""
    w = np.abs(random.standard_normal((2, 16))).astype(np.float32)
    nodes = "c = Conv(x, one) f = Flatten(c) g = Gemm<transB = 1>(f, w) y = Softmax<axis = 1>(g)"
    given = {"w": w, "one": np.ones((1, 1, 1, 1), np.float32)}
    model = make_model(nodes, given, x="float[N,1,4,4] x", y="float[N,2] y")
    x = random.random((1, 1, 4, 4)).astype(np.float32)
    grids = np.array(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, 2, 2)
    shifts = np.array(list(itertools.product([0, 1], repeat=2)))
    masks = np.concatenate([make_masks(grids, np.tile(shift, (16, 1)), (4, 4)) for shift in shifts])
    logits = (masks[:, None] * x).reshape(64, 16) @ w.T
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    exact = np.tensordot(scores.T, masks, axes=1) / 64 / 0.5
    found = Explainer(model, ("rise",), parameters={"rise": {"masks": 20000, "cells": 2}}, batch=500)(x, [[0, 1]])
    np.testing.assert_allclose(found.raw["rise"][0], exact, atol=0.02)
    assert any("20000 masks, seed 0" in note for note in found.notes)
    assert found.raw["rise"].shape == (1, 2, 4, 4)


def test_rise_masks_are_those_of_the_paper() -> None:
    """Bilinear, from 0 to 1, half of the image on the average, and without a shift the grid's first cell first."""
    grids = (random.random((300, 7, 7)) < 0.5).astype(np.float64)
    masks = make_masks(grids, random.integers(0, 4, (300, 2)), (28, 28))
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert abs(masks.mean() - 0.5) < 0.02
    one = make_masks(grids[:1], np.zeros((1, 2), int), (28, 28))[0]
    wide = reference.upsample_bilinear(grids[0], (32, 32))[:28, :28]
    np.testing.assert_allclose(one, wide, atol=1e-12)


def test_kernel_shap_gives_the_shapley_values(make_model: Any) -> None:
    """Of ten parts and a model that is not linear, against the sum over all orders of the definition; and by samples
    nearly so."""
    w = random.standard_normal((2, 40)).astype(np.float32)
    nodes = "c = Conv(x, one) f = Flatten(c) g = Gemm<transB = 1>(f, w) h = Tanh(g) q = Mul(g, g) y = Add(h, q)"
    given = {"w": w, "one": np.ones((1, 1, 1, 1), np.float32)}
    model = make_model(nodes, given, x="float[N,1,4,10] x", y="float[N,2] y")
    x = random.random((1, 1, 4, 10)).astype(np.float32)
    parts = (np.arange(4) * 2 // 4)[:, None] * 5 + np.arange(10) * 5 // 10
    masks = (np.arange(1024)[:, None] >> np.arange(10)) & 1
    worth = Session(model).run({"x": (x * masks[:, parts][:, None]).astype(np.float32)})["y"].astype(np.float64)
    exact = np.zeros((10, 2))
    for i in range(10):
        without = np.flatnonzero(masks[:, i] == 0)
        sizes = masks[without].sum(axis=1)
        weights = np.array([math.factorial(s) * math.factorial(9 - s) / math.factorial(10) for s in sizes])
        exact[i] = (weights[:, None] * (worth[without + (1 << i)] - worth[without])).sum(axis=0)

    def found(samples: int) -> np.ndarray:
        given = {"kernel_shap": {"samples": samples, "rows": 2, "columns": 5, "baseline": "zero"}}
        maps = Explainer(model, ("kernel_shap",), parameters=given, profile="captum", batch=256)(x, [[0, 1]])
        return maps.raw["kernel_shap"][0]

    np.testing.assert_allclose(found(2000), exact.T[:, parts], rtol=1e-3, atol=1e-4)
    assert np.abs(found(700) - exact.T[:, parts]).max() < 0.1 * np.abs(exact).max()


# -- the layer -----------------------------------------------------------------------------------------------------


def test_ablationcam(small_cnn: onnx.ModelProto, masked_cnn: Any) -> None:
    x = pixels()
    found = Explainer(small_cnn, ("ablationcam",), "r1", profile="captum")(x, TARGETS)
    a = pcam.Explainer(small_cnn, ("gradcam",), "r1", details=True)(x).activations
    assert a is not None
    masks = np.ones((5, 4, 8, 8), np.float32)
    masks[np.arange(4), np.arange(4)] = 0
    scores = masked_cnn.run({"x": np.repeat(x, 5, 0), "m": masks})["y"].astype(np.float64)
    weights = (scores[4] - scores[:4]) / np.abs(scores[4])
    expected = np.stack([(weights[:, k, None, None] * a[0]).sum(axis=0) for k in (1, 4)])
    np.testing.assert_allclose(found.raw["ablationcam"][0], expected, rtol=1e-3, atol=1e-5)
    assert found.layer == "r1"


def test_ablationcam_is_gradcam_where_the_rest_is_linear(make_model: Any) -> None:
    """Behind a global average pool and a linear layer, y - y_c is w_c times the channel's mean: after division by it,
    Grad-CAM's weights."""
    model = make_model(
        "c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) "
        "y = Gemm<transB = 1>(f, v)",
        {"w": random.standard_normal((4, 3, 3, 3), dtype=np.float32), "v": random.random((5, 4)).astype(np.float32)},
    )
    x = pixels()
    ours = Explainer(model, ("ablationcam", "gradcam"), profile="captum", details=True)(x, TARGETS)
    assert ours.activations is not None
    assert ours.gradients is not None
    means = ours.activations[0].mean(axis=(1, 2))
    weights = ours.gradients[0].mean(axis=(2, 3)) * 64 * means / ours.scores[0][:, None]
    np.testing.assert_allclose(ours.raw["ablationcam"][0], np.tensordot(weights, ours.activations[0], 1), rtol=1e-3)


def test_reciprocam(small_cnn: onnx.ModelProto, masked_cnn: Any) -> None:
    x = pixels()
    found = Explainer(small_cnn, ("reciprocam",), "r1", parameters={"reciprocam": {"width": 1}})(x, TARGETS)
    masks = np.eye(64, dtype=np.float32).reshape(64, 1, 8, 8).repeat(4, axis=1)
    scores = masked_cnn.run({"x": np.repeat(x, 64, 0), "m": masks})["y"]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.raw["reciprocam"][0], shares[:, [1, 4]].T.reshape(2, 8, 8), rtol=1e-3)


def test_scorecam(small_cnn: onnx.ModelProto) -> None:
    x = pixels()
    found = Explainer(small_cnn, ("scorecam",), "r2", profile="captum")(x, TARGETS)
    a = pcam.Explainer(small_cnn, ("gradcam",), "r2", details=True)(x).activations
    assert a is not None
    masks = reference.minmax(reference.upsample_bilinear(a[0], (8, 8)))
    masked = (x * masks[:, None]).astype(np.float32)
    scores = Session(small_cnn).run({"x": masked})["y"][:, [1, 4]].astype(np.float64)
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    np.testing.assert_allclose(found.raw["scorecam"][0], np.tensordot(weights.T, a[0], 1), rtol=1e-3, atol=1e-5)


def test_widened_is_the_graphs_resize() -> None:
    maps = random.random((3, 4, 5))
    np.testing.assert_allclose(widened(maps, (9, 13), None), reference.upsample_bilinear(maps, (9, 13)), atol=1e-12)


def test_smooth_gradcam_plus_plus_without_noise(small_cnn: onnx.ModelProto) -> None:
    x = pixels()
    given = {"smooth_gradcam_plus_plus": {"samples": 3, "noise": 1e-9}}
    names = ("smooth_gradcam_plus_plus", "gradcam_plus_plus")
    found = Explainer(small_cnn, names, "r1", parameters=given, profile="captum")(x, TARGETS)
    ours, plain = (found.raw[name] for name in names)
    np.testing.assert_allclose(ours, plain, rtol=1e-2, atol=1e-3 * np.abs(plain).max())


def test_finer_cam_of_two_classes_is_their_contrast(small_cnn: onnx.ModelProto) -> None:
    x = pixels()
    scores = Scorer(normalized(small_cnn), Options())(x, [np.arange(5)])[0]
    rival = int(np.argsort(np.abs(scores - scores[1]))[1])
    found = Explainer(small_cnn, ("finer_cam",), "r1", parameters={"finer_cam": {"classes": 1}}, profile="captum")(x, 1)
    contrast = pcam.Explainer(small_cnn, ("gradcam",), "r1", Contrast(), profile="captum")(x, 1, rather_than=[[rival]])
    np.testing.assert_allclose(found.raw["finer_cam"], contrast.raw["gradcam"], rtol=1e-3, atol=1e-5)


def test_tokens(make_model: Any) -> None:
    """A layer of tokens with a class token before them: channels are ablated, positions kept, the class token left."""
    d = 6
    weights = {
        "w": random.standard_normal((d, 3, 2, 2), dtype=np.float32),
        "cls": random.standard_normal((1, 1, d), dtype=np.float32),
        "v": random.standard_normal((d, d), dtype=np.float32),
        "u": random.standard_normal((d, 5), dtype=np.float32),
        "shape": np.array([0, d, -1]),
    }
    model = make_model(
        "c = Conv<strides = [2, 2]>(x, w) f = Reshape(c, shape) t = Transpose<perm = [0, 2, 1]>(f) "
        "k = Concat<axis = 1>(cls, t) z = MatMul(k, v) r = Relu(z) m = ReduceMean<axes = [1], keepdims = 0>(r) "
        "y = MatMul(m, u)",
        weights,
        x="float[1,3,8,8] x",
        y="float[1,5] y",
    )
    x = pixels()
    found = Explainer(model, ("ablationcam", "reciprocam"), "r", parameters={"reciprocam": {"width": 1}})(x, TARGETS)
    assert found.raw["ablationcam"].shape == (1, 2, 4, 4)
    patches = np.einsum("cipq,ihpwq->hwc", weights["w"], x[0].reshape(3, 4, 2, 4, 2)).reshape(16, d)
    tokens = np.maximum(np.concatenate([weights["cls"][0], patches]) @ weights["v"], 0)
    scores = []
    for place in range(16):
        kept = tokens.copy()
        kept[[1 + i for i in range(16) if i != place]] = 0
        scores.append(kept.mean(axis=0) @ weights["u"])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.raw["reciprocam"][0, 0], shares[:, 1].reshape(4, 4), rtol=1e-3)


def test_fullgrad_is_complete(small_cnn: onnx.ModelProto) -> None:
    """Input, biases of the convolutions and of the linear layer add up to the score; the map is what is left of them
    without signs, a layer as strong as another."""
    x, weights = pixels(), weights_of(small_cnn)
    parts = Contributions(normalized(small_cnn), "y", "x")
    scores = Session(small_cnn).run({"x": x})["y"][0]
    for target in (1, 4):
        found = parts({"x": x}, target)
        assert [part.shape for part in found] == [(1, 3, 8, 8), (1, 4, 8, 8)]
        total = sum(part.sum() for part in found) + weights["b3"][target]
        np.testing.assert_allclose(total, scores[target], rtol=1e-4)
    found = parts({"x": x}, 1)
    sizes = [reference.minmax(np.abs(part).reshape(1, -1)[None]).reshape(part.shape) for part in found]
    expected = sizes[0].sum(axis=1)[0] + sizes[1].sum(axis=1)[0]
    ours = Explainer(small_cnn, ("fullgrad",))(x, [[1]])
    np.testing.assert_allclose(ours.raw["fullgrad"][0, 0], expected, rtol=1e-4)


def test_batch_normalisation_has_a_bias(make_model: Any) -> None:
    stats = {name: random.random(3).astype(np.float32) + 0.5 for name in ("g", "b", "m", "v")}
    model = make_model(
        "n = BatchNormalization(x, g, b, m, v) r = Relu(n) p = GlobalAveragePool(r) y = Flatten(p)",
        stats,
        y="float[N,3] y",
    )
    x = pixels()
    found = Contributions(normalized(model), "y", "x")({"x": x}, 2)
    scores = Session(model).run({"x": x})["y"][0]
    np.testing.assert_allclose(sum(part.sum() for part in found), scores[2], rtol=1e-4)


@pytest.mark.slow
def test_shapley_cam(small_cnn: onnx.ModelProto, make_model: Any) -> None:
    """Grad-CAM where the rest is piecewise linear; elsewhere the product with the second derivative is that of finite
    differences."""
    x = pixels()
    same = Explainer(small_cnn, ("shapley_cam", "gradcam"), "r1", profile="captum")(x, TARGETS)
    np.testing.assert_allclose(same.raw["shapley_cam"], same.raw["gradcam"], rtol=1e-3, atol=1e-5)
    model = make_model(
        "c = Conv<pads = [1, 1, 1, 1]>(x, w) s = Softplus(c) t = Tanh(s) q = Mul(t, s) p = GlobalAveragePool(q) "
        "f = Flatten(p) g = Gemm<transB = 1>(f, v) y = Tanh(g)",
        {
            "w": random.standard_normal((4, 3, 3, 3), dtype=np.float32) / 3,
            "v": random.random((5, 4)).astype(np.float32),
        },
    )
    found = Explainer(model, ("shapley_cam",), "s", profile="captum", output="y", as_is=True)(x, TARGETS)
    a = np.logaddexp(0, np.array(Session(expose(model, "c")).run({"x": x}, ["c"])["c"], np.float64))
    v = weights_of(model)["v"].astype(np.float64)

    def gradient(at: np.ndarray) -> np.ndarray:
        tanh = np.tanh(at)
        pooled = (tanh * at).mean(axis=(2, 3))[0]
        outer = (1 - np.tanh(v @ pooled) ** 2)[[1, 4], None] * v[[1, 4]]
        return outer[:, :, None, None] * (tanh + at * (1 - tanh**2))[0] / 64

    product = (gradient(a * (1 + 1e-5)) - gradient(a * (1 - 1e-5))) / 2e-5
    weights = (gradient(a) - product / 2).mean(axis=(2, 3))
    np.testing.assert_allclose(found.raw["shapley_cam"][0], np.tensordot(weights, a[0], axes=1), rtol=1e-3)


def expose(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with a tensor inside as an output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


# -- what they have in common ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "passes", "seconds"),
    [("10s", None, 10), ("2min", None, 120), ("0.5s", None, 0.5), ("4000", 4000, None), (30, 30, None)],
)
def test_budgets(text: Any, passes: int | None, seconds: float | None) -> None:
    assert Budget.of(text) == Budget(passes, seconds)


@pytest.mark.parametrize("text", ["", "s", "-3", "10h", "1.5", "0"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="as 10s or 2min"):
        Budget.of(text)


def test_a_budget_is_kept(small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pixels()
    sampled = Explainer(small_cnn, ("rise",), budget=50, batch=20)(x)
    assert any("50 of 4000 samples, as far as the budget of 50 passes went" in note for note in sampled.notes)
    with pytest.raises(OptionError, match="ablationcam takes 4 passes for an image, and the budget is 3"):
        Explainer(small_cnn, ("ablationcam",), "r1", budget=3)(x)
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr("portable_cam.methods.budget.time.monotonic", lambda: float(next(clock)))
    assert sum(Budget(seconds=10).batches(1000, 10, sampled=True, what="rise")) == 100  # a second for a batch
    with pytest.raises(OptionError, match="about 100 s for its 1000 passes"):
        list(Budget(seconds=10).batches(1000, 10, sampled=False, what="occlusion"))


def test_progress_and_passes(small_cnn: onnx.ModelProto) -> None:
    seen: list[tuple[str, int, int]] = []
    Explainer(small_cnn, ("ablationcam",), "r1", batch=3, progress=lambda *told: seen.append(told))(pixels())
    assert seen == [("ablationcam", 3, 4), ("ablationcam", 4, 4)]


def test_methods_of_both_kinds_together(small_cnn: onnx.ModelProto) -> None:
    names = ("occlusion", "gradcam", "integrated_gradients")
    found = Explainer(small_cnn, names)(pixels(2), [[1, 4], [0, 2]])
    assert tuple(found) == names
    assert {name: found[name].shape for name in names} == {
        "occlusion": (2, 2, 8, 8),
        "gradcam": (2, 2, 8, 8),
        "integrated_gradients": (2, 2, 3, 8, 8),
    }
    assert found["occlusion"].max() == 1


def test_no_gradient_is_needed(make_model: Any) -> None:
    """A model with an operator without a rule, which no gradient passes."""
    model = make_model(
        "u = Unsqueeze(x, last) d = DFT<axis = 3>(u) q = Mul(d, d) y = ReduceMean<axes = [2, 3, 4], keepdims = 0>(q)",
        {"last": np.array([4])},
        y="float[N,3] y",
    )
    found = Explainer(model, ("occlusion", "rise"), parameters={"rise": {"masks": 64}})(pixels())
    assert np.isfinite(found["rise"]).all()
    assert found["occlusion"].max() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ("rises",)}, "method 'rises' does not exist"),
        ({"methods": ("rise",), "parameters": {"rise": {"mask": 3}}}, "rise has no parameter 'mask'; it has masks"),
        ({"methods": ("rise",), "parameters": {"rise": {"masks": 0}}}, "masks of rise is a number above 0"),
        ({"methods": ("rise",), "parameters": {"rise": {"masks": 2.5}}}, "is a whole number"),
        ({"methods": ("rise",), "parameters": {"occlusion": {}}}, "which is no method of many passes asked for"),
        ({"methods": ("rise",), "sign": "negative"}, "rise: there is no map of what speaks against"),
        ({"methods": ("ablationcam",), "layer": ["r1", "r2"]}, "one layer at a time"),
        ({"methods": ("occlusion",), "parameters": {"occlusion": {"window": 2, "stride": 3}}}, "uncovered"),
        ({"methods": ()}, "no method was given"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str, small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match=message):
        Explainer(small_cnn, **given)(pixels())


def test_records() -> None:
    from portable_cam.export.methods.registry import METHODS

    assert not set(PASS_METHODS) & set(METHODS)
    for name, method in PASS_METHODS.items():
        assert method.name == name
        for text in (method.title, method.summary, method.paper, method.cost):
            assert text


@pytest.mark.slow
def test_photos(tmp_path: Any) -> None:
    """The same in one call, drawn by the method's title."""
    given = {"rise": {"masks": 40}}
    explained = pcam.explain(assets.model(), assets.photo(), ("gradcam", "rise"), task="classify", parameters=given)
    assert explained["rise"].shape == (1, 1, 227, 227)
    assert any("40 masks" in note for note in explained.notes)
    assert "RISE" in {text.get_text() for text in explained.plot().texts}


@pytest.mark.slow
def test_quantised_models(zoo: Any) -> None:
    photo = zoo / "images" / "pgc_both.png"
    found = pcam.explain(
        zoo / "models" / "cls_mobilenetv2_uint8_qat_qdq_coral.onnx",
        photo,
        ("occlusion", "ablationcam"),
        task="classify",
        preprocessing="raw",
    )
    dog = found["occlusion"][0, 0][12:148, 77:165].sum() / found["occlusion"][0, 0].sum()
    assert dog > 0.4  # of the image's 24 %


@pytest.mark.slow
def test_boxes_and_masks(zoo: Any) -> None:
    """Occlusion of what a detector and a segmentation find, on the object."""
    given = {"occlusion": {"window": 104, "stride": 52}}
    photo = zoo / "images" / "pgc_both.png"
    found = pcam.explain(zoo / "models" / "det_yolox_nano_coco_416.onnx", photo, ("occlusion",), parameters=given)
    dog = next(k for k, label in enumerate(found.labels[0]) if label == "dog")
    scale = 416 / 224
    inside = found["occlusion"][0, dog][int(12 * scale) : int(148 * scale), int(77 * scale) : int(165 * scale)]
    assert inside.sum() / found["occlusion"][0, dog].sum() > 0.4  # of 24 % of the image
    model = zoo / "models" / "seg_deeplabv3_mnv2_dm05_voc_fp32_logits.onnx"
    given = {"occlusion": {"window": 171, "stride": 171}}
    bird = zoo / "images" / "coral_bird_segmentation.bmp"
    found = pcam.explain(model, bird, ("occlusion",), "bird", task="segment", parameters=given)
    assert found["occlusion"].max() == 1
