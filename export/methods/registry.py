"""The methods there are: a row each. What lists, builds, estimates or draws methods iterates over these records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portable_cam.errors import OptionError
from portable_cam.export.methods.cam import cam
from portable_cam.export.methods.eigen import eigen_gradcam, eigencam
from portable_cam.export.methods.fem import fem
from portable_cam.export.methods.gradcam import gradcam
from portable_cam.export.methods.gradcam_plus_plus import gradcam_plus_plus
from portable_cam.export.methods.guided_gradcam import guided_gradcam
from portable_cam.export.methods.input_gradients import deconvnet, gradient, guided_backprop, input_x_gradient
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.pixelwise import elementwise_gradcam, hirescam, layercam
from portable_cam.export.methods.xgradcam import xgradcam

#: By name, in the order in which they are listed.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        cam,
        gradcam,
        gradcam_plus_plus,
        xgradcam,
        layercam,
        hirescam,
        elementwise_gradcam,
        eigencam,
        eigen_gradcam,
        fem,
        gradient,
        input_x_gradient,
        guided_backprop,
        deconvnet,
        guided_gradcam,
    )
}


def check_methods(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of methods, each once.

    Raises:
        OptionError: There is no method of that name.
    """
    given = [names] if isinstance(names, str) else list(names)
    wrong = [name for name in given if not isinstance(name, str)]
    if wrong:
        raise OptionError(f"a method is a name, not {wrong[0]!r}; the methods are {', '.join(METHODS)}")
    found = tuple(dict.fromkeys(given))
    for name in found:
        if name not in METHODS:
            raise OptionError(f"method '{name}' does not exist; the methods are {', '.join(METHODS)}")
    return found


def with_factors(names: Iterable[str]) -> list[Method]:
    """The records of these methods and of those that they are products of, in the registry's order."""
    wanted = {part for name in names for part in (name, *(METHODS[name].factors or ()))}
    return [method for name, method in METHODS.items() if name in wanted]


def uses_layer(names: Iterable[str]) -> bool:
    """One of the methods shows a layer, which is chosen where none is named."""
    return any(method.shows_layer for method in with_factors(names))


def uses_relu_rule(names: Iterable[str]) -> bool:
    """One of the methods replaces the derivative of ReLU-like nodes."""
    return any(method.uses_relu_rule for method in with_factors(names))


def help_text() -> str:
    """All names, for the help of options that take methods."""
    return f"Comma-separated: {', '.join(METHODS)}."
