# SPDX-License-Identifier: Apache-2.0
"""Visual question answering, on the models that ``benchmarks/train/vqa.py`` trains, and pictures drawn like theirs."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from portable_cam.errors import InputError, LabelError, OptionError
from portable_cam.tasks.language.question import QuestionExplainer
from portable_cam.tasks.language.vocabulary import Vocabulary

MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
WORDS, ANSWERS = MODELS / "vqa_words.txt", MODELS / "vqa_answers.txt"
NAMES = ("vqa_recurrent", "vqa_attention")
#: Colours as easy-vqa paints them.
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}


@cache
def asker(name: str, explain: str = "both") -> QuestionExplainer:
    path = MODELS / f"{name}.onnx"
    return QuestionExplainer(path, vocabulary=WORDS, labels=ANSWERS, explain=explain, threads=1)


def picture(colour: str, shape: str, centre: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and where its shape lies."""
    y, x = np.mgrid[:64, :64] - np.array(centre)[:, None, None]
    inside = np.hypot(x, y) < 12 if shape == "circle" else (abs(x) < 13) & (abs(y) < 9)
    pixels = np.full((64, 64, 3), (245, 240, 250), np.uint8)
    pixels[inside] = COLOURS[colour]
    return pixels, inside


CASES = [
    (colour, shape, centre) for colour in COLOURS for shape, centre in (("circle", (20, 40)), ("rectangle", (42, 22)))
]


@pytest.mark.parametrize("name", NAMES)
def test_answers_and_looks_at_the_shape(name: str) -> None:
    right, near = [], []
    for colour, shape, centre in CASES:
        pixels, inside = picture(colour, shape, centre)
        asked = {
            "What color is the shape?": colour,
            "what shape is in the image?": shape,
            f"Is there a {colour} shape?": "yes",
            "is there a teal shape in the image?": "no",
        }
        for question, answer in asked.items():
            explained = asker(name)(pixels, question=question)
            right.append(explained.labels[0][0] == answer)
            y, x = np.unravel_index(explained.result["layercam"][0, 0].argmax(), (64, 64))
            rows, columns = np.nonzero(inside)
            near.append(np.hypot(rows - y, columns - x).min() <= 2)
    assert np.mean(right) > 0.95
    assert np.mean(near) > (0.9 if name == "vqa_recurrent" else 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_each_answer_has_a_map_and_scores_of_the_words(name: str) -> None:
    pixels, _ = picture("blue", "circle", (30, 30))
    explained = asker(name)(pixels, "blue,red", question="What color is the circle?")
    assert explained.result["layercam"].shape == (1, 2, 64, 64)
    assert explained.labels == [["blue", "red"]]
    assert explained.words == ("what", "color", "is", "the", "circle")
    assert explained.token_attribution is not None
    assert explained.token_attribution.shape == (2, 5)
    assert np.abs(explained.token_attribution).max() > 0
    assert asker(name)(pixels, "top3", question="what color is the circle").labels[0][0] == "blue"


def test_the_scores_of_words_are_the_slope_along_their_embeddings() -> None:
    """For a word that stands once: its row of the table scaled, the answer's score by finite differences."""
    pixels, _ = picture("blue", "circle", (30, 30))
    words = asker("vqa_recurrent")(pixels, "blue", question="What color is the circle?").token_attribution
    assert words is not None
    ends = []
    for factor in (1.01, 0.99):
        model = onnx.load(MODELS / "vqa_recurrent.onnx")
        (table,) = (t for t in model.graph.initializer if t.name == "words.weight")
        rows = onnx.numpy_helper.to_array(table).copy()
        rows[asker("vqa_recurrent").vocabulary.find("color")] *= factor
        table.CopyFrom(onnx.numpy_helper.from_array(rows, table.name))
        task = QuestionExplainer(model, vocabulary=WORDS, labels=ANSWERS, preprocessing="unit", threads=1)
        ends.append(task(pixels, "blue", question="What color is the circle?").result.scores[0, 0])
    assert (ends[0] - ends[1]) / 0.02 == pytest.approx(words[0, 1], rel=0.05)


def test_what_is_explained_is_a_choice() -> None:
    pixels, _ = picture("red", "circle", (30, 30))
    alone = asker("vqa_recurrent", "image")(pixels, question="is there a circle?")
    assert alone.token_attribution is None
    assert list(alone.result) == ["layercam"]
    words = asker("vqa_recurrent", "question")(pixels, question="is there a circle?")
    assert words.token_attribution is not None
    assert list(words.result) == []
    with pytest.raises(OptionError, match="both, image or question, not 'sound'"):
        asker("vqa_recurrent", "sound")


def test_questions_that_do_not_fit() -> None:
    pixels, _ = picture("red", "circle", (30, 30))
    with pytest.raises(LabelError, match=r"the word 'colour' is not in .*close to it are: color"):
        asker("vqa_recurrent")(pixels, question="what colour is it?")
    with pytest.raises(InputError, match="the question has 12 words, but the model takes at most 10: shorten it"):
        asker("vqa_recurrent")(pixels, question="is there a red shape " * 2 + "is there")
    with pytest.raises(LabelError, match=r"no class of .*vqa_answers.txt is called 'maybe'"):
        asker("vqa_recurrent")(pixels, "maybe", question="is there a red shape?")
    with pytest.raises(LabelError, match="has 2 words, but the model scores 27 tokens"):
        QuestionExplainer(MODELS / "vqa_recurrent.onnx", vocabulary=Vocabulary(("a", "b")))
    with pytest.raises(OptionError, match="no input holds token ids"):
        QuestionExplainer(MODELS / "caption_encoder.onnx", vocabulary=WORDS)
