# SPDX-License-Identifier: Apache-2.0
"""Captions: one map for each word, phrase or whole caption, generated or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.checked import check, checked
from portable_cam.errors import InputError, LabelError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Detail, Explanation
from portable_cam.export.passes.normalized import AnyModel
from portable_cam.export.targets import Tokens
from portable_cam.image.decode import read_image
from portable_cam.result import Result
from portable_cam.runtime.native import native_of
from portable_cam.tasks.base import AnyPreprocessing, Photo, Targets, TaskExplainer
from portable_cam.tasks.language.decoding import Pair
from portable_cam.tasks.language.layer import image_layer
from portable_cam.tasks.language.spans import WHOLE, find_spans, parse_phrases
from portable_cam.tasks.language.vocabulary import Vocabulary, read_vocabulary
from portable_cam.tasks.preprocessing import preprocessing_of


class CaptionExplainer(TaskExplainer):
    """Captions photos, and explains the words.

    Targets are words or phrases of the caption, ``"*"`` for the whole, None for each word. A word that the caption has
    several times is explained each time.

    Args:
        model: The encoder; or the whole, from image and token ids (N, T) to scores (N, T, V).
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for LayerCAM, whose peak lay most often on the
            object that a word names: ``docs/language.md`` has the figures.
        decoder: The decoder of a pair: a transformer's or a recurrent one over whole sequences, or one that takes one
            step at a time with its state in and out.
        vocabulary: The words by token id, or a file of them.
        mapping: From outputs of the encoder to inputs of the decoder; None to find them.
        preprocessing: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`.
        longest: At most so many words.
        threads: CPU threads within an operator.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    A call takes ``caption``, the text to explain instead of the model's own caption.

    Raises:
        ModelError: The decoder does not fit the encoder.
        LabelError: The vocabulary does not fit the decoder, or lacks the tokens that start and end a caption.
    """

    task = "caption"
    default_methods = ("layercam",)
    takes = frozenset({"vocabulary", "decoder", "mapping", "longest"})
    asks = frozenset({"caption"})
    needs = ("vocabulary",)

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        decoder: AnyModel | None = None,
        vocabulary: Vocabulary | str | Path,
        mapping: Mapping[str, str] | None = None,
        preprocessing: AnyPreprocessing = None,
        longest: int | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        read = vocabulary if isinstance(vocabulary, Vocabulary) else read_vocabulary(vocabulary)
        self.pair = Pair(model, decoder, mapping, threads=threads, **native_of(options))
        self.vocabulary = read.check(self.pair.roles.vocabulary)
        if self.vocabulary.start is None or self.vocabulary.end is None:
            raise LabelError(
                f"{self.vocabulary.source} has no words that mark the start and the end of a caption, as <start> and "
                "<end>"
            )
        self._longest = longest
        methods = self.default_methods if methods is None else methods
        self._options: dict[str, Any] = {**options, "methods": methods, "threads": threads}
        self._explainers: dict[int, Explainer] = {}
        self.explainer = self._explainer(2)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)

    def caption(self, image: Any) -> list[str]:
        """The words that greedy decoding finds for a photo."""
        ids = self.pair.greedy(self.preprocessing(read_image(image)), self.vocabulary, self._longest)
        return self.vocabulary.decode(ids)

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        caption = asked.get("caption")
        if caption is None:
            ids = self.pair.greedy(photo.x, self.vocabulary, self._longest)
            if not ids:
                return self._nothing(photo, "the model ends its caption at once")
        else:
            ids = self.vocabulary.encode(check("caption", caption, str | Sequence[str]))
        words = [self.vocabulary[i] for i in ids]
        phrases = parse_phrases(targets)
        spans = find_spans(words, None if phrases is None else [self._phrase(text) for text in phrases])
        result = self._result(photo.x, ids, spans)
        return self._explanation(
            photo,
            result,
            [" ".join(words[start:end]) for start, end in spans],
            details=details_of(result, spans),
            text=" ".join(words),
            text_given=caption is not None,
            words=tuple(words),
        )

    def _result(self, x: NDArray[Any], ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Result:
        """The log-probabilities of spans of a caption explained, for one prepared image."""
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
            # if this fails too, the image does not fit, not the caption
            self._explainer(2)(self.pair.feeds(x, tokens[:2], pad), said=said[:, :, : min(2, steps)])
            raise InputError(
                f"the caption has {len(tokens)} words with the one that starts it, more than the decoder takes: "
                "shorten it"
            ) from None

    def _explainer(self, steps: int) -> Explainer:
        key = steps if self.pair.roles.state else 0
        if key not in self._explainers:
            linked, options = self.pair.linked(steps), dict(self._options)
            if options.get("layer") is None:
                options["layer"] = image_layer(linked, options["methods"], str(linked.graph.outputs[0].name))
            self._explainers[key] = Explainer(linked, target=Tokens(), **options)
        return self._explainers[key]

    def _phrase(self, text: str) -> list[str]:
        if text.strip() == WHOLE:
            return [WHOLE]
        return [self.vocabulary[i] for i in self.vocabulary.encode(text)]


def details_of(result: Result, spans: Sequence[tuple[int, int]]) -> list[Detail]:
    """Of words and phrases whose scores are log-probabilities."""
    chances = np.exp(result.scores[0].astype(np.float64))
    return [Detail(probability=float(chance), span=span) for chance, span in zip(chances, spans, strict=True)]
