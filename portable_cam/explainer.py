"""The explainer: a model, what to explain of it, and how."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.checked import checked
from portable_cam.errors import DeviceError, InputError, PortableCamWarning, TargetError
from portable_cam.export.format import CLAMPED, EXPLAINED, MOST_RANKS, SCORES, TARGETS, ExplanationMetadata, split
from portable_cam.export.options import Keywords, Options
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.read.description import Description
from portable_cam.export.targets import Target
from portable_cam.labels import AnyLabels, as_labels, holds_names, labels_in, parse_rows
from portable_cam.rebuilt import Rebuilt
from portable_cam.result import Result
from portable_cam.runtime.arithmetic import inexact_here
from portable_cam.runtime.flags import find_flags
from portable_cam.runtime.gpu.options import Common
from portable_cam.runtime.inputs import Inputs
from portable_cam.runtime.native import Libraries, SessionOptions, libraries_of
from portable_cam.runtime.notes import notes_of, nothing_guided, warning_of_nothing_guided
from portable_cam.runtime.results import layer_of, result_of
from portable_cam.runtime.run_batches import Batches
from portable_cam.runtime.session import Provider, Session
from portable_cam.runtime.sessions import Sessions
from portable_cam.spelling import option
from portable_cam.verify import check_cache
from portable_cam.verify.check import Check
from portable_cam.verify.checks import check_explanation

if TYPE_CHECKING:
    from portable_cam.runtime.gpu.pipeline import Pipeline
    from portable_cam.runtime.gpu.result import DeviceResult


_NO_SUCH_ROW = "out of data bounds"  # as ONNX Runtime says it
#: Targets whose scores have a row for each image.
_OF_CLASSES = frozenset({"class", "class_set"})


class Explainer(Rebuilt):
    """Explains a model's answers; builds the explanation graph once and runs it on batch after batch. It can be pickled
    and copied: it is then made again from its arguments.

    Args:
        model: A path, bytes, ``onnx.ModelProto``, ``onnx_ir.Model`` or ``NormalizedModel``.
        methods: As in :class:`~portable_cam.export.options.Options`; likewise ``layer``, ``target`` and ``**options``.
        layer: See ``methods``.
        target: See ``methods``.
        device: ``cpu``, ``cuda``, or a :class:`~portable_cam.runtime.gpu.Cuda` with options (``docs/gpu.md``).
        providers: Execution providers as ONNX Runtime takes them, in place of ``device``.
        threads: CPU threads within an operator.
        optimize: False for plain rounding; see :class:`~portable_cam.runtime.session.Session`.
        time_limit: Seconds after which a run is given up, for models that are not trusted.
        labels: The names of the classes, a list or a file of them, so that targets may be named; by default those that
            the model's description or metadata say.
        session_options: ONNX Runtime's own, by name, as ``{"intra_op_num_threads": 2}``, or its ``SessionOptions``,
            which are used as they are and cannot be pickled.
        custom_op_libraries: Files of custom operators that the model uses.
        check: Check the first explanation, unless the same model and options were checked before: ``checks``
            (``docs/reliability.md``).
        **options: ``output``, ``row``, ``profile``, ``relu_policy``, ``saturation``, ``sign``, ``precision``,
            ``alignment``, ``axes``, ``as_is``, ``details``, ``words``. A float64 model is computed in float32 where
            ONNX Runtime has no kernels for it; ``notes`` says so.

    Raises:
        Error: A subclass that names what does not fit.
    """

    @checked
    def __init__(
        self,
        model: AnyModel,
        methods: Sequence[str] = ("gradcam",),
        layer: str | Sequence[str] | None = None,
        target: Target | None = None,
        *,
        device: str | Common = "cpu",
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        optimize: bool = True,
        time_limit: float | None = None,
        check: bool = False,
        labels: AnyLabels = None,
        session_options: SessionOptions | None = None,
        custom_op_libraries: Libraries = (),
        **options: Unpack[Keywords],
    ) -> None:
        known = normalized(model)
        given = {"methods": methods, "layer": layer, "target": target, **options}
        self._sessions = Sessions(
            known,
            self._options_of(known.described(given)),
            device=device,
            providers=providers,
            threads=threads,
            optimize=optimize,
            time_limit=time_limit,
            session_options=session_options,
            custom_op_libraries=libraries_of(custom_op_libraries),
        )
        self._wants_check = check
        #: What the checks of the first explanation found; empty where none was asked for.
        self.checks: tuple[Check, ...] = ()
        self._metadata = ExplanationMetadata.read(self._sessions.props)
        self._inputs = Inputs(self._sessions.of(1), self._metadata)
        said = as_labels(labels) or as_labels(known.description.task_options.get("labels"), "the model's description")
        self.labels = said.check(self.classes) if said is not None else labels_in(self.metadata, self.classes)
        batch, shared = self._metadata.batch, bool(self._metadata.shared)
        self._batches = Batches(self._metadata.image, freed=batch == "freed", shared=shared, ranged=batch == "ranged")
        self._inexact = device == "cpu" and providers is None and inexact_here(known.graph)
        if nothing_guided(self._metadata, self._sessions.options):
            warnings.warn(warning_of_nothing_guided(self._sessions.options), PortableCamWarning, stacklevel=2)

    def _options_of(self, given: Mapping[str, Any]) -> Options:
        """The options of the graph."""
        return Options.of(given)

    # -- what was decided ------------------------------------------------------------------------------------------

    @property
    def methods(self) -> tuple[str, ...]:
        return self._sessions.options.methods

    @property
    def layer(self) -> str | list[str]:
        """The tensor explained (a list if several)."""
        return layer_of(self._metadata)

    @property
    def guided_nodes(self) -> list[str]:
        return list(self._metadata.guided_nodes)

    @property
    def sign(self) -> str:
        """``positive``, or ``negative`` where the maps show what speaks against a target."""
        return self._sessions.options.sign

    @property
    def profile(self) -> str:
        """Whose conventions the maps follow."""
        return self._sessions.options.profile

    @property
    def model_path(self) -> Path | None:
        """The file of the model; None where it was given otherwise."""
        return self._sessions.model.path

    @property
    def image_name(self) -> str:
        return self._metadata.image

    @property
    def notes(self) -> tuple[str, ...]:
        one_image, mixes = self.input_shape()[0] == 1, bool(self._batches.mixes)
        known = self._sessions.options
        return tuple(notes_of(self._metadata, known, one_image=one_image, mixes=mixes, inexact=self._inexact))

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the explanation graph, the source model's included."""
        return dict(self._sessions.props)

    @checked
    def input_shape(self, name: str | None = None) -> list[int | str | None]:
        """The shape of an input, by default that of the image; a str or None where it is symbolic."""
        return list(self._sessions.of(1).spec(name or self.image_name).shape)

    def input_dtype(self) -> str:
        """The element type of the image input as numpy names it."""
        return self._sessions.of(1).dtype(self.image_name).name

    @property
    def input_quantization(self) -> tuple[float, int] | None:
        """Scale and zero point of an integer image input: an integer q represents (q - zero point) * scale. None if
        the model says none."""
        found = self._metadata.input_quantization
        return None if found is None else (float(found[0]), int(found[1]))

    @property
    def classes(self) -> int | None:
        """How many classes the scores have; None if known only at run time."""
        return self._metadata.classes

    @property
    def description(self) -> Description:
        """What the JSON beside the model, or its metadata, says of it."""
        return self._sessions.model.description

    @property
    def cut(self) -> str | None:
        """The operator behind the scores that was left out, as ``Softmax``; None if there is none."""
        return self._metadata.cut

    @property
    def inputs(self) -> dict[str, str]:
        """The further inputs that the target takes, and what each is."""
        return dict(self._metadata.inputs)

    # -- explaining ------------------------------------------------------------------------------------------------

    def __call__(
        self, x: ArrayLike | Mapping[str, ArrayLike], targets: ArrayLike | None = None, **extra: ArrayLike
    ) -> Result:
        """Explain a batch.

        Args:
            x: The image as the model takes it, (N, C, H, W) or (N, H, W, C), or a dict of all inputs: an array, a torch
                tensor, what speaks DLPack, or a list or iterator of images.
            targets: Integers (N,) or (N, K), or one integer for all; None: the top class of each image. Names where
                labels are given, and ``top2``: as text for all images alike (``"tabby, tiger cat"``), or a list with
                those of each.
            **extra: The further inputs of the target by name (see ``inputs``), each (N, K, ...), or any shape that
                broadcasts to it: a mask (H, W) holds for all images and targets.

        Raises:
            InputError: An input has the wrong name, shape or type, or holds NaN.
            TargetError: A target is neither an integer nor a name, or out of range.
            LabelError: A name, but no labels, or no such name.
        """
        feeds = self._inputs.feeds(x, extra)
        asked = self._asked(targets, len(feeds[self.image_name]), extra)
        return self._explained(feeds, asked, extra, given=targets is not None)

    def ranked(self, x: Any, targets: Any, **extra: Any) -> Result:
        """As a call, with integers that may be ranks, too: -1 for the top class of an image, -2 for the second, as an
        explanation file takes them."""
        feeds = self._inputs.feeds(x, extra)
        asked = self._inputs.targets(targets, len(feeds[self.image_name]), extra, ranks=True)
        return self._explained(feeds, asked, extra)

    def _asked(self, targets: Any, count: int, extra: Mapping[str, Any]) -> NDArray[np.int64]:
        """Targets (N, K), named ones as numbers."""
        if holds_names(targets):
            return self._inputs.targets(parse_rows(targets, self.labels, count), count, extra, ranks=True)
        return self._inputs.targets(targets, count, extra)

    def _explained(
        self, feeds: dict[str, NDArray[Any]], asked: NDArray[np.int64], extra: Mapping[str, Any], *, given: bool = True
    ) -> Result:
        count = len(feeds[self.image_name])
        self._check_shared(asked)
        feeds |= self._inputs.further(extra, asked.shape)
        try:
            return self._run(feeds, asked)
        except InputError as error:
            if self._metadata.row is None or _NO_SUCH_ROW not in str(error):
                raise
            raise TargetError(
                f"row {self._metadata.row} is out of range: '{self._metadata.scores}' has fewer rows for {count} images"
            ) from None

    def on_device(self, x: Any, targets: ArrayLike | None = None, **extra: ArrayLike) -> DeviceResult:
        """Explain a batch whose results stay on the GPU; only for ``device="cuda"`` or a device with options.

        Args:
            x: As for a call; an array that offers DLPack (torch, CuPy) and is on the device is taken from there, and
                its values are not looked at: NaN shows in ``flags``.
            targets: As for a call.
            **extra: As for a call.

        Raises:
            InputError, TargetError: As for a call.
            DeviceError: The explainer is not on a device.
        """
        from portable_cam.runtime.gpu.result import DeviceArray, DeviceResult

        named, pipeline = self._inputs.named(x), self.pipeline(1)
        self._inputs.check_names(named, extra)
        feeds = {name: pipeline.take(name, value) for name, value in named.items()}
        asked = self._asked(targets, feeds[self.image_name].shape[0], extra)
        self._check_shared(asked)
        further = self._inputs.further(extra, asked.shape)
        pipeline = self.pipeline(1 if asked.shape[1] == 1 else None)
        made = pipeline.on_device({**feeds, **further, "targets": asked})
        values = {name: DeviceArray(value, pipeline.device) for name, value in made.items()}
        maps, raw, outputs = split(values, self._metadata)
        return DeviceResult(
            scores=values[SCORES],
            targets=values[EXPLAINED],
            layer=self.layer,
            maps=maps,
            raw=raw,
            outputs=outputs,
            values=values,
            to_host=self._result,
            find_flags=find_flags,
            statistics=None if pipeline.heads is None else pipeline.heads.statistics,
        )

    def pipeline(self, targets_per_image: int | None = 1) -> Pipeline:
        """What runs on the device, its buffers and kernels: :class:`DeviceError` if this explainer runs on the host."""
        from portable_cam.runtime.gpu.pipeline import Pipeline

        session = self._sessions.of(targets_per_image)
        if not isinstance(session, Pipeline):
            raise DeviceError(
                f"this explainer runs on the host: make it with {option('device', 'cuda')} to leave results on the GPU"
            )
        return session

    @checked
    def top(self, x: ArrayLike | Mapping[str, ArrayLike], k: int, **extra: ArrayLike) -> Result:
        """Explain the ``k`` classes with the highest scores of each image, best first; ``extra`` as in a call."""
        if k < 1:
            raise TargetError(f"top{k}: at least 1 top class can be explained")
        feeds = self._inputs.feeds(x, extra)
        ranks = np.tile(-np.arange(1, min(k, MOST_RANKS + 1) + 1, dtype=np.int64), (len(feeds[self.image_name]), 1))
        return self._explained(feeds, self._inputs.targets(ranks, len(ranks), extra, ranks=True), extra)

    def _learnt(self) -> dict[str, Any]:
        return {"checks": self.checks}

    def _run(self, feeds: dict[str, NDArray[Any]], asked: NDArray[np.int64]) -> Result:
        session = self._session_for(asked)
        values = self._batches.run(session, {**feeds, TARGETS: asked})
        _refuse_clamped(values, asked)
        self._check_rows(values, len(asked))
        if self._wants_check and not self.checks:
            key = check_cache.key_of(self._metadata)
            self.checks = check_cache.read(key) or self._checked(feeds, values)
            check_cache.write(key, self.checks)
        return self._result(values)

    def _check_shared(self, asked: NDArray[np.int64]) -> None:
        """Images that have one score together are asked about together."""
        if self._metadata.shared and self.input_shape()[0] != 1 and (asked != asked[:1]).any():
            raise TargetError("all images have one score together here: ask for the same targets of each")

    def _check_rows(self, values: dict[str, NDArray[Any]], count: int) -> None:
        """Whether scores of classes have a row for each image, where the graph did not tell and none was chosen."""
        known = self._metadata
        renamed = {old: new for new, old in (known.renamed or {}).items()}
        found = values.get(renamed.get(known.output, known.output))
        if known.row is not None or known.shared or known.target["kind"] not in _OF_CLASSES or found is None:
            return
        if found.ndim > 1 and found.shape[0] != count and found.size != count * (known.classes or 0):
            images = f"{count} image{'s' if count > 1 else ''}"
            raise TargetError(
                f"the scores '{known.output}' have {found.shape[0]} rows for {images}, and whose they are is not "
                f"known: choose one with {option('row')}, 0 to {found.shape[0] - 1}"
            )

    def check(
        self, x: ArrayLike | Mapping[str, ArrayLike], targets: ArrayLike | None = None, **extra: ArrayLike
    ) -> tuple[Check, ...]:
        """Explain a batch and check the explanation of its first image (:mod:`portable_cam.verify.checks`).

        Args:
            x: As for a call, as are the others.
            targets: As for a call.
            **extra: As for a call.
        """
        feeds = self._inputs.feeds(x, extra)
        asked = self._asked(targets, len(feeds[self.image_name]), extra)
        feeds |= self._inputs.further(extra, asked.shape)
        session = self._session_for(asked)
        return self._checked(feeds, self._batches.run(session, {**feeds, TARGETS: asked}))

    def _session_for(self, asked: NDArray[np.int64]) -> Session | Pipeline:
        """What runs these targets (N, K)."""
        return self._sessions.of(1 if asked.shape[1] == 1 else None)

    def _checked(self, feeds: dict[str, NDArray[Any]], values: dict[str, NDArray[Any]]) -> tuple[Check, ...]:
        count = len(feeds[self.image_name])

        def of_first(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: v[:1] if v.ndim and len(v) == count else v for name, v in arrays.items()}

        given, found = {**feeds, TARGETS: values[EXPLAINED]}, values
        fixed = self.input_shape()[0]
        together = self._metadata.shared or (isinstance(fixed, int) and fixed > 1)
        if not together:
            given, found = of_first(given), of_first(values)
            if self._metadata.row is not None:  # outputs with several rows for each image
                found = self._session_for(given[TARGETS]).run(given)
        known = self._sessions
        return tuple(check_explanation(known.model, known.options, self._metadata, given, found, known.native))

    def _result(self, values: dict[str, NDArray[Any]]) -> Result:
        return result_of(values, self._metadata, notes=self.notes, checks=self.checks)


def _refuse_clamped(values: dict[str, NDArray[Any]], asked: NDArray[np.int64]) -> None:
    """A file explains the nearest target and flags it; here it is asked for another."""
    if values[CLAMPED].any():
        wrong = np.abs(asked[values[CLAMPED]]).max()
        raise TargetError(f"target {wrong} is out of range: the model has fewer classes")
