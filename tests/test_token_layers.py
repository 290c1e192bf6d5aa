# SPDX-License-Identifier: Apache-2.0
"""Layers that are no maps (N, C, h, w): which of their axes are the picture's, and what is made of them.

Networks are written by hand here, small enough for numpy to say what the map must be; those exported from torch are in
``tests/test_architectures.py``.
"""

from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam.errors import LayerError
from portable_cam.export import doctor, list_layers

RANDOM = np.random.default_rng(23)
X = RANDOM.standard_normal((2, 3, 8, 12)).astype(np.float32)
INPUT = "float[N,3,8,12] x"
PATCH = "p = Conv<strides = [4, 4]>(x, patch) "  # (N, 6, 2, 3)


def weights(**more: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    given = {
        "patch": random.standard_normal((6, 3, 4, 4)) / 4,
        "w": random.standard_normal((6, 5)),
        "q": random.standard_normal((6, 6)) / 2,
        "k": random.standard_normal((6, 6)) / 2,
        "v": random.standard_normal((6, 6)) / 2,
        "class_token": random.standard_normal((1, 1, 6)),
    }
    return {
        **{name: value.astype(np.float32) for name, value in given.items()},
        "to_tokens": np.array([0, 6, 6], np.int64),
        "first": np.array(0, np.int64),
        "axis": np.array([1], np.int64),
        **more,
    }


ATTENTION = """
    query = MatMul(n, q) key = MatMul(n, k) value = MatMul(n, v)
    turned = Transpose<perm = [0, 2, 1]>(key)
    logits = MatMul(query, turned)
    shares = Softmax(logits)
    mixed = MatMul(shares, value)
    out = Add(t, mixed)
"""
CLASS_TOKEN = """
    flat = Reshape(p, to_tokens) alone = Transpose<perm = [0, 2, 1]>(flat)
    batch = Shape<end = 1>(alone) size = Concat<axis = 0>(batch, ones) many = Expand(class_token, size)
    t = Concat<axis = 1>(many, alone) n = Tanh(t)
"""


def vision_transformer(make_model: Any, head: str) -> onnx.ModelProto:
    """Patches, a class token, one block of attention, a head."""
    ones = np.array([1, 6], np.int64)
    return make_model(PATCH + CLASS_TOKEN + ATTENTION + head, weights(ones=ones), INPUT)


def gradcam_of(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(N, C, h, w) twice -> (N, 1, h, w)."""
    return np.maximum((gradient.mean((2, 3), keepdims=True) * activation).sum(1, keepdims=True), 0)


def numeric_gradient(model: onnx.ModelProto, layer: str, target: int) -> tuple[np.ndarray, np.ndarray]:
    """A tensor of the model and the score's gradient with respect to it, by central differences of each element."""
    import onnx_ir as ir

    from portable_cam.export import normalize
    from portable_cam.runtime.session import Session

    cut = ir.to_proto(normalize(model))
    probe = onnx.ModelProto()
    probe.CopyFrom(cut)
    probe.graph.output.append(onnx.ValueInfoProto(name=layer))
    value = Session(probe, threads=1).run({"x": X})[layer]
    tail = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(cut)).extract_model([layer, "x"], ["y"])
    session = Session(tail, threads=1)
    step, gradient = 1e-2, np.zeros(value.shape)
    for index in np.ndindex(*value.shape[1:]):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[(slice(None), *index)] += sign * step
            feeds = {name: moved if name == layer else X for name in session.inputs}
            ends.append(session.run(feeds)["y"][:, target].astype(np.float64))
        gradient[(slice(None), *index)] = (ends[0] - ends[1]) / (2 * step)
    return value, gradient


# -- which layer, and where its places are ----------------------------------------------------------------------------


def test_class_token(make_model: Any) -> None:
    """Behind the attention only the class token is read: the layer is what the attention reads."""
    model = vision_transformer(make_model, "c = Gather<axis = 1>(out, first) y = Gemm(c, w)")
    layers = list_layers(model)
    assert (layers[0].name, layers[0].layout, layers[0].grid, layers[0].stride) == ("n", "NTC", (2, 3), 4)
    assert "more than the class token" in layers[0].why
    assert "out" not in [layer.name for layer in layers]
    assert not {"logits", "shares"} & {layer.name for layer in layers}  # cells by cells, no channels
    report = doctor(model)
    assert report.layers[0] == "n"
    assert report.methods["gradcam"] == "yes"
    with pytest.raises(LayerError, match=r"layer 'out' .* read only those before the image's .* zero everywhere"):
        pcam.Explainer(model, layer="out")


def test_class_token_cut_out_by_a_computed_size(make_model: Any) -> None:
    """As many as were put before the patches: nothing behind the attention reads the patches here either."""
    head = """
        count = Shape<start = 1, end = 2>(many) front = Slice(out, begin, count, axis)
        last = LayerNormalization(front, scale) c = ReduceMean<axes = [1], keepdims = 0>(last) y = Gemm(c, w)
    """
    given = weights(ones=np.array([1, 6], np.int64), begin=np.array([0]), scale=np.ones(6, np.float32))
    model = make_model(PATCH + CLASS_TOKEN + ATTENTION + head, given, INPUT)
    assert list_layers(model)[0].name == "n"
    result = pcam.Explainer(model, details=True, threads=1)(X, 0)
    assert result.gradients is not None
    assert np.abs(result.gradients).max() > 0


def test_class_token_and_mean(make_model: Any) -> None:
    """Where the head reads the patches too, the last layer is the last tensor."""
    head = "c = ReduceMean<axes = [1], keepdims = 0>(out) y = Gemm(c, w)"
    assert list_layers(vision_transformer(make_model, head))[0].name == "out"


@pytest.mark.parametrize("layer", ["n", "t", "value"])
def test_map_of_tokens(make_model: Any, layer: str) -> None:
    """Without the class token, on the grid of the patches, for the layer chosen and for others by name."""
    model = vision_transformer(make_model, "c = Gather<axis = 1>(out, first) y = Gemm(c, w)")
    value, gradient = numeric_gradient(model, layer, 2)
    maps = [array[:, 1:].reshape(2, 2, 3, 6).transpose(0, 3, 1, 2) for array in (value, gradient)]
    result = pcam.Explainer(model, layer=layer, details=True, threads=1)(X, 2)
    assert result.activations is not None
    assert result.gradients is not None
    np.testing.assert_allclose(result.activations, maps[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.gradients[:, 0], maps[1], atol=2e-3 * np.abs(maps[1]).max())
    want = gradcam_of(*maps)
    np.testing.assert_allclose(result.raw["gradcam"], want, atol=4e-3 * np.abs(want).max())
    assert result["gradcam"].shape == (2, 1, 8, 12)


def test_channels_last(make_model: Any) -> None:
    """(N, h, w, C) in the middle of a model with channels first."""
    body = PATCH + "l = Transpose<perm = [0, 2, 3, 1]>(p) s = MatMul(l, q) r = Relu(s) "
    body += "m = ReduceMean<axes = [1, 2], keepdims = 0>(r) y = Gemm(m, w)"
    model = make_model(body, weights(), INPUT)
    layer = list_layers(model)[0]
    assert (layer.name, layer.layout, layer.grid, layer.channels) == ("r", "NHWC", (2, 3), 6)
    value, gradient = numeric_gradient(model, "r", 1)
    result = pcam.Explainer(model, ("gradcam", "layercam"), details=True, threads=1)(X, 1)
    assert result.activations is not None
    np.testing.assert_allclose(result.activations, value.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    want = gradcam_of(value.transpose(0, 3, 1, 2), gradient.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(result.raw["gradcam"], want, atol=4e-3 * np.abs(want).max())


def test_tokens_before_images(make_model: Any) -> None:
    """(T, N, C), as torch's attention takes it where the batch is not first."""
    body = PATCH + "flat = Reshape(p, to_tokens) t = Transpose<perm = [2, 0, 1]>(flat) n = Tanh(t) "
    body += "m = ReduceMean<axes = [0], keepdims = 0>(n) y = Gemm(m, w)"
    model = make_model(body, weights(), INPUT)
    layer = list_layers(model)[0]
    assert (layer.name, layer.layout, layer.grid) == ("n", "TNC", (2, 3))
    for targets in ([[0, 1], [2, 3]], [[4], [4]]):
        result = pcam.Explainer(model, details=True, threads=1)(X, targets)
        assert result.activations is not None
        assert result.activations.shape == (2, 6, 2, 3)
        assert result.raw["gradcam"].shape == (2, len(targets[0]), 2, 3)
    head = weights()["w"]
    want = np.maximum(np.einsum("nchw,c->nhw", result.activations, head[:, 4]) / 6, 0)
    np.testing.assert_allclose(result.raw["gradcam"][:, 0], want, rtol=1e-4, atol=1e-6)


def test_several_layers_of_different_layouts(make_model: Any) -> None:
    model = vision_transformer(make_model, "c = Gather<axis = 1>(out, first) y = Gemm(c, w)")
    result = pcam.Explainer(model, layer=["p", "n"])(X, 0)
    assert {name: value.shape[2:] for name, value in result.raw.items()} == {"gradcam.p": (2, 3), "gradcam.n": (2, 3)}


def test_windows_and_a_roll(make_model: Any) -> None:
    """Within windows the places are lost, and back where the residual sum is; a rolled axis has two parts."""
    body = (
        PATCH.replace("[4, 4]", "[2, 2]").replace("patch", "small")
        + """
        l = Transpose<perm = [0, 2, 3, 1]>(p)
        a = Slice(l, one, end, axis) b = Slice(l, zero, one, axis) rolled = Concat<axis = 1>(a, b)
        cut = Reshape(rolled, windows) turned = Transpose<perm = [0, 1, 3, 2, 4, 5]>(cut) w0 = Reshape(turned, cells)
        act = Tanh(w0)
        w1 = Reshape(act, back) w2 = Transpose<perm = [0, 1, 3, 2, 4, 5]>(w1) joined = Reshape(w2, whole)
        c = Slice(joined, last, end, axis) d = Slice(joined, zero, last, axis) unrolled = Concat<axis = 1>(c, d)
        s = Add(l, unrolled)
        m = ReduceMean<axes = [1, 2], keepdims = 0>(s) y = Gemm(m, w)
    """
    )
    shapes = {
        "one": [1],
        "end": [2**31],
        "zero": [0],
        "last": [3],
        "windows": [0, 2, 2, 3, 2, 6],
        "cells": [-1, 4, 6],
        "back": [-1, 2, 3, 2, 2, 6],
        "whole": [-1, 4, 6, 6],
    }
    small = {"small": weights()["patch"][:, :, :2, :2]}
    given = weights(**small, **{name: np.array(shape, np.int64) for name, shape in shapes.items()})
    layers = {layer.name: layer for layer in list_layers(make_model(body, given, INPUT))}
    assert next(iter(layers)) == "s"
    assert (layers["s"].layout, layers["s"].grid) == ("NHWC", (4, 6))
    assert "act" not in layers
    assert layers["rolled"].grid == (4, 6)
    model = make_model(body.replace("Add(l, unrolled)", "Add(l, joined)"), given, INPUT)
    with pytest.raises(LayerError, match=r"layer 's' .* axis 1 is not known behind Add '.*': it joins two views"):
        pcam.Explainer(model, layer="s")


# -- where the graph does not tell -------------------------------------------------------------------------------------


def test_patches_cut_out_by_indices(make_model: Any) -> None:
    """Patches cut out by a gather of their pixels: the indices follow the order of rows and columns of patches."""
    random = np.random.default_rng(2)
    body = """
        flat = Reshape(x, rows) patches = Gather<axis = 1>(flat, pick) t = MatMul(patches, embed)
        n = Tanh(t) m = ReduceMean<axes = [1], keepdims = 0>(n) y = Gemm(m, w)
    """
    pixels = np.arange(3 * 8 * 12).reshape(3, 2, 4, 3, 4).transpose(1, 3, 0, 2, 4).reshape(6, 48)
    given = weights(rows=np.array([0, 288], np.int64), pick=pixels, embed=random.standard_normal((48, 6)).astype("f4"))
    model = make_model(body, given, INPUT)
    layer = list_layers(model)[0]
    assert (layer.name, layer.grid) == ("n", (2, 3))
    assert layer.stride == 4
    result = pcam.Explainer(model, details=True)(X, 0)
    assert result.raw["gradcam"].shape == (2, 1, 2, 3)


def test_no_guess_where_the_graph_tells(make_model: Any) -> None:
    """24 tokens of a picture of 8 x 12 could be 4 x 6; the graph says that they are 2 x 12."""
    body = "p = Conv<strides = [4, 1]>(x, tall) flat = Reshape(p, to_tokens) t = Transpose<perm = [0, 2, 1]>(flat) "
    body += "n = Tanh(t) m = ReduceMean<axes = [1], keepdims = 0>(n) y = Gemm(m, w)"
    given = weights(tall=weights()["patch"][..., :1], to_tokens=np.array([0, 6, 24], np.int64))
    layer = list_layers(make_model(body, given, INPUT))[0]
    assert (layer.name, layer.grid) == ("n", (2, 12))


def test_tokens_that_make_no_grid(make_model: Any) -> None:
    """9 tokens, or 8, 7 or 4 behind others, have not the proportions of a picture of 8 x 12."""
    body = """
        flat = Reshape(x, rows) some = Slice(flat, begin, end, axis) t = Reshape(some, odd) n = MatMul(t, wide)
        m = ReduceMean<axes = [1], keepdims = 0>(n) y = Gemm(m, w)
    """
    given = weights(
        rows=np.array([0, 288], np.int64),
        odd=np.array([0, 9, 31], np.int64),
        begin=np.array([0]),
        end=np.array([279]),
        wide=RANDOM.standard_normal((31, 6)).astype(np.float32),
    )
    with pytest.raises(LayerError, match=r"layer 'n' has shape .*tokens \(N, T, C\) whose rows and columns"):
        pcam.Explainer(make_model(body, given, INPUT), layer="n")
