"""Reads a model, as a file or an object, without trusting it."""

from __future__ import annotations

import hashlib
import logging
import math
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import ExternalDataError, ModelError
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.read import weights
from portable_cam.export.read.canonical import canonical
from portable_cam.export.read.inside import model_inside
from portable_cam.export.read.weights import Mapped, apart, fits
from portable_cam.file_kinds import advice, why_missing

# what these libraries log, tracebacks among it, goes to whoever has asked for it, and not to the terminal by itself
for _library in ("onnx_ir", "onnxscript"):
    logging.getLogger(_library).addHandler(logging.NullHandler())

_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
_COMPLEX = frozenset({onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

_LONGEST_NAME = 1000  # characters; those of exporters that write whole call stacks stay below

ModelLike: TypeAlias = str | Path | bytes | onnx.ModelProto | ir.Model


def load(model: ModelLike) -> ir.Model:
    """Read a model. External tensor data is only read from the model's own folder and below; large
    weights are mapped, not read: the file has to stay as it is while the model is used. Of an explanation file the
    model inside it is read (:mod:`portable_cam.export.read.inside`).

    Args:
        model: A path, the file's bytes, an ``onnx.ModelProto`` or an ``onnx_ir.Model`` (which is cloned).

    Raises:
        ModelError: It is not an ONNX model, or it is damaged.
        ExternalDataError: Its external data is missing, too short, or lies outside its folder.
    """
    return model_inside(canonical(_read(model)))


def _read(model: ModelLike) -> ir.Model:
    if isinstance(model, ir.Model):
        try:
            return untied(model.clone())
        except RuntimeError:
            raise ModelError(
                "the given onnx_ir.Model cannot be copied: its nodes are not in the order of their use; call its "
                "graph.sort() first"
            ) from None
    if isinstance(model, onnx.ModelProto):
        _check_tensors(model, "the given ModelProto")
        _refuse_external(model, "the given ModelProto")
        return untied(_from_proto(model, "the given ModelProto"))
    if isinstance(model, bytes | bytearray | memoryview):
        proto = _parse(bytes(model), "the given bytes")
        _check_tensors(proto, "the given bytes")
        _refuse_external(proto, "the given bytes")
        return _from_proto(proto, "the given bytes")
    if not isinstance(model, str | Path):
        raise ModelError(
            f"a model is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, not {type(model).__name__}"
        )
    path = Path(model)
    if path.is_dir():
        raise ModelError(_folder(path))
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        known = why_missing(str(model), "model")
        raise ModelError(
            known or f"cannot read the model {path}: {getattr(error, 'strerror', None) or error}; check the path"
        ) from None
    proto = _parse(data, str(path))
    _check_tensors(proto, str(path))
    _check_external(proto, path.parent)
    large = _mapped(proto, path.parent.resolve())
    try:
        for tensor in _external_tensors(proto):
            if not any(tensor is mapped for mapped, _ in large.values()):
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    except Exception as error:  # the message of the library names the tensor
        raise ExternalDataError(f"cannot read the external data of {path}: {error}") from None
    loaded = _from_proto(proto, str(path))
    for name, (_, view) in large.items():
        loaded.graph.initializers[name].const_value = view
    return loaded


def fingerprint(model: ModelLike) -> str:
    """The sha256 of the model file, or of the model serialised where there is no file."""
    if isinstance(model, str | Path):
        return hashlib.sha256(Path(model).read_bytes()).hexdigest()
    if isinstance(model, bytes | bytearray | memoryview):
        return hashlib.sha256(bytes(model)).hexdigest()
    whole = model if isinstance(model, ir.Model) else ir.from_proto(model)
    if not fits(whole):
        parts = apart(whole)
        digest = hashlib.sha256(parts.proto.SerializeToString(deterministic=True))
        for array in parts.arrays.values():
            digest.update(array.data.cast("B"))
        return digest.hexdigest()
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{name} is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # protobuf's DecodeError is in a different module in each of its versions
        known = advice(name, data, "model")
        raise ModelError(
            f"{name} {known}"
            if known
            else f"{name} is not an ONNX model, or it is truncated ({len(data)} bytes could not be parsed): export or "
            "download it again"
        ) from None
    if not proto.graph.node and not proto.graph.output and (known := advice(name, data, "model")):
        raise ModelError(f"{name} {known}")
    return proto


def _folder(path: Path) -> str:
    """What a folder is that was given for a model."""
    if (path / "saved_model.pb").is_file():
        return f"{path} {advice('saved_model.pb', None, 'model')}"
    inside = sorted(file.name for file in path.glob("*.onnx"))
    known = advice(str(path), None, "model")
    if not inside and known:
        return f"{path} {known}"
    return f"{path} is a folder; give the .onnx file inside it" + (f": {', '.join(inside[:5])}" if inside else "")


def _from_proto(proto: onnx.ModelProto, name: str) -> ir.Model:
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{name} is not an ONNX model: it has no graph with nodes and outputs")
    if not any(o.domain in ONNX_DOMAINS for o in proto.opset_import):
        raise ModelError(f"{name} does not import the ONNX operator set (opset_import is missing)")
    _check_names(proto.graph, name)
    try:
        return ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{name} is not a valid ONNX model: {error}") from None


def _check_tensors(proto: onnx.ModelProto, name: str) -> None:
    """Every tensor has a type, and one stored in the model has as many elements as its dimensions: the libraries raise
    errors of several kinds where it has not, or allocate the claimed size."""
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        where = f"{name} is damaged: tensor '{tensor.name}'"
        if tensor.data_type not in _TYPES:
            raise ModelError(f"{where} has no known type (data_type {tensor.data_type})")
        if min(tensor.dims, default=0) < 0:
            raise ModelError(f"{where} has the dimensions {list(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        text = tensor.data_type == onnx.TensorProto.STRING
        count, bits = math.prod(tensor.dims), 8 if text else ir.DataType(tensor.data_type).bitwidth
        size = -(-count * bits // 8)
        if tensor.HasField("raw_data"):
            held, needed, unit = len(tensor.raw_data), size, "bytes"
        else:  # types of two and four bits are packed, complex numbers have two entries
            held, unit = sum(len(getattr(tensor, field)) for field in _FIELDS), "elements"
            needed = size if bits in {2, 4} else 2 * count if tensor.data_type in _COMPLEX else count
        if held != needed:
            raise ModelError(f"{where} of the dimensions {list(tensor.dims)} needs {needed} {unit} and has {held}")


def _check_names(graph: onnx.GraphProto, name: str) -> None:
    """No name is too long to be printed in tables and errors."""
    values = [*graph.input, *graph.output, *graph.value_info]
    dims = (dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim)
    nodes = (text for node in graph.node for text in (node.name, *node.input, *node.output))
    longest = max((*(value.name for value in values), *dims, *nodes), key=len, default="")
    if len(longest) > _LONGEST_NAME:
        raise ModelError(f"{name} is damaged: it has a name of {len(longest)} characters, '{longest[:40]}...'")


def untied(model: ir.Model) -> ir.Model:
    """The model, its initialisers wrapped so that renaming one does not rename the tensor of a ModelProto that was
    given."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, Mapped):  # writing and running the model look for the file behind it
            value.const_value = tensor.renamable()
        elif tensor is not None:
            value.const_value = ir.LazyTensor(partial(_same, tensor), tensor.dtype, tensor.shape, name=tensor.name)  # type: ignore[arg-type]
    return model


def _same(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return tensor


def _mapped(proto: onnx.ModelProto, folder: Path) -> dict[str, tuple[onnx.TensorProto, Mapped]]:
    """The large initialisers in files, by name, as views of the files, which were checked: one mapping for each file,
    however many tensors it has, for each mapping holds a file open."""
    files: dict[str, NDArray[np.uint8]] = {}
    found = {}
    for tensor in proto.graph.initializer:
        dtype = ir.DataType(tensor.data_type)
        size = math.prod(tensor.dims) * dtype.bitwidth // 8 if dtype != ir.DataType.STRING else 0
        if not onnx.external_data_helper.uses_external_data(tensor) or dtype.bitwidth % 8 or size <= weights.EXTERNAL:
            continue
        info = {entry.key: entry.value for entry in tensor.external_data}
        location, offset, length = info["location"], int(info.get("offset", 0)), int(info.get("length", size))
        where = f"the external data of tensor '{tensor.name}' (location {location!r})"
        if length != size:
            raise ExternalDataError(f"{where} has {length} bytes; {dtype.name}{list(tensor.dims)} takes {size}")
        if location not in files:
            try:
                files[location] = np.asarray(np.memmap((folder / location).resolve(), np.uint8, mode="r"))
            except (OSError, ValueError) as error:
                raise ExternalDataError(f"cannot read {where}: {error}") from None
        data = files[location][offset : offset + size] if offset >= 0 else files[location][:0]
        if data.size < size:
            raise ExternalDataError(
                f"{where} is truncated: {offset + size} bytes expected, {files[location].size} there"
            )
        view = data.view(dtype.numpy()).reshape(tuple(tensor.dims))
        found[tensor.name] = (tensor, Mapped(view, dtype, tensor.name, folder, location, offset))
    return found


def _external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [
        t for t in onnx.external_data_helper._get_all_tensors(proto) if onnx.external_data_helper.uses_external_data(t)
    ]


def _refuse_external(proto: onnx.ModelProto, name: str) -> None:
    for tensor in _external_tensors(proto):
        raise ExternalDataError(
            f"tensor '{tensor.name}' is stored outside {name}: give the path of the model file instead"
        )


def _check_external(proto: onnx.ModelProto, folder: Path) -> None:
    """Every external tensor lies in a plain file inside the model's folder, links resolved, and is long enough."""
    root = folder.resolve()
    for tensor in _external_tensors(proto):
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = info.get("location", "")
        where = f"the external data of tensor '{tensor.name}' (location {location!r})"
        try:
            target = (folder / location).resolve()
            there = target.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL byte
            raise ExternalDataError(f"{where} is no name of a file: {error}"[:500]) from None
        if not location or Path(location).is_absolute() or not target.is_relative_to(root):
            raise ExternalDataError(
                f"{where} lies outside the model's folder, and is not read: put the file beside the model"
            )
        if not there:
            raise ExternalDataError(f"{where} is missing: put the file into {folder}")
        try:
            end = int(info.get("offset", 0)) + int(info.get("length", 0))
        except ValueError:
            raise ExternalDataError(f"{where} has an offset or length that is not a number") from None
        if end > target.stat().st_size:
            raise ExternalDataError(f"{where} is truncated: {end} bytes expected, {target.stat().st_size} there")
