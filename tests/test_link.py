# SPDX-License-Identifier: Apache-2.0
"""Two ONNX files joined into one: what comes out is what the two compute one after the other."""

import numpy as np
import onnx
import pytest

from portable_cam.errors import ModelError
from portable_cam.export import differentiate, link
from portable_cam.runtime.session import Session


def parsed(text: str, opset: int, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture
def encoder() -> onnx.ModelProto:
    """An older opset, and names that the decoder has too."""
    body = """(float[N,3,4,4] image) => (float[N,5,4,4] features, float[N,5] pooled) {
        hidden = Conv<pads = [1, 1, 1, 1]>(image, w)
        features = Relu(hidden)
        pooled = ReduceMean<axes = [2, 3], keepdims = 0>(features)
    }"""
    return parsed(body, 13, w=random(5, 3, 3, 3))


@pytest.fixture
def decoder() -> onnx.ModelProto:
    body = """(float[batch,5] memory, int64[batch,T] tokens) => (float[batch,T,5] logits) {
        words = Gather(w, tokens)
        hidden = Unsqueeze(memory, one)
        logits = Add(words, hidden)
    }"""
    return parsed(body, 18, w=random(7, 5), one=np.array([1]))


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Session(model).run(feeds)


def test_computes_what_the_two_compute(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    linked = link(encoder, decoder, {"pooled": "memory"})
    onnx.checker.check_model(linked, full_check=True)
    assert [value.name for value in linked.graph.input] == ["image", "tokens"]
    assert [value.name for value in linked.graph.output] == ["logits", "features"]
    image, tokens = random(2, 3, 4, 4), np.array([[1, 2, 3], [4, 5, 6]])
    seen = run(encoder, {"image": image})
    expected = run(decoder, {"memory": seen["pooled"], "tokens": tokens})
    got = run(linked, {"image": image, "tokens": tokens})
    np.testing.assert_allclose(got["logits"], expected["logits"], rtol=1e-6)
    np.testing.assert_allclose(got["features"], seen["features"], rtol=1e-6)


def test_finds_the_only_pair_that_fits(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    assert link(encoder, decoder) == link(encoder, decoder, {"pooled": "memory"})


def test_joins_equal_names_first(encoder: onnx.ModelProto) -> None:
    body = "(float[N,5,4,4] features, float[N,5] other) => (float[N,5,4,4] y) { y = Relu(features) }"
    linked = link(encoder, parsed(body, 21), keep=["other"])
    assert [value.name for value in linked.graph.input] == ["image", "other"]


def test_symbols_of_the_decoder_become_those_of_the_encoder(encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    logits = link(encoder, decoder, {"pooled": "memory"}).graph.output[0]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["N", "T", 5]


def test_links_with_itself_and_differentiates(encoder: onnx.ModelProto) -> None:
    """Every name of the second is taken."""
    square = parsed(
        "(float[N,5,4,4] image) => (float[N,5,4,4] features) { hidden = Mul(image, image) features = Relu(hidden) }", 17
    )
    once = link(encoder, square, {"features": "image"})
    assert [value.name for value in once.graph.output] == ["decoder/features", "pooled"]
    image, seed = random(1, 3, 4, 4), random(1, 5, 4, 4)
    got = run(differentiate(once, "decoder/features", ["features"]), {"image": image, "seed": seed})
    features = run(encoder, {"image": image})["features"]
    np.testing.assert_allclose(got["gradient.features"], 2 * features * seed, rtol=1e-5)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"nothing": "memory"}, "output 'nothing' of the encoder, which does not exist.*features, pooled"),
        ({"pooled": "nothing"}, "input 'nothing' of the decoder, which does not exist.*memory, tokens"),
        ({"features": "memory"}, r"does not fit.*'features' FLOAT\[N,5,4,4\].*4 dimensions are not 2"),
        ({"pooled": "tokens"}, "does not fit.*FLOAT is not INT64"),
        ({"pooled": "memory", "features": "memory"}, "fills one input of the decoder twice"),
    ],
)
def test_what_does_not_fit(
    encoder: onnx.ModelProto, decoder: onnx.ModelProto, mapping: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        link(encoder, decoder, mapping)


def test_sizes_that_differ(encoder: onnx.ModelProto) -> None:
    narrow = parsed("(float[N,4] memory) => (float[N,4] y) { y = Relu(memory) }", 21)
    with pytest.raises(ModelError, match="along axis 1, 5 is not 4"):
        link(encoder, narrow, {"pooled": "memory"})
    with pytest.raises(ModelError, match=r"does not fit the encoder: none of the encoder's outputs"):
        link(encoder, narrow)


def test_an_input_left_open(encoder: onnx.ModelProto) -> None:
    two = parsed("(float[N,5] memory, float[1,N,5] state) => (float[1,N,5] y) { y = Add(memory, state) }", 21)
    with pytest.raises(ModelError, match=r"input 'state'.*is left open"):
        link(encoder, two, {"pooled": "memory"})
    assert len(link(encoder, two, {"pooled": "memory"}, keep=["state"]).graph.input) == 2
    with pytest.raises(ModelError, match="keep names 'nobody'"):
        link(encoder, two, {"pooled": "memory"}, keep=["state", "nobody"])


def test_several_pairs_fit(encoder: onnx.ModelProto) -> None:
    two = parsed("(float[N,5] a, float[N,5] b) => (float[N,5] y) { y = Add(a, b) }", 21)
    with pytest.raises(ModelError, match="fit each other: give a mapping"):
        link(encoder, two)
    assert len(link(encoder, two, {"pooled": "a"}, keep=["b"]).graph.input) == 2
