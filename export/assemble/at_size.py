# SPDX-License-Identifier: Apache-2.0
"""A model whose images may have any height and width, or come in any number, at one of them."""

from __future__ import annotations

from portable_cam.errors import OptionError
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized


def sides(model: AnyModel) -> tuple[int | None, int | None]:
    """Height and width of the model's image, None where they are open.

    Raises:
        InputError: The model has no image input.
    """
    image = image_input(normalized(model).graph)
    dims, first = known_dims(image) or [], 2 if channel_axis(image) == 1 else 1
    return dims[first], dims[first + 1]


def at_size(model: AnyModel, size: tuple[int, int] | None, images: int | None = None) -> NormalizedModel:
    """The model with the open height and width of its image fixed, so that the sizes behind them are known: rows of a
    detector's outputs, strides of layers.

    Args:
        model: The model; its file is not changed.
        size: (H, W); None leaves the model as it is.
        images: How many images an open batch has; None leaves it open.

    Raises:
        OptionError: The model takes images of another size.
        InputError: The model has no image input.
    """
    known = normalized(model)
    if size is None:
        return known
    image = image_input(known.graph)
    dims, first = known_dims(image) or [], 2 if channel_axis(image) == 1 else 1
    own = sides(known)
    if any(side is not None and side != wanted for side, wanted in zip(own, size, strict=True)):
        taken = "x".join("any" if side is None else str(side) for side in own)
        raise OptionError(f"the model takes images of {taken}, not {size[0]}x{size[1]}")
    wanted = {0: images, first: size[0], first + 1: size[1]}
    fixed = {axis: n for axis, n in wanted.items() if dims[axis] is None and n is not None}
    return known.with_sizes(str(image.name), fixed) if fixed else known


def at_batch(model: AnyModel, batch: int | None) -> NormalizedModel:
    """The model for so many images at a time, so that what follows from their number is constant.

    Args:
        model: The model; its file is not changed.
        batch: How many; None leaves the model as it is.

    Raises:
        OptionError: The model takes another number.
        InputError: The model has no image input.
    """
    known = normalized(model)
    if batch is None:
        return known
    image = image_input(known.graph)
    own = image.shape.dims[0] if image.shape is not None else None
    if isinstance(own, int):
        if own != batch:
            raise OptionError(f"the model takes images by {own}, not by {batch}")
        return known
    together = [v for v in known.graph.inputs if v.shape is not None and v.shape.dims and v.shape.dims[0] == own]
    for name in [str(value.name) for value in together]:
        known = known.with_sizes(name, {0: batch})
    return known
