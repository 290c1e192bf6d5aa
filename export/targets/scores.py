"""Which tensor holds the scores, and where it is cut before a softmax or sigmoid.

The score explained is the logit: a softmax couples every class to every other and flattens the gradient of a sure
answer. A model that ends in one is cut before it, and the explanation notes it. For scores that are integers, or are
quantised before or behind the softmax, their dequantised values are taken.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.autodiff.dequantized import as_run
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import described, known_dims

#: Operators that only rearrange or rename what they get: looked through when the end of a model is read.
PASS_THROUGH = frozenset(
    """
    Cast DequantizeLinear Dropout Flatten Identity QuantizeLinear Reshape Squeeze Transpose Unsqueeze
    """.split()
)
_CUT = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "Hardmax"})


@dataclass(frozen=True)
class Scores:
    """The tensor that holds the scores; ``output`` is the model's output it belongs to, ``cut`` the operator that it
    was cut before, or None."""

    value: ir.Value
    output: str
    cut: str | None


def find_scores(graph: ir.Graph, output: str | None = None) -> Scores:
    """The tensor to explain.

    Args:
        output: Any tensor of the graph, taken as it is; None to take the model's only vector of scores per image, cut
            before a final Softmax, LogSoftmax, Sigmoid or ArgMax.

    Raises:
        TargetError: There is no such tensor, it is not floating point, or several outputs could be meant.
    """
    if output is not None:
        values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
        value = values.get(output)
        if value is None:
            close = difflib.get_close_matches(output, list(values), n=3)
            hint = (
                f"near it: {', '.join(close)}" if close else f"outputs: {', '.join(str(o.name) for o in graph.outputs)}"
            )
            raise TargetError(f"output='{output}' is no tensor of the model; {hint}")
        value = as_run(value)
        if value.dtype not in FLOATS:
            raise TargetError(f"output='{output}' is of type {value.dtype}; scores are floating point")
        return Scores(value, output, None)
    found = [cut_before(value) for value in graph.outputs]
    vectors = [s for s in found if s.value.dtype in FLOATS and _is_vector(s.value)]
    if vectors and all(s.value is vectors[0].value for s in vectors):  # logits, and their softmax beside them
        return vectors[0]
    if len(found) == 1 and found[0].value.dtype in FLOATS and _is_single(found[0].value):  # a yes or no, one sigmoid
        return found[0]
    listing = ", ".join(f"'{o.name}' {described(o)}" for o in graph.outputs)
    if not vectors:
        raise TargetError(
            f"none of the model's outputs is a vector of scores per image: {listing}. Name the tensor that holds the "
            "scores with `output`; a detector or a segmentation is explained by a target of its own (--task detect, "
            "--task segment)"
        )
    raise TargetError(f"several outputs could hold the scores: {listing}. Choose one with `output`")


def cut_before(value: ir.Value) -> Scores:
    """The tensor before a final softmax, sigmoid or ArgMax, looking through operators that only rearrange."""
    current = value
    while (node := current.producer()) is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type in _CUT:
            return Scores(as_run(node.inputs[0]), str(value.name), node.op_type)
        if node.op_type not in PASS_THROUGH:
            break
        current = node.inputs[0]
    return Scores(as_run(value), str(value.name), None)


def _is_vector(value: ir.Value) -> bool:
    """(N, M), or (N, M, 1, 1) and the like."""
    dims = known_dims(value)
    return dims is not None and len(dims) >= 2 and all(d == 1 for d in dims[2:]) and dims[1] != 1


def _is_single(value: ir.Value) -> bool:
    """(N, 1), or (N, 1, 1, 1) and the like."""
    dims = known_dims(value)
    return dims is not None and len(dims) >= 2 and all(d == 1 for d in dims[1:])
