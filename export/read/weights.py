"""Large weights without copies: mapped from the model's files, shared, and written beside a small protobuf."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import ModelError, OptionError
from portable_cam.export.read.whole_files import scratch_folder, write_whole
from portable_cam.spelling import command, either

#: Bytes of weights up to which a model is one protobuf, whose own limit is 2 GiB; the rest is for the nodes.
LIMIT = 2**31 - 2**26
#: Bytes above which a weight stays in the file it came from, and goes to a file of its own beside a large explanation.
EXTERNAL = 1 << 16


class Mapped(ir.Tensor[Any]):
    """A tensor that is a view of a memory-mapped file.

    Attributes:
        folder: The folder of the model, links resolved.
        location: The file's path in it.
        offset: The first byte.
    """

    __slots__ = ("folder", "location", "offset")

    def __init__(self, array: NDArray[Any], dtype: ir.DataType, name: str, folder: Path, location: str, offset: int):
        super().__init__(array, dtype=dtype, name=name)
        self.folder, self.location, self.offset = folder, location, offset

    def renamable(self) -> Mapped:
        """Another view of the same bytes, whose name can change without changing that of this one."""
        return Mapped(self.numpy(), self.dtype, self.name or "", self.folder, self.location, self.offset)


@dataclass
class Parts:
    """A model too large for one protobuf: ``proto`` refers to its weights, which lie in files of ``folder`` or, by
    name, in ``arrays``."""

    proto: onnx.ModelProto
    folder: Path | None = None
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def fits(model: ir.Model) -> bool:
    """Whether the model with its weights is one protobuf."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None) <= LIMIT


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model with its weights inside.

    Raises:
        ModelError: It would be larger than a protobuf can be.
    """
    if not fits(model):
        raise ModelError(
            "the model is larger than the 2 GiB of one protobuf: write it to two files with "
            + either("portable_cam.export.save_explanation, or run it with portable_cam.Explainer", command("export"))
        )
    return ir.to_proto(model)


def apart(model: ir.Model) -> Parts:
    """The model as a small protobuf, and its large weights, which are not copied."""
    parts = Parts(onnx.ModelProto())
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= EXTERNAL or tensor.dtype.bitwidth % 8:
            continue
        in_file = isinstance(tensor, Mapped) and parts.folder in (None, tensor.folder)
        if isinstance(tensor, Mapped) and in_file:
            parts.folder, location, offset = tensor.folder, tensor.location, tensor.offset
        else:
            location, offset = "in memory", 0
            parts.arrays[name] = np.require(tensor.numpy(), requirements=["C", "ALIGNED"])
        kept.append((value, tensor))
        value.const_value = ir.ExternalTensor(
            location, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    try:
        parts.proto = ir.to_proto(model)
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    return parts


def save_model(model: ir.Model, path: Path) -> list[Path]:
    """Write the model to one file, or where it is larger than a protobuf can be to two, the weights to ``path`` with
    ``.data`` added. Returns the files."""
    if fits(model):
        write_whole(path, ir.to_proto(model).SerializeToString())
        return [path]
    data = path.with_name(f"{path.name}.data")
    for value in model.graph.initializers.values():  # writing over a mapped file would end the process
        tensor = value.const_value
        if isinstance(tensor, Mapped) and (tensor.folder / tensor.location).resolve() == data.resolve():
            raise OptionError(f"{data} holds the weights of the model itself: write the explanation to another name")
    with scratch_folder(path) as folder:  # the model names its data by the name that it will have
        ir.save(model, folder / path.name, external_data=data.name, size_threshold_bytes=EXTERNAL)
        os.replace(folder / data.name, data)
        os.replace(folder / path.name, path)
    return [path, data]
