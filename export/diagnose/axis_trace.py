# SPDX-License-Identifier: Apache-2.0
"""How the axes of a tensor came to be what they are: operator by operator, from the image on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from portable_cam.checked import checked
from portable_cam.errors import LayerError
from portable_cam.export.diagnose.declared import declared_model
from portable_cam.export.graph.values import known_dims, reads
from portable_cam.export.layers.axes import Axis, Digit, Known, digits_of, size_of, why_lost
from portable_cam.export.layers.axis_rules import AxesOf
from portable_cam.export.layers.candidates import derived_axes, image_input
from portable_cam.export.layers.derive import declared_axes, spatial_axes, why_not
from portable_cam.export.layers.frames import Pieces, View
from portable_cam.export.layers.placement import ViewPlacement, placement
from portable_cam.export.layers.relation import Relation
from portable_cam.export.layers.spatial import is_feature_map
from portable_cam.export.passes.normalized import AnyModel


@dataclass(frozen=True)
class AxisFact:
    """What is known of one axis, or of one of several things flattened into it, outer to inner.

    Attributes:
        axis: Which axis of the tensor.
        size: How many entries; a name or None where that is open.
        kind: ``image``, ``view`` (of an image), ``channel``, ``rows``, ``columns``, ``within rows`` and ``within
            columns`` (of a window or patch), ``extra`` (tokens that are not of the image), ``given`` (of another input)
            or ``unknown``.
        step: Of rows and columns: entry i looks at the pixels around ``step`` i + ``offset``.
        offset: Of rows and columns.
        span: Of rows and columns: how many pixels an entry looks at; None for the whole image.
        why: Of what is not known: the operator that lost it; of another input, its name.
        counted: Of rows and columns what step and offset count in where it is not the image: an axis of several parts,
            or a view of the image and the operator that made it.
    """

    axis: int
    size: int | str | None
    kind: str
    step: float | None = None
    offset: float | None = None
    span: float | None = None
    why: str = ""
    counted: str = ""

    def describe(self) -> str:
        size = "" if self.size is None else f" {self.size}"
        if self.kind == "unknown":
            return f"unknown{size}: {self.why}"
        if self.kind == "given":
            return f"of the input '{self.why}'{size}"
        if self.step is None or self.offset is None:
            return f"{_WORDS.get(self.kind, self.kind)}{size}"
        sign = "-" if self.offset < 0 else "+"
        step = "" if self.step == 1 else "-" if self.step == -1 else f"{self.step:g} "
        where = f"{step}i" + (f" {sign} {abs(self.offset):g}" if self.offset else "")
        wide = "all" if self.span is None else f"{self.span:g}"
        return f"{self.kind}{size} at {where}, {wide} wide{', in ' if self.counted else ''}{self.counted}"


_WORDS = {"image": "images", "view": "views", "channel": "channels", "extra": "no place"}


@dataclass(frozen=True)
class TraceStep:
    """One tensor on the way.

    Attributes:
        tensor: Its name.
        operator: What makes it; ``input`` for the image.
        shape: Its sizes, None where they are open.
        axes: What is known of each axis; None if not even the rank is.
        others: Other tensors of the image that the operator reads beside the one before.
    """

    tensor: str
    operator: str
    shape: tuple[int | None, ...] | None
    axes: tuple[AxisFact, ...] | None
    others: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """A line for each axis."""
        if self.axes is None:
            return ["unknown: its rank"]
        lines: dict[int, list[str]] = {}
        for fact in self.axes:
            lines.setdefault(fact.axis, []).append(fact.describe())
        return [" by ".join(facts) for facts in lines.values()]


@dataclass(frozen=True)
class AxisTrace:
    """The way of the axes from the image to a tensor, and whether it can be explained.

    Attributes:
        steps: Tensor by tensor; where an operator reads several of the image, the way goes on through the one that lost
            an axis, else through the one whose axes are kept.
        layer: Whether the tensor has the axes of a map or of the image's tokens.
        verdict: Its layout and grid and where it lies in the image; else why it is no layer.
    """

    steps: tuple[TraceStep, ...]
    layer: bool
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@checked
def trace_axes(model: AnyModel, tensor: str, axes: Mapping[str, str] | None = None) -> AxisTrace:
    """How the axes of a tensor were derived, operator by operator from the image on.

    Args:
        model: The model.
        tensor: A tensor or node of it.
        axes: What a person declares of axes, as ``{"x": "NHWC"}``.

    Raises:
        LayerError: There is no such tensor or node; one whose value is a constant was folded away.
        InputError: The model has no image, or what is declared does not fit.
    """
    graph = declared_model(model, axes).graph
    known, image = derived_axes(graph), image_input(graph)
    value = _named(graph, tensor)
    way = _way(value, known)
    verdict = _verdict(value, known, image)
    return AxisTrace(tuple(_step(v, known, way) for v in way), verdict[0], verdict[1])


def _named(graph: ir.Graph, name: str) -> ir.Value:
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    by_node = {node.name: node.outputs[0] for node in graph if node.name}
    value = values.get(name, by_node.get(name))
    if value is None:
        close = difflib.get_close_matches(name, [*map(str, values), *map(str, by_node)], n=3, cutoff=0.3)
        raise LayerError(
            f"'{name}' is neither a tensor nor a node of the model with its constants folded"
            f"{'; near it: ' + ', '.join(dict.fromkeys(close)) if close else ''}"
        )
    return value


# -- the way -----------------------------------------------------------------------------------------------------------


def _way(value: ir.Value, known: AxesOf) -> list[ir.Value]:
    """From the image, or from another input, to a tensor."""
    way = [value]
    order = {output: i for i, node in enumerate(_nodes_of(value)) for output in node.outputs}
    while (node := way[-1].producer()) is not None:
        before = [v for v in dict.fromkeys(reads(node)) if v in known]
        if not before:
            break
        way.append(max(before, key=lambda v: (*_worth(known[v], known.get(way[-1])), order.get(v, -1))))
    return way[::-1]


def _nodes_of(value: ir.Value) -> Sequence[ir.Node]:
    node = value.producer()
    return list(node.graph) if node is not None and node.graph is not None else []


def _worth(before: Known, after: Known | None) -> tuple[bool, int, int]:
    """How much an input says about the axes of an output: first of all what was lost in it already."""
    lost = after is None or after.axes is None or any(map(why_lost, after.axes))
    if before.axes is None:
        return lost, 0, 0
    mine = {why for axis in before.axes if (why := why_lost(axis))}
    theirs = set() if after is None or after.axes is None else {why for a in after.axes if (why := why_lost(a))}
    kept = sum(axis in (after.axes or ()) for axis in before.axes if _positions(axis)) if after is not None else 0
    return bool(mine & theirs), kept, sum(map(_positions, before.axes))


def _positions(axis: Axis) -> int:
    return sum(digit.kind == "position" for digit in digits_of(axis))


def _step(value: ir.Value, known: AxesOf, way: Sequence[ir.Value]) -> TraceStep:
    node, found, dims = value.producer(), known.get(value), known_dims(value)
    others = [] if node is None else [v for v in dict.fromkeys(reads(node)) if v in known and v not in way]
    return TraceStep(
        str(value.name),
        "input" if node is None else node.op_type,
        None if dims is None else tuple(dims),
        None if found is None or found.axes is None else tuple(_facts(found)),
        tuple(str(v.name) for v in others),
    )


def _facts(known: Known) -> list[AxisFact]:
    facts: list[AxisFact] = []
    for i, axis in enumerate(known.axes or ()):
        digits = digits_of(axis)
        facts += [_fact(i, digit, known) for digit in digits] or [AxisFact(i, size_of(axis), "extra")]
    return facts


def _fact(axis: int, digit: Digit, known: Known) -> AxisFact:
    source = digit.source
    if digit.kind != "position":
        return AxisFact(axis, digit.size, digit.kind, why=source.why)
    kind = ("rows", "columns")[source.spatial] if source.spatial in {0, 1} else "positions"
    if not digit.outermost:
        return AxisFact(axis, digit.size, f"within {kind}")
    relation: Relation = digit.relation
    wide = source.spatial in known.wide or math.isinf(relation.span)
    span = None if wide else relation.span
    return AxisFact(axis, digit.size, kind, relation.step, relation.offset, span, counted=_counted(relation))


def _counted(relation: Relation) -> str:
    if isinstance(relation.frame, Pieces):
        return f"an axis of {len(relation.frame.pieces)} parts"
    return f"a view by {relation.frame.name}" if isinstance(relation.frame, View) else ""


def _verdict(value: ir.Value, known: AxesOf, image: ir.Value) -> tuple[bool, str]:
    declared, found = declared_axes(value), known.get(value)
    axes = declared or (None if found is None else spatial_axes(value, found))
    if axes is None or not is_feature_map(value, axes):
        return False, f"no layer: {why_not(value, found)}"
    grid = " x ".join("?" if n is None else str(n) for n in axes.size)
    text = f"{'declared' if declared else 'a layer'}: {axes.layout}, {grid} cells"
    if declared:
        return True, f"{text}, stretched over the image"
    there = placement(axes, _size(image, known), "stretch")
    if there is None:
        return True, f"{text}, stretched over the image"
    if isinstance(there, ViewPlacement):
        return True, f"{text}, put back by the views of {there.view.name}"
    unseen = there.unseen
    return True, f"{text}, placed where it looks at" + (f"; {unseen:.0%} of the image unseen" if unseen else "")


def _size(image: ir.Value, known: AxesOf) -> tuple[int | None, int | None]:
    axes = spatial_axes(image, known[image])
    assert axes is not None
    return axes.size
