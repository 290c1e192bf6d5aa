# SPDX-License-Identifier: Apache-2.0
"""An explanation graph and the kernels behind the interface of a session."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import DeviceError, InputError, ModelError, PortableCamWarning
from portable_cam.export.format import ACTIVATIONS, EXTENT, GRADIENTS, VIEWS, ExplanationMetadata, is_internal
from portable_cam.kernels.array import Array
from portable_cam.runtime.gpu import placement
from portable_cam.runtime.gpu.binding import BoundSession, from_dlpack
from portable_cam.runtime.gpu.device import has_kernels
from portable_cam.runtime.gpu.heads import KernelHeads
from portable_cam.runtime.gpu.options import Common, Cuda
from portable_cam.runtime.gpu.protocol import PipelineDevice
from portable_cam.runtime.session import Session
from portable_cam.spelling import installing


def wants_graph_heads(options: Common, device: PipelineDevice) -> bool:
    """Whether the graph itself makes the maps.

    Raises:
        DeviceError: Kernels were asked for, and there are none.
    """
    if options.heads == "graph":
        return True
    there = has_kernels(device)
    if options.heads == "kernels" and not there:
        raise DeviceError(
            "kernels were asked for, but Triton is not installed and there is no file of compiled kernels: "
            f"{installing('gpu')}, or python -m portable_cam.kernels.compile on a machine that has it"
        )
    return not there


class Pipeline:
    """Runs an explanation graph on a device, with or without heads of its own.

    Args:
        model: What ``explanation_model`` made.
        device: The device.
        options: What the user chose.
        details: Also give the layers' activations and gradients.
        **native: What is handed through to ONNX Runtime, as :class:`Session` takes it.

    Attributes:
        bound: The graph on its buffers.
        heads: The kernels that go on where the graph stops; None if it has heads of its own.
        misplaced: The nodes that did not get the device.

    Raises:
        DeviceError: A node did not get the device, and the options make that an error.
    """

    def __init__(
        self, model: ir.Model, device: PipelineDevice, options: Common, *, details: bool = False, **native: Any
    ) -> None:
        self.device = device
        # buffers are shared by all calls: whoever fills them in has them until the results are copied out
        self._lock = threading.Lock()
        self.session, graphs = self._start(model, options, native)
        self.inputs, self.outputs, self.optional = self.session.inputs, self.session.outputs, self.session.optional
        metadata = ExplanationMetadata.read(model.metadata_props)
        self._image, self._axis = metadata.image, metadata.channel_axis
        # images that share a score, or have views of any number, are not joined by blank ones
        several = any(name.startswith(VIEWS) for name in self.outputs)
        alone = bool(metadata.shared) or metadata.row is not None or metadata.batch == "ranged" or several
        buckets = None if alone else options.buckets
        self.bound = BoundSession(
            self.session, device, self._image, buckets, kept=options.shapes_kept, cuda_graphs=graphs
        )
        self._details = details
        self.heads = _kernel_heads(metadata, device, details)
        self._check_placement(model, options)

    def spec(self, name: str) -> Any:
        """As :meth:`~portable_cam.runtime.session.Session.spec`."""
        return self.session.spec(name)

    def _start(self, model: ir.Model, options: Common, native: dict[str, Any]) -> tuple[Session, bool]:
        """The session, and whether it records CUDA graphs."""
        wanted = isinstance(options, Cuda) and options.cuda_graphs
        why = "it has control flow (several targets per image are a Scan)" if _has_subgraphs(model) else None
        if wanted and why is None:
            try:
                providers = self.device.providers(cuda_graphs=True)
                return Session(model, providers=providers, record_placement=True, **native), True
            except ModelError as error:
                why = str(error)
        session = Session(model, providers=self.device.providers(), record_placement=True, **native)
        if wanted:  # told once it is known that the model runs without
            warnings.warn(f"the explanation runs without CUDA graphs: {why}", PortableCamWarning, stacklevel=6)
        return session, False

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type of an input."""
        return self.session.dtype(name)

    def check_input(self, name: str, value: Any) -> NDArray[Any]:
        """As :meth:`~portable_cam.runtime.session.Session.check_input`."""
        return self.session.check_input(name, value)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """From host to host: what a session returns for the graph with heads."""
        made = self.on_device(feeds)
        wanted = [n for n in made if not n.startswith(EXTENT) and (outputs is None or n in outputs)]
        return dict(zip(wanted, self.device.download(*(made[name] for name in wanted)), strict=True))

    def on_device(self, feeds: Mapping[str, NDArray[Any] | Array]) -> dict[str, Array]:
        """From arrays of the host or the device to arrays of the device, which stay as they are.

        Nothing here waits for the device.
        """
        with self._lock:
            return self._on_device(feeds)

    def _on_device(self, feeds: Mapping[str, NDArray[Any] | Array]) -> dict[str, Array]:
        self.device.enter()
        values = self.bound.run(feeds)
        made: dict[str, Array] = {}
        if self.heads is not None:
            shape = feeds[self._image].shape
            made = self.heads(values, (shape[2], shape[3]) if self._axis == 1 else (shape[1], shape[2]))
        layers = (ACTIVATIONS, GRADIENTS)
        for name, value in values.items():
            # the next run writes these buffers again, so whoever gets one gets a copy
            if name not in made and not is_internal(name) and (self._details or not name.startswith(layers)):
                if self.heads is None or self.heads.gives(name):
                    made[name] = self._copy(value)
            elif name in made and made[name].pointer == value.pointer:
                made[name] = self._copy(value)
        return made

    def take(self, name: str, value: Any) -> Array | NDArray[Any]:
        """An input that a user gave: of the device as it is, else on the host; checked.

        Raises:
            InputError: Wrong name, shape or type, or on another device.
        """
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
            return self.session.check_input(name, value)
        kind, index = value.__dlpack_device__()
        if (int(kind), int(index)) == (self.device.dlpack_type, self.device.index):
            array = from_dlpack(name, value, self.device)
            self.session.check_shape(name, array.shape)
            if array.dtype != self.session.dtype(name).name:
                raise InputError(f"input '{name}' must be {self.session.dtype(name)}, not {array.dtype}")
            return array
        if int(kind) == 1:
            return self.session.check_input(name, np.from_dlpack(value))
        raise InputError(
            f"input '{name}' is on DLPack device {kind}:{index}, not on {self.device.kind}:{self.device.index}"
        )

    def _copy(self, source: Array) -> Array:
        to = self.device.empty(source.shape, source.dtype)
        self.device.copy(source, to)
        return to

    def _check_placement(self, model: ir.Model, options: Common) -> None:
        wanted = self.device.providers()[0]
        name = wanted if isinstance(wanted, str) else wanted[0]
        self.misplaced = placement.elsewhere(model, self.session.placement(), name)
        if self.misplaced:
            message = placement.describe(self.misplaced, name)
            if options.placement == "error":
                raise DeviceError(message)
            warnings.warn(message, PortableCamWarning, stacklevel=4)


def _kernel_heads(metadata: ExplanationMetadata, device: PipelineDevice, details: bool) -> KernelHeads | None:
    if metadata.kernels is None:
        return None
    return KernelHeads(
        device,
        metadata.options,
        tuple(metadata.kernels["layers"]),
        metadata.kernels["cam"],
        channels_last=metadata.channel_axis != 1,
        details=details,
    )


def _has_subgraphs(model: ir.Model) -> bool:
    """Control flow, which a CUDA graph cannot record."""
    return any(True for _ in model.graph.subgraphs())
