"""The interface of a target; see ``docs/writing-a-target.md``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import TargetError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.columns import is_probability
from portable_cam.export.targets.scores import Scores, find_scores, named_tensor
from portable_cam.spelling import option

#: Of a probability, and of what is missing to one: nearer, its logit is lost in rounding.
LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Extra:
    """A further input that a target brings into the graph: (N, K, *dims), one value per image and target.

    ``dims`` holds a number where a size is fixed, a name where it is not. ``what`` describes in a few words what a
    user gives.
    """

    name: str
    dtype: ir.DataType
    dims: tuple[int | str, ...]
    what: str


class Target(ABC):
    """What is explained: a subgraph that reduces the tensors that hold scores to one number per image.

    Its methods are called in this order, once per graph: which tensors (``tensors``), which layers suit it
    (``layers``), what else it takes (``inputs``), how many indices there are (``count``), and then to write ``score``
    and ``ranking``. Whatever depends on the index or on one of the further inputs is computed once per target,
    everything else once per image.
    """

    #: The name in the metadata of an explanation.
    name: ClassVar[str]

    def tensors(self, graph: ir.Graph, output: str | Sequence[str] | None) -> list[Scores]:
        """The tensors that hold the scores, by default the model's only vector of scores per image.

        Args:
            graph: A normalised graph.
            output: What the user named, or None.

        Raises:
            TargetError: There is no such tensor, or several could be meant.
        """
        return [find_scores(graph, single_output(output))]

    def accept(self, graph: ir.Graph, scores: Scores) -> None:
        """Whether a tensor that is explained as it is can hold the scores; by default any can.

        Raises:
            TargetError: It cannot.
        """
        del graph, scores

    def layers(self, graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value] | None:
        """The layers that suit this target where the user names none; None for the best of ``list_layers``."""
        return None

    def inputs(self, scores: Sequence[ir.Value]) -> tuple[Extra, ...]:
        """The further inputs that this target takes."""
        return ()

    @abstractmethod
    def count(self, scores: Sequence[ir.Value]) -> int | None:
        """How many indices there are (the number of classes), None if known only at run time.

        Raises:
            TargetError: The tensors do not fit this target.
        """

    @abstractmethod
    def score(self, b: Builder, scores: Sequence[ir.Value], index: ir.Value, extra: Mapping[str, ir.Value]) -> ir.Value:
        """The score explained, (N,).

        Args:
            b: Writes the nodes.
            scores: What ``tensors`` found.
            index: int64 (N,), from 0 to ``count``.
            extra: The further inputs by name, each (N, *dims): those of one target.
        """

    def shared(self, scores: Sequence[ir.Value]) -> bool:
        """Whether there is one row of scores for all images together, as for the frames of a clip: each image's score
        is then that one, and its map shows what this image adds to it."""
        return False

    def probability(self, found: Sequence[Scores]) -> str | None:
        """What the score is, where it is a probability and not its logit: in words, for a note."""
        names = [str(s.value.name) for s in found if not s.is_cut and is_probability(s.value)]
        return f"the score is a probability ('{names[0]}'), not a logit" if names else None

    def of_row(self, row: int) -> Target:
        """This target of one row of several rows of scores.

        Raises:
            TargetError: It explains no rows.
        """
        raise TargetError(f"row chooses among several rows of scores of classes; the target '{self.name}' has none")

    def rows(self, scores: Sequence[ir.Value]) -> str | None:
        """Of which rows one is explained, in words; None where there is nothing to choose."""
        return None

    def ranking(self, b: Builder, scores: Sequence[ir.Value]) -> ir.Value | None:
        """(N, M): a score for each index, the highest for the top one; None if this target ranks none."""
        return None

    def reads(self) -> tuple[str, ...]:
        """The tensors of the model that ``stated`` looks at, by name; none for the output that the scores belong to."""
        return ()

    def chosen(self, values: NDArray[Any], scores: Sequence[ir.Value]) -> NDArray[Any]:
        """The part of one of the tensors of ``reads`` that ``stated`` looks at, of one image: all of it."""
        return values

    def stated(self, values: Mapping[str, NDArray[Any]], index: int, cut: str | None) -> tuple[float, int | None] | str:
        """What the model's own numbers say about an index: what its score has to be, computed without the graph.

        Args:
            values: The tensors of ``reads`` for one image, as the model's own file gives them, and the further inputs
                of the target, without the axes of images and targets.
            index: What was explained.
            cut: The operator that the score was cut before, behind which these tensors lie.

        Returns:
            The number, and None or an index whose score is to be subtracted, where only a difference is determined (a
            softmax shifts all scores alike); or why there is none.
        """
        return f"the target '{self.name}' does not say what the outputs mean"

    def difference(self, values: Mapping[str, NDArray[Any]], index: int, other: int, cut: str | None) -> float | str:
        """What the model's own numbers say about the score of one index minus that of another, as for ``stated``; or
        why they say nothing."""
        first, second = self.stated(values, index, cut), self.stated(values, other, cut)
        if isinstance(first, str) or isinstance(second, str):
            return first if isinstance(first, str) else str(second)
        (ours, rival), (theirs, their_rival) = first, second
        if rival == their_rival:
            return ours - theirs
        if rival == other:
            return ours
        if their_rival == index:
            return -theirs
        return "only differences within a softmax are determined, and these two are of different ones"

    def describe(self) -> dict[str, Any]:
        """This target as JSON values, for the metadata of an explanation."""
        fields: dict[str, Any] = asdict(self) if is_dataclass(self) else {}
        return {"kind": self.name, **fields}


def scores_of(
    target: Target, graph: ir.Graph, output: str | Sequence[str] | None, *, as_is: bool = False
) -> list[Scores]:
    """The tensors that hold a target's scores; with ``as_is`` uncut, those that are named or else the model's own.

    Raises:
        TargetError: There is no such tensor, or several could be meant.
    """
    if not as_is:
        return target.tensors(graph, output)
    names = [found.output for found in target.tensors(graph, None)] if output is None else output
    found = [named_tensor(graph, name) for name in ([names] if isinstance(names, str) else names)]
    for scores in found:
        target.accept(graph, scores)
    return found


def single_output(output: str | Sequence[str] | None) -> str | None:
    """The one tensor that a user named.

    Raises:
        TargetError: Several are named.
    """
    if output is None or isinstance(output, str):
        return output
    if len(output) != 1:
        raise TargetError(
            f"this target explains one tensor, but {option('output')} names {len(output)}: {', '.join(output)}"
        )
    return output[0]


def vector_size(value: ir.Value, need: str) -> int | None:
    """M of scores (N, M) or (N, M, 1, 1), None if it is known only at run time.

    Raises:
        TargetError: They have another shape; the message ends with ``need``.
    """
    dims = known_dims(value)
    if dims is None or len(dims) < 2 or any(d not in {1, None} for d in dims[2:]):
        raise TargetError(
            f"the scores '{value.name}' have shape {value.shape}: {need}. Name another tensor with {option('output')}"
        )
    return dims[1]
