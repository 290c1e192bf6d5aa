# SPDX-License-Identifier: Apache-2.0
"""Unrolls a decoder that takes one step at a time: one graph for all steps, for the attribution of words."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from portable_cam.checked import checked
from portable_cam.errors import ModelError
from portable_cam.export.compose.link import take_over
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims
from portable_cam.export.passes.normalized import AnyModel, normalized

_MOST_STEPS = 1000  # each is a copy of the decoder


@checked
def unroll(decoder: AnyModel, steps: int, *, tokens: str, logits: str, state: Mapping[str, str]) -> onnx.ModelProto:
    """The decoder applied ``steps`` times, each step with the state of the one before.

    Args:
        decoder: One step: token ids (N, 1), any other inputs and a state in; logits (N, 1, V) or (N, V), and the next
            state out.
        steps: How often, 1 or more.
        tokens: The input of token ids.
        logits: The output of scores.
        state: From each output that holds the next state to the input that takes it.

    Returns:
        A model with the same inputs, ``tokens`` now (N, steps), the state that of the first step; and the outputs
        ``logits`` (N, steps, V) and the last state.

    Raises:
        ModelError: A name does not exist, or a shape does not fit.
    """
    if not 1 <= steps <= _MOST_STEPS:
        raise ModelError(f"a decoder cannot be unrolled to {steps} steps, but to 1 to {_MOST_STEPS}")
    step = normalized(decoder).copy()
    inputs, outputs = ({str(v.name): v for v in side} for side in (step.graph.inputs, step.graph.outputs))
    for name in (tokens, *state.values()):
        if name not in inputs:
            raise ModelError(f"the decoder has no input '{name}'; its inputs are {', '.join(inputs)}")
    for name in (logits, *state):
        if name not in outputs:
            raise ModelError(f"the decoder has no output '{name}'; its outputs are {', '.join(outputs)}")
    ids, scores = known_dims(inputs[tokens]), known_dims(outputs[logits])
    if ids is None or len(ids) != 2 or ids[1] not in {1, None} or scores is None or len(scores) not in {2, 3}:
        raise ModelError(
            f"one step of a decoder takes '{tokens}' (N, 1) and gives '{logits}' (N, 1, V) or (N, V), not "
            f"{inputs[tokens].shape} and {outputs[logits].shape}"
        )
    copies = [step.graph.clone() for _ in range(steps)]
    whole = step.graph
    shape = inputs[tokens].shape
    batch = None if shape is None else shape[0]
    inputs[tokens].shape = ir.Shape([batch, steps])
    whole.outputs.clear()
    whole.remove(list(whole), safe=False)
    b = Builder(whole, "unroll")
    states = {target: inputs[target] for target in state.values()}
    columns = []
    for t, copy in enumerate(copies):
        token = b.op("Slice", inputs[tokens], b.ints([t]), b.ints([t + 1]), b.ints([1]))
        token.shape = ir.Shape([batch, 1])
        for value in copy.outputs:  # these names are those of the unrolled model
            value.name = f"step{t}/{value.name}"
        joined = {value: inputs[str(value.name)] for value in copy.inputs}
        joined |= {value: states.get(str(value.name), joined[value]) for value in copy.inputs}
        joined |= {value: token for value in copy.inputs if value.name == tokens}
        joined |= {value: whole.initializers[name] for name, value in copy.initializers.items()}
        results = dict(zip(outputs, take_over(whole, copy, joined, f"step{t}/"), strict=True))
        column = results[logits]
        columns.append(column if len(scores) == 3 else b.op("Unsqueeze", column, b.ints([1])))
        states = {target: results[source] for source, target in state.items()}
    result = b.op("Concat", *columns, axis=1)
    result.name, result.shape = logits, ir.Shape([batch, steps, scores[-1]])
    whole.outputs.append(result)
    for source, target in state.items():
        last = b.op("Identity", states[target])
        last.name, last.shape = source, outputs[source].shape
        whole.outputs.append(last)
    return ir.to_proto(step)
