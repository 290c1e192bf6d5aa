# SPDX-License-Identifier: Apache-2.0
"""What a user hands through to ONNX Runtime: session options of its own, and libraries of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from portable_cam.errors import OptionError
from portable_cam.spelling import option

#: Settings by name, as ``{"intra_op_num_threads": 2, "session.intra_op.allow_spinning": "0"}``, or an object of ONNX
#: Runtime, which is used as it is.
SessionOptions: TypeAlias = Mapping[str, Any] | Any
Libraries: TypeAlias = Sequence[str | Path]


class NativeOptions:
    """Options of one session, made from a user's and the library's own.

    Args:
        fresh: New options of ONNX Runtime, to be filled.
        given: The user's. An object's own values are put back by :meth:`restore`, for it belongs to the user.
        libraries: Files of custom operators.

    Raises:
        OptionError: There is no such option, or it does not take the value; a library cannot be loaded.
    """

    def __init__(self, fresh: Any, given: SessionOptions | None, libraries: Libraries) -> None:
        self.is_users = given is not None and not isinstance(given, Mapping)
        if self.is_users and not isinstance(given, type(fresh)):
            raise OptionError(
                f"{option('session_options')} is a mapping of settings, or onnxruntime.SessionOptions, not "
                f"{type(given).__name__}"
            )
        self.value: Any = given if self.is_users else fresh
        self._before: dict[str, Any] = {}
        self.set("log_severity_level", 4)  # what goes wrong is raised
        for name, value in given.items() if isinstance(given, Mapping) else ():
            self._apply(name, value)
        self._register(libraries)

    def set(self, name: str, value: Any) -> None:
        """Set an attribute."""
        self._before.setdefault(name, getattr(self.value, name))
        setattr(self.value, name, value)

    def restore(self) -> None:
        """Put back what an object of the user had."""
        if self.is_users:
            for name, value in self._before.items():
                setattr(self.value, name, value)

    def _apply(self, name: Any, value: Any) -> None:
        try:
            if isinstance(name, str) and "." in name:
                text = str(int(value)) if isinstance(value, bool) else str(value)
                self.value.add_session_config_entry(name, text)
            elif isinstance(name, str) and not callable(getattr(self.value, name)):
                self.set(name, value)
            else:
                raise AttributeError
        except AttributeError:
            raise OptionError(
                f"{option('session_options')}: ONNX Runtime's SessionOptions has no {name!r}; a configuration entry "
                "has a dot in its name, as session.intra_op.allow_spinning"
            ) from None
        except Exception as error:
            raise OptionError(f"{option('session_options')}: {name} does not take {value!r}: {error}") from None

    def _register(self, libraries: Libraries) -> None:
        if libraries and self.is_users:
            raise OptionError(
                f"register the libraries in {option('session_options')} itself, or give a mapping of settings there: "
                f"{option('custom_op_libraries')} would change your object"
            )
        for library in libraries:
            try:
                self.value.register_custom_ops_library(str(library))
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise OptionError(f"the custom operators of {library} cannot be loaded: {reason}") from None


def native_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an explainer's options that every session on its model needs."""
    return {name: options[name] for name in ("session_options", "custom_op_libraries") if name in options}


def libraries_of(given: Any) -> tuple[str, ...]:
    """Files of custom operators as text, from one or several.

    Raises:
        OptionError: They are something else.
    """
    if isinstance(given, str | Path):
        given = (given,)
    if not isinstance(given, Sequence) or not all(isinstance(one, str | Path) for one in given):
        raise OptionError(f"{option('custom_op_libraries')} is a list of files, not {given!r}")
    return tuple(map(str, given))
