# SPDX-License-Identifier: Apache-2.0
"""Explainers travel to other processes as what they were made from: sessions of ONNX Runtime cannot be pickled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from portable_cam.errors import OptionError
from portable_cam.export.read.travel import ModelFile, pack, unpack
from portable_cam.spelling import option

T = TypeVar("T", bound="Rebuilt")

#: Arguments that are models, and those that may be paths of other files.
_MODELS = frozenset({"model", "decoder"})
_FILES = frozenset({"labels", "vocabulary", "head"})


class Rebuilt:
    """Pickled and copied as the arguments of its constructor, of which the first is a model, and made from them again.

    A model given by path travels as its absolute path, with the hash of the file. Whatever else was given has to be
    something that can be pickled; a function that is only defined where it is used needs cloudpickle.
    """

    _made_from: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        made = super().__new__(cls)
        given = tuple(_kept("model" if i == 0 else "", value) for i, value in enumerate(args))
        made._made_from = given, {name: _kept(name, value) for name, value in kwargs.items()}
        return made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._made_from
        native = kwargs.get("session_options")
        if native is not None and not isinstance(native, Mapping):
            raise OptionError(
                f"{option('session_options')} as an object of ONNX Runtime cannot be pickled: give a mapping of "
                "settings"
            )
        packed = {name: pack(value) if name in _MODELS else value for name, value in kwargs.items()}
        return _made_again, (type(self), tuple(map(pack, args[:1])) + args[1:], packed), self._learnt()

    def __setstate__(self, learnt: Mapping[str, Any]) -> None:
        for name, value in learnt.items():
            setattr(self, name, value)

    def _learnt(self) -> dict[str, Any]:
        """What it found out since it was made and need not find out again."""
        return {}


def _kept(name: str, value: Any) -> Any:
    """An argument as it is now: a relative path means something else in another folder, and a file may change."""
    if not isinstance(value, str | Path) or name not in _MODELS | _FILES:
        return value
    return ModelFile(value) if name in _MODELS else Path(value).absolute()


def _made_again(cls: type[T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of was said where it was made
        return cls(*map(unpack, args), **{name: unpack(value) for name, value in kwargs.items()})
