# SPDX-License-Identifier: Apache-2.0
"""Lines of text read by CTC (Graves et al. 2006): a map for each recognised character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.checked import checked
from portable_cam.errors import LabelError, LayerError, ModelError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Character, Explanation
from portable_cam.export.diagnose.layers import list_layers
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.methods.registry import uses_layer
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.export.targets import Tokens
from portable_cam.image.by_function import ByFunction
from portable_cam.image.geometry import Size
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.resolve import resolve
from portable_cam.runtime.native import native_of
from portable_cam.runtime.session import Session
from portable_cam.spelling import option
from portable_cam.tasks.base import AnyPreprocessing, Photo, Targets, TaskExplainer, finite
from portable_cam.tasks.language.caption import details_of
from portable_cam.tasks.language.spans import WHOLE, find_spans, parse_phrases
from portable_cam.tasks.language.vocabulary import read_vocabulary
from portable_cam.tasks.outputs import CHARACTERS
from portable_cam.tasks.preprocessing import beside, told

#: The preprocessing of PaddleOCR's models where nothing else is given: 48 pixels high, BGR, -1 to 1.
PADDLE = {"color": "bgr", "scale": 1 / 127.5, "mean": 1.0, "std": 1.0, "resize": "stretch"}
_HEIGHT = 48
# a map tells characters apart, and top from bottom, where its cells are no higher than this share of the line
_CELLS_PER_LINE = 6
_STEP = 8  # widths are multiples of this, so that strides divide them


class LineExplainer(TaskExplainer):
    """Reads lines of text, and explains the characters.

    Targets are pieces of what was read, ``"*"`` for the whole, None for each character but spaces. Scores are
    log-probabilities at the frames where the characters were surest. The image is the line, cut out.

    Args:
        model: From an image to scores or probabilities (N, T, V) of V characters at T frames; V includes the blank.
        methods: As for :class:`~portable_cam.explainer.Explainer`; None for LayerCAM, whose peak lay most often on the
            character: ``docs/language.md`` has the figures.
        vocabulary: The characters by class, the blank left out or not, or a file of them, one a line; None to read them
            from the model's metadata, where PaddleOCR writes them.
        layer: As for the same; None for the last one whose cells are no higher than a sixth of the line.
        blank: The class of the blank, negative from the end; None: the first where PaddleOCR's metadata says so, else
            the first or last, whichever more frames of the first image have.
        preprocessing: A :class:`Preprocessing`, or a mapping of ``resolve``'s options. Where the model leaves the width
            open, each line keeps its aspect.
        threads: CPU threads within an operator.
        **options: As for :class:`~portable_cam.explainer.Explainer`.

    Raises:
        LabelError: No characters are known, or they do not fit the model.
        ModelError: The model's output is not (N, T, V).
    """

    task = "ctc"
    default_methods = ("layercam",)
    takes = frozenset({"vocabulary", "blank"})

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] | None = None,
        *,
        vocabulary: Sequence[str] | str | Path | None = None,
        layer: str | Sequence[str] | None = None,
        blank: int | None = None,
        preprocessing: AnyPreprocessing = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        methods = self.default_methods if methods is None else methods
        normal = normalized(model)
        scores = [value for value in normal.graph.outputs if len(known_dims(value) or ()) == 3]
        classes = (known_dims(scores[0]) or [None])[-1] if len(scores) == 1 else None
        if classes is None:
            listing = ", ".join(f"'{v.name}' {v.dtype}{v.shape}" for v in normal.graph.outputs)
            raise ModelError(f"a model that reads text has one output (N, frames, characters); its outputs: {listing}")
        self._output = str(scores[0].name)
        self._images_axis = 1 - Tokens().axis_of_steps(scores[0])
        self._blank_is_open = blank is None and (vocabulary is not None or CHARACTERS not in normal.metadata)
        self._own_notes: tuple[str, ...] = ()
        self._with_blank = partial(_characters, vocabulary, normal.metadata, classes)
        self.blank, self.characters = self._with_blank(blank or 0)
        self._image = image_input(normal.graph)
        self.preprocessing = self._prepare(normal, preprocessing, normal.metadata)
        chosen = layer if layer is not None or not uses_layer(methods) else self._layer(normal)
        self.explainer = Explainer(normal, methods, chosen, Tokens(), threads=threads, **options)
        self._session = Session(normal.copy(), threads=threads, **native_of(options))

    @property
    def notes(self) -> tuple[str, ...]:
        return (*super().notes, *self._own_notes)

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        scores = self._session.run({str(self._image.name): photo.x}, [self._output])[self._output]
        scores = finite(scores.take(0, axis=self._images_axis), "the scores of characters")
        if self._blank_is_open:
            best = scores.argmax(axis=1)
            last = scores.shape[1] - 1
            self.blank, self.characters = self._with_blank(last if (best == last).sum() > (best == 0).sum() else 0)
            self._blank_is_open = False
            otherwise = f"{option('blank')} says otherwise"
            self._own_notes = (f"the blank is taken to be class {self.blank}, which most frames have; {otherwise}",)
        read = self.read(scores)
        if not read:
            return self._nothing(photo, "no character was read: is this one line of text, upright and cut out?")
        texts = [character.text for character in read]
        phrases = parse_phrases(targets)
        pieces = None if phrases is None else [[WHOLE] if p == WHOLE else list(p) for p in phrases]
        spans = [s for s in find_spans(texts, pieces, "") if pieces is not None or not texts[s[0]].isspace()]
        if not spans:
            return self._nothing(photo, "nothing but spaces was read")
        tokens = np.full((1, len(spans), len(scores)), -1)
        for k, (start, end) in enumerate(spans):
            for character in read[start:end]:
                tokens[0, k, character.peak] = self.characters.index(character.text)
        result = self.explainer(photo.x, said=tokens)
        return self._explanation(
            photo,
            result,
            ["".join(texts[start:end]) for start, end in spans],
            details=details_of(result, spans),
            text="".join(texts),
            characters=tuple(read),
        )

    def read(self, scores: NDArray[np.floating]) -> list[Character]:
        """The most likely character of each frame, repetitions and blanks left out; scores or probabilities (T, V)."""
        exponents = np.exp(scores - scores.max(1, keepdims=True))
        sums_to_one = np.allclose(scores.sum(1), 1, atol=1e-2) and scores.min() >= 0
        probabilities = scores if sums_to_one else exponents / exponents.sum(1, keepdims=True)
        best = scores.argmax(1)
        edges = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(best))), len(best)]
        read = []
        for first, after in pairwise(edges):
            if (token := int(best[first])) != self.blank:
                peak = first + int(probabilities[first:after, token].argmax())
                sure = float(probabilities[peak, token])
                read.append(Character(self.characters[token], first, after - 1, peak, sure))
        return read

    def _prepare(self, model: NormalizedModel, wanted: AnyPreprocessing, metadata: Mapping[str, str]) -> Preprocessing:
        if isinstance(wanted, Preprocessing):
            return wanted
        if callable(wanted):
            return ByFunction.of(wanted, known_dims(self._image) or [], dtype_of(self._image).numpy().name)
        options: dict[str, Any] = {"preset": wanted} if isinstance(wanted, str) else dict(wanted or {})
        sidecar = beside(model)
        dims = known_dims(self._image) or []
        if sidecar is None and CHARACTERS in metadata:
            sizes = dims[2:] if channel_axis(self._image) == 1 else dims[1:3]
            usual = {} if "preset" in options else PADDLE
            options = usual | {"size": [sizes[0] or _HEIGHT, sizes[1] or 8 * _HEIGHT]} | options
        return told(resolve(dims, dtype_of(self._image).numpy(), sidecar=sidecar, metadata=metadata, **options))

    def _preprocessing_for(self, size: Size) -> Preprocessing:
        """With the line's own proportions, where the model leaves the width open."""
        dims = known_dims(self._image) or []
        if (
            isinstance(self.preprocessing, ByFunction)
            or dims[3 if channel_axis(self._image) == 1 else 2] is not None
            or self.preprocessing.resize != "stretch"
        ):
            return self.preprocessing
        height = self.preprocessing.size[0]
        width = size[1] * height / size[0]
        return replace(self.preprocessing, size=(height, max(1, round(width / _STEP)) * _STEP))

    def _layer(self, model: NormalizedModel) -> str:
        """The last layer that tells a line's top from its bottom, at the size that lines are resized to."""
        sized = model.copy()
        image, size = image_input(sized.graph), self.preprocessing.size
        channels = (known_dims(image) or [])[channel_axis(image)]
        image.shape = ir.Shape([1, channels, *size] if channel_axis(image) == 1 else [1, *size, channels])
        found = list_layers(sized, self._output)
        fine = [layer for layer in found if layer.stride is not None and layer.stride * _CELLS_PER_LINE <= size[0]]
        if not fine:
            raise LayerError(
                f"no layer has cells of at most {size[0] // _CELLS_PER_LINE} pixels: name one with {option('layer')}"
            )
        return fine[0].name


def _characters(
    given: Sequence[str] | str | Path | None, metadata: Mapping[str, str], classes: int, blank: int
) -> tuple[int, list[str]]:
    """The class of the blank, and a character for each class, the blank's an empty string."""
    if isinstance(given, str | Path):
        known, source = list(read_vocabulary(given).words), str(given)
    elif given is not None:
        known, source = list(given), "the characters"
    elif CHARACTERS in metadata:
        known, source = metadata[CHARACTERS].split("\n"), f"the model's metadata '{CHARACTERS}'"
        known = known[:-1] if known[-1] == "" else known
    else:
        raise LabelError("which characters the model reads is not known: give a file, one character a line")
    if not -classes <= blank < classes:
        raise LabelError(f"the blank cannot be class {blank}: the model has {classes}")
    blank %= classes
    missing = classes - len(known)
    if missing == 2:  # PaddleOCR adds a space at the end
        known.append(" ")
    if missing in {1, 2}:
        known.insert(blank, "")
    elif missing == 0:
        known[blank] = ""
    else:
        raise LabelError(f"{source} has {len(known)} characters, but the model {classes} classes with the blank")
    return blank, known
