# SPDX-License-Identifier: Apache-2.0
"""A session whose inputs and outputs are buffers of a device, and the memory of ONNX Runtime's allocators."""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from portable_cam.errors import DeviceError, InputError
from portable_cam.kernels.array import Array, dense_strides
from portable_cam.runtime.gpu.protocol import PipelineDevice
from portable_cam.runtime.session import Session

#: numpy's name and ONNX's number of each element type, by ONNX Runtime's name.
_TYPES = {
    "tensor(float)": ("float32", 1), "tensor(float16)": ("float16", 10), "tensor(bfloat16)": ("bfloat16", 16),
    "tensor(double)": ("float64", 11), "tensor(uint8)": ("uint8", 2), "tensor(int8)": ("int8", 3),
    "tensor(int32)": ("int32", 6), "tensor(int64)": ("int64", 7), "tensor(bool)": ("bool", 9),
}  # fmt: skip
_NUMBERS = dict(_TYPES.values())
_NO_GRAPH = "-1"


def allocate(shape: Sequence[int], dtype: str, kind: str, index: int) -> Array:
    """Uninitialised memory of ONNX Runtime's allocator."""
    return as_array(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), _NUMBERS[dtype], kind, index))


def as_array(value: Any) -> Array:
    """An ONNX Runtime value as the kernels see it."""
    kind = value.data_type()
    if kind not in _TYPES:
        raise InputError(f"a value of type {kind} cannot stay on a device")
    shape = tuple(value.shape())
    return Array(value.data_ptr(), shape, _TYPES[kind][0], dense_strides(shape), value)


def host_array(array: Array) -> NDArray[Any]:
    """Memory of the host for a copy of an array; for bfloat16, which numpy has not, of the type of ml_dtypes."""
    if array.dtype == "bfloat16":
        import ml_dtypes

        return np.empty(array.shape, ml_dtypes.bfloat16)
    return np.empty(array.shape, array.dtype)


def load_libraries() -> None:
    """CUDA's and cuDNN's libraries from their wheels, where torch, which brings them along, is not imported."""
    if "torch" not in sys.modules and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def from_dlpack(name: str, source: Any, device: PipelineDevice) -> Array:
    """An array of the same device that offers DLPack, without a copy.

    Raises:
        InputError: It is not contiguous, or needs gradients.
    """
    try:
        if device.stream is None:
            return as_array(ort.OrtValue.from_dlpack(source.__dlpack__()))
        taken = as_array(ort.OrtValue.from_dlpack(source.__dlpack__(stream=device.stream)))
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(source, torch.Tensor) and device.stream > 1:
            # whoever gave it may drop it while our stream has yet to read it
            source.record_stream(torch.cuda.ExternalStream(device.stream, device=device.index))
        return taken
    except Exception as error:  # each library has errors of its own
        raise InputError(
            f"input '{name}' cannot be taken over from {type(source).__module__}.{type(source).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}; it must be "
            "contiguous, and a torch tensor detached"
        ) from None


@dataclass
class _Bound:
    """One binding: buffers for one combination of input shapes."""

    binding: Any
    inputs: dict[str, Array]
    outputs: dict[str, Array] | None
    run_options: Any


class BoundSession:
    """Runs a session on persistent buffers, a set for each combination of input shapes.

    Args:
        session: The session, on the device's providers.
        device: Where the buffers are.
        buckets: Batch sizes to fill up to.
        image: The input whose first dimension is the batch.
        kept: How many sets there are at most; then the one that was not used for longest goes.
        cuda_graphs: Record each set's run and replay it. ONNX Runtime keeps what was recorded as long as the session.
    """

    def __init__(
        self,
        session: Session,
        device: PipelineDevice,
        image: str,
        buckets: Sequence[int] | None = None,
        *,
        kept: int = 16,
        cuda_graphs: bool = False,
    ) -> None:
        self.session, self._device, self._cuda_graphs = session, device, cuda_graphs
        first = session.inputs[image].shape[0]
        self._image, self._batch = image, first if isinstance(first, str) else None
        self._buckets = tuple(buckets or ()) if self._batch is not None else ()
        # outputs with a row for each image, which fixed shapes, and scalars, are not
        self._batched = {o.name for o in session.raw.get_outputs() if o.shape and not isinstance(o.shape[0], int)}
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], _Bound] = OrderedDict()
        self._kept, self._numbers = kept, itertools.count(1)

    def run(self, feeds: Mapping[str, NDArray[Any] | Array]) -> dict[str, Array]:
        """Run once, in the device's order.

        Args:
            feeds: For each input an array of the host or of the device, of the input's type.

        Returns:
            Each output as a view of a buffer that the next run writes again.

        Raises:
            InputError: ONNX Runtime could not run the model on these inputs.
        """
        count = feeds[self._image].shape[0]
        filled = self._fill(count)
        shapes = {name: self._shape(name, value.shape, filled) for name, value in feeds.items()}
        key = tuple(shapes.values())
        bound = self._bound.get(key)
        if bound is None:
            while len(self._bound) >= self._kept:
                self._bound.popitem(last=False)
            bound = self._bound[key] = self._bind(feeds, shapes, next(self._numbers))
        self._bound.move_to_end(key)
        for name, value in feeds.items():
            if isinstance(value, Array):
                self._device.copy(value, bound.inputs[name])
            else:
                self._device.upload(value, bound.inputs[name])
        if any(isinstance(value, Array) for value in feeds.values()):
            self._device.hand_to(None)  # who fills an input again on the default stream waits until it was copied
        self._run(bound, bound.run_options, shapes)
        assert bound.outputs is not None
        return {
            name: first_rows(value, count) if name in self._batched and value.shape[0] == filled > count else value
            for name, value in bound.outputs.items()
        }

    def _fill(self, count: int) -> int:
        return next((bucket for bucket in self._buckets if bucket >= count), count)

    def _shape(self, name: str, shape: tuple[int, ...], filled: int) -> tuple[int, ...]:
        if name in self.session.optional:  # one value for each image
            return filled, *shape[1:]
        dims = self.session.inputs[name].shape
        return (filled, *shape[1:]) if dims and dims[0] == self._batch else tuple(shape)

    def _bind(
        self, feeds: Mapping[str, NDArray[Any] | Array], shapes: Mapping[str, tuple[int, ...]], number: int
    ) -> _Bound:
        """Buffers for these shapes; a first run, whose outputs ONNX Runtime allocates, tells the shapes of the rest."""
        device, raw = self._device, self.session.raw
        binding = raw.io_binding()
        inputs = {}
        for name, shape in shapes.items():
            dtype = str(feeds[name].dtype)
            inputs[name] = device.empty(shape, dtype)
            # what fills a bucket up is computed too: zeros are valid pixels and valid targets
            device.upload(np.zeros(prod(shape), np.uint8 if dtype == "bfloat16" else dtype), inputs[name])
            binding.bind_ortvalue_input(name, inputs[name].owner)
        for name in self.session.outputs:
            binding.bind_output(name, device.kind, device.index)
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._cuda_graphs:
            first = ort.RunOptions()
            first.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
            options.add_run_config_entry("gpu_graph_id", str(number))
        else:
            first = options
        bound = _Bound(binding, inputs, None, options)
        self._run(bound, first, shapes)
        values = dict(zip(self.session.outputs, binding.get_outputs(), strict=True))
        for name, value in values.items():
            if value.device_name() != device.kind:
                raise DeviceError(f"output '{name}' did not stay on the device but went to {value.device_name()}")
            binding.bind_ortvalue_output(name, value)
        bound.outputs = {name: as_array(value) for name, value in values.items()}
        return bound

    def _run(self, bound: _Bound, options: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        try:
            self.session.raw.run_with_iobinding(bound.binding, options)
        except Exception as error:
            given = ", ".join(f"'{name}' {bound.inputs[name].dtype}{list(shape)}" for name, shape in shapes.items())
            raise InputError(
                f"ONNX Runtime could not run the model on {given}: {str(error).strip().splitlines()[0]}"
            ) from error


def first_rows(array: Array, count: int) -> Array:
    """The first ``count`` rows."""
    return Array(array.pointer, (count, *array.shape[1:]), array.dtype, array.strides, array.owner)
