"""A model with what a person declared of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized


def declared_model(model: AnyModel, axes: Mapping[str, str] | None) -> NormalizedModel:
    """The model normalised, and in a copy of it what its axes are declared to be, here or in its description.

    Args:
        model: The model.
        axes: By the name of the image or of a tensor of four axes their letters, as ``{"x": "NHWC"}``.

    Raises:
        OptionError: The description cannot be read.
        InputError: There is no such tensor, it has not so many axes, or the letters are others.
    """
    source = normalized(model)
    declared = source.described({"axes": axes or None}).get("axes")
    return source.changed(partial(declare_axes, axes=declared)) if declared else source
