"""Methods are records: what lists, builds, diagnoses, estimates and draws them iterates over these."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but

import portable_cam as pcam
from portable_cam import assets
from portable_cam.export import build_explanation, doctor
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.methods import registry
from portable_cam.export.methods.method import Method
from portable_cam.kernels import reference
from portable_cam.runtime.session import Session

random = np.random.default_rng(11)

#: A method of a user's own, in one place: the feature map weighted by the gradient's root mean square.
TOY = """
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.methods import registry
from portable_cam.export.methods.method import Method


def weights(b, gradient, activation):
    g = as_float32(b, gradient)
    return b.op("Sqrt", b.op("ReduceMean", b.op("Mul", g, g), b.ints([2, 3]), keepdims=0))


registry.METHODS["rms_cam"] = Method(
    "rms_cam", title="RMS-CAM", summary="for a test", paper="nowhere", channel_weights=weights,
    in_gradient="homogeneous",
)
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Method]:
    monkeypatch.setattr(registry, "METHODS", registry.METHODS)
    before = dict(registry.METHODS)
    exec(TOY, {})
    yield registry.METHODS["rms_cam"]
    registry.METHODS.clear()
    registry.METHODS.update(before)


def pixels(count: int) -> np.ndarray:
    return random.standard_normal((count, 3, 8, 8), dtype=np.float32)


def test_a_new_method_is_one_record(toy: Method, small_cnn: onnx.ModelProto) -> None:
    """Registered in one place, it is computed, diagnosed, priced and written into the metadata."""
    result = pcam.Explainer(small_cnn, ("rms_cam", "gradcam"), details=True)(pixels(2))
    assert result.activations is not None
    assert result.gradients is not None
    weights = np.sqrt((result.gradients**2).mean(axis=(3, 4)))
    expected = reference.weighted_sum(weights, result.activations)
    np.testing.assert_allclose(result.raw["rms_cam"], expected, rtol=1e-5, atol=1e-6)
    report = doctor(small_cnn)
    assert report.methods["rms_cam"] == "yes"
    assert report.cost is not None
    assert report.cost.multiples["rms_cam"] == report.cost.multiples["gradcam"]
    built = build_explanation(small_cnn, ("rms_cam",))
    assert {output.name for output in built.graph.output} >= {"heatmap.rms_cam", "raw.rms_cam", "range.rms_cam"}
    read = ExplanationMetadata.read({prop.key: prop.value for prop in built.metadata_props})
    assert read.options.methods == ("rms_cam",)


def test_a_new_method_is_in_figures_and_records(toy: Method) -> None:
    """By its title, beside others."""
    explanation = pcam.explain(assets.model(), assets.photo(), ("rms_cam", "cam"), labels=None)
    texts = [text.get_text() for text in explanation.plot().texts]
    assert {toy.title, "CAM"} <= set(texts)
    assert explanation.to_dict()["methods"] == ["rms_cam", "cam"]


@pytest.mark.slow
def test_a_new_method_is_in_the_help() -> None:
    code = (
        f"{TOY}\nimport sys\nfrom portable_cam.cli import main\nsys.argv = ['portable-cam', 'export', '--help']\nmain()"
    )
    environment = {"COLUMNS": "300", "PATH": "", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "rms_cam" in done.stdout, done.stderr


@pytest.mark.parametrize("method", [m for m in registry.METHODS.values() if m.kernel not in {None, "weights"}], ids=str)
@pytest.mark.parametrize("sign", slow_but(["positive"], ["positive", "negative"]))
def test_maps_are_those_of_the_papers(method: Method, sign: str, small_cnn: onnx.ModelProto) -> None:
    """The graph against the slow, obvious formula in numpy, gradients taken from the graph; at two layers."""
    for layer in ("r1", "c2"):
        result = pcam.Explainer(small_cnn, (method.name,), layer, sign=sign, details=True)(pixels(2), [[1, 4], [0, 2]])
        assert result.activations is not None
        assert result.gradients is not None
        g = result.gradients if sign == "positive" else -result.gradients
        expected = np.maximum(reference.method_map(str(method.kernel), result.activations, g), 0)
        scale = max(float(np.abs(expected).max()), 1e-6)
        np.testing.assert_allclose(result.raw[method.name], expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("method", [m for m in registry.METHODS.values() if m.uses_layer], ids=str)
def test_dependence_on_the_gradient_is_as_recorded(method: Method) -> None:
    """A gradient three times as large gives a map three times as large where the record says so, and only there; one of
    the other sign the negative map where it is linear."""
    a = random.uniform(0.1, 1, (1, 4, 5, 5)).astype(np.float32)
    g = random.standard_normal((1, 4, 5, 5)).astype(np.float32)

    def computed(gradient: np.ndarray) -> np.ndarray:
        import onnx_ir as ir

        values = [
            ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(a.shape)) for name in ("g", "a")
        ]
        graph = ir.Graph(values, [], nodes=[], opset_imports={"": 21}, name="method")
        compute = method.channel_weights or method.pixel_map
        assert compute is not None
        out = compute(Builder(graph), *values)
        graph.outputs.append(out)
        (value,) = Session(ir.Model(graph, ir_version=10)).run({"g": gradient, "a": a}).values()
        return value

    one, three, negative = computed(g), computed(3 * g), computed(-g)
    homogeneous = np.allclose(three, 3 * one, rtol=1e-4, atol=1e-6)
    linear = homogeneous and np.allclose(negative, -one, rtol=1e-4, atol=1e-6)
    found = "linear" if linear else "homogeneous" if homogeneous else "nonlinear"
    assert found == method.in_gradient


def test_a_record_is_computed_in_one_way() -> None:
    with pytest.raises(AssertionError, match="exactly one way"):
        Method("both", title="", summary="", paper="", classifier=True, relu_rule="guided")
    with pytest.raises(AssertionError, match="exactly one way"):
        Method("none", title="", summary="", paper="")


def test_factors_are_methods() -> None:
    for method in registry.METHODS.values():
        for factor in method.factors or ():
            assert factor in registry.METHODS
        assert method.title
        assert method.summary
        assert method.paper


def first_component(maps: np.ndarray) -> np.ndarray:
    """By numpy's singular value decomposition, as pytorch-grad-cam does it: (C, h, w) -> (h, w), of arbitrary sign."""
    flat = maps.reshape(len(maps), -1).T.astype(np.float64)
    flat = flat - flat.mean(axis=0)
    return (flat @ np.linalg.svd(flat, full_matrices=False)[2][0]).reshape(maps.shape[1:])


def same_but_sign(found: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-4 * scale


@pytest.mark.parametrize("layer", ["r1", "r2"], ids=["more positions than channels", "less"])
def test_principal_components_are_those_of_the_svd(layer: str, small_cnn: onnx.ModelProto) -> None:
    """Before the ReLU of the profile, and of the sign that is promised."""
    methods = ("eigencam", "eigen_gradcam")
    found = pcam.Explainer(small_cnn, methods, layer, profile="captum", details=True)(pixels(2), [[1, 4], [0, 2]])
    assert found.activations is not None
    assert found.gradients is not None
    for n in range(2):
        for k in range(2):
            plain = found.raw["eigencam"][n, k]
            same_but_sign(plain, first_component(found.activations[n]))
            assert plain.max() >= -plain.min()
            products = found.gradients[n, k] * found.activations[n]
            same_but_sign(found.raw["eigen_gradcam"][n, k], first_component(products))
            assert (found.raw["eigen_gradcam"][n, k] * products.sum(axis=0)).sum() >= 0


def test_a_map_without_contrast_has_no_component(make_model: Any) -> None:
    """A layer that is the same everywhere gives zeros, flagged, and no NaN."""
    model = make_model(
        "r = Relu(x) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, w)",
        {"w": random.standard_normal((5, 3), dtype=np.float32)},
    )
    found = pcam.Explainer(model, ("eigencam", "eigen_gradcam"), "r")(np.ones((1, 3, 8, 8), np.float32))
    assert found["eigencam"].tolist() == np.zeros((1, 1, 8, 8)).tolist()
    assert "flat" in found.flags[0][0]


def test_fem_weights_what_stands_out(small_cnn: onnx.ModelProto) -> None:
    found = pcam.Explainer(small_cnn, ("fem",), "r1", profile="captum", details=True)(pixels(2), [[1, 4], [0, 2]])
    assert found.activations is not None
    a = found.activations.astype(np.float64)
    stands_out = a > a.mean(axis=(2, 3), keepdims=True) + 2 * a.std(axis=(2, 3), keepdims=True)
    expected = (stands_out.mean(axis=(2, 3), keepdims=True) * a).sum(axis=1)
    for k in range(2):
        np.testing.assert_allclose(found.raw["fem"][:, k], expected, rtol=1e-5)


def test_no_gradient_is_needed_for_the_activation_alone(make_model: Any) -> None:
    """Behind the layer stands an operator without a rule."""
    model = make_model(
        "r = Relu(x) u = Unsqueeze(r, last) d = DFT<axis = 3>(u) m = ReduceMean<axes = [2, 3, 4], keepdims = 0>(d) "
        "y = Identity(m)",
        {"last": np.array([4])},
        y="float[N,3] y",
    )
    with pytest.raises(pcam.Error, match="DFT"):
        pcam.Explainer(model, ("gradcam",), "r")
    found = pcam.Explainer(model, ("eigencam", "fem"), "r")(np.abs(pixels(1)))
    assert np.isfinite(found["fem"]).all()


def test_maps_of_the_activation_have_no_other_sign(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(pcam.Error, match="the same for every target"):
        pcam.Explainer(small_cnn, ("eigencam",), sign="negative")


def test_input_x_gradient(small_cnn: onnx.ModelProto, make_model: Any) -> None:
    x = pixels(2)
    found = pcam.Explainer(small_cnn, ("gradient", "input_x_gradient"))(x, [[1, 4], [0, 2]])
    np.testing.assert_allclose(found["input_x_gradient"], found["gradient"] * x[:, None], rtol=1e-6)
    quantised = make_model(
        "f = DequantizeLinear(x, s, z) p = GlobalAveragePool(f) q = Flatten(p) y = Gemm<transB = 1>(q, w)",
        {"s": np.float32(0.5), "z": np.uint8(3), "w": random.standard_normal((5, 3), dtype=np.float32)},
        x="uint8[N,3,8,8] x",
    )
    whole = random.integers(0, 255, (1, 3, 8, 8), dtype=np.uint8)
    found = pcam.Explainer(quantised, ("gradient", "input_x_gradient"))(whole)
    meant = (whole.astype(np.float32) - 3) * 0.5
    np.testing.assert_allclose(found["input_x_gradient"], found["gradient"] * meant[:, None], rtol=1e-6)
    np.testing.assert_allclose(found["input_x_gradient"].sum(), found.scores.sum(), rtol=1e-4)  # a linear model
