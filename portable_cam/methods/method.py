# SPDX-License-Identifier: Apache-2.0
"""What a method of many passes is: a record that the explainer, help texts and documents iterate over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from portable_cam.errors import OptionError

#: (run, **parameters) -> of K targets: maps (K, h, w) of a layer or (K, H, W) of the image, or arrays of the input's
#: own shape (K, C, H, W) or (K, H, W, C).
Compute: TypeAlias = Callable[..., NDArray[Any]]


@dataclass(frozen=True)
class PassMethod:
    """A method that runs the model, or a part of it, many times for each image.

    Attributes:
        name: In options, results and files.
        title: In figures and tables.
        summary: One line for help texts and documents.
        paper: Where it is from.
        gives: A map of the ``layer``'s size, a map of the ``image``'s size, or an attribution of the ``input``'s shape.
        cost: How many passes for an image, in words.
        compute: Computes it; what it takes by keyword are the method's parameters, with their defaults.
        signed: The result has a negative side, so that there is a map of what speaks against a target.
    """

    name: str
    title: str
    summary: str
    paper: str
    gives: Literal["layer", "image", "input"]
    cost: str
    compute: Compute
    signed: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def is_heat_map(self) -> bool:
        """The result is a map (N, K, H, W), and not in the shape of the input."""
        return self.gives != "input"

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What can be set, and the defaults."""
        taken = inspect.signature(self.compute).parameters.values()
        return {p.name: p.default for p in taken if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, those given in place of the defaults.

        Raises:
            OptionError: The method has no such parameter, or it is of another kind.
        """
        known = dict(self.parameters)
        for name, value in given.items():
            if name not in known:
                raise OptionError(f"{self} has no parameter '{name}'; it has {', '.join(known) or 'none'}")
            default = known[name]
            number = isinstance(default, int | float) and not isinstance(default, bool)
            if number and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise OptionError(f"{name} of {self} is a number above 0, as {default}, not {value!r}")
            if isinstance(default, int) and number and value != int(value):
                raise OptionError(f"{name} of {self} is a whole number, as {default}, not {value!r}")
            known[name] = value
        return known
