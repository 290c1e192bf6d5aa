# SPDX-License-Identifier: Apache-2.0
"""The tasks with words, as the command line runs them: a photo in, files and a record out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from portable_cam.explainer import Explainer
from portable_cam.export.methods.registry import MAP_METHODS
from portable_cam.image import colormap as report
from portable_cam.image.colormap import Picture
from portable_cam.image.geometry import Geometry
from portable_cam.image.preprocess import Preprocessing
from portable_cam.report import files
from portable_cam.report.strips import Panel, answer_sheet, strip
from portable_cam.report.wording import how_much, number
from portable_cam.report.write import picture_of, stem_of
from portable_cam.result import Result
from portable_cam.runtime.flags import remark
from portable_cam.tasks.language.caption import METHODS, CaptionExplainer
from portable_cam.tasks.language.line import LineExplainer
from portable_cam.tasks.language.question import QuestionExplainer


class _WordsJob:
    explainer: Explainer
    preprocessing: Preprocessing

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""
        return self.explainer.notes


class CaptionJob(_WordsJob):
    """Words of a caption.

    Args:
        model: The encoder, or the whole.
        methods: None for the task's own.
        preprocessing: Options of :func:`~portable_cam.image.preprocess.resolve`.
        vocabulary: The words by token id.
        decoder: Where it is a file of its own.
        caption: What the model is made to say; None for what it says by itself.
        target: Words or phrases of the caption, by comma; None for each word.
        **options: As for :class:`~portable_cam.explainer.Explainer`.
    """

    takes = frozenset({"vocabulary", "decoder", "caption"})
    needs = ("vocabulary",)

    def __init__(
        self,
        model: str | Path,
        methods: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        *,
        vocabulary: str | Path,
        decoder: str | Path | None = None,
        caption: str | None = None,
        target: str | None = None,
        **options: Any,
    ) -> None:
        self._task = CaptionExplainer(
            model, decoder, vocabulary=vocabulary, methods=methods or METHODS, preprocessing=preprocessing, **options
        )
        self._said, self._pieces = caption, _pieces(target)
        self.explainer, self.preprocessing = self._task.explainer, self._task.preprocessing

    def run(self, image: str | Path, folder: str | Path, stem: str, formats: Sequence[str]) -> dict[str, Any]:
        stem = stem_of(stem, self.explainer.sign)
        explained = self._task(image, self._said, self._pieces)
        text = " ".join(explained.words)
        _write(explained, folder, stem, formats, text, self.explainer.sign)
        head = {"said": text, "given": explained.given}
        return _record(explained.result, explained.labels, head, folder, stem, formats)


class LineJob(_WordsJob):
    """Characters of a line of text. Arguments as for :class:`CaptionJob`, ``vocabulary`` the characters."""

    takes = frozenset({"vocabulary"})
    needs = ()

    def __init__(
        self,
        model: str | Path,
        methods: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        *,
        vocabulary: str | Path | None = None,
        target: str | None = None,
        **options: Any,
    ) -> None:
        self._task = LineExplainer(
            model, characters=vocabulary, methods=methods or METHODS, preprocessing=preprocessing, **options
        )
        self._pieces = _pieces(target)
        self.explainer, self.preprocessing = self._task.explainer, self._task.preprocessing

    def run(self, image: str | Path, folder: str | Path, stem: str, formats: Sequence[str]) -> dict[str, Any]:
        stem = stem_of(stem, self.explainer.sign)
        explained = self._task(image, self._pieces)
        _write(explained, folder, stem, formats, explained.text.strip(), self.explainer.sign)
        return _record(explained.result, explained.labels, {"said": explained.text.strip()}, folder, stem, formats)


class QuestionJob(_WordsJob):
    """Answers to a question. Arguments as for :class:`CaptionJob`, ``labels`` the answers, ``target`` some of them."""

    takes = frozenset({"vocabulary", "question", "labels"})
    needs = ("vocabulary", "question")

    def __init__(
        self,
        model: str | Path,
        methods: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        *,
        vocabulary: str | Path,
        question: str,
        labels: str | Path | None = None,
        target: str | None = None,
        **options: Any,
    ) -> None:
        self._task = QuestionExplainer(
            model,
            vocabulary=vocabulary,
            answers=labels,
            methods=methods or METHODS,
            preprocessing=preprocessing,
            **options,
        )
        self._asked, self._target = question, target
        self.explainer, self.preprocessing = self._task.explainer, self._task.preprocessing

    def run(self, image: str | Path, folder: str | Path, stem: str, formats: Sequence[str]) -> dict[str, Any]:
        stem = stem_of(stem, self.explainer.sign)
        explained = self._task(image, self._asked, self._target)
        result, labels = explained.result, explained.result.labels[0]
        sign = self.explainer.sign
        against = "against: " if sign == "negative" else ""
        for method in result if "png" in formats else ():
            panels: list[Panel] = [
                {
                    "word": against + labels[k],
                    "note": remark(result, method, k, sign) or f"score {number(result.scores[0, k], 2)}",
                    "picture": picture_of(explained, method, k),
                }
                for k in range(len(labels))
            ]
            answer_sheet(
                explained.view,
                panels,
                _png(folder, stem, method, result, "answers"),
                self._asked,
                explained.question,
                explained.word_scores,
            )
        words = None
        if explained.word_scores is not None:
            words = [list(zip(explained.question, row.tolist(), strict=True)) for row in explained.word_scores]
        numbers = [int(target) for target in result.targets[0]]
        return _record(result, labels, {"question": self._asked}, folder, stem, formats, words, numbers)


class _Explained(Protocol):
    """A caption's or a line's explanation."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def result(self) -> Result: ...
    @property
    def photo(self) -> Picture: ...
    @property
    def view(self) -> Picture: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def color(self) -> str: ...


def _write(
    explained: _Explained, folder: str | Path, stem: str, formats: Sequence[str], heading: str, sign: str
) -> None:
    """A strip for each method; below each word its probability, or why its map is empty."""
    if sign == "negative":
        heading = f"against: {heading}"
    result = explained.result
    for method in result if "png" in formats else ():
        panels: list[Panel] = [
            {
                "word": label,
                "note": remark(result, method, k, sign) or how_much(_chance(result.scores[0, k])),
                "picture": _picture(explained, method, k),
            }
            for k, label in enumerate(explained.labels)
        ]
        strip(explained.view, panels, _png(folder, stem, method, result, "strip"), heading)


def _picture(explained: _Explained, method: str, k: int) -> Picture:
    values: NDArray[np.float32] = explained.result[method][0, k]
    if method in MAP_METHODS:
        return report.overlay(explained.view, values)
    layout = "nchw" if explained.result.channel_axis == 1 else "nhwc"
    return report.signed_picture(values, layout, explained.color)  # type: ignore[arg-type]


def _png(folder: str | Path, stem: str, method: str, result: Result, kind: str) -> Path:
    return Path(folder) / (f"{stem}.{kind}.png" if len(list(result)) == 1 else f"{stem}.{method}.{kind}.png")


def _record(
    result: Result,
    labels: Sequence[str],
    head: dict[str, Any],
    folder: str | Path,
    stem: str,
    formats: Sequence[str],
    words: Sequence[Any] | None = None,
    numbers: Sequence[int] | None = None,
) -> dict[str, Any]:
    record = {
        **head,
        "layer": result.layer,
        "methods": list(result),
        "notes": list(result.notes),
        "explained": [
            {
                **({} if numbers is None else {"target": numbers[k]}),
                "label": label,
                "score": float(result.scores[0, k]),
                **({} if numbers is not None else _chance(result.scores[0, k])),
                "flags": list(result.flags[0][k]),
                **({} if words is None else {"words": words[k]}),
            }
            for k, label in enumerate(labels)
        ],
    }
    arrays = {method: result[method][0] for method in result}
    files.save(folder, stem, arrays=arrays, document=record, formats=formats)
    return record


def _chance(log_probability: float) -> dict[str, float]:
    """What a record says of a log-probability."""
    return {"probability": float(np.exp(log_probability))}


def _pieces(target: str | None) -> list[str] | None:
    return None if target is None else [part.strip() for part in target.split(",") if part.strip()]
