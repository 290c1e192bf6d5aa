"""Sequences and optionals whose content is known: a tensor read from one is the tensor that was put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.refusals import refuse
from portable_cam.export.graph.subgraph import copy_nodes, replace_node
from portable_cam.export.graph.values import constant_of, known_dims, optional_input, rank_of, subgraphs
from portable_cam.export.passes.static.loops import count_nodes, may_unroll

_Known: TypeAlias = dict[ir.Value, list[ir.Value]]
#: The content of an optional: a tensor or sequence, or nothing.
_Held: TypeAlias = dict[ir.Value, ir.Value | None]
_MAKERS = frozenset(
    "Optional SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceMap SplitToSequence".split()
)
_MOST = 4096  # elements of a sequence; a hostile file may split a tensor into any number


def resolve_sequences(model: ir.Model) -> PassResult:
    """Replace the operators that read from sequences and optionals of known content, in place."""
    resolver = _Resolver(model)
    for graph in (model.graph, *_inner_graphs(model.graph)):
        for node in list(graph):
            if node.domain in ONNX_DOMAINS and node.op_type in _OPERATORS:
                _OPERATORS[node.op_type](resolver, node)
    return PassResult(model, resolver.changed)


def refuse_unresolved(model: ir.Model) -> PassResult:
    """Give the operators on sequences and optionals that are left the reason why they have no gradient."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain in ONNX_DOMAINS and node.op_type in RESOLVED:
            refuse(node, "what the sequence or optional holds at this point is known only at run time")
    return PassResult(model, False)


def forget_sequence_types(model: ir.Model) -> PassResult:
    """Remove the types of sequences and optionals that shape inference took for tensors; ONNX Runtime infers them
    itself."""
    nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.domain in ONNX_DOMAINS]
    no_tensors = {value for node in nodes if node.op_type in _MAKERS for value in node.outputs}
    if not no_tensors:
        return PassResult(model, False)
    before = -1
    while len(no_tensors) > before:
        before = len(no_tensors)
        for node in nodes:
            if node.op_type == "Identity" and node.inputs[0] in no_tensors:
                no_tensors.add(node.outputs[0])
            for body in subgraphs(node):
                first = 1 if node.op_type == "Loop" else 0
                ends = zip(node.outputs, body.outputs[first:], strict=False)
                no_tensors.update(output for output, end in ends if end in no_tensors)
                starts = zip(body.inputs[2:], node.inputs[2:], strict=False) if node.op_type == "Loop" else ()
                no_tensors.update(start for start, given in starts if given in no_tensors)
    mistaken = [value for value in no_tensors if isinstance(value.type, ir.TensorType)]
    for value in mistaken:
        value.type, value.shape = None, None
    return PassResult(model, bool(mistaken))


class _Resolver:
    """The known content of sequences and optionals so far; each handler adds to it or replaces a node."""

    def __init__(self, model: ir.Model) -> None:
        self.known: _Known = {}
        self.held: _Held = {}
        self.changed = False
        self._builder: Builder | None = None
        self.model = model

    def builder(self) -> Builder:
        """A builder of the nodes that replace one."""
        self._builder = self._builder or Builder(self.model.graph, "sequence")
        return self._builder.nested()

    def replace(self, node: ir.Node, value: ir.Value, inner: Builder | None = None) -> None:
        replace_node(inner or self.builder(), node, [value])
        self.changed = True

    def position(self, node: ir.Node, index: int, length: int) -> int | None:
        """The position that input ``index`` names in a sequence of this length, its end by default; None if it is not
        known."""
        value = optional_input(node, index)
        if value is None:
            return length
        content = constant_of(value)
        if content is None or not -length <= int(content.reshape(-1)[0]) <= length:
            return None
        position = int(content.reshape(-1)[0])
        return position if position >= 0 else position + length


def _construct(r: _Resolver, node: ir.Node) -> None:
    r.known[node.outputs[0]] = [value for value in node.inputs if value is not None]


def _insert(r: _Resolver, node: ir.Node) -> None:
    content, value = _content(r, node), node.inputs[1]
    if content is None or value is None or len(content) >= _MOST:
        return
    position = r.position(node, 2, len(content))
    if position is not None:
        r.known[node.outputs[0]] = [*content[:position], value, *content[position:]]


def _erase(r: _Resolver, node: ir.Node) -> None:
    content = _content(r, node)
    if not content:
        return
    position = len(content) - 1 if optional_input(node, 1) is None else r.position(node, 1, len(content))
    if position is not None and position < len(content):
        r.known[node.outputs[0]] = [*content[:position], *content[position + 1 :]]


def _split(r: _Resolver, node: ir.Node) -> None:
    """SplitToSequence: into parts of one element, of a size, or of given sizes."""
    x, sizes = node.inputs[0], optional_input(node, 1)
    if x is None or x.shape is None:
        return
    axis = node.attributes.get_int("axis", 0) % rank_of(x)
    length, given = (known_dims(x) or [])[axis], constant_of(sizes)
    if sizes is not None and given is None:
        return
    if given is not None and given.ndim:
        parts = [int(size) for size in given]
    else:
        size = 1 if given is None else int(given)
        if length is None or size < 1 or length // size > _MOST:
            return
        parts = [min(size, length - start) for start in range(0, length, size)]
    if not 0 < len(parts) <= _MOST or not isinstance(node.graph, ir.Graph):
        return
    inner = r.builder()
    pieces = list(inner.op_multi("Split", [x, inner.ints(parts)], len(parts), axis=axis))
    if sizes is None and not node.attributes.get_int("keepdims", 1):
        pieces = [inner.op("Squeeze", piece, inner.ints([axis])) for piece in pieces]
    nodes = list(inner.graph)
    inner.graph.remove(nodes)
    node.graph.insert_before(node, nodes)
    r.known[node.outputs[0]] = pieces


def _at(r: _Resolver, node: ir.Node) -> None:
    content = _content(r, node)
    position = None if content is None else r.position(node, 1, len(content))
    if content is not None and position is not None and position < len(content):
        r.replace(node, content[position])


def _length(r: _Resolver, node: ir.Node) -> None:
    content = _content(r, node)
    if content is not None:
        inner = r.builder()
        r.replace(node, inner.ints(len(content)), inner)


def _concat(r: _Resolver, node: ir.Node) -> None:
    content = _content(r, node)
    if not content:
        return
    inner, axis = r.builder(), node.attributes.get_int("axis", 0)
    if node.attributes.get_int("new_axis", 0):
        content = [inner.op("Unsqueeze", value, inner.ints([axis])) for value in content]
    r.replace(node, inner.op("Concat", *content, axis=axis), inner)


def _map(r: _Resolver, node: ir.Node) -> None:
    """SequenceMap: its body once for each element; a tensor among the inputs is the same for all."""
    content = _content(r, node)
    body = node.attributes["body"].as_graph()
    others = [r.known.get(value) for value in node.inputs[1:] if value is not None]
    is_tensor = [value is not None and isinstance(value.type, ir.TensorType) for value in node.inputs[1:]]
    if content is None or not isinstance(node.graph, ir.Graph):
        return
    if any(other is None and not tensor for other, tensor in zip(others, is_tensor, strict=True)):
        return
    if not may_unroll(r.model, len(content) * count_nodes(body)):
        return
    inner = r.builder()
    results: list[list[ir.Value]] = [[] for _ in node.outputs]
    for i, element in enumerate(content):
        passed = [value if other is None else other[i] for value, other in zip(node.inputs[1:], others, strict=True)]
        values = dict(zip(body.inputs, [element, *(value for value in passed if value is not None)], strict=True))
        copy_nodes(inner, body, values, f"/{node.name}/{i}")
        for result, output in zip(results, body.outputs, strict=True):
            result.append(values.get(output, output))
    nodes = list(inner.graph)
    inner.graph.remove(nodes)
    node.graph.insert_before(node, nodes)
    r.known.update(zip(node.outputs, results, strict=True))


def _alias(r: _Resolver, node: ir.Node) -> None:
    """Identity of a sequence or optional."""
    source, output = node.inputs[0], node.outputs[0]
    if source in r.known:
        r.known[output] = r.known[source]
    if source in r.held:
        r.held[output] = r.held[source]


def _optional(r: _Resolver, node: ir.Node) -> None:
    r.held[node.outputs[0]] = node.inputs[0] if node.inputs else None


def _has_element(r: _Resolver, node: ir.Node) -> None:
    source = node.inputs[0] if node.inputs else None
    if source is not None and source not in r.held and isinstance(source.type, ir.OptionalType | None):
        return
    present = source is not None and r.held.get(source, source) is not None
    inner = r.builder()
    r.replace(node, inner.constant(present, ir.DataType.BOOL), inner)


def _get_element(r: _Resolver, node: ir.Node) -> None:
    source = node.inputs[0]
    held = r.held.get(source, source) if source is not None else None
    if held is None or isinstance(held.type, ir.OptionalType):
        return
    if held in r.known:
        r.known[node.outputs[0]] = r.known[held]
    elif isinstance(held.type, ir.TensorType):
        r.replace(node, held)


def _content(r: _Resolver, node: ir.Node) -> list[ir.Value] | None:
    source = node.inputs[0]
    return None if source is None else r.known.get(source)


_OPERATORS: dict[str, Callable[[_Resolver, ir.Node], None]] = {
    "ConcatFromSequence": _concat, "Identity": _alias, "Optional": _optional, "OptionalGetElement": _get_element,
    "OptionalHasElement": _has_element, "SequenceAt": _at, "SequenceConstruct": _construct, "SequenceEmpty": _construct,
    "SequenceErase": _erase, "SequenceInsert": _insert, "SequenceLength": _length, "SequenceMap": _map,
    "SplitToSequence": _split,
}  # fmt: skip


#: The operators that build or read a sequence or an optional.
RESOLVED = frozenset(_OPERATORS) - {"Identity"}


def _inner_graphs(graph: ir.Graph) -> Sequence[ir.Graph]:
    return [inner for inner in graph.subgraphs() if inner is not graph]
