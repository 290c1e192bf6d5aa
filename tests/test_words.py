# SPDX-License-Identifier: Apache-2.0
"""Scores of the words that go in, and layers of models that read words too."""

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam.errors import OptionError
from portable_cam.export import list_layers

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((2, 3, 8, 8)).astype(np.float32)
QUESTIONS = np.array([[1, 4, 2], [3, 3, 0]])
BODY = """
    f = Conv<pads = [1, 1, 1, 1]>(x, w)
    a = Tanh(f)
    e = Gather(table, q)
    s = MatMul(e, mix)
    p = Reshape(a, cells)
    t3 = MatMul(s, p)
    t4 = Unsqueeze(t3, one)
    t = Tanh(t4)
    y4 = ReduceMax<keepdims = 0>(t, last)
    y = Squeeze(y4, one)
"""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A question attends to a picture: t (N, 1, words, cells) has four dimensions, but is no map."""
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[N,3,8,8] x, int64[N,3] q) => (float[N,3] y) {{ {BODY} }}'
    proto = onnx.parser.parse_model(text)
    weights = {
        "w": RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5,
        "table": RANDOM.standard_normal((5, 6)).astype(np.float32),
        "one": np.array([1]),
        "last": np.array([3]),
        "mix": RANDOM.standard_normal((6, 4)).astype(np.float32) / 3,
        "cells": np.array([0, 4, 64]),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return proto


def table_of(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == "table")


def test_words_are_gradient_times_embedding(model: onnx.ModelProto) -> None:
    """Scaling one word's row of the table changes the score at the rate that the word's places have together."""
    explainer = pcam.Explainer(model, ("gradient",), words=True)
    targets = [[0, 2], [1, 0]]
    words = explainer({"x": X, "q": QUESTIONS}, targets).words["q"]
    assert words.shape == (2, 2, 3)
    step = 1e-2
    for word in np.unique(QUESTIONS):
        ends = []
        for sign in (1, -1):
            moved = onnx.ModelProto()
            moved.CopyFrom(model)
            table = onnx.numpy_helper.to_array(table_of(moved)).copy()
            table[word] *= 1 + sign * step
            table_of(moved).CopyFrom(onnx.numpy_helper.from_array(table, "table"))
            ends.append(pcam.Explainer(moved, ("gradient",))({"x": X, "q": QUESTIONS}, targets).scores)
        numeric = (ends[0] - ends[1]) / (2 * step)
        analytic = (words * (word == QUESTIONS)[:, None]).sum(-1)
        np.testing.assert_allclose(analytic, numeric, rtol=2e-2, atol=2e-3)
    assert np.abs(words).max() > 0.1


def test_one_target_is_the_same(model: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(model, words=True)
    both = explainer({"x": X, "q": QUESTIONS}, [[0, 2], [1, 0]]).words["q"]
    one = explainer({"x": X, "q": QUESTIONS}, [0, 1]).words["q"]
    np.testing.assert_allclose(one[:, 0], both[:, 0], rtol=1e-5)


def test_no_words_unless_asked(model: onnx.ModelProto) -> None:
    assert pcam.Explainer(model)({"x": X, "q": QUESTIONS}, [0, 1]).words == {}


def test_no_words_to_score(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match=r"no input holds token ids \(N, T\).*'x' FLOAT"):
        pcam.Explainer(small_cnn, words=True)


def test_what_words_and_cells_span_is_no_layer(model: onnx.ModelProto) -> None:
    assert [layer.name for layer in list_layers(model)] == ["a", "f"]
