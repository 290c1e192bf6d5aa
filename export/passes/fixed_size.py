"""An open height and width of the image made fixed, so that everything behind them is known."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.graph.values import known_dims
from portable_cam.export.passes.fold import fold


def fix_size(model: ir.Model, image: str, axes: tuple[int, int], size: tuple[int, int]) -> None:
    """Give the image a height and width and a batch of one where these are open, fold what they make constant, and
    infer the shapes behind them anew, in place.

    Args:
        model: Normalised.
        image: The name of its image.
        axes: Those of height and width.
        size: Height and width.

    Raises:
        ModelError: The model does not fit the size.
    """
    value = next(value for value in model.graph.inputs if value.name == image)
    dims, sizes = known_dims(value) or [], {0: 1, **dict(zip(axes, size, strict=True))}
    value.shape = ir.Shape([sizes.get(i) if d is None else d for i, d in enumerate(dims)])
    for node in model.graph:
        for output in node.outputs:
            output.shape = None
    try:
        fold(model)
    except Exception as error:  # of the libraries that fold and infer
        raise ModelError(f"the model cannot be read for images of {size[0]}x{size[1]}: {error}") from error
