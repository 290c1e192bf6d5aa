# SPDX-License-Identifier: Apache-2.0
"""Models whose weights say nothing, from the scores down.

The weights of an ONNX file are data: of any model, quantised ones too, those of a layer can be shuffled, so that their
distribution and their types stay and what was learnt is gone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.values import constant_of
from portable_cam.export.passes.normalized import NormalizedModel

_LEAST = 2  # elements of a tensor that can be shuffled
#: Constants of these are sizes, axes and amounts, no weights.
_NO_WEIGHTS = frozenset(
    """
    Clip Concat ConstantOfShape Expand Gather GatherElements GatherND OneHot Pad Range Reshape Resize Slice Split
    Squeeze Tile TopK Unsqueeze Upsample
    """.split()
)


def layers_with_weights(graph: ir.Graph) -> list[list[ir.Value]]:
    """The weights of each layer, from the last node to the first; what several share belongs to the last one."""
    found: list[list[ir.Value]] = []
    seen: set[ir.Value] = set()
    for node in reversed(list(graph)):
        if node.op_type in _NO_WEIGHTS:
            continue
        own = [v for v in node.inputs if v is not None and v not in seen and _is_weight(v)]
        if own:
            seen.update(own)
            found.append(own)
    return found


def _is_weight(value: ir.Value) -> bool:
    array = constant_of(value) if value.is_initializer() else None
    return (
        array is not None
        and array.size >= _LEAST
        and array.dtype.kind in "fiu"
        and bool((array != array.flat[0]).any())
    )


def randomized(model: NormalizedModel, share: float, seed: int) -> NormalizedModel:
    """The model with the weights of the last layers shuffled.

    Args:
        model: Left as it is.
        share: Of the layers that have weights, from the scores down; 1 for all.
        seed: Of the shuffling; more layers leave those before as they were shuffled.
    """

    def shuffle(graph: ir.Graph) -> None:
        layers = layers_with_weights(graph)
        for number, weights in enumerate(layers[: max(1, round(share * len(layers)))]):
            random = np.random.default_rng([seed, number])
            for value in weights:
                array = constant_of(value)
                assert array is not None
                mixed = random.permutation(array.reshape(-1)).reshape(array.shape)
                value.const_value = ir.Tensor(np.ascontiguousarray(mixed), dtype=value.dtype, name=value.name)

    return model.changed(shuffle)
