# SPDX-License-Identifier: Apache-2.0
"""Arguments of public functions against their annotations: a wrong type is an error of the project's own, and says what
is taken, before it makes something fail far below."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_origin, get_type_hints

from portable_cam.errors import (
    Error,
    ImageError,
    LabelError,
    LayerError,
    ModelError,
    OptionError,
    PreprocessError,
    TargetError,
)
from portable_cam.spelling import option

F = TypeVar("F", bound=Callable[..., Any])

#: What goes wrong with an argument of this name; with any other it is an OptionError.
_KINDS: Mapping[str, type[Error]] = {
    "model": ModelError,
    "decoder": ModelError,
    "layer": LayerError,
    "target": TargetError,
    "targets": TargetError,
    "labels": LabelError,
    "vocabulary": LabelError,
    "image": ImageError,
    "preprocessing": PreprocessError,
    "sidecar": PreprocessError,
    "content": PreprocessError,
    **dict.fromkeys(
        ("preset", "mean", "std", "scale", "color", "layout", "size", "resize", "quantization", "input_shape"),
        PreprocessError,
    ),
}
_HINTS: dict[Any, dict[str, Any]] = {}


def checked(function: F) -> F:
    """Check the arguments of a function as it is called. Scalars of numpy count as those of Python; arguments that the
    function converts by itself are annotated as ``Any``.

    Raises:
        Error: An argument is of another type, one that is needed is missing, or there is none of that name; a subclass
            by what the argument is.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise OptionError(f"{function.__qualname__.removesuffix('.__init__')}: {error}") from None
        hints = _hints(function)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if name in hints and kind not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
                bound.arguments[name] = check(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def check_fields(record: Any, error: type[Error] | None = None) -> None:
    """Check the fields of a dataclass; a list becomes a tuple where that is what the field is.

    Args:
        record: The dataclass.
        error: What to raise, if not by the name of the field.

    Raises:
        Error: As :func:`checked`.
    """
    hints = _hints(type(record))
    for known in fields(record):
        if (hint := hints.get(known.name)) is not None:
            value = getattr(record, known.name)
            if isinstance(value, str) and "Literal" in str(hint):
                continue  # which words there are, and what else to say, the class itself knows
            value = _tupled(value) if get_origin(hint) is tuple else value
            object.__setattr__(record, known.name, check(known.name, value, hint, error))


def check(name: str, value: Any, hint: Any, error: type[Error] | None = None) -> Any:
    """The value, a scalar of numpy as one of Python.

    Raises:
        Error: It is of another type.
    """
    import typeguard

    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    try:
        typeguard.check_type(
            value,
            hint,
            collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
            forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
        )
    except typeguard.TypeCheckError:
        given = re.sub(r"\s+", " ", repr(value))
        given = given if len(given) <= 80 else f"{given[:77]}..."
        more = _mistaken(name, value)
        kind = error or _KINDS.get(name, OptionError)
        raise kind(f"{option(name)} takes {_described(hint)}, not {given}{more}") from None
    return value


def _hints(of: Any) -> dict[str, Any]:
    if of not in _HINTS:
        try:
            _HINTS[of] = get_type_hints(of)
        except NameError:  # of a class of a user's own, whose annotations are known where it stands
            _HINTS[of] = {}
    return _HINTS[of]


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def _described(hint: Any) -> str:
    """A type as Python writes it, without modules."""
    text = re.sub(r"(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", inspect.formatannotation(hint))
    text = re.sub(r"ndarray\[[^|]*?dtype\[\w+\]\]", "ndarray", text)
    return re.sub(r"\bLiteral\[([^\]]*)\]", r"\1", text)


def _mistaken(name: str, value: Any) -> str:
    """Which argument was meant, where two are easily taken for each other."""
    if name == "target" and isinstance(value, str | int | list | tuple):
        return (
            f": it says what kind of thing is explained, a class where nothing is said; which one is named by "
            f"{option('targets')}, in the call"
        )
    return ""
