"""The table of gradient rules: how one is registered, and the view of a node that it gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import onnx_ir as ir

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.autodiff.dequantized import holds_on_integers, may_be_quantized
from portable_cam.export.autodiff.residuals import Residuals
from portable_cam.export.graph.attributes import NodeView
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS, key_of
from portable_cam.export.graph.values import constant_of, optional_input, reads

Gradient: TypeAlias = ir.Value | None
Inside: TypeAlias = Callable[
    [Mapping[ir.Node, ir.Node], Builder, Mapping[ir.Value, ir.Value], Sequence[ir.Value]], list[Gradient]
]


@dataclass(frozen=True)
class Vjp(NodeView):
    """The view that a rule has of one node.

    Attributes:
        b: Writes nodes into the graph.
        node: The node to differentiate.
        grads: The gradient of each output, None where the score does not depend on it.
        needs: Whether each input needs a gradient, then each of ``outer``.
        residuals: The tensors to read, dequantised in a quantised graph.
        relu_rule: ``standard``, ``guided`` or ``deconvnet`` for this node.
        saturation: ``pass`` or ``mask``.
        singular: Whether the gradients may be infinite or NaN where torch's are, behind a square root at 0, say: a gate
            then has to select, for 0 times infinity is NaN.
        outer: The values that the node's subgraphs read from outside and that need a gradient: a rule gives theirs
            after those of the node's own inputs.
        inside: Differentiates a copy of a subgraph's nodes: takes the copies with their originals, a builder, the
            seeds, and the values to differentiate for; gives None for a value that is not reached.
    """

    b: Builder
    node: ir.Node
    grads: Sequence[Gradient]
    needs: Sequence[bool]
    residuals: Residuals
    relu_rule: str
    saturation: str
    singular: bool
    outer: Sequence[ir.Value]
    inside: Inside

    @property
    def g(self) -> ir.Value:
        """The gradient of the first output, in its shape."""
        gradient = self.grads[0]
        if gradient is None:
            raise self.unsupported("only a secondary output is used by the score")
        if any(other is not None for other in self.grads[1:]):
            raise self.unsupported("the score uses a secondary output of it as well")
        return gradient

    @property
    def g_broadcast(self) -> ir.Value:
        """As ``g``, but possibly with axes of size 1 to broadcast: enough to multiply with, without expanding it first
        (global average pooling spreads one number over each channel)."""
        producer = self.g.producer()
        if producer is not None and self.g.meta.get("spread"):
            small = producer.inputs[0]
            if small is not None:
                return small
        return self.g

    @property
    def x(self) -> ir.Value:
        return self.input(0)

    @property
    def y(self) -> ir.Value:
        return self.residuals(self.node.outputs[0])

    def input(self, index: int) -> ir.Value:
        value = self.optional(index)
        if value is None:
            raise self.unsupported(f"its input {index} is missing")
        return value

    def optional(self, index: int) -> ir.Value | None:
        value = optional_input(self.node, index)
        return None if value is None else self.residuals(value)

    def needed(self, index: int) -> bool:
        return index < len(self.needs) and self.needs[index]

    def const_ints(self, index: int) -> list[int] | None:
        """The content of a constant integer input as a flat list; None if it is absent or computed at run time."""
        array = constant_of(self.optional(index))
        return None if array is None else [int(v) for v in array.reshape(-1)]

    def unsupported(self, why: str) -> UnsupportedOperatorError:
        """An error that names this node."""
        return UnsupportedOperatorError(
            f"no gradient for {self.node.op_type} node '{self.node.name}' (output '{self.y.name}'): {why}"
        )


Rule: TypeAlias = Callable[[Vjp], Sequence[Gradient] | ir.Value]


@dataclass(frozen=True)
class Entry:
    """A registered rule. ``broadcasts``: the operator broadcasts its inputs, and the walker sums each gradient back.
    ``inputs``: those that a gradient passes, all if None; the others count as constants."""

    rule: Rule
    broadcasts: bool = False
    inputs: tuple[int, ...] | None = None


#: The rules by operator: the bare name for the ONNX standard, ``domain::name`` for any other domain (:func:`key_of`).
RULES: dict[str, Entry] = {}

#: Operators whose outputs do not vary smoothly with their inputs: gradient zero (or none) by definition. The walk
#: stops there. They are named, so that a missing rule is never taken for zero.
NO_GRADIENT = frozenset(
    """
    And ArgMax ArgMin Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil ConstantOfShape
    Constant Equal EyeLike Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual Multinomial
    NonMaxSuppression NonZero Not OneHot Or RandomNormal RandomNormalLike RandomUniform RandomUniformLike Round
    SequenceLength Shape Sign Size StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique Xor
    """.split()
)

#: Those of them that shift and mask the bits of an integer. Of a quantised tensor they change the value: there they
#: count as operators without a rule.
_ON_BITS = frozenset("BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor".split())


def rule_for(node: ir.Node) -> Entry | None:
    """The rule of a node's operator, if there is one."""
    return RULES.get(key_of(node.domain, node.op_type))


def differentiable_inputs(node: ir.Node) -> Sequence[ir.Value | None]:
    """The tensors to which a node passes a gradient on, by its rule: its inputs, and what its subgraphs read."""
    entry = rule_for(node)
    if entry is None or entry.inputs is None:
        return list(reads(node))
    return [node.inputs[i] for i in entry.inputs if i < len(node.inputs)]


def has_no_gradient(node: ir.Node) -> bool:
    """Whether the gradient of a node's operator is zero by definition."""
    return key_of(node.domain, node.op_type) in NO_GRADIENT


def differentiable_outputs(node: ir.Node, reached: Collection[ir.Value]) -> list[ir.Value]:
    """The outputs of a node that vary with the tensors in ``reached``: floats, quantised tensors, and whatever is not
    known to be constant, so that the walk comes to what it has no rule for and refuses it.

    The scale that DynamicQuantizeLinear chooses counts as a constant, as any scale does.
    """
    passed = [value for value in differentiable_inputs(node) if value is not None and value in reached]
    integers = {value.dtype for value in passed if may_be_quantized(value)}
    key = key_of(node.domain, node.op_type)
    if not passed or (has_no_gradient(node) and not (integers and key in _ON_BITS)):
        return []
    if key == "DynamicQuantizeLinear":
        return [node.outputs[0]]
    floats = [o for o in node.outputs if o.dtype is None or o.dtype in FLOATS]
    if key in {"Cast", "CastLike"}:  # a float cast to an integer is rounded
        return floats or [o for o in node.outputs if integers and may_be_quantized(o)]
    if key not in RULES or holds_on_integers(node):
        return list(node.outputs)
    # an operator that computes on integers gives its result in their type; indices and counts are in another
    return [o for o in node.outputs if o in floats or o.dtype in integers]


def has_rule(node: ir.Node, outputs: Collection[ir.Value]) -> bool:
    """Whether a rule passes a gradient from ``outputs``, of those of the node, to its inputs."""
    integers = any(value in outputs and may_be_quantized(value) for value in node.outputs)
    return rule_for(node) is not None and (not integers or holds_on_integers(node))


@overload
def register(
    *op_types: str, rule: Rule, broadcasts: bool = False, inputs: Sequence[int] | None = None, domain: str = ""
) -> None: ...
@overload
def register(
    *op_types: str, broadcasts: bool = False, inputs: Sequence[int] | None = None, domain: str = ""
) -> Callable[[Rule], Rule]: ...
def register(
    *op_types: str,
    rule: Rule | None = None,
    broadcasts: bool = False,
    inputs: Sequence[int] | None = None,
    domain: str = "",
) -> Callable[[Rule], Rule] | None:
    """Register a rule for one or several operators of a domain, the ONNX standard's if none is named, as a call or as
    a decorator."""

    def add(function: Rule) -> Rule:
        for key in (key_of(domain, op_type) for op_type in op_types):
            if key in RULES or key in NO_GRADIENT:
                raise ValueError(f"a rule for {key} is registered twice")
            RULES[key] = Entry(function, broadcasts, None if inputs is None else tuple(inputs))
        return function

    if rule is None:
        return add
    add(rule)
    return None
