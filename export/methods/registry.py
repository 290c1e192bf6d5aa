"""The methods there are, and the options that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from portable_cam.errors import OptionError
from portable_cam.export.autodiff.backward import ReluRule
from portable_cam.export.methods.heat_map import Profile
from portable_cam.export.passes.precision import Precision

#: Methods whose result is a heat map, and those whose result has the picture's own shape with the ReLU rule of each.
#: The maps of PIXEL_METHODS weigh each element of the layer by its own gradient, those of gradcam each channel.
PIXEL_METHODS = ("layercam", "hirescam")
MAP_METHODS = ("cam", "gradcam", *PIXEL_METHODS)
INPUT_METHODS: dict[str, ReluRule] = {"gradient": "standard", "guided_backprop": "guided", "deconvnet": "deconvnet"}
METHODS = (*MAP_METHODS, *INPUT_METHODS, "guided_gradcam")


def check_options(
    methods: Sequence[str],
    profile: str,
    sign: str,
    targets_per_image: int | None = None,
    precision: str = "model",
    *,
    words: bool = False,
) -> tuple[str, ...]:
    """The methods as a tuple, each once, none only where ``words`` are scored; :class:`OptionError` where an option is
    not one of those allowed."""
    names = (methods,) if isinstance(methods, str) else tuple(dict.fromkeys(methods))
    for name in names:
        if name not in METHODS:
            raise OptionError(f"method '{name}' does not exist; the methods are {', '.join(METHODS)}")
    if not names and not words:
        raise OptionError(f"no method was given; the methods are {', '.join(METHODS)}")
    if profile not in get_args(Profile):
        raise OptionError(f"profile '{profile}' does not exist; the profiles are {', '.join(get_args(Profile))}")
    if sign not in {"positive", "negative"}:
        raise OptionError(f"sign is 'positive' or 'negative', not '{sign}'")
    if targets_per_image not in {1, None}:
        raise OptionError(f"targets_per_image is 1 or None (any number), not {targets_per_image}")
    if precision not in get_args(Precision):
        raise OptionError(f"precision is {' or '.join(map(repr, get_args(Precision)))}, not {precision!r}")
    return names


def wants_layers(methods: Sequence[str]) -> bool:
    """Whether one of the methods needs the gradient of a layer."""
    return bool({"gradcam", "guided_gradcam", *PIXEL_METHODS} & set(methods))


def wants_guided(methods: Sequence[str]) -> bool:
    """Whether one of the methods replaces the derivative of ReLUs."""
    rules = {INPUT_METHODS.get(name, "guided" if name == "guided_gradcam" else "standard") for name in methods}
    return bool(rules - {"standard"})
