"""What a rule of axes sees of a node, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.attributes import NodeView
from portable_cam.export.graph.operators import key_of
from portable_cam.export.graph.values import constant_of
from portable_cam.export.layers.axes import Axis, Digit, Known, digits_of, lost, size_of, sized
from portable_cam.export.layers.axis_rules.sizes import computed_sizes, named_sizes, sizes_of
from portable_cam.export.layers.relation import Size

#: What is known of tensors; those that vary neither with the image nor with another input are left out.
AxesOf: TypeAlias = dict[ir.Value, Known]


class Lost(Exception):  # noqa: N818 - an answer of a rule, caught by the walk
    """A rule cannot say what its outputs' axes are, and why."""


@dataclass(frozen=True)
class At(NodeView):
    """One node, and what is known of its inputs."""

    node: ir.Node
    known: AxesOf

    def axes(self, index: int) -> tuple[Axis, ...] | None:
        """The axes of an input; None for a constant or a missing one."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        found = self.known.get(value) if value is not None else None
        return None if found is None else found.axes

    @property
    def first(self) -> tuple[Axis, ...]:
        """The axes of the first input.

        Raises:
            Lost: It does not hold the image.
        """
        found = self.axes(0)
        if found is None:
            raise Lost("its first input does not hold the image")
        return found

    def dims(self, index: int) -> list[Size]:
        """The sizes of an input, those that shape inference leaves open from its axes."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return [] if value is None else sizes_of(value, self.known) or []

    def out(self, index: int = 0) -> list[Size]:
        """The sizes of an output."""
        return named_sizes(self.node.outputs[index]) or []

    def const(self, index: int) -> list[int] | None:
        """The content of an integer input as a flat list, if it is constant or computed from sizes that are known;
        None if it is absent or computed at run time."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        array = constant_of(value)
        if array is not None:
            return [int(v) for v in array.reshape(-1)]
        sizes = computed_sizes(value, self.known)
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return None
        return [size for size in sizes if isinstance(size, int)]

    def partly(self, index: int) -> list[Size] | None:
        """As :meth:`const`, with names of open sizes, and None for each number that is computed at run time; None if
        not even their count is known."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        found = self.const(index)
        return computed_sizes(value, self.known) if found is None else [*found]

    def given(self, index: int) -> bool:
        """The input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    @property
    def name(self) -> str:
        """The operator, and which node."""
        return f"{self.node.op_type} '{self.node.name or self.node.outputs[0].name}'"

    def lost(self, size: Size, why: str = "") -> Axis:
        """An axis that this node loses."""
        return lost(size, f"{self.name}{': ' + why if why else ''}")

    def all_lost(self, index: int = 0, why: str = "") -> Known:
        """An output that this node loses all axes of."""
        value = self.node.outputs[index]
        if value.shape is None:
            return Known(None)
        return Known(tuple(self.lost(size, why) for size in self.out(index)))

    @property
    def wide(self) -> frozenset[int]:
        """The spatial axes along which some input depends on the whole image."""
        found: frozenset[int] = frozenset()
        for value in self.node.inputs:
            if value is not None and value in self.known:
                found |= self.known[value].wide
        return found


def spatial_of(axis: Axis) -> frozenset[int]:
    """The spatial axes of the input that an axis has positions of."""
    return frozenset(digit.source.spatial for digit in digits_of(axis) if digit.kind == "position")


def at_origin(value: ir.Value, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """The axes with this tensor as the origin of positions on axes of their own that have none yet."""
    out = []
    for i, axis in enumerate(axes):
        digit = axis[0][0] if len(axis) == 1 and len(axis[0]) == 1 else None
        if digit is not None and digit.whole and digit.size is None:  # a name, to be told by from others
            name = f"{value.name}:{i}"
            digit = Digit(replace(digit.source, size=name), name)
        if digit is not None and digit.kind == "position" and digit.whole and digit.source.origin is None:
            digit = replace(digit, source=replace(digit.source, origin=(value, i)))
        out.append(axis if digit is None else ((digit,),))
    return tuple(out)


#: A rule gives what is known of the outputs, or of the only one; None for one that varies with no input.
Rule: TypeAlias = Callable[[At], "Known | Sequence[Known | None] | None"]

#: The rules by operator, as in the table of gradients (:func:`~portable_cam.export.graph.operators.key_of`).
AXIS_RULES: dict[str, Rule] = {}


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def add(function: Rule) -> Rule:
        for key in (key_of(domain, op_type) for op_type in op_types):
            assert key not in AXIS_RULES, f"a rule of axes for {key} is registered twice"
            AXIS_RULES[key] = function
        return function

    return add


def fitted(value: ir.Value, known: Known) -> Known:
    """What a rule found, with the sizes of shape inference; lost where the two contradict each other."""
    dims = named_sizes(value)
    if known.axes is None or dims is None:
        return known
    if len(dims) != len(known.axes):
        node = value.producer()
        name = "" if node is None else node.op_type
        return Known(tuple(lost(d, f"{name} '{value.name}': the rank is not what its rule says") for d in dims))
    axes = []
    for axis, dim in zip(known.axes, dims, strict=True):
        axis = sized(axis, dim)
        size = size_of(axis)
        if isinstance(size, int) and isinstance(dim, int) and size != dim:
            axis = lost(dim, f"'{value.name}': the size is not what the rule of its operator says")
        axes.append(axis)
    return Known(at_origin(value, axes), known.wide)
