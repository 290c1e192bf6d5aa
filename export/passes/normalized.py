# SPDX-License-Identifier: Apache-2.0
"""A model that is read and normalised once, and handed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from portable_cam.export.passes.normalize import normalize
from portable_cam.export.read.description import Description
from portable_cam.export.read.inside import INSIDE_KEY
from portable_cam.export.read.load import ModelLike, fingerprint, load, untied
from portable_cam.export.read.travel import ModelFile, pack, unpack


class NormalizedModel:
    """A model in the one form that rules, targets and methods are written for; see :func:`normalize`.

    Recognition, layer choice, the builder, the self-check and the tasks of one command share one of these. Its graph is
    read and never changed: whoever writes nodes takes a :meth:`copy`.

    Args:
        source: A path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.

    Attributes:
        source: As given.

    Raises:
        ModelError: The model cannot be read, or cannot be brought to the opset.
    """

    def __init__(self, source: ModelLike) -> None:
        self.source = source
        self._model = normalize(source)
        self._changes: tuple[Callable[[ir.Graph], None], ...] = ()
        self._sizes: dict[tuple[str, int], int] = {}
        self._at_sizes: dict[frozenset[tuple[tuple[str, int], int]], NormalizedModel] = {}
        self._read_from = ModelFile(source) if isinstance(source, str | Path) else source

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        said = self.description if "description" in vars(self) else None
        return _made_again, (pack(self._read_from), dict(self._sizes), self._changes, said)

    @property
    def graph(self) -> ir.Graph:
        """The normalised graph, to be read only."""
        return self._model.graph

    @property
    def metadata(self) -> dict[str, str]:
        """The ``metadata_props`` of the model."""
        return dict(self._model.metadata_props)

    @property
    def inside_explanation(self) -> bool:
        """Whether it was read from an explanation file, which explains this model."""
        return INSIDE_KEY in self.metadata

    @property
    def path(self) -> Path | None:
        """The file that the model was read from, if it was."""
        return Path(self.source) if isinstance(self.source, str | Path) else None

    @cached_property
    def description(self) -> Description:
        """What the JSON beside the model, or its metadata, says of it.

        Raises:
            OptionError: It cannot be read, or is not what its schema asks for.
        """
        return Description.of(self.path, self.metadata)

    def saying(self, content: Mapping[str, Any]) -> NormalizedModel:
        """The same model with more said in its description, or something else than there; None says nothing."""
        said = {name: value for name, value in content.items() if value is not None}
        if not said:
            return self
        other, known = self._twin(), self.description
        other._at_sizes = {}  # those say what this one says
        other.description = replace(known, content={**known.content, **said})
        return other

    def described(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of an explanation that are given, and those that the description says where one is None or not
        given."""
        return {**self.description.options, **{name: value for name, value in given.items() if value is not None}}

    @cached_property
    def sha256(self) -> str:
        """Of the model's file, or of the model serialised where there is no file."""
        return fingerprint(self.source)

    def with_sizes(self, name: str, sizes: Mapping[int, int]) -> NormalizedModel:
        """The same model with axes of an input fixed, normalised again: what follows from the sizes is constant. Sizes
        that were fixed before stay so; a model at sizes is made once."""
        wanted = {**self._sizes, **{(name, axis): size for axis, size in sizes.items()}}
        key = frozenset(wanted.items())
        if key not in self._at_sizes:
            model = load(self.source)
            for value in model.graph.inputs:
                dims = value.shape.dims if value.shape is not None else ()
                value.shape = ir.Shape([wanted.get((str(value.name), axis), dim) for axis, dim in enumerate(dims)])
            fixed = self._twin()
            fixed._model, fixed._sizes = normalize(model), wanted
            for change in self._changes:
                change(fixed.graph)
            self._at_sizes[key] = fixed
        return self._at_sizes[key]

    def _twin(self) -> NormalizedModel:
        """Another one of the same graph, to be changed."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def copy(self) -> ir.Model:
        """A copy to write nodes into; the weights are shared."""
        return untied(self._model.clone())

    def changed(self, change: Callable[[ir.Graph], None]) -> NormalizedModel:
        """This model with something done to a copy of its graph, as what a person declared of its axes."""
        other = self._twin()
        other._model, other._changes, other._at_sizes = self.copy(), (*self._changes, change), {}
        change(other.graph)
        return other

    def original(self) -> ir.Model:
        """The model as it was before normalisation, read again."""
        return load(self.source)


def _made_again(
    source: Any,
    sizes: Mapping[tuple[str, int], int],
    changes: Sequence[Callable[[ir.Graph], None]],
    description: Description | None,
) -> NormalizedModel:
    """The model as it was pickled: read, and changed again."""
    made = NormalizedModel(unpack(source))
    for (name, axis), size in sizes.items():
        made = made.with_sizes(name, {axis: size})
    for change in changes:
        made = made.changed(change)
    if description is not None:
        made.description = description
    return made


#: What the functions of this package take for a model.
AnyModel: TypeAlias = ModelLike | NormalizedModel


def normalized(model: AnyModel) -> NormalizedModel:
    """The model normalised; as it is where it already was."""
    return model if isinstance(model, NormalizedModel) else NormalizedModel(model)
