# SPDX-License-Identifier: Apache-2.0
"""Visual question answering: a map for each answer, and a score for each word of the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError, OptionError
from portable_cam.explainer import Explainer
from portable_cam.export.graph.values import known_dims
from portable_cam.export.methods.tokens import embeddings
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.image.decode import read_image
from portable_cam.image.preprocess import Preprocessing
from portable_cam.tasks.classify import PhotoExplanation, preprocessing_of
from portable_cam.tasks.labels import Labels, parse_targets, read_labels
from portable_cam.tasks.language.layer import picture_layer
from portable_cam.tasks.language.vocabulary import Vocabulary, read_vocabulary

#: The method whose peak lay most often on the object asked about; ``docs/language.md`` has the figures.
METHODS = ("layercam",)


@dataclass(frozen=True)
class AnswerExplanation(PhotoExplanation):
    """One photo's and question's answers, explained: ``question`` as the model's words, ``word_scores`` (K, words) what
    each adds to each answer's score (gradient times embedding), empty where the picture alone is explained."""

    question: tuple[str, ...] = ()
    word_scores: NDArray[np.float32] | None = None


class QuestionExplainer:
    """Answers questions about photos, and explains the answers.

    Args:
        model: From a picture and token ids (N, T) to a score per answer.
        vocabulary: The words of questions by token id, or a file of them.
        answers: The names of the answers, or a file of them.
        methods: As for :class:`~portable_cam.explainer.Explainer`.
        explain: What is explained: ``both``, ``image``, or ``question``, the words alone.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    Raises:
        OptionError: ``explain`` is none of these, or no input of token ids is embedded by a Gather.
        LabelError: The files do not fit the model.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        vocabulary: Vocabulary | str | Path,
        answers: Labels | str | Path | None = None,
        methods: Sequence[str] = METHODS,
        explain: str = "both",
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if explain not in {"both", "image", "question"}:
            raise OptionError(f"what is explained is both, image or question, not {explain!r}")
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else read_vocabulary(vocabulary)
        model = normalized(model)
        found = embeddings(model.graph)
        if len(found) > 1:
            raise OptionError(f"several inputs hold token ids: {', '.join(found)}; use Explainer with a dict of inputs")
        ((self.question_name, embedded),) = found.items()
        table = known_dims(embedded.producer().inputs[0])  # type: ignore[union-attr]
        self.vocabulary.check(table[0] if table is not None else None)
        self.explain = explain
        methods = methods if explain != "question" else ()
        if options.get("layer") is None:
            options["layer"] = picture_layer(model, methods, options.get("output"))
        self.explainer = Explainer(model, methods, words=explain != "image", **options)
        length = self.explainer.input_shape(self.question_name)[1]
        self._length = length if isinstance(length, int) else None
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        read = read_labels(answers) if isinstance(answers, str | Path) else answers
        self.answers = read.check(self.explainer.classes) if read else Labels.default(self.explainer.classes)

    def __call__(
        self, image: Any, question: str, targets: str | int | Sequence[int | str] | None = None
    ) -> AnswerExplanation:
        """Explain the answers to a question about one photo.

        Args:
            image: A path, bytes, PIL image or uint8 array (H, W, 3).
            question: In words of the vocabulary.
            targets: An answer's number or name, several, ``"top3"``, or None for the model's answer.

        Raises:
            LabelError: A word is not in the vocabulary, or there is no such answer.
            InputError: The question is longer than the model takes.
        """
        asked = parse_targets(targets, self.answers)
        ids = self.vocabulary.encode(question)
        photo = read_image(image)
        feeds = {self.explainer.image_name: self.preprocessing(photo), self.question_name: self._fill(ids)}
        try:
            result = (
                self.explainer.top(feeds, -asked)
                if isinstance(asked, int)
                else self.explainer(feeds, None if asked is None else [asked])
            )
        except InputError as error:
            if self._length is not None:
                raise
            raise InputError(f"a question of {len(ids)} words may be longer than the model takes: {error}") from None
        labels = [[self.answers[int(t)] if self.answers else f"answer {t}" for t in row] for row in result.targets]
        scores = result.words.get(self.question_name)
        return AnswerExplanation(
            result=replace(result, labels=labels),
            photo=photo,
            view=self.preprocessing.view(photo),
            geometry=self.preprocessing.geometry((photo.shape[0], photo.shape[1])),
            top=[],
            color=self.preprocessing.color,
            question=tuple(self.vocabulary[i] for i in ids),
            word_scores=None if scores is None else scores[0, :, : len(ids)],
        )

    def _fill(self, ids: Sequence[int]) -> NDArray[np.int64]:
        length = self._length or len(ids)
        if len(ids) > length:
            raise InputError(f"the question has {len(ids)} words, but the model takes at most {length}: shorten it")
        pad = self.vocabulary.pad if self.vocabulary.pad is not None else 0
        return np.array([[*ids, *[pad] * (length - len(ids))]])
