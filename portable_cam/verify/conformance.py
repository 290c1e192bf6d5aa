"""ONNX's own node tests as an independent check of the gradients.

The ``onnx`` package generates the tests that backends are judged by: one operator each, with inputs and expected
outputs. :func:`node_cases` takes those that may be differentiable, :func:`check_case` compares the gradient graph of
one with central differences through ONNX Runtime, and :data:`LEFT_OUT` lists those that are not checked, with the
reason.
"""

from __future__ import annotations

import fnmatch
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx.defs import OpSchema

from portable_cam.errors import ModelError
from portable_cam.export.assemble.differentiate import add_output
from portable_cam.export.autodiff.backward import backward
from portable_cam.export.autodiff.rules import NO_GRADIENT
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.passes.normalized import normalized
from portable_cam.runtime.session import Session
from portable_cam.testing import Array, directional_derivative

_EPSILON = {
    TensorProto.DOUBLE: 2**-52,
    TensorProto.FLOAT: 2**-23,
    TensorProto.FLOAT16: 2**-10,
    TensorProto.BFLOAT16: 2**-7,
}
_CONSTANT = OpSchema.DifferentiationCategory.NonDifferentiable

#: Tests that are not checked: a pattern of names, and the reason.
LEFT_OUT: dict[str, str] = {
    # no check is possible
    "test_bernoulli*": "the outputs are random",
    "test_pow_types_float32_uint*": "ONNX Runtime's CPU provider has no kernel for unsigned exponents",
    "test_*_batchwise": "ONNX Runtime's CPU provider has no kernel for layout 1",
    "test_resize_downsample_scales_*_align_corners": "ONNX Runtime computes another result than the standard",
    "test_maxunpool_export_with_output_shape": "ONNX Runtime reads the indices otherwise than the standard; refused",
    # refused on purpose
    "test_training_dropout*": "training mode is refused: an explanation is of the model at inference",
    "test_batchnorm_*_training_mode": "training mode is refused: an explanation is of the model at inference",
    "test_roialign_mode_max": "mode max is refused",
    # no rule
    "test_dynamicquantizelinear*": "only the scale is floating-point, and scales count as constants",
    "test_dequantizelinear*": "only the scale is floating-point, and scales count as constants",
    "test_scan_sum": "a Scan of opset 8, which has an axis of batches of its own; refused",
}

#: Inputs that are settings of an operator, though the schema does not call them non-differentiable.
_SETTINGS = {
    "Dropout": {"ratio", "training_mode", "r", "t"},
    "Range": {"limit"},
    "RoiAlign": {"rois"},
    "Upsample": {"scales"},
}


def _away_from(*kinks: float, distance: float = 0.2) -> Callable[[Array], Array]:
    def move(x: Array) -> Array:
        for kink in kinks:
            x = np.where(abs(x - kink) < distance, kink + np.where(x >= kink, distance, -distance), x)
        return x

    return move


def _apart(x: Array) -> Array:
    """Without ties: a different multiple of 1e-3 is added to every element."""
    steps = np.random.default_rng(0).permutation(x.size).reshape(x.shape) + 1
    return np.asarray(x + 1e-3 * steps)


#: Where the inputs of a test lie on a kink, in a tie or at the edge of the domain, its gradient is checked beside it.
_BESIDE: dict[str, Callable[[Array], Array]] = {
    **dict.fromkeys(["Elu", "LeakyRelu", "Selu", "Softsign", "PRelu"], _away_from(0)),
    **dict.fromkeys(["Acos", "Asin", "Atanh"], lambda x: 0.9 * np.clip(x, -1, 1)),
    **dict.fromkeys(["Max", "Min", "MaxPool", "ReduceMax", "ReduceMin", "TopK"], _apart),
    **dict.fromkeys(["DeformConv", "LpNormalization", "Mod", "Range"], lambda x: x + 0.3),
    "Hardmax": lambda x: 300 * _apart(x),
    "Acosh": lambda x: x + 0.3, "HardSigmoid": _away_from(-1.2, 0.8, -2.5, 2.5), "Pow": lambda x: abs(x) + 0.3,
    "Tan": np.tanh, "ThresholdedRelu": _away_from(1.0, 2.0),
}  # fmt: skip


@dataclass(frozen=True)
class NodeCase:
    """One of ONNX's node tests. ``wrt`` and ``of``: the inputs and outputs that are floating-point and that the schema
    does not call non-differentiable."""

    name: str
    op_type: str
    model: onnx.ModelProto
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    wrt: tuple[str, ...]
    of: tuple[str, ...]
    rtol: float
    atol: float
    epsilon: float  # of the coarsest type among them

    def __str__(self) -> str:
        return self.name

    @property
    def left_out(self) -> str | None:
        """Why it is not checked, None if it is."""
        return next((why for pattern, why in LEFT_OUT.items() if fnmatch.fnmatchcase(self.name, pattern)), None)


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """The tests of a single standard operator with an input and an output that may be differentiable."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy, about the arithmetic in the tests
        collected = collect_testcases(None)
    return tuple(case for test in collected if (case := _node_case(test)) is not None)


def matching(pattern: str) -> list[NodeCase]:
    """The tests that a pattern of :data:`LEFT_OUT` names."""
    return [case for case in node_cases() if fnmatch.fnmatchcase(case.name, pattern)]


def _node_case(test: Any) -> NodeCase | None:
    graph = test.model.graph
    if len(graph.node) != 1 or graph.node[0].domain not in ONNX_DOMAINS:
        return None
    node = graph.node[0]
    schema = onnx.defs.get_schema(node.op_type, max(o.version for o in test.model.opset_import))
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}

    def differentiable(names: Sequence[str], formal: Sequence[OpSchema.FormalParameter]) -> tuple[str, ...]:
        named = [(name, formal[min(i, len(formal) - 1)].differentiation_category) for i, name in enumerate(names)]
        settings = _SETTINGS.get(node.op_type, set())
        return tuple(
            dict.fromkeys(
                name
                for name, category in named
                if category != _CONSTANT and kinds.get(name) in _EPSILON and name not in settings
            )
        )

    wrt, of = differentiable(node.input, schema.inputs), differentiable(node.output, schema.outputs)
    if not wrt or not of:
        return None
    inputs, outputs = test.data_sets[0]
    feeds, expected = _arrays(graph.input, inputs), _arrays(graph.output, outputs)
    model, rtol = test.model, test.rtol
    if any(kinds[name] == TensorProto.BFLOAT16 for name in (*feeds, *expected)):
        model, feeds, expected = _through_float32(model), _widened(feeds), _widened(expected)
        # a normalised model computes in float32; the expected outputs were rounded, in Attention four times on the way,
        # each by half an epsilon: queries, keys, weights, result
        rtol = max(rtol, 2 * _EPSILON[TensorProto.BFLOAT16])
    epsilon = max(_EPSILON[kinds[name]] for name in (*wrt, *of))
    return NodeCase(test.name, node.op_type, model, feeds, expected, wrt, of, rtol, test.atol, epsilon)


def _through_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs of type bfloat16, of which ONNX Runtime takes no arrays, become float32 with a Cast."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph, node = wide.graph, wide.graph.node[0]
    for values, names, inward in ((graph.input, node.input, True), (graph.output, node.output, False)):
        for value in values:
            kind = value.type.tensor_type
            if kind.elem_type != TensorProto.BFLOAT16:
                continue
            kind.elem_type = TensorProto.FLOAT
            inner = f"{value.name}.bfloat16"
            for i, name in enumerate(names):
                names[i] = inner if name == value.name else name
            ends = (value.name, inner) if inward else (inner, value.name)
            to = TensorProto.BFLOAT16 if inward else TensorProto.FLOAT
            cast = onnx.helper.make_node("Cast", [ends[0]], [ends[1]], to=to)
            graph.node.insert(0 if inward else len(graph.node), cast)
    return wide


def _widened(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {k: v.astype(np.float32) if v.dtype == ml_dtypes.bfloat16 else v for k, v in arrays.items()}


def _arrays(infos: Sequence[onnx.ValueInfoProto], values: Sequence[Any]) -> dict[str, Array]:
    return {
        info.name: onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
        for info, value in zip(infos, values, strict=True)
    }


def check_case(case: NodeCase) -> None:
    """The outputs of the normalised model are the expected ones, and the gradient of them all together, along a random
    direction, is that of central differences.

    Raises:
        AssertionError: The outputs or the gradient differ.
        ModelError: The model cannot be differentiated.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    dy = {}
    for name in case.of:
        want = case.expected[name]
        g = np.asarray(rng.standard_normal(want.shape), want.dtype)
        dy[name] = np.where(np.isfinite(want), g, np.zeros_like(g))
    normal = normalized(case.model).copy()
    plain = ir.to_proto(normal)
    try:
        differentiated = _with_gradients(normal, case)
    except ModelError:
        if case.op_type not in NO_GRADIENT:
            raise
        differentiated = None
    session = Session(differentiated or plain, threads=1)
    seeds = {f"seed.{name}": g for name, g in dy.items()}

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return session.run({k: v for k, v in {**feeds, **seeds}.items() if k in session.inputs})

    got = run(case.feeds)
    for name, want in case.expected.items():
        np.testing.assert_allclose(got[name], want, rtol=case.rtol, atol=case.atol, err_msg=f"output '{name}'")
    feeds = dict(case.feeds)
    if case.op_type in _BESIDE:
        for name in case.wrt:
            feeds[name] = np.asarray(_BESIDE[case.op_type](feeds[name]), feeds[name].dtype)
        got = run(feeds)
    direction = {name: np.asarray(rng.standard_normal(feeds[name].shape)) for name in case.wrt}
    gradients = {name: got[f"gradient.{name}"] if differentiated else np.zeros_like(feeds[name]) for name in case.wrt}
    terms = np.concatenate([(gradients[n].astype(np.float64) * direction[n]).reshape(-1) for n in case.wrt])
    numeric, precise = _differences(case.model, plain, feeds, direction, dy)
    tolerance = max(4 * case.epsilon, 1e-4 if precise else 2e-3)
    allowed = tolerance * max(float(np.linalg.norm(terms)), abs(numeric)) + (1e-8 if precise else 1e-4)
    if not abs(terms.sum() - numeric) <= allowed:
        raise AssertionError(
            f"{case.name}: along a random direction the gradient graph gives {terms.sum():.9g}, central differences "
            f"give {numeric:.9g} (they may differ by {allowed:.3g})"
        )


def _differences(
    model: onnx.ModelProto,
    normal: onnx.ModelProto,
    feeds: Mapping[str, Array],
    direction: Mapping[str, Array],
    dy: Mapping[str, Array],
) -> tuple[float, bool]:
    """The sum over the outputs, and whether all were evaluated in float64. Of the model itself, or, where ONNX Runtime
    does not know its operator yet, of the normalised one, whose outputs are those that the test expects."""
    try:
        Session(model, threads=1)
    except ModelError:
        model = normal
    found = [directional_derivative(model, feeds, direction, name, g) for name, g in dy.items()]
    return sum(number for number, _ in found), all(precision is np.float64 for _, precision in found)


def _with_gradients(normal: ir.Model, case: NodeCase) -> onnx.ModelProto:
    """The model with an input ``seed.<output>`` for each of ``case.of`` and an output ``gradient.<input>`` for each of
    ``case.wrt``."""
    graph = normal.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    seeds = {}
    for name in case.of:
        seeds[values[name]] = ir.Value(name=f"seed.{name}", type=values[name].type, shape=values[name].shape)
    graph.inputs.extend(seeds.values())
    builder = Builder(graph)
    sources = [values[name] for name in case.wrt]
    for source, gradient in zip(sources, backward(graph, builder, seeds, sources), strict=True):
        add_output(graph, builder, gradient, f"gradient.{source.name}", source.shape)
    return ir.to_proto(normal)
