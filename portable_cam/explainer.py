"""The explainer: a model, what to explain of it, and how."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.errors import DeviceError, InputError, TargetError
from portable_cam.export.format import (
    ACTIVATIONS,
    EXPLAINED,
    GRADIENTS,
    SCORES,
    TARGETS,
    TOKEN_ATTRIBUTION,
    VIEWS,
    ExplanationMetadata,
    named,
    split,
)
from portable_cam.export.methods.registry import uses_relu_rule
from portable_cam.export.options import Keywords, Options
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.read.description import Description
from portable_cam.export.targets import Target
from portable_cam.result import Result
from portable_cam.runtime.flags import at_rounding, find_flags
from portable_cam.runtime.gpu.options import Common
from portable_cam.runtime.inputs import Inputs
from portable_cam.runtime.run_batches import Batches
from portable_cam.runtime.session import Provider, Session
from portable_cam.runtime.sessions import Sessions
from portable_cam.runtime.unseen import not_seen, shares_unseen
from portable_cam.verify import check_cache
from portable_cam.verify.checks import Check, check_explanation

if TYPE_CHECKING:
    from portable_cam.runtime.gpu.pipeline import Pipeline
    from portable_cam.runtime.gpu.result import DeviceResult

#: What a relu_policy that found nothing may be exchanged for.
_WIDER = {
    "relu": "; relu_policy 'relu+clip' also guides ReLU6, 'all' also SiLU, GELU, HardSwish and other relatives",
    "relu+clip": "; relu_policy 'all' also guides SiLU, GELU, HardSwish and other relatives",
    "all": "",
}


class Explainer:
    """Explains a model's answers; builds the explanation graph once and runs it on batch after batch.

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
        check: Check the first explanation, unless the same model and options were checked before: ``checks``
            (``docs/reliability.md``).
        **options: ``output``, ``profile``, ``relu_policy``, ``saturation``, ``sign``, ``precision``, ``details``,
            ``words``. A float64 model is computed in float32 where ONNX Runtime has no kernels for it; ``notes`` says
            so.

    Raises:
        Error: A subclass that names what does not fit.
    """

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
        )
        self._wants_check = check
        #: What the checks of the first explanation found; empty where none was asked for.
        self.checks: tuple[Check, ...] = ()
        self._metadata = ExplanationMetadata.read(self._sessions.props)
        self._inputs = Inputs(self._sessions.of(1), self._metadata)
        batch, shared = self._metadata.batch, bool(self._metadata.shared)
        self._batches = Batches(self._metadata.image, freed=batch == "freed", shared=shared, ranged=batch == "ranged")
        if self._nothing_guided:
            wider = _WIDER[self._sessions.options.relu_policy]
            warnings.warn(
                f"no node counts as a ReLU here, so that guided methods give the plain gradient{wider}", stacklevel=2
            )

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
        layers = self._metadata.layer
        return layers[0] if len(layers) == 1 else list(layers)

    @property
    def guided_nodes(self) -> list[str]:
        return list(self._metadata.guided_nodes)

    @property
    def _nothing_guided(self) -> bool:
        return uses_relu_rule(self._sessions.options.methods) and not self.guided_nodes

    @property
    def sign(self) -> str:
        """``positive``, or ``negative`` where the maps show what speaks against a target."""
        return self._sessions.options.sign

    @property
    def image_name(self) -> str:
        return self._metadata.image

    @property
    def notes(self) -> tuple[str, ...]:
        known, notes = self._metadata, []
        if known.cut:
            notes.append(f"the score is '{known.scores}', before the final {known.cut}")
        if self._nothing_guided:
            notes.append("no node was guided: the guided maps are the plain gradient")
        if known.shared and self.input_shape()[0] != 1:
            notes.append("one score for all images of a batch: each map shows what its image adds to it")
        if self._batches.mixes:
            notes.append("images run one by one: together they gave other scores, though the graph seemed to allow it")
        if known.widened:
            notes.append(f"the model is {known.widened} and computed in float32, inputs and outputs included")
        if self._sessions.options.precision == "float32":
            notes.append("computed in float32, inputs and outputs included, whatever types the model is stored in")
        return tuple(notes)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the explanation graph, the source model's included."""
        return dict(self._sessions.props)

    def input_shape(self, name: str | None = None) -> list[int | str | None]:
        """The shape of an input, by default that of the image; a str or None where it is symbolic."""
        return list(self._sessions.of(1).inputs[name or self.image_name].shape)

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
            x: The image as the model takes it, (N, C, H, W) or (N, H, W, C), or a dict of all inputs.
            targets: Integers (N,) or (N, K), or one integer for all; None: the top class of each image.
            **extra: The further inputs of the target by name (see ``inputs``), each (N, K, ...), or any shape that
                broadcasts to it: a mask (H, W) holds for all images and targets.

        Raises:
            InputError: An input has the wrong name, shape or type, or holds NaN.
            TargetError: A target is not an integer, or out of range.
        """
        feeds = self._inputs.feeds(x, extra)
        count = len(feeds[self.image_name])
        asked = self._inputs.targets(targets, count, extra)
        if self._metadata.shared and (asked != asked[:1]).any():
            raise TargetError("all images have one score together here: ask for the same targets of each")
        feeds |= self._inputs.further(extra, asked.shape)
        try:
            return self._run(feeds, asked)
        except InputError:
            if self.classes is not None or targets is None or extra:
                raise
            self._run(feeds, np.full((count, 1), -1, np.int64))  # if this fails too, it was not the targets
            raise TargetError(f"target {asked.max()} is out of range: the model has fewer classes") from None

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
        asked = self._inputs.targets(targets, feeds[self.image_name].shape[0], extra)
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
            raise DeviceError("this explainer runs on the host: make it with device='cuda' to leave results on the GPU")
        return session

    def top(self, x: ArrayLike | Mapping[str, ArrayLike], k: int, **extra: ArrayLike) -> Result:
        """Explain the ``k`` classes with the highest scores of each image, best first; ``extra`` as in a call."""
        feeds = self._inputs.feeds(x, extra)
        limit = min(16, self.classes or 16)
        if not 1 <= k <= limit:
            raise TargetError(f"top{k}: between 1 and {limit} top classes can be explained at once")
        asked = np.tile(-np.arange(1, k + 1, dtype=np.int64), (len(feeds[self.image_name]), 1))
        return self._run(feeds | self._inputs.further(extra, asked.shape), asked)

    def _run(self, feeds: dict[str, NDArray[Any]], asked: NDArray[np.int64]) -> Result:
        session = self._session_for(asked)
        values = self._batches.run(session, {**feeds, TARGETS: asked})
        if self._wants_check and not self.checks:
            key = check_cache.key_of(self._metadata)
            self.checks = check_cache.read(key) or self._checked(feeds, values)
            check_cache.write(key, self.checks)
        return self._result(values)

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
        asked = self._inputs.targets(targets, len(feeds[self.image_name]), extra)
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

        given, found = of_first({**feeds, TARGETS: values[EXPLAINED]}), of_first(values)
        if self._metadata.shared:  # what the first image has alone is not what it has among the others
            found = self._session_for(given[TARGETS]).run(given)
        return tuple(check_explanation(self._sessions.model, self._sessions.options, self._metadata, given, found))

    def _result(self, values: dict[str, NDArray[Any]]) -> Result:
        maps, raw, outputs = split(values, self._metadata)
        unseen = shares_unseen(values, self._metadata.unseen)
        for method, found in maps.items():
            if (nothing := at_rounding(values, method)).any():
                maps[method] = np.where(
                    nothing.reshape(nothing.shape + (1,) * (found.ndim - 2)), found.dtype.type(0), found
                )
        first = self._metadata.layer[0] if self._metadata.layer else None
        return Result(
            scores=values[SCORES],
            targets=values[EXPLAINED],
            layer=self.layer,
            maps=maps,
            raw=raw,
            flags=find_flags(values, maps),
            guided_nodes=self.guided_nodes,
            outputs=outputs,
            notes=(*self.notes, *not_seen(unseen)),
            activations=values.get(f"{ACTIVATIONS}{first}"),
            gradients=values.get(f"{GRADIENTS}{first}"),
            words=named(values, TOKEN_ATTRIBUTION),
            channel_axis=self._metadata.channel_axis,
            placed=dict(self._metadata.placed or {}),
            views=named(values, VIEWS),
            unseen=unseen,
            checks=self.checks,
        )
