# SPDX-License-Identifier: Apache-2.0
"""Visual question answering: a map for each answer, and a score for each word of the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import check, checked
from portable_cam.errors import InputError, OptionError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.graph.values import known_dims
from portable_cam.export.methods.tokens import embeddings
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.labels import AnyLabels, parse_targets
from portable_cam.spelling import by_arrays
from portable_cam.tasks.base import AnyPreprocessing, LabelledExplainer, Photo, Targets, each_once, finite
from portable_cam.tasks.language.layer import image_layer
from portable_cam.tasks.language.vocabulary import Vocabulary, read_vocabulary
from portable_cam.tasks.preprocessing import preprocessing_of


class QuestionExplainer(LabelledExplainer):
    """Answers questions about photos, and explains the answers.

    Targets are answers by number or name, ``top3``, or None for the model's answer. The explanation's ``words`` are the
    question in the model's words, its ``token_attribution`` (K, words) what each adds to each answer's score.

    Args:
        model: From an image and token ids (N, T) to a score per answer.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for LayerCAM, whose peak lay most often on the
            object asked about: ``docs/language.md`` has the figures.
        vocabulary: The words of questions by token id, or a file of them.
        labels: The names of the answers, or a file of them.
        explain: What is explained: ``both``, ``image``, or ``question``, the words alone.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    A call takes ``question``, in words of the vocabulary.

    Raises:
        OptionError: ``explain`` has another value, or no input of token ids is embedded by a Gather.
        LabelError: The files do not fit the model.
    """

    task = "vqa"
    default_methods = ("layercam",)
    takes = frozenset({"vocabulary", "labels", "explain"})
    asks = frozenset({"question"})
    needs = ("vocabulary", "question")

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        vocabulary: Vocabulary | str | Path,
        labels: AnyLabels = None,
        explain: str = "both",
        preprocessing: AnyPreprocessing = None,
        **options: Any,
    ) -> None:
        if explain not in {"both", "image", "question"}:
            raise OptionError(f"what is explained is both, image or question, not {explain!r}")
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else read_vocabulary(vocabulary)
        model = normalized(model)
        found = embeddings(model.graph)
        if len(found) > 1:
            raise OptionError(f"several inputs hold token ids: {', '.join(found)}; {by_arrays()}")
        ((self.question_name, embedded),) = found.items()
        table = known_dims(embedded.producer().inputs[0])  # type: ignore[union-attr]
        self.vocabulary.check(table[0] if table is not None else None)
        methods = self.default_methods if methods is None else methods
        methods = methods if explain != "question" else ()
        if options.get("layer") is None:
            options["layer"] = image_layer(model, methods, options.get("output"))
        self.explainer = Explainer(model, methods, words=explain != "image", **options)
        length = self.explainer.input_shape(self.question_name)[1]
        self._length = length if isinstance(length, int) else None
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        self.labels = self._known_labels(labels, self.explainer.classes)

    def name(self, target: int) -> str:
        """The answer, or its number."""
        return self.labels[target] if self.labels else f"answer {target}"

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        numbers = parse_targets(targets, self.labels)
        ids = self.vocabulary.encode(check("question", asked["question"], str | Sequence[str]))
        feeds = {self.explainer.image_name: photo.x, self.question_name: self._fill(ids)}
        try:
            result = each_once(self.explainer.ranked(feeds, None if numbers is None else [numbers]))
        except InputError as error:
            if self._length is not None:
                raise
            raise InputError(f"a question of {len(ids)} words may be longer than the model takes: {error}") from None
        if numbers is None or min(numbers) < 0:
            finite(result.scores, "the scores of answers")
        scores = result.words.get(self.question_name)
        return self._explanation(
            photo,
            result,
            [self.name(int(target)) for target in result.targets[0]],
            question=asked["question"],
            words=tuple(self.vocabulary[i] for i in ids),
            details=[Detail(class_number=int(target)) for target in result.targets[0]],
            token_attribution=None if scores is None else scores[0, :, : len(ids)],
        )

    def _fill(self, ids: Sequence[int]) -> NDArray[np.int64]:
        length = self._length or len(ids)
        if len(ids) > length:
            raise InputError(f"the question has {len(ids)} words, but the model takes at most {length}: shorten it")
        pad = self.vocabulary.pad if self.vocabulary.pad is not None else 0
        return np.array([[*ids, *[pad] * (length - len(ids))]])
