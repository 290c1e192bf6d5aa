"""What each axis of a tensor of scores is: images, classes, rows and columns, steps.

Read from the table of axes (:mod:`portable_cam.export.layers`), not from sizes: (N, 150, 128, 128) holds 150 classes,
and (605, 95) whose rows are positions of the image no score per image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.errors import InputError
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.axes import BATCH, Axis, digits_of, holds, is_one, position, why_lost
from portable_cam.export.layers.candidates import image_input
from portable_cam.export.layers.derive import DECLARED, SCORE_AXES, derive
from portable_cam.export.layers.input_layout import channel_axis

#: ``images``: an entry for each image; ``classes``: channels, made by weights; ``rows``, ``columns``: positions of the
#: image; ``steps``: positions of another order, as tokens or boxes; ``one``: of size 1; ``mixed``: images and more;
#: ``unknown``: an operator lost it, or it is another input's.
Role: TypeAlias = Literal["images", "classes", "rows", "columns", "steps", "one", "mixed", "unknown"]
_LETTERS: dict[str, Role] = {"N": "images", "C": "classes", "H": "rows", "W": "columns", "T": "steps"}


@dataclass(frozen=True)
class ScoreAxes:
    """The axes of a tensor of scores.

    Attributes:
        roles: What each is; None where the table does not apply (no single image of four axes) or nobody knows.
        sizes: How many entries each has, None where open.
        why: What lost an axis, where one is unknown.
        axes: What each is made of, where the table tells.
        batch: How many images the model takes at a time, None where open.
    """

    roles: tuple[Role, ...] | None
    sizes: tuple[int | None, ...] | None
    why: str = ""
    axes: tuple[Axis, ...] | None = field(default=None, repr=False, compare=False)
    batch: int | None = None

    def axis(self, role: Role) -> int | None:
        """The only axis of this role."""
        found = [i for i, r in enumerate(self.roles or ()) if r == role]
        return found[0] if len(found) == 1 else None

    @property
    def known(self) -> bool:
        return self.roles is not None and "unknown" not in self.roles

    @property
    def is_vector(self) -> bool:
        """(N, M), or (N, M, 1, 1) and the like: a score for each class of each image."""
        return self._fits(single=False) and self.why_no_vector == ""

    @property
    def is_single(self) -> bool:
        """(N, 1), or (N, 1, 1, 1) and the like: one score for each image."""
        return self._fits(single=True) and self.why_no_vector == ""

    @property
    def is_shared(self) -> bool:
        """(1, M), one row of scores for all images together."""
        return self._fits(single=False) and self.roles is not None and self.roles[:2] == ("one", "classes")

    def _fits(self, single: bool) -> bool:
        sizes = self.sizes
        return sizes is not None and len(sizes) >= 2 and all(d == 1 for d in sizes[2:]) and (sizes[1] == 1) == single

    @property
    def why_no_vector(self) -> str:
        """Why its rows are not one for each image, or its columns no classes; empty if nothing speaks against it."""
        fits = self._fits(single=False) or self._fits(single=True)
        if not fits or self.roles is None or self.sizes is None:
            return ""
        if self.roles[0] == "unknown" and self.batch is not None and self.sizes[0] not in {None, self.batch}:
            return f"has {self.sizes[0]} rows for {self.batch} image{'s' if self.batch > 1 else ''}"
        if not self.known:
            return ""
        first, second = self.roles[:2]
        if first != "images":
            what = {
                "one": "has one row for all images together",
                "mixed": "has several rows for each image",
                "classes": "has no axis of images",
            }
            return what.get(first, "has a row for each position of the image, not for each image")
        if second in {"rows", "columns", "steps"} and self.sizes[1] != 1:
            return "has numbers for positions of the image, not for classes"
        return ""

    @property
    def class_axis_of_map(self) -> int | None:
        """Of four axes, images, rows, columns and one more: which that is."""
        if self.roles is None or len(self.roles) != 4 or not {"images", "rows", "columns"} <= set(self.roles):
            return None
        return next(i for i, role in enumerate(self.roles) if role not in {"images", "rows", "columns"})

    @property
    def is_map(self) -> bool | None:
        """Whether it has rows and columns of the image; None if that is not known."""
        if not self.known or self.roles is None:
            return None
        return {"rows", "columns"} <= set(self.roles)


def score_axes(graph: ir.Graph, value: ir.Value) -> ScoreAxes:
    """What each axis of a tensor of scores is.

    Args:
        graph: A normalised graph, not yet added to.
        value: One of its tensors.
    """
    kept = value.meta.get(SCORE_AXES)
    if not isinstance(kept, ScoreAxes):
        kept = value.meta[SCORE_AXES] = _read(graph, value)
    return kept


def _read(graph: ir.Graph, value: ir.Value) -> ScoreAxes:
    dims = known_dims(value)
    sizes = None if dims is None else tuple(dims)
    declared = value.meta.get(DECLARED)
    if declared is not None:
        return ScoreAxes(tuple(_LETTERS[letter] for letter in str(declared)), sizes)
    try:
        image = image_input(graph)
        known = derive(graph, image, channel_axis(image)).get(value)
    except InputError:  # several images, or none of four axes
        return ScoreAxes(None, sizes)
    if known is None or known.axes is None:
        return ScoreAxes(None, sizes)
    roles = tuple(_role(axis) for axis in known.axes)
    batch = (known_dims(image) or [None])[0]
    if roles[:1] == ("one",) and batch == 1:
        roles = ("images", *roles[1:])  # of the only image there is
    why = next((lost for axis in known.axes if (lost := why_lost(axis)) is not None), "")
    return ScoreAxes(roles, sizes, why, known.axes, batch)


def _role(axis: Axis) -> Role:
    if why_lost(axis) is not None or holds(axis, "given"):
        return "unknown"
    if len(axis) == 1 and len(axis[0]) == 1 and axis[0][0].kind == "image" and axis[0][0].whole:
        return "images"
    if is_one(axis):
        return "one"
    found = position(axis)
    if found is not None:
        return "rows" if found.spatial == 0 else "columns"
    if holds(axis, *BATCH):
        return "mixed"
    if any(digit.kind in {"position", "joined"} for digit in digits_of(axis)):
        return "steps"
    return "classes"
