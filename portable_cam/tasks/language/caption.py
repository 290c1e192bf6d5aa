# SPDX-License-Identifier: Apache-2.0
"""Captions: one map for each word, phrase or whole caption, generated or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import InputError, LabelError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.export.passes.normalized import AnyModel
from portable_cam.export.targets import Tokens
from portable_cam.image.decode import read_image
from portable_cam.image.geometry import Geometry
from portable_cam.image.preprocess import Preprocessing
from portable_cam.result import Result
from portable_cam.tasks.classify import preprocessing_of
from portable_cam.tasks.language.decoding import Pair
from portable_cam.tasks.language.layer import picture_layer
from portable_cam.tasks.language.vocabulary import Vocabulary, read_vocabulary

#: The method whose peak lay most often on the object that a word names; ``docs/language.md`` has the figures.
METHODS = ("layercam",)
#: What to name to explain the caption as one.
WHOLE = "*"


@dataclass(frozen=True)
class CaptionExplanation:
    """One photo's caption, explained.

    Attributes:
        words: The caption, without the tokens that start and end it.
        labels: What was explained: K words or phrases of it.
        spans: For each, its first word and the one after its last.
        result: Scores (1, K), the log-probabilities, and maps (1, K, H, W).
        given: Whether the caption came from the user.
        photo: uint8 (h, w, 3), as decoded; ``view`` is what the model sees of it, ``geometry`` lies between the two.
        color: The order of the model's channels.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    result: Result
    given: bool
    photo: NDArray[np.uint8]
    view: NDArray[np.uint8]
    geometry: Geometry
    color: str


class CaptionExplainer:
    """Captions photos, and explains the words.

    Args:
        model: The encoder; or the whole, from picture and token ids (N, T) to scores (N, T, V).
        decoder: The decoder of a pair: a transformer's or a recurrent one over whole sequences, or one that takes one
            step at a time with its state in and out.
        vocabulary: The words by token id, or a file of them.
        methods: As for :class:`~portable_cam.explainer.Explainer`.
        mapping: From outputs of the encoder to inputs of the decoder; None to find them.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`.
        longest: At most so many words.
        threads: CPU threads within an operator.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    Raises:
        ModelError: The decoder does not fit the encoder.
        LabelError: The vocabulary does not fit the decoder, or lacks the tokens that start and end a caption.
    """

    def __init__(
        self,
        model: AnyModel,
        decoder: AnyModel | None = None,
        *,
        vocabulary: Vocabulary | str | Path,
        methods: Sequence[str] = METHODS,
        mapping: Mapping[str, str] | None = None,
        preprocessing: Preprocessing | str | Mapping[str, Any] | None = None,
        longest: int | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        read = vocabulary if isinstance(vocabulary, Vocabulary) else read_vocabulary(vocabulary)
        self.pair = Pair(model, decoder, mapping, threads=threads)
        self.vocabulary = read.check(self.pair.roles.vocabulary)
        if self.vocabulary.start is None or self.vocabulary.end is None:
            raise LabelError(
                f"{self.vocabulary.source} has no words that mark the start and the end of a caption, as <start> and "
                "<end>"
            )
        self._longest = longest
        self._options: dict[str, Any] = {**options, "methods": methods, "threads": threads}
        self._explainers: dict[int, Explainer] = {}
        self.explainer = self._explainer(2)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)

    def caption(self, image: Any) -> list[str]:
        """The words that greedy decoding finds for a photo."""
        ids = self.pair.greedy(self.preprocessing(read_image(image)), self.vocabulary, self._longest)
        return self.vocabulary.decode(ids)

    def __call__(
        self, image: Any, caption: str | Sequence[str] | None = None, explain: Sequence[str] | None = None
    ) -> CaptionExplanation:
        """Explain one photo.

        Args:
            image: A path, bytes, PIL image or uint8 array (H, W, 3).
            caption: What the model is made to say; None for what it says by itself.
            explain: Words or phrases of the caption, ``"*"`` for the whole; None for each word. A word that the caption
                has several times is explained at each place.

        Raises:
            LabelError: A word of the caption is not in the vocabulary.
            TargetError: A phrase is not in the caption.
            InputError: The caption is longer than the decoder takes.
        """
        photo = read_image(image)
        x = self.preprocessing(photo)
        if caption is None:
            ids = self.pair.greedy(x, self.vocabulary, self._longest)
            if not ids:
                raise TargetError("the model ends its caption at once: there is no word to explain")
        else:
            ids = self.vocabulary.encode(caption)
        words = [self.vocabulary[i] for i in ids]
        spans = find_spans(words, [self._phrase(p) for p in explain] if explain is not None else None)
        result = self._explain(x, ids, spans)
        geometry = self.preprocessing.geometry((photo.shape[0], photo.shape[1]))
        labels = tuple(" ".join(words[start:end]) for start, end in spans)
        return CaptionExplanation(
            tuple(words),
            labels,
            tuple(spans),
            result,
            caption is not None,
            photo,
            self.preprocessing.view(photo),
            geometry,
            self.preprocessing.color,
        )

    def _explain(self, x: NDArray[Any], ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Result:
        start, end = self.vocabulary.start, self.vocabulary.end
        assert start is not None
        assert end is not None
        pad = end if self.vocabulary.pad is None else self.vocabulary.pad
        tokens = [start, *ids]
        explainer = self._explainer(len(tokens))
        feeds = self.pair.feeds(x, tokens, pad)
        steps = self.pair.roles.longest if not self.pair.roles.state else None
        steps = len(tokens) if steps is None else steps
        said = np.full((1, len(spans), steps), -1)
        for k, (first, after) in enumerate(spans):
            said[0, k, first:after] = ids[first:after]
        try:
            return explainer(feeds, said=said)
        except InputError:
            self._explainer(2)(self.pair.feeds(x, tokens[:2], pad), said=said[:, :, : min(2, steps)])  # the picture's?
            raise InputError(
                f"the caption has {len(tokens)} words with the one that starts it, more than the decoder takes: "
                "shorten it"
            ) from None

    def _explainer(self, steps: int) -> Explainer:
        key = steps if self.pair.roles.state else 0
        if key not in self._explainers:
            linked, options = self.pair.linked(steps), dict(self._options)
            if options.get("layer") is None:
                options["layer"] = picture_layer(linked, options["methods"], str(linked.graph.outputs[0].name))
            self._explainers[key] = Explainer(linked, target=Tokens(), **options)
        return self._explainers[key]

    def _phrase(self, text: str) -> list[str]:
        if text.strip() == WHOLE:
            return [WHOLE]
        return [self.vocabulary[i] for i in self.vocabulary.encode(text)]


def find_spans(
    words: Sequence[str], phrases: Sequence[Sequence[str]] | None, between: str = " "
) -> list[tuple[int, int]]:
    """Where phrases stand in a text: for each, and each time, its first word and the one after its last.

    Args:
        words: The text; or characters, with nothing ``between`` them.
        phrases: What to find, each in words; ``["*"]`` for the whole; None for each word.
        between: What stands between words in messages.

    Raises:
        TargetError: A phrase is not there.
    """
    if phrases is None:
        return [(i, i + 1) for i in range(len(words))]
    spans: list[tuple[int, int]] = []
    for phrase in phrases:
        if list(phrase) == [WHOLE]:
            found = [(0, len(words))]
        else:
            places = [(i, i + len(phrase)) for i in range(len(words) - len(phrase) + 1)]
            found = [(i, j) for i, j in places if list(words[i:j]) == list(phrase)]
        if not found:
            raise TargetError(
                f"'{between.join(phrase)}' is not in '{between.join(words)}': name a part of that"
                + (", or give the caption to be explained" if between else "")
            )
        spans += [span for span in found if span not in spans]
    return spans
