"""Checks for gradient rules, the ones that this project's own tests are made of.

:func:`check_vjp` checks that the graph which :func:`portable_cam.export.differentiate` makes of a model is its
derivative. It needs no reference implementation: along a random direction v, and for a random gradient dy of the
output, the inner product <J^T dy, v> that the graph computes must equal <dy, J v>, which two evaluations of the model
itself approximate (central differences).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from portable_cam.errors import InputError, ModelError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.autodiff.backward import ReluRule
from portable_cam.export.autodiff.relu_policy import ReluPolicy
from portable_cam.export.graph.protos import opset_of
from portable_cam.runtime.session import Session

Array: TypeAlias = NDArray[Any]

_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}
_ROUNDING = {*_FLOATS, TensorProto.BFLOAT16}  # a cast to these is a cast to float64 in the widened model
_TYPE_ATTRIBUTES = {"to", "dtype", "softmax_precision"}
_NOT_WIDENED = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that are float32 whatever the type of the data
_STASH = {"GroupNormalization", "LayerNormalization", "RMSNormalization"}  # these compute in a type of their own
_STEP_FLOAT64 = 1e-6  # truncation 1e-12, rounding 1e-10
_STEP_FLOAT32 = 2.0**-5  # rounding 2e-6; the extrapolation takes the truncation down to h^4


class VjpCheck(NamedTuple):
    """What :func:`check_vjp` found: the two inner products, the gradients, the type the differences were taken in."""

    analytic: float
    numeric: float
    gradients: dict[str, Array]
    precision: type[np.floating[Any]]


def check_vjp(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    of: str | None = None,
    wrt: Sequence[str] | None = None,
    *,
    seed: int = 0,
    tolerance: float | None = None,
    relu_rule: ReluRule = "standard",
    relu_policy: ReluPolicy = "relu",
) -> VjpCheck:
    """Check a model's gradient graph against central differences of the model.

    Args:
        model: A model with floating-point inputs and outputs.
        feeds: An array for each of its inputs, at a point where it is smooth: a kink closer than the step (1e-6, or
            0.03 where ONNX Runtime has no float64 kernels for the model) makes the two sides differ.
        of: The tensor to differentiate; by default the first output.
        wrt: The tensors to differentiate for, inputs or initialisers; by default every floating-point input.
        seed: Of the random generator for gradient and direction.
        tolerance: How far the sides may lie apart, relative to the length of the terms of the inner product; by
            default 1e-4 if the differences are taken in float64 and the gradients are float32 or better, 2e-3 if not.
        relu_rule: Passed on to ``differentiate``.
        relu_policy: Passed on to ``differentiate``.

    Returns:
        Both numbers and the gradients.

    Raises:
        AssertionError: The sides differ (the message has both numbers), the gradient has another shape or type than
            its tensor, or the differentiated model changes the outputs of the model.
    """
    of = of or model.graph.output[0].name
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    wrt = [name for name in kinds if kinds[name] in _FLOATS] if wrt is None else list(wrt)
    rng = np.random.default_rng(seed)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wrt}
    forward = _open(model, of, wrt)
    point: dict[str, Array] = {**feeds, **weights}
    session = Session(forward, threads=1)
    before = session.run(point)

    dy = np.asarray(rng.standard_normal(before[of].shape), before[of].dtype)  # a scalar stays an array
    differentiated = Session(differentiate(model, of, wrt, relu_rule, relu_policy), threads=1)
    seed_name = next(name for name in reversed(differentiated.inputs) if name not in kinds)
    after = differentiated.run({**{k: v for k, v in feeds.items() if k in differentiated.inputs}, seed_name: dy})
    assert_unchanged(model, before, after)

    gradients = {name: after[f"gradient.{name}"] for name in wrt}
    for name, gradient in gradients.items():
        if gradient.shape != point[name].shape or gradient.dtype != point[name].dtype:
            raise AssertionError(
                f"the gradient for '{name}' is {gradient.dtype}{list(gradient.shape)}, "
                f"the tensor {point[name].dtype}{list(point[name].shape)}"
            )
    direction = {name: np.asarray(rng.standard_normal(point[name].shape)) for name in wrt}
    terms = np.concatenate([(gradients[n].astype(np.float64) * direction[n]).reshape(-1) for n in wrt])
    analytic = float(terms.sum())
    numeric, precision = directional_derivative(forward, point, direction, of, dy)
    if tolerance is None:
        fine = precision is np.float64 and all(g.dtype != np.float16 for g in gradients.values())
        tolerance = 1e-4 if fine else 2e-3
    scale = max(float(np.linalg.norm(terms)), abs(numeric))
    step = _STEP_FLOAT64 if precision is np.float64 else _STEP_FLOAT32
    largest = max(float(np.abs(a).max(initial=0.0)) for a in (before[of], *(point[n] for n in wrt)))
    rounding = 4 * float(np.finfo(precision).eps) * largest * float(np.linalg.norm(dy.astype(np.float64))) / step
    allowed = tolerance * scale + rounding
    if not abs(analytic - numeric) <= allowed:
        raise AssertionError(
            f"the gradient of '{of}' with respect to {', '.join(wrt)} is not the model's derivative: along a random "
            f"direction the gradient graph gives {analytic:.9g}, central differences in {precision.__name__} give "
            f"{numeric:.9g} (they may differ by {allowed:.3g})"
        )
    return VjpCheck(analytic, numeric, gradients, precision)


def directional_derivative(
    model: onnx.ModelProto, point: Mapping[str, Array], direction: Mapping[str, Array], of: str, dy: Array
) -> tuple[float, type[np.floating[Any]]]:
    """<dy, J v> by central differences: in float64 where ONNX Runtime has float64 kernels for every operator, else in
    float32 with a wide step and one Richardson extrapolation.

    Args:
        model: Every tensor of ``direction`` is one of its inputs, ``of`` one of its outputs.
        point: An array for each input.
        direction: v, an array in the shape of its input for each input to move.
        of: The output.
        dy: In the shape of the output.

    Returns:
        The number, and the type the model was evaluated in.
    """

    def difference(session: Session, kind: type[np.floating[Any]], step: float) -> tuple[float, bool]:
        ends = []
        for sign in (1, -1):
            moved = {k: v.astype(kind) if v.dtype.kind == "f" else v for k, v in point.items()}
            for name, v in direction.items():
                start = point[name].astype(np.float64)
                moved[name] = np.asarray(start + sign * step * v, moved[name].dtype)
            ends.append(session.run(moved, [of])[of].astype(np.float64))
        rounded = all(np.array_equal(end, end.astype(np.float32), equal_nan=True) for end in ends)
        with np.errstate(invalid="ignore"):
            change = np.where(dy == 0, 0, ends[0] - ends[1])  # infinite outputs of no weight count for nothing
        return float((dy.astype(np.float64) * change).sum() / (2 * step)), rounded

    try:
        number, rounded = difference(Session(widen(model), threads=1), np.float64, _STEP_FLOAT64)
        if not rounded:  # some float64 kernels, as that of Shrink, compute in float32
            return number, np.float64
    except (ModelError, InputError):  # there is no float64 kernel, which may show only in a run
        pass
    session = Session(widen(model, TensorProto.FLOAT), threads=1)
    wide, narrow = (difference(session, np.float32, step)[0] for step in (_STEP_FLOAT32, _STEP_FLOAT32 / 2))
    return (4 * narrow - wide) / 3, np.float32


def assert_unchanged(model: onnx.ModelProto, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
    """The outputs of ``model`` in ``after`` are those in ``before`` up to the rounding of their type."""
    for output in model.graph.output:
        name = output.name
        want, got = before[name], after[name]
        if want.dtype != got.dtype or want.shape != got.shape:
            raise AssertionError(
                f"output '{name}' was {want.dtype}{list(want.shape)}, became {got.dtype}{list(got.shape)}"
            )
        if want.dtype.kind != "f":
            if not np.array_equal(want, got):
                raise AssertionError(f"output '{name}' has changed")
            continue
        finite = np.abs(want[np.isfinite(want)].astype(np.float64))
        rounding = 16 * float(np.finfo(want.dtype).eps) * float(finite.max(initial=0.0))
        off = ~(np.abs(want.astype(np.float64) - got) <= rounding) & (want != got) & ~(np.isnan(want) & np.isnan(got))
        if off.any():
            worst = np.abs(want.astype(np.float64) - got)[off].max()
            raise AssertionError(f"output '{name}' has changed by {worst:.3g} (rounding explains {rounding:.3g})")


def widen(model: onnx.ModelProto, to: int = TensorProto.DOUBLE) -> onnx.ModelProto:
    """The model computed in float64, or the type ``to``: its floating-point inputs, outputs, weights and casts."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph, opset = wide.graph, opset_of(wide)
    keep = {
        node.input[i]
        for node in graph.node
        for i in _NOT_WIDENED.get(node.op_type, ())
        if i < len(node.input) and node.input[i]
    }
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        kind = value.type.tensor_type
        if kind.elem_type in _FLOATS and value.name not in keep:
            kind.elem_type = to
    for tensor in graph.initializer:
        if tensor.name not in keep:
            _widen_tensor(tensor, to)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and not set(node.output) & keep:
                _widen_tensor(attribute.t, to)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in _ROUNDING:
                attribute.i = to
        if _has_stash_type(node.op_type, opset) and not any(a.name == "stash_type" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("stash_type", to))
    return wide


def _has_stash_type(op_type: str, opset: int) -> bool:
    if op_type not in _STASH or not onnx.defs.has(op_type, opset):
        return op_type in _STASH  # older than the standard's, as ONNX Runtime had it
    return "stash_type" in onnx.defs.get_schema(op_type, opset).attributes


def _widen_tensor(tensor: onnx.TensorProto, to: int) -> None:
    if tensor.data_type in _FLOATS:
        array = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _open(model: onnx.ModelProto, of: str, wrt: Sequence[str]) -> onnx.ModelProto:
    """The model with ``of`` among its outputs and the initialisers in ``wrt`` among its inputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    if of not in {o.name for o in graph.output}:
        graph.output.append(onnx.ValueInfoProto(name=of))  # ONNX Runtime finds the type itself
    moved = [t for t in graph.initializer if t.name in wrt]
    kept = [t for t in graph.initializer if t.name not in wrt]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    known = {i.name for i in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in moved if t.name not in known
    )
    return opened


def node_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    *,
    dims: Mapping[str, Sequence[int | str | None]] | None = None,
    opset: int = 21,
    ir_version: int = 10,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of a few nodes, for tests.

    Args:
        nodes: In topological order.
        inputs: An array for each input, for its type and shape.
        outputs: Names of output tensors; their types are inferred.
        constants: Initialisers.
        dims: Another shape for some of the inputs, with names or None for dimensions known only at run time.
        opset: Of the default domain.
        ir_version: 10 came with opset 21.
        domains: Further domains that nodes are of, each in its version 1.

    Returns:
        The model.
    """
    helper = onnx.helper

    def info(name: str, array: Array) -> onnx.ValueInfoProto:
        shape = list(dims[name]) if dims and name in dims else list(array.shape)
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)

    graph = helper.make_graph(
        list(nodes),
        "test",
        [info(name, array) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]}
    del graph.output[:]
    model.graph.ClearField("output")
    for name in outputs:
        model.graph.output.append(types.get(name, onnx.ValueInfoProto(name=name)))
    return model
