# SPDX-License-Identifier: Apache-2.0
"""The explanation of one image, the same for every task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam.checked import checked
from portable_cam.errors import OptionError
from portable_cam.image.geometry import Box, Geometry, ImageArray
from portable_cam.image.look import DEFAULT, Look
from portable_cam.image.marks import Mark
from portable_cam.image.preprocess import Preprocessing
from portable_cam.result import Result, same

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Detail:
    """What is known of one target beside its score; None where it does not apply.

    Attributes:
        name: The name of the class, where the label says more than that.
        box: Left, top, right, bottom in pixels of the photo.
        detection: The score of the box after decoding.
        class_number: Of what is explained, where that is a single class.
        part: Of the score of a box, what was explained.
        share: Of the photo, how much counts (segmentation).
        given: What of the photo the user marked, where that counts: ``mask``, ``region`` or ``pixel``.
        found: Whether the model reports the class.
        pixel: Column and row in the photo, where a single pixel counts.
        rather_than: The class that the target is contrasted with.
        probability: Of a word or character, whose score is the logarithm; of a class, as the model puts it out or by a
            softmax of its scores (``top_scale`` of the explanation says which).
        span: The first word (or character) of a phrase in the text, and the one after its last.
    """

    name: str | None = None
    box: Box | None = None
    detection: float | None = None
    class_number: int | None = None
    part: str | None = None
    share: float | None = None
    given: str | None = None
    found: bool | None = None
    pixel: tuple[int, int] | None = None
    rather_than: str | None = None
    probability: float | None = None
    span: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """What applies, under the keys of a record (``docs/tasks.md``)."""
        known = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        keys = {"class_number": "class"}
        return {keys.get(name, name): list(v) if isinstance(v, tuple) else v for name, v in known.items()}


@dataclass(frozen=True)
class Character:
    """A recognised character: the frames where it was read, the one where it was surest, and how sure."""

    text: str
    first: int
    last: int
    peak: int
    probability: float


class Writer(Protocol):
    """Draws and writes explanations; :class:`~portable_cam.report.write.ReportWriter` is the one there is."""

    def record(self, explanation: Explanation) -> dict[str, Any]:
        """What was explained, as plain data."""

    def overlay(self, explanation: Explanation, method: str, k: int, *, key: bool = False) -> Image.Image:
        """One method's map over the photo, with its key below if asked for."""

    def heatmap(self, explanation: Explanation, method: str, k: int) -> NDArray[np.float32]:
        """One method's map at the size of the photo."""

    def plot(self, explanation: Explanation) -> Figure:
        """Everything in one figure."""

    def save(self, explanation: Explanation, path: str | Path) -> list[Path]:
        """Write a file, or the files of a folder."""

    def fragment(self, explanation: Explanation) -> str:
        """HTML to be shown within a page."""

    def page(self, explanation: Explanation) -> str:
        """A self-contained HTML page."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image's explanation: K targets, a map for each of them by each method.

    ``explanation["gradcam"]`` gives a method's maps, (1, K, H, W) float32 at the input's size for methods of maps,
    (1, K, C, H, W) signed for the others; ``for method in explanation`` iterates over the methods.

    Attributes:
        task: ``classify``, ``detect``, ``segment``, ``caption``, ``vqa`` or ``ctc``.
        result: Scores and targets (1, K), and the maps.
        image: The photo as it was decoded, a very large one at a reduced size.
        view: The part of it that the model sees, at the input's size.
        geometry: Between the photo, at its own size, and the input.
        preprocessing: How the photo became the input.
        labels: (1, K): what each target is called.
        writer: Draws and writes this.
        details: For each target what is known beside its score; empty if nothing is.
        marks: For each target what it is about, in pixels of the view; empty if the targets have no position.
        sign: ``positive`` where the maps show what speaks for a target, ``negative`` where they show what speaks
            against it.
        counterpart: The same targets explained with the other sign, where one of them was not found.
        top: The best classes of a classifier with their scores.
        top_scale: What these scores are: ``probability`` as the model puts it out, ``softmax``, the probability by a
            softmax of its scores, or ``score``.
        text: The caption, or the line that was read.
        text_given: Whether the text came from the user.
        question: As it was asked.
        words: The words of the caption or the question, as the model has them.
        characters: Of a line that was read.
        token_attribution: (K, words): what each word of the question adds to each target's score, gradient times
            embedding; None where that was not asked for.
        notes: What a reader of the maps should know.
        checks: Of the first explanation by this model with these options, each with ``name``, ``value``, ``passed`` (or
            ``"not tested"``) and ``detail``; empty where none was asked for.
        source: The image's file; empty if it came as an array.
        facts: Of the model and of how it was explained, by name, as a page shows them.
        look: How maps are drawn; :meth:`styled` gives the same explanation with another look.
        nothing_found: Why there is no target: the model found nothing to explain; empty where it did.
    """

    task: str
    result: Result
    image: ImageArray
    view: ImageArray
    geometry: Geometry
    preprocessing: Preprocessing
    labels: list[list[str]]
    writer: Writer = field(repr=False)
    details: list[Detail] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    sign: str = "positive"
    counterpart: Result | None = None
    top: list[tuple[str, float]] = field(default_factory=list)
    top_scale: str = "score"
    text: str = ""
    text_given: bool = False
    question: str = ""
    words: tuple[str, ...] = ()
    characters: tuple[Character, ...] = ()
    token_attribution: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    checks: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    look: Look = DEFAULT
    nothing_found: str = ""

    @overload
    def __getitem__(self, key: str) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, key: int) -> Explanation: ...

    @checked
    def __getitem__(self, key: str | int) -> NDArray[np.float32] | Explanation:
        if isinstance(key, str):
            return self.result[key]
        self.result[key]  # an error names what there is
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self.result)

    def __contains__(self, method: object) -> bool:
        return method in self.result

    def __len__(self) -> int:
        """The number of images: 1."""
        return len(self.result)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        """Whether the other says the same of the same photo; NaN equals NaN, and who draws it does not count."""
        if not isinstance(other, Explanation):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name != "writer")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        targets = ", ".join(f"{name!r}" for name in self.labels[0][:5]) + (", ..." if len(self.labels[0]) > 5 else "")
        of = f" of {Path(self.source).name!r}" if self.source else ""
        return f"<Explanation{of}: {self.task}, {targets} by {', '.join(self) or 'words'}, layer {self.layer!r}>"

    def keys(self) -> list[str]:
        """The methods."""
        return list(self)

    def items(self) -> list[tuple[str, NDArray[np.float32]]]:
        """Each method with its maps."""
        return [(method, self[method]) for method in self]

    @property
    def found(self) -> bool:
        """Whether there is a target: False where the model found nothing to explain."""
        return bool(self.labels[0])

    @property
    def scores(self) -> NDArray[np.float32]:
        """(1, K): the scores explained."""
        return self.result.scores

    @property
    def targets(self) -> NDArray[np.int64]:
        """(1, K): the targets explained, as numbers."""
        return self.result.targets

    @property
    def flags(self) -> list[list[tuple[str, ...]]]:
        """(1, K): ``flat``, ``all_negative``, ``nan``; see :class:`~portable_cam.result.Result`."""
        return self.result.flags

    @property
    def layer(self) -> str | list[str]:
        """The tensor explained, or several."""
        return self.result.layer

    @property
    def raw(self) -> dict[str, NDArray[np.float32]]:
        """(1, K, h, w): the low-resolution maps, not normalised."""
        return self.result.raw

    @property
    def guided_nodes(self) -> list[str]:
        """The nodes that the guided rule was applied to."""
        return self.result.guided_nodes

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """The model's own outputs, unchanged."""
        return self.result.outputs

    @property
    def color(self) -> str:
        """The order of the model's channels: ``rgb``, ``bgr`` or ``gray``."""
        return self.preprocessing.color

    def to_dict(self) -> dict[str, Any]:
        """What was explained, as plain data: the JSON record."""
        return self.writer.record(self)

    def styled(self, **look: Any) -> Explanation:
        """The same explanation, to be drawn otherwise: ``e.styled(colormap="viridis", opacity=0.6).plot()``.

        Args:
            **look: Fields of :class:`~portable_cam.image.look.Look`.

        Raises:
            OptionError: There is no such field, or it cannot have this value.
        """
        known = [f.name for f in fields(Look)]
        for name in look:
            if name not in known:
                raise OptionError(f"a look has no '{name}'; it has {', '.join(known)}")
        return replace(self, look=replace(self.look, **look))

    @checked
    def overlay(self, method: str, k: int = 0, *, key: bool = False) -> Image.Image:
        """A method's map of target ``k`` over the whole photo; signed gradients on grey. What the model did not see is
        hatched.

        Args:
            method: As in ``for method in explanation``; ``against.<method>`` (``for.<method>`` where ``sign`` is
                ``negative``) for the counterpart.
            k: The target.
            key: Also what it is, and what the colours mean, in a strip below the photo.

        Raises:
            OptionError: The method was not computed, or there is no such target.
        """
        return self.writer.overlay(self, method, k, key=key)

    def heatmap(self, method: str, k: int = 0) -> NDArray[np.float32]:
        """A method's map of target ``k`` over the photo, float32 (H, W) at the size of ``image``: 0 to 1, NaN where the
        model saw nothing.

        Args:
            method: As for :meth:`overlay`.
            k: The target.

        Raises:
            OptionError: The method was not computed or gives no heat map, or there is no such target.
        """
        return self.writer.heatmap(self, method, k)

    def plot(self) -> Figure:
        """The photo, and a map for each target and method, in one figure."""
        return self.writer.plot(self)

    @checked
    def save(self, path: str | Path) -> list[Path]:
        """Write the figure of :meth:`plot` to a file, or figures, maps, arrays and the JSON record into a folder.

        Args:
            path: A file by its suffix (PNG, JPEG, PDF, SVG; HTML for a page), else a folder.

        Returns:
            The files written.

        Raises:
            OptionError: A file cannot be written.
        """
        return self.writer.save(self, path)

    @checked
    def to_html(self, path: str | Path) -> Path:
        """Write a self-contained HTML page.

        Raises:
            OptionError: The file cannot be written.
        """
        path = Path(path)
        (written,) = self.writer.save(self, path if path.suffix.lower() in {".html", ".htm"} else f"{path}.html")
        return written

    def _repr_html_(self) -> str:
        return self.writer.fragment(self)
