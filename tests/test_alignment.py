# SPDX-License-Identifier: Apache-2.0
"""Where a heat map lies: on the pixels that the layer looks at, whatever the graph does to the image before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from PIL import Image

import portable_cam as pcam
from portable_cam.errors import InputError, LayerError, OptionError
from portable_cam.export import build_explanation, list_layers
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.layers.placement import Along, weights_of
from portable_cam.export.layers.relation import Relation
from portable_cam.image.look import Look

SIZE = 64
NODES = (
    "c = Conv<pads = [1, 1, 1, 1]>(v, mean) r = Relu(c) p = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(r) "
)
HEAD = "g = GlobalAveragePool(p) f = Flatten(g) y = MatMul(f, half)"
#: What the graph does to the image, and which rows and columns of it are left.
BEFORE: dict[str, tuple[str, slice, slice]] = {
    "none": ("v = Identity(x)", slice(0, 64), slice(0, 64)),
    "crop": ("v = Slice(x, n16, n48, axes)", slice(16, 48), slice(16, 48)),
    "sky": ("v = Slice(x, n32, n64, rows)", slice(32, 64), slice(0, 64)),
    "letterbox": ("v = Pad(x, wide)", slice(0, 64), slice(0, 64)),
    "resize and crop": (
        "u = Resize<mode = \"linear\">(x, , , sizes) v = Slice(u, n4, n36, axes)",
        slice(6, 58),
        slice(6, 58),
    ),
    "flip": ("v = Slice(x, minus, least, columns, minus)", slice(0, 64), slice(0, 64)),
    "turn": (
        "u = Transpose<perm = [0, 1, 3, 2]>(x) v = Slice(u, minus, least, rows, minus)",
        slice(0, 64),
        slice(0, 64),
    ),
    "crop of a flip": (
        "u = Slice(x, minus, least, columns, minus) v = Slice(u, n16, n48, axes)",
        slice(16, 48),
        slice(16, 48),
    ),
}  # fmt: skip
INTS = {
    "n4": [4, 4], "n16": [16, 16], "n32": [32], "n36": [36, 36], "n48": [48, 48], "n64": [64], "axes": [2, 3],
    "rows": [2], "columns": [3], "wide": [0, 0, 0, 0, 0, 0, 0, 64], "sizes": [1, 1, 40, 40], "minus": [-1],
    "least": [-1000],
}  # fmt: skip


def bright(make_model: Any, before: str, size: str = "1,1,64,64") -> onnx.ModelProto:
    """A network that answers to brightness, behind what the graph does to the image."""
    weights = {name: np.array(value, np.int64) for name, value in INTS.items()}
    weights["mean"] = np.full((4, 1, 3, 3), 1 / 9, np.float32)
    weights["half"] = np.full((4, 2), 0.5, np.float32)
    return make_model(f"{before} {NODES}{HEAD}", weights, f"float[{size}] x", "float[N,2] y", 18)  # type: ignore[no-any-return]


def spot(row: int, column: int) -> np.ndarray:
    image = np.zeros((1, 1, SIZE, SIZE), np.float32)
    image[0, 0, row - 3 : row + 3, column - 3 : column + 3] = 1
    return image


def centre(heat: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(heat.shape) + 0.5
    return float((rows * heat).sum() / heat.sum()), float((columns * heat).sum() / heat.sum())


@pytest.mark.parametrize("alignment", ["stretch", "field"])
@pytest.mark.parametrize("profile", slow_but(["paper"], ["paper", "pytorch_grad_cam"]))
@pytest.mark.parametrize("name", BEFORE)
def test_the_map_lies_on_the_spot(make_model: Any, name: str, profile: Any, alignment: Any) -> None:
    model = bright(make_model, BEFORE[name][0])
    explainer = pcam.Explainer(model, profile=profile, alignment=alignment, threads=1)
    for at in ((40, 36), (36, 44)):
        heat = explainer(spot(*at), 0)["gradcam"][0, 0]
        assert heat.shape == (SIZE, SIZE)
        found = centre(heat)
        assert np.hypot(found[0] - at[0], found[1] - at[1]) < 2, (at, found)


@pytest.mark.parametrize("name", ["crop", "sky", "crop of a flip", "resize and crop"])
def test_what_is_not_seen_is_zero_and_told(make_model: Any, name: str) -> None:
    before, rows, columns = BEFORE[name]
    model = bright(make_model, before)
    heat = pcam.Explainer(model, threads=1)(np.ones((1, 1, SIZE, SIZE), np.float32), 0)["gradcam"][0, 0]
    seen = np.zeros((SIZE, SIZE), bool)
    seen[rows, columns] = True
    assert not heat[~seen].any()
    assert (heat[seen] > 0).mean() > 0.9
    facts = {p.key: p.value for p in build_explanation(model).metadata_props}
    assert json.loads(facts["portable_cam.unseen"])["p"] == pytest.approx(1 - seen.mean(), abs=0.02)


def test_all_is_seen(make_model: Any) -> None:
    facts = {p.key for p in build_explanation(bright(make_model, BEFORE["none"][0])).metadata_props}
    assert "portable_cam.unseen" not in facts


def test_an_open_size(make_model: Any) -> None:
    """The weights are computed at run time, and those of a fixed size the same."""
    for name, crop in (("none", "field"), ("crop", "stretch")):
        fixed = pcam.Explainer(bright(make_model, BEFORE[name][0]), alignment=crop, threads=1)  # type: ignore[arg-type]
        open_ = bright(make_model, BEFORE[name][0], "N,1,H,W")
        free = pcam.Explainer(open_, alignment=crop, threads=1)  # type: ignore[arg-type]
        image = spot(40, 36)
        np.testing.assert_allclose(free(image, 0)["gradcam"], fixed(image, 0)["gradcam"], atol=1e-6)


def test_guided_gradcam_multiplies_with_the_map_where_it_lies(make_model: Any) -> None:
    methods = ("gradcam", "guided_gradcam")
    for profile in ("paper", "captum"):
        model = bright(make_model, BEFORE["crop"][0])
        result = pcam.Explainer(model, methods, profile=profile, threads=1)(spot(40, 36), 0)  # type: ignore[arg-type]
        found = centre(np.abs(result["guided_gradcam"][0, 0, 0]))
        assert np.hypot(found[0] - 40, found[1] - 36) < 3


@pytest.mark.parametrize("name", ["none", "crop", "flip", "turn", "sky"])
def test_the_picture_of_a_map_of_the_layers_size(make_model: Any, tmp_path: Path, name: str) -> None:
    """The profile captum leaves the map as large as the layer: it is drawn where that of the other profiles lies."""
    Image.fromarray((spot(40, 36)[0, 0] * 255).astype(np.uint8)).save(tmp_path / "spot.png")
    model = bright(make_model, BEFORE[name][0])
    drawn = {}
    for profile in ("paper", "captum"):
        given: dict[str, Any] = {"profile": profile, "preprocessing": {"scale": 255.0}}
        explained = pcam.explain(model, tmp_path / "spot.png", ("gradcam",), 0, task="classify", **given)
        drawn[profile] = np.asarray(replace(explained, look=Look()).overlay("gradcam", 0), np.float64)
    assert explained.result["gradcam"].shape != (1, 1, SIZE, SIZE)
    assert np.abs(drawn["captum"] - drawn["paper"]).max() <= 2


def test_field_puts_a_cell_where_its_receptive_field_is_centred(make_model: Any) -> None:
    """Five convolutions of stride 2: cell i looks at pixel 32 i, where a stretched map puts it at 32 i + 15.5."""
    body = "a0 = Identity(x) " + " ".join(
        f"c{i} = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(a{i}, w) a{i + 1} = Relu(c{i})" for i in range(5)
    )
    body += " g = GlobalAveragePool(a5) f = Flatten(g) y = MatMul(f, half)"
    weights = {"w": np.full((1, 1, 3, 3), 1 / 9, np.float32), "half": np.full((1, 2), 0.5, np.float32)}
    model = make_model(body, weights, "float[1,1,224,224] x", "float[1,2] y", 18)
    assert list_layers(model)[0].name == "a5"
    image = np.zeros((1, 1, 224, 224), np.float32)
    image[0, 0, 96, 128] = 1  # cell (3, 4) alone looks at it from the middle
    for alignment, at in (("field", (96, 128)), ("stretch", (3.5 * 32 - 0.5, 4.5 * 32 - 0.5))):
        heat = pcam.Explainer(model, alignment=alignment, threads=1)(image, 0)["gradcam"][0, 0]  # type: ignore[arg-type]
        peak = np.argwhere(heat >= 0.999 * heat.max()).mean(0)
        np.testing.assert_allclose(peak, at, atol=0.6)


def test_weights_of_a_stretched_map_are_those_of_bilinear_interpolation() -> None:
    relation = Along(None, 5, 16).index()
    assert relation is not None
    weights = weights_of(relation, 5, 16)
    np.testing.assert_allclose(weights.sum(1), 1)
    index = (np.arange(16) + 0.5) * 5 / 16 - 0.5
    np.testing.assert_allclose(weights @ np.arange(5), index.clip(0, 4), atol=1e-12)
    assert not weights_of(Relation(2, 10, 2), 3, 30)[:9].any()


def test_kernels_refuse_what_they_would_stretch(make_model: Any) -> None:
    with pytest.raises(OptionError, match="does not look at all of it"):
        explanation_model(bright(make_model, BEFORE["crop"][0]), heads_in_graph=False)


# -- the channels of the input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", slow_but(["1", "3", "13"], [1, 2, 3, 4, 5, 13]))
@pytest.mark.parametrize("how", ["transpose", "normalise", "embed", "resize", "first"])
def test_the_axis_of_the_channels(make_model: Any, bands: int, how: str) -> None:
    """From the first operator that treats one axis differently, however many entries it has."""
    mean = np.linspace(0.1, 0.2, bands).astype(np.float32)
    conv = "t = Transpose<perm = [0, 3, 1, 2]>(v) p = Conv<strides = [4, 4]>(t, w) "
    before = {
        "transpose": "v = Identity(x) " + conv,
        "normalise": "v = Sub(x, mean) " + conv,
        "embed": "m = MatMul(x, wide) v = Relu(m) " + conv.replace("w)", "w4)"),
        "resize": "v = Resize(x, , , sizes) " + conv,
        "first": "p = Conv<strides = [4, 4]>(x, w) ",
    }[how]
    weights = {
        "w": np.ones((4, bands, 4, 4), np.float32),
        "w4": np.ones((4, 4, 4, 4), np.float32),
        "wide": np.ones((bands, 4), np.float32),
        "mean": mean,
        "half": np.full((4, 2), 0.5, np.float32),
        "sizes": np.array([1, 24, 16, bands], np.int64),
    }
    shape = f"1,{bands},12,16" if how == "first" else f"1,12,16,{bands}"
    model = make_model(before + HEAD, weights, f"float[{shape}] x", "float[N,2] y", 18)
    result = pcam.Explainer(model, threads=1)(np.ones([int(n) for n in shape.split(",")], np.float32), 0)
    assert result.channel_axis == (1 if how == "first" else 3)
    assert result["gradcam"].shape == (1, 1, 12, 16)


def test_channels_that_nothing_tells(make_model: Any) -> None:
    """A fully connected network treats all axes alike: sizes may tell, else it is asked for."""
    weights = {"w": np.ones((2 * 6 * 5, 3), np.float32)}
    model = make_model("f = Flatten(x) y = MatMul(f, w)", weights, "float[1,2,6,5] x", "float[N,3] y")
    with pytest.raises(InputError, match=r"cannot be told .* declare it with axes=\{'x': 'NCHW'\}, or NHWC"):
        pcam.Explainer(model, ("gradient",))
    result = pcam.Explainer(model, ("gradient",), axes={"x": "NHWC"}, threads=1)(np.ones((1, 2, 6, 5), np.float32), 0)
    assert result.channel_axis == 3
    for axes in ({"x": "NHCW"}, {"x": "NTC"}, {"z": "NCHW"}):
        with pytest.raises(InputError, match=r"does not name the axes of 'x'|no tensor of the model"):
            pcam.Explainer(model, ("gradient",), axes=axes)


def test_a_layer_that_is_declared(make_model: Any) -> None:
    """What an operator lost can be said: the map is then stretched over the image."""
    body = """
        v = GridSample(x, bent) p = Conv<strides = [2, 2]>(v, w)
        t = Transpose<perm = [2, 0, 3, 1]>(p) r = Relu(t) u = Transpose<perm = [1, 3, 0, 2]>(r)
        g = GlobalAveragePool(u) f = Flatten(g) y = MatMul(f, half)
    """
    weights = {
        "bent": np.random.default_rng(2).uniform(-1, 1, (1, 8, 12, 2)).astype(np.float32),
        "w": np.random.default_rng(3).standard_normal((4, 3, 2, 2)).astype(np.float32),
        "half": np.full((4, 2), 0.5, np.float32),
    }
    model = make_model(body, weights, "float[1,3,8,12] x", "float[1,2] y", 20)
    with pytest.raises(LayerError, match=r"layer 'r' .* axis 0 is not known behind GridSample .* declare its axes"):
        pcam.Explainer(model, layer="r")
    explainer = pcam.Explainer(model, layer="r", axes={"r": "HNWC"}, details=True, threads=1)
    image = np.random.default_rng(4).random((1, 3, 8, 12), np.float32)
    result = explainer(image, 0)
    assert result.activations is not None
    assert result.activations.shape == (1, 4, 4, 6)
    plain = pcam.Explainer(model, layer="u", axes={"u": "NCHW"}, details=True, threads=1)(image, 0)
    assert plain.activations is not None
    np.testing.assert_allclose(result.activations, plain.activations, rtol=1e-6)
    np.testing.assert_allclose(result["gradcam"], plain["gradcam"], atol=1e-6)
