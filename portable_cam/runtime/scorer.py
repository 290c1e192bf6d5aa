# SPDX-License-Identifier: Apache-2.0
"""The scores of a model's targets by the forward pass alone: what perturbations and measurements run, many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.errors import OptionError
from portable_cam.export.format import EXPLAINED, SCORES, TARGETS, ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.targets import Class
from portable_cam.export.targets.probability import Probability
from portable_cam.runtime.inputs import Inputs
from portable_cam.runtime.run_batches import Arrays, Batches, Runs
from portable_cam.runtime.session import Session
from portable_cam.runtime.sessions import Sessions

#: What a score is: ``probability``, the softmax or sigmoid of a class, or ``logit``, the number that maps explain.
Scale: TypeAlias = Literal["probability", "logit"]


class Scorer:
    """Scores images in batches.

    Args:
        model: The model.
        options: The target, the output and the precision are read.
        scale: ``logit``, or ``probability`` for the classes of a classifier.
        batch: Images per run.
        on_run: Called with the number of images before each run.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them.

    Attributes:
        by: ``softmax`` or ``sigmoid`` where the scores are probabilities, else None.
        passes: How many images were run so far.
        metadata: Of the graph.

    Raises:
        OptionError: A probability is asked for of what is no class.
    """

    def __init__(
        self,
        model: NormalizedModel,
        options: Options,
        *,
        scale: Scale = "logit",
        batch: int = 32,
        on_run: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> None:
        plain = replace(options, methods=(), layer=None, details=False, words=False, sign="positive")
        settings = {"device": "cpu", "providers": None, "threads": None, **settings}
        self._sessions = Sessions(model, plain, **settings)
        self.metadata = ExplanationMetadata.read(self._sessions.props)
        self.by: str | None = None
        if scale == "probability":
            if self.metadata.probability:
                raise OptionError(
                    f"{self.metadata.probability}: it is measured as it is with score='logit', or name the logits"
                )
            self.by = self._squashing(options)
            squashed = replace(plain, target=Probability(self.by, options.explained), row=None)  # type: ignore[arg-type]
            self._sessions = Sessions(model, squashed, **settings)
        self._batch, self._on_run = batch, on_run
        self._inputs = Inputs(self._sessions.of(1), self.metadata)
        known = self.metadata
        self._batches = Batches(
            known.image, freed=known.batch == "freed", shared=bool(known.shared), ranged=known.batch == "ranged"
        )
        self.passes = 0

    def _squashing(self, options: Options) -> str:
        if type(options.explained) is not Class:
            raise OptionError(
                f"a probability is known of the classes of a classifier, not of the target "
                f"'{options.explained.name}': measure the logit (score='logit')"
            )
        cut = self.metadata.cut or ""
        if cut.endswith("of each head") and not cut.startswith("Sigmoid"):
            raise OptionError("several softmaxes stand in one output: measure the logit (score='logit')")
        return "sigmoid" if cut.startswith("Sigmoid") or self.metadata.classes == 1 else "softmax"

    def describe(self) -> str:
        """What the scores are."""
        if self.by is None:
            return f"logit: '{self.metadata.scores}'"
        assumed = "" if self.metadata.cut is not None else ", which the file itself does not take"
        return f"probability: the {self.by} of '{self.metadata.scores}'{assumed}"

    @property
    def image_name(self) -> str:
        """The input that holds the image."""
        return self.metadata.image

    def top(self, x: ArrayLike | Mapping[str, ArrayLike]) -> NDArray[np.int64]:
        """The top class of each image, (N,)."""
        feeds = self._inputs.feeds(x, {})
        count = len(feeds[self.image_name])
        values = self._run({**feeds, TARGETS: np.full((count, 1), -1, np.int64)})
        found: NDArray[np.int64] = values[EXPLAINED][:, 0]
        return found

    def __call__(
        self, x: ArrayLike | Mapping[str, ArrayLike], targets: ArrayLike, **extra: ArrayLike
    ) -> NDArray[np.float64]:
        """The scores (N, K) of images for targets (N, K), in as many runs as it takes.

        Args:
            x: As for :class:`~portable_cam.explainer.Explainer`, as are the others.
            targets: As there.
            **extra: As there.
        """
        feeds = self._inputs.feeds(x, extra)
        count = len(feeds[self.image_name])
        asked = self._inputs.targets(targets, count, extra)
        feeds |= self._inputs.further(extra, asked.shape)
        feeds[TARGETS] = asked
        return self._run(feeds)[SCORES].astype(np.float64)

    def _run(self, feeds: Arrays) -> Arrays:
        count, single = len(feeds[self.image_name]), feeds[TARGETS].shape[1] == 1
        session = _Scores(self._sessions.of(1 if single else None))
        parts = []
        for start in range(0, count, self._batch):
            part = {name: value[start : start + self._batch] for name, value in feeds.items()}
            size = len(part[TARGETS])
            if self._on_run is not None:
                self._on_run(size)
            self.passes += size
            parts.append(self._batches.run(session, part))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Scores:
    """A session that hands out the scores alone, and not the model's own outputs."""

    def __init__(self, session: Runs) -> None:
        self._session = session
        self.inputs, self.optional = session.inputs, session.optional

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        wanted = [SCORES, EXPLAINED]
        if isinstance(self._session, Session):
            return self._session.run(feeds, wanted)
        made = self._session.run(feeds)
        return {name: made[name] for name in wanted}
