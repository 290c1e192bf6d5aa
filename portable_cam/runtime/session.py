"""ONNX Runtime: the only module that imports it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import DeviceError, InputError, ModelError, OptionError
from portable_cam.export.read.weights import Parts, apart, fits
from portable_cam.runtime.native import Libraries, NativeOptions, SessionOptions
from portable_cam.spelling import either, installing, option

try:
    import onnxruntime as ort
except ImportError as error:
    raise DeviceError(
        "ONNX Runtime is not installed: pip install onnxruntime, or on a machine with an NVIDIA GPU "
        f"{installing('gpu')} (never both: they overwrite each other's files)"
    ) from error

Provider: TypeAlias = str | tuple[str, dict[str, Any]]
_DEVICES: dict[str, list[Provider]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_MOST_THREADS = 4096
_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """Where a node went."""

    name: str
    operator: str
    provider: str


class Session:
    """A model ready to run.

    Args:
        model: The model, or its bytes. An ``onnx_ir.Model`` may be larger than the 2 GiB of a protobuf: its weights
            are then mapped from its files, and not packed for faster kernels, which would be a second copy.
        device: ``"cpu"`` or ``"cuda"``; ignored where ``providers`` is given.
        providers: Execution providers as ONNX Runtime takes them.
        threads: CPU threads within an operator; None for ONNX Runtime's choice.
        optimize: False keeps ONNX Runtime from rearranging the graph (blocked layouts, fusions): slower, and rounding
            as in a plain implementation.
        as_written: True runs the graph node by node, without any of ONNX Runtime's optimisations.
        spin: False lets idle threads sleep at once. Where several sessions run in turn, the threads of the last one
            would otherwise still be waiting busily, and slow the next one.
        record_placement: Remember which node went to which provider, for :meth:`placement`.
        time_limit: Seconds after which a run is given up, for models that are not trusted: a loop in one need not
            end, and Python hears no Ctrl-C meanwhile. None for no limit.
        session_options: ONNX Runtime's own, by name, or as its object (:mod:`portable_cam.runtime.native`).
        custom_op_libraries: Files of custom operators that the model uses.

    Raises:
        OptionError: ONNX Runtime has no such option, or a library cannot be loaded.
        DeviceError: The device or provider is not there, or the session did not get it.
        ModelError: ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model | bytes,
        *,
        device: str = "cpu",
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        optimize: bool = True,
        spin: bool = True,
        as_written: bool = False,
        record_placement: bool = False,
        time_limit: float | None = None,
        session_options: SessionOptions | None = None,
        custom_op_libraries: Libraries = (),
    ) -> None:
        wanted = list(providers) if providers is not None else _providers_of(device)
        names = [p if isinstance(p, str) else p[0] for p in wanted]
        check_available(names)
        native = NativeOptions(ort.SessionOptions(), session_options, custom_op_libraries)
        if threads is not None:
            if not 0 < threads <= _MOST_THREADS:
                raise OptionError(f"{option('threads')} is a number from 1 to {_MOST_THREADS}, not {threads}")
            native.set("intra_op_num_threads", threads)
        if not spin:
            native.value.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if record_placement:
            native.value.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not optimize:
            native.set("graph_optimization_level", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        if as_written:
            native.set("graph_optimization_level", ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        try:
            if isinstance(model, ir.Model):
                model = ir.to_proto(model) if fits(model) else self._without_weights(apart(model), native)
            data = model if isinstance(model, bytes) else _serialize(model)
            self._session = _started(data, native.value, wanted)
        finally:
            native.restore()
        missing = [name for name in names if name not in self._session.get_providers()]
        if missing:
            raise DeviceError(
                f"the session did not get {', '.join(missing)} but runs on {', '.join(self._session.get_providers())}: "
                "check the driver and the CUDA libraries (importing torch first often brings them)"
            )
        self._time_limit = time_limit
        self.inputs = {i.name: i for i in self._session.get_inputs()}
        #: Inputs that have a default and may be left out.
        self.optional = {i.name: i for i in self._session.get_overridable_initializers()}
        self.outputs = [o.name for o in self._session.get_outputs()]

    def _without_weights(self, parts: Parts, native: NativeOptions) -> onnx.ModelProto:
        if native.is_users:
            raise OptionError(
                f"the model is larger than 2 GiB, so that its weights are handed over apart, in the session options: "
                f"give {option('session_options')} as a mapping of settings"
            )
        options = native.value
        options.add_session_config_entry("session.disable_prepacking", "1")
        if parts.folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(parts.folder))
        if parts.arrays:
            self._weights = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in parts.arrays.items()}
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
        return parts.proto

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once: arrays in and out by name."""
        names = list(outputs) if outputs is not None else self.outputs
        options = ort.RunOptions()
        timer = None
        if self._time_limit is not None:
            timer = threading.Timer(self._time_limit, setattr, (options, "terminate", True))
            timer.start()
        try:
            values = self._session.run(names, dict(feeds), options)
        except Exception as error:
            if options.terminate:
                raise ModelError(f"the model did not come to an end within {self._time_limit:g} s") from None
            shapes = ", ".join(f"'{k}' {v.dtype}{list(v.shape)}" for k, v in feeds.items())
            raise InputError(f"ONNX Runtime could not run the model on {shapes}: {_first_line(error)}") from error
        finally:
            if timer is not None:
                timer.cancel()
        return dict(zip(names, values, strict=True))

    @property
    def raw(self) -> Any:
        """ONNX Runtime's own session."""
        return self._session

    def placement(self) -> list[Placed]:
        """Where each node of the optimised graph went; empty where ONNX Runtime (before 1.24) cannot tell."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            return []
        return [
            Placed(node.name, node.op_type, part.ep_name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]

    def spec(self, name: str) -> Any:
        """What ONNX Runtime says of an input: :class:`InputError` if there is none of that name."""
        if name not in self.inputs:
            raise InputError(f"the model has no input '{name}'; its inputs are {', '.join(self.inputs)}")
        return self.inputs[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type of an input."""
        kind = self.spec(name).type
        if kind not in _DTYPES:
            raise InputError(f"input '{name}' is of type {kind}, which is not supported")
        return np.dtype(_DTYPES[kind])

    def check_input(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """The array as the model takes it.

        Raises:
            InputError: Wrong name, rank, size or type, or NaN or infinite values.
        """
        dtype = self.dtype(name)
        array = np.asarray(value)
        if array.dtype != dtype:
            lossless = np.can_cast(array.dtype, dtype, "same_kind") or array.dtype.kind == dtype.kind
            if not lossless:
                raise InputError(f"input '{name}' must be {dtype}, not {array.dtype}")
            array = array.astype(dtype)
        self.check_shape(name, array.shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"input '{name}' holds NaN or infinite values: check the image and its preprocessing")
        return array

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Whether the model takes an input of this shape: :class:`InputError` if not."""
        expected = list(self.spec(name).shape)
        fits = len(shape) == len(expected) and all(
            not isinstance(e, int) or e == got for e, got in zip(expected, shape, strict=False)
        )
        if not fits:
            wanted = ", ".join(str(e) if isinstance(e, int) else "any" for e in expected)
            raise InputError(f"input '{name}' must have shape ({wanted}), not {tuple(shape)}")
        if 0 in shape:
            raise InputError(f"input '{name}' is empty: shape {tuple(shape)}")


def check_available(providers: Sequence[str]) -> None:
    """Whether this build of ONNX Runtime has these execution providers: :class:`DeviceError` if not."""
    available = ort.get_available_providers()
    for name in providers:
        if name not in available:
            raise DeviceError(
                f"execution provider {name} is not in this build of ONNX Runtime, which has {', '.join(available)}"
                + (f"; {installing('gpu')} brings CUDA" if name.startswith("CUDA") else "")
            )


def _started(data: bytes, options: Any, providers: list[Provider]) -> Any:
    try:
        return ort.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the model: {_first_line(error)}") from error


def _providers_of(device: str) -> list[Provider]:
    if device not in _DEVICES:
        raise DeviceError(
            f"{option('device')} is {' or '.join(map(repr, _DEVICES))}, not {device!r}"
            + either(f"; or name {option('providers')}", "")
        )
    return _DEVICES[device]


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own limit of 2 GiB
        raise ModelError(f"the explanation graph cannot be serialised: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
