# SPDX-License-Identifier: Apache-2.0
"""Captions, on the models that ``benchmarks/train/caption.py`` trains: what is said, scores, where maps lie."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from costs import slow_but

from benchmarks.train.scenes import VOCABULARY, Scene, draw_scene
from portable_cam.errors import InputError, LabelError, ModelError, TargetError
from portable_cam.runtime.session import Session
from portable_cam.tasks.language.caption import CaptionExplainer
from portable_cam.tasks.language.decoding import Pair
from portable_cam.tasks.language.spans import find_spans
from portable_cam.tasks.language.vocabulary import Vocabulary, read_vocabulary

MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
ENCODER, WORDS = MODELS / "caption_encoder.onnx", MODELS / "caption_words.txt"
DECODERS = ("lstm_decoder", "transformer_decoder", "lstm_step")


def scenes(count: int) -> list[Scene]:
    """Scenes that no model was trained on."""
    random = np.random.default_rng(2_000_000)
    return [draw_scene(random) for _ in range(count)]


@cache
def captioner(decoder: str) -> CaptionExplainer:
    return CaptionExplainer(ENCODER, decoder=MODELS / f"caption_{decoder}.onnx", vocabulary=WORDS, threads=1)


@pytest.mark.parametrize("decoder", slow_but(["lstm_decoder"], DECODERS))
def test_says_what_is_there(decoder: str) -> None:
    right = count = 0
    for scene in scenes(30):
        said = captioner(decoder).caption(scene.pixels)
        right += sum(a == b for a, b in zip(said, scene.words, strict=False))
        count += max(len(said), len(scene.words))
    assert right / count > 0.95


def test_one_file_says_the_same_as_two() -> None:
    whole = CaptionExplainer(MODELS / "caption_lstm.onnx", vocabulary=WORDS, threads=1)
    for scene in scenes(3):
        one, two = whole(scene.pixels), captioner("lstm_decoder")(scene.pixels)
        assert one.words == two.words
        np.testing.assert_allclose(one.result["layercam"], two.result["layercam"], atol=1e-3)


@pytest.mark.slow
def test_a_decoder_of_one_step_explains_as_one_of_the_whole_sequence() -> None:
    scene = scenes(1)[0]
    steps, whole = captioner("lstm_step")(scene.pixels), captioner("lstm_decoder")(scene.pixels)
    assert steps.words == whole.words
    np.testing.assert_allclose(steps.result.scores, whole.result.scores, atol=1e-4)
    np.testing.assert_allclose(steps.result["layercam"], whole.result["layercam"], atol=1e-2)


@pytest.mark.parametrize("decoder", slow_but(["lstm_decoder"], ["lstm_decoder", "transformer_decoder"]))
def test_scores_are_log_probabilities(decoder: str) -> None:
    """Of a caption that the user gives: each word, a phrase and the whole, from the decoder's own output."""
    scene = scenes(1)[0]
    text = "a red circle above a blue cross"
    explained = captioner(decoder)(scene.pixels, ["red", "blue cross", "*", "a"], caption=text)
    assert explained.labels == [["red", "blue cross", text, "a", "a"]]
    assert explained.text_given
    ids = [VOCABULARY.index(w) for w in ("<start>", *text.split())]
    seen = Session(onnx.load(ENCODER)).run({"image": captioner(decoder).preprocessing(scene.pixels)})
    run = Session(onnx.load(MODELS / f"caption_{decoder}.onnx")).run
    logits = run({"features": seen["features"], "tokens": np.array([ids])})["logits"][0]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = np.array([logs[t, ids[t + 1]] for t in range(len(ids) - 1)])
    expected = [each[1], each[5] + each[6], each.sum(), each[0], each[4]]
    np.testing.assert_allclose(explained.result.scores[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", slow_but(["lstm_decoder"], DECODERS))
def test_gradient_is_the_finite_difference(decoder: str) -> None:
    """Of a word that the model does not say, whose gradient is large; along the gradient itself."""
    scene, text = scenes(1)[0], "a purple cross left"
    task = CaptionExplainer(
        ENCODER, decoder=MODELS / f"caption_{decoder}.onnx", vocabulary=WORDS, methods=("gradient",), threads=1
    )
    x = task.preprocessing(scene.pixels)
    ids, spans = task.vocabulary.encode(text), [(1, 2), (0, 4)]
    gradient = task._result(x, ids, spans)["gradient"][0]
    for k in range(len(spans)):
        direction = (gradient[k] / np.linalg.norm(gradient[k]))[None]
        step = 1e-3
        ends = [task._result(x + s * step * direction, ids, spans).scores[0, k] for s in (1, -1)]
        numeric, analytic = (ends[0] - ends[1]) / (2 * step), np.linalg.norm(gradient[k])
        assert analytic > 0.1
        assert abs(numeric - analytic) < 0.05 * analytic


@pytest.mark.parametrize(
    ("decoder", "share"), slow_but(["lstm_decoder"], [("lstm_decoder", 0.9), ("transformer_decoder", 0.9)])
)
def test_peaks_lie_on_what_the_words_name(decoder: str, share: float) -> None:
    on = []
    for scene in scenes(20):
        explained = captioner(decoder)(scene.pixels, caption=scene.words)
        for k, named in enumerate(scene.named):
            if named is not None:
                peak = np.unravel_index(explained.result["layercam"][0, k].argmax(), (64, 64))
                on.append(bool(scene.masks[named][peak]))
    assert np.mean(on) >= share


def test_words_that_are_not_there() -> None:
    pixels, task = scenes(1)[0].pixels, captioner("transformer_decoder")
    with pytest.raises(LabelError, match=r"the word 'pruple' is not in .*caption_words.txt.*close to it are: purple"):
        task(pixels, caption="a pruple circle")
    with pytest.raises(TargetError, match="'blue' is not in 'a red circle': name a part of that, or give the caption"):
        task(pixels, ["blue"], caption="a red circle")
    with pytest.raises(InputError, match="the caption has 12 words with the one that starts it, more than the decoder"):
        task(pixels, caption="a red circle above a red circle above a red circle")


def test_a_decoder_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match="the decoder does not fit the encoder: none of the encoder's outputs"):
        CaptionExplainer(ENCODER, decoder=MODELS / "vqa_recurrent.onnx", vocabulary=WORDS)
    with pytest.raises(ModelError, match="mapping names output 'memory' of the encoder, which does not exist"):
        CaptionExplainer(
            ENCODER, decoder=MODELS / "caption_lstm_decoder.onnx", vocabulary=WORDS, mapping={"memory": "x"}
        )
    with pytest.raises(ModelError, match="takes one step at a time needs its encoder in a file of its own"):
        Pair(whole_with_state())
    with pytest.raises(ModelError, match="a decoder needs one input of token ids"):
        Pair(ENCODER)
    with pytest.raises(ModelError, match=r"the encoder needs one input with a picture .*'x' FLOAT"):
        Pair(
            onnx.parser.parse_model(
                '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
            ),
            ENCODER,
        )


def whole_with_state() -> onnx.ModelProto:
    return onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,2,2] image, int64[N,1] ids, float[N,4] h) => (float[N,1,4] y, float[N,4] n) {
        f = Flatten(image) c = Cast<to = 1>(ids) s = Sum(f, c, h) n = Tanh(s)
        one = Constant<value_ints = [1]>() y = Unsqueeze(n, one) }""")


@pytest.mark.slow
def test_names_that_both_models_have() -> None:
    """The encoder's first tensor inside is called as the decoder's input and output, one of them for each kind."""
    encoder = onnx.load(ENCODER)
    inside = [node.output[0] for node in encoder.graph.node][:3]
    for old, new in zip(inside, ("tokens", "logits", "h"), strict=True):
        for node in encoder.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    scene = scenes(1)[0]
    for decoder in DECODERS:
        task = CaptionExplainer(
            encoder, decoder=MODELS / f"caption_{decoder}.onnx", vocabulary=WORDS, preprocessing="unit", threads=1
        )
        got, expected = task(scene.pixels), captioner(decoder)(scene.pixels)
        np.testing.assert_allclose(got.result["layercam"], expected.result["layercam"], atol=1e-3)


def test_a_vocabulary_that_does_not_fit() -> None:
    decoder = MODELS / "caption_lstm_decoder.onnx"
    with pytest.raises(LabelError, match="has 2 words, but the model scores 19 tokens"):
        CaptionExplainer(ENCODER, decoder=decoder, vocabulary=Vocabulary(("<start>", "<end>")))
    plain = Vocabulary(tuple(f"w{i}" for i in range(19)))
    with pytest.raises(LabelError, match="no words that mark the start and the end"):
        CaptionExplainer(ENCODER, decoder=decoder, vocabulary=plain)


def test_a_decoder_of_fixed_length() -> None:
    """Token ids (N, 6), filled up: the same caption scores the same."""
    model = onnx.load(MODELS / "caption_lstm_decoder.onnx")
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 9
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "T":
                dim.dim_value = 9
    fixed = CaptionExplainer(ENCODER, decoder=model, vocabulary=WORDS, threads=1)
    scene = scenes(1)[0]
    free = captioner("lstm_decoder")(scene.pixels)
    got = fixed(scene.pixels)
    assert got.words == free.words
    np.testing.assert_allclose(got.result.scores, free.result.scores, atol=1e-5)
    with pytest.raises(InputError, match="the decoder takes at most 9: shorten it"):
        fixed(scene.pixels, caption="a red circle above a red circle above a red circle")


def test_spans() -> None:
    words = "a red circle left of a red cross".split()
    assert find_spans(words, None) == [(i, i + 1) for i in range(8)]
    assert find_spans(words, [["a", "red"], ["*"], ["cross"]]) == [(0, 2), (5, 7), (0, 8), (7, 8)]
    assert find_spans(words, [["red"], ["red"]]) == [(1, 2), (6, 7)]


def test_vocabularies(tmp_path: Path) -> None:
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    expected = ("<pad>", "<start>", "<end>", "a", "don't", "Cat")
    text = written("words.txt", "\n".join(expected) + "\n\n")
    as_list = written("list.json", '["<pad>", "<start>", "<end>", "a", "don\'t", "Cat"]')
    by_word = written("ids.json", '{"a": 3, "<pad>": 0, "<end>": 2, "<start>": 1, "don\'t": 4, "Cat": 5}')
    by_id = written("words.json", '{"0": "<pad>", "1": "<start>", "2": "<end>", "3": "a", "5": "Cat", "4": "don\'t"}')
    for path in (text, as_list, by_word, by_id):
        vocabulary = read_vocabulary(path)
        assert vocabulary.words == expected
        assert (vocabulary.pad, vocabulary.start, vocabulary.end) == (0, 1, 2)
        assert vocabulary.encode("A cat? Don't!") == [3, 5, 4]
        assert vocabulary.decode([1, 3, 5, 2]) == ["a", "Cat"]
    assert Vocabulary(("a", "<unk>")).encode("a dog") == [0, 1]
    for name, text_, message in (
        ("a.json", "{", "is not JSON"),
        ("b.json", "3", "does not hold a vocabulary"),
        ("c.txt", "\n", "no words"),
        ("d.json", '{"a": 0, "b": 2}', "ids of a vocabulary are 0 to 1, each once"),
        ("e.json", '{"a": 0, "b": 0}', "ids of a vocabulary are 0 to 1, each once"),
    ):
        with pytest.raises(LabelError, match=message):
            read_vocabulary(written(name, text_))
    with pytest.raises(LabelError, match="cannot read the vocabulary"):
        read_vocabulary(tmp_path / "nothing.txt")
    with pytest.raises(LabelError, match="holds no words"):
        vocabulary.encode("?!")
