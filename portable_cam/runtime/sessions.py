"""The explanation graphs of one explainer, built when first needed, and what runs them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from portable_cam.errors import ModelError, OptionError
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel, normalized
from portable_cam.runtime.gpu.options import Common, Cuda
from portable_cam.runtime.native import native_of
from portable_cam.runtime.session import Session

if TYPE_CHECKING:
    from portable_cam.runtime.gpu.pipeline import Pipeline
    from portable_cam.runtime.gpu.protocol import PipelineDevice


class Sessions:
    """What runs the explanations of a model.

    One target per image has a graph of its own, without the loop over targets.

    Args:
        model: The model.
        options: What to compute.
        **settings: As :class:`~portable_cam.runtime.session.Session` takes them: ``device``, which may also be one
            with options, ``providers``, ``threads``, ``optimize``, ``time_limit``, ``session_options``,
            ``custom_op_libraries``.

    Attributes:
        model: The model; in half precision where the device wants it so.
        options: What is computed; in float32 where ONNX Runtime has no kernels for the model's float64.
        native: Those of the settings that are handed through to ONNX Runtime, for every other session on this model.
        props: The metadata of the explanation graph.

    Raises:
        Error: A subclass that names what does not fit.
    """

    def __init__(self, model: NormalizedModel, options: Options, **settings: Any) -> None:
        self.model = model
        self.options = options
        self._settings = settings
        self.native = native_of(settings)
        device = settings["device"]
        chosen = Cuda() if device == "cuda" and settings["providers"] is None else device
        self._device = chosen if isinstance(chosen, Common) else None
        self._opened: PipelineDevice | None = None
        first, built = self._built_and_started(1)
        self._sessions: dict[int | None, Session | Pipeline] = {1: first}
        self.props: dict[str, str] = dict(built.metadata_props)

    def of(self, targets_per_image: int | None) -> Session | Pipeline:
        """For so many targets per image; None for any number."""
        if targets_per_image not in self._sessions:
            self._sessions[targets_per_image], _ = self._built_and_started(targets_per_image)
        return self._sessions[targets_per_image]

    def _built_and_started(self, targets_per_image: int | None) -> tuple[Session | Pipeline, ir.Model]:
        built = self._built(targets_per_image)
        try:
            return self._started(built), built
        except ModelError:
            if "float64" not in ExplanationMetadata.read(built.metadata_props).float_types:
                raise
            # few float64 kernels exist, and none of convolution on the CPU
            self.options = replace(self.options, precision="float32")
            return self._built_and_started(targets_per_image)

    def _built(self, targets_per_image: int | None) -> ir.Model:
        if self._device is None:
            return explanation_model(self.model, self.options, targets_per_image=targets_per_image)
        from portable_cam.export.deploy.cuda import optimize_for_cuda
        from portable_cam.runtime.gpu.device import open_device
        from portable_cam.runtime.gpu.pipeline import wants_graph_heads

        if self._opened is None:
            self._opened = open_device(self._device)
            if self._device.precision == "float16":
                from portable_cam.runtime.gpu.float16 import to_float16

                self.model = normalized(to_float16(self.model))
        in_graph = wants_graph_heads(self._device, self._opened)
        build = partial(explanation_model, self.model, self.options, targets_per_image=targets_per_image)
        try:
            built = build(heads_in_graph=in_graph)
        except OptionError:
            if in_graph or self._device.heads == "kernels":
                raise
            built = build(heads_in_graph=True)  # kernels stretch a map over the image, and this layer sees a part of it
        optimize_for_cuda(built.graph)
        return built

    def _started(self, model: ir.Model) -> Session | Pipeline:
        if self._device is None or self._opened is None:
            return Session(model, **self._settings)
        from portable_cam.runtime.gpu.pipeline import Pipeline

        return Pipeline(model, self._opened, self._device, details=self.options.details, **self.native)
