# SPDX-License-Identifier: Apache-2.0
"""Joins the ONNX files of an encoder and a decoder into one graph, for the attribution of words to pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir

from portable_cam.checked import checked
from portable_cam.errors import ModelError
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import described
from portable_cam.export.passes.normalized import AnyModel, normalized

_PREFIX = "decoder/"


@checked
def link(
    encoder: AnyModel, decoder: AnyModel, mapping: Mapping[str, str] | None = None, *, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """One model of two: outputs of the encoder go into inputs of the decoder.

    Both are brought to one operator set first. Names are kept; where a name of the decoder is taken, it gets the prefix
    ``decoder/``.

    Args:
        encoder: A path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        decoder: Likewise.
        mapping: From the encoder's output to the decoder's input, by name, as ``{"features": "memory"}``; None joins
            what has the same name, or else the only output and input that fit each other.
        keep: Decoder inputs of floating-point type that stay inputs of the whole, as the state of a recurrent decoder.
            Those of other types (token ids, lengths, masks) stay inputs without being named.

    Returns:
        A model with the inputs of the encoder and the remaining ones of the decoder, and with the outputs of the
        decoder and the remaining ones of the encoder.

    Raises:
        ModelError: A name does not exist, a shape or type does not fit, an input of the decoder would be left open, or
            one of the models cannot be read.
    """
    first, second = normalized(encoder).copy(), normalized(decoder).copy()
    outputs = {str(value.name): value for value in first.graph.outputs}
    inputs = {str(value.name): value for value in second.graph.inputs}
    joined = {target: source for source, target in match(first.graph, second.graph, mapping).items()}
    for name, value in inputs.items():
        if name not in joined and name not in keep and value.dtype in FLOATS:
            raise ModelError(
                f"input '{name}' {described(value)} of the decoder is left open: map an output of the encoder to it "
                f"({', '.join(outputs)}), or name it in keep"
            )
    unknown = sorted(set(keep) - set(inputs))
    if unknown:
        raise ModelError(f"keep names '{unknown[0]}', no input of the decoder; its inputs are {', '.join(inputs)}")
    kept = [value for name, value in outputs.items() if name not in joined.values()]
    results = take_over(first.graph, second.graph, {inputs[t]: outputs[s] for t, s in joined.items()}, _PREFIX)
    first.graph.outputs.clear()
    first.graph.outputs.extend(dict.fromkeys([*results, *kept]))
    return ir.to_proto(first)


def match(encoder: ir.Graph, decoder: ir.Graph, mapping: Mapping[str, str] | None) -> dict[str, str]:
    """From outputs of the encoder to the inputs of the decoder where they go, checked; see :func:`link`."""
    outputs = {str(value.name): value for value in encoder.outputs}
    inputs = {str(value.name): value for value in decoder.inputs}
    joined = _pair(mapping, outputs, inputs)
    for target, source in joined.items():
        problem = _misfit(outputs[source], inputs[target])
        if problem:
            raise ModelError(
                f"the decoder does not fit the encoder: output '{source}' {described(outputs[source])} cannot go into "
                f"input '{target}' {described(inputs[target])}: {problem}"
            )
    return {source: target for target, source in joined.items()}


def _pair(
    mapping: Mapping[str, str] | None, outputs: Mapping[str, ir.Value], inputs: Mapping[str, ir.Value]
) -> dict[str, str]:
    """Decoder inputs and the encoder's outputs that go there."""
    listing = f"the encoder's outputs are {', '.join(outputs)}; the decoder's inputs are {', '.join(inputs)}"
    if mapping is not None:
        for source, target in mapping.items():
            if source not in outputs:
                raise ModelError(f"mapping names output '{source}' of the encoder, which does not exist: {listing}")
            if target not in inputs:
                raise ModelError(f"mapping names input '{target}' of the decoder, which does not exist: {listing}")
        if len(set(mapping.values())) < len(mapping):
            raise ModelError("mapping fills one input of the decoder twice: give each input one output")
        if mapping:
            return {target: source for source, target in mapping.items()}
    same = {name: name for name in inputs if name in outputs}
    if same:
        return same
    fitting = [
        (target, source)
        for target, value in inputs.items()
        for source, output in outputs.items()
        if value.dtype in FLOATS and _misfit(output, value) is None
    ]
    if len(fitting) == 1:
        return dict(fitting)
    sides = [", ".join(f"'{v.name}' {described(v)}" for v in side.values()) for side in (outputs, inputs)]
    if not fitting:
        raise ModelError(
            f"the decoder does not fit the encoder: none of the encoder's outputs ({sides[0]}) can go into one of the "
            f"decoder's inputs ({sides[1]})"
        )
    raise ModelError(
        f"several outputs of the encoder ({sides[0]}) and inputs of the decoder ({sides[1]}) fit each "
        "other: give a mapping"
    )


def _misfit(output: ir.Value, given: ir.Value) -> str | None:
    """Why an output cannot go into an input, or None."""
    if output.dtype != given.dtype:
        return f"{output.dtype} is not {given.dtype}"
    if output.shape is None or given.shape is None:
        return None
    if len(output.shape) != len(given.shape):
        return f"{len(output.shape)} dimensions are not {len(given.shape)}"
    for axis, (have, want) in enumerate(zip(output.shape.dims, given.shape.dims, strict=True)):
        if isinstance(have, int) and isinstance(want, int) and have != want:
            return f"along axis {axis}, {have} is not {want}"
    return None


def take_over(graph: ir.Graph, other: ir.Graph, joined: Mapping[ir.Value, ir.Value], prefix: str) -> list[ir.Value]:
    """Move everything of ``other`` into ``graph``.

    Args:
        graph: Gets the nodes, and as inputs those of ``other`` that are not joined.
        other: Left empty.
        joined: Inputs and initialisers of ``other``, each with the value of ``graph`` that replaces it.
        prefix: For names that are taken.

    Returns:
        The values of ``graph`` for the outputs of ``other``.
    """
    dims = {
        str(theirs.value): ours
        for given, output in joined.items()
        if given.shape is not None and output.shape is not None
        for theirs, ours in zip(given.shape.dims, output.shape.dims, strict=False)
        if isinstance(theirs, ir.SymbolicDim) and theirs.value is not None
    }
    initializers, nodes = list(other.initializers.values()), list(other)
    made = [value for node in ir.traversal.RecursiveGraphIterator(other) for value in node.outputs]
    values = [value for value in (*other.inputs, *initializers, *made) if value not in joined]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                [dims.get(str(d.value), d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape.dims]
            )
    taken = {value.name for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs}
    taken |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
    nodes_taken = {node.name for node in ir.traversal.RecursiveGraphIterator(graph)}
    outputs, inputs = list(other.outputs), [value for value in other.inputs if value not in joined]
    other.initializers.clear()
    other.inputs.clear()
    other.outputs.clear()
    for value in values:
        value.name = _free(value.name, taken, prefix)
    for node in ir.traversal.RecursiveGraphIterator(other):
        node.name = _free(node.name, nodes_taken, prefix)
    for given, output in joined.items():
        ir.convenience.replace_all_uses_with(given, output)
    other.remove(nodes)
    graph.extend(nodes)
    for value in initializers:
        if value not in joined:
            graph.register_initializer(value)
    graph.inputs.extend(inputs)
    return [joined.get(value, value) for value in outputs]


def _free(name: str | None, taken: set[str | None], prefix: str) -> str | None:
    """The name, or one with the prefix if it is taken; marks it as taken."""
    while name is not None and name in taken:
        name = prefix + name
    taken.add(name)
    return name
