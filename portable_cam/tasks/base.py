# SPDX-License-Identifier: Apache-2.0
"""The protocol of the tasks, and what they have in common: an image in, its explanation out."""

from __future__ import annotations

import functools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import Error, InputError, OptionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.explanation import Explanation
from portable_cam.export.methods.registry import METHODS
from portable_cam.image.by_function import ByFunction
from portable_cam.image.decode import read_photo
from portable_cam.image.geometry import Geometry, ImageArray, Size
from portable_cam.image.look import Look, look_of
from portable_cam.image.preprocess import Preprocessing
from portable_cam.labels import AnyLabels, Labels, as_labels, labels_in, parse_targets
from portable_cam.rebuilt import Rebuilt
from portable_cam.report.write import ReportWriter
from portable_cam.result import Result
from portable_cam.spelling import option
from portable_cam.tasks.facts import facts_of

#: What a user asks for: a number or name, several (a list, or text with commas), ``top3``, or None.
Targets: TypeAlias = str | int | Sequence[int | str] | None
#: A preprocessing, a preset's name, options of :func:`~portable_cam.image.resolve.resolve`, a function from a photo,
#: uint8 (H, W, 3), to the model's input, or None.
AnyPreprocessing: TypeAlias = Preprocessing | str | Mapping[str, Any] | Callable[[ImageArray], Any] | None


def each_photo(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let what explains one image take several: a list of them, or an iterator, which is not run ahead of."""

    @functools.wraps(call)
    def over(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        def one(index: int, photo: Any) -> Any:
            try:
                return call(self, photo, *args, **kwargs)
            except Error as error:
                if isinstance(photo, str | os.PathLike):  # the message names the file
                    raise
                raise type(error)(f"image {index}, counted from 0: {error}") from error

        if isinstance(image, Iterator):
            return (one(index, photo) for index, photo in enumerate(image))
        if isinstance(image, list | tuple):
            return [one(index, photo) for index, photo in enumerate(image)]
        return call(self, image, *args, **kwargs)

    return over


#: A photo is decoded at so many times the size that the model needs, or larger: what is smaller is averaged anyway.
_GAP = 3


@dataclass(frozen=True)
class Photo:
    """One image, decoded and prepared: ``view`` is what the model sees of it, ``x`` the model's input made of that,
    ``by`` what explains images of its size, ``source`` the file's name, ``decoded`` the size that the file was read at.
    """

    image: ImageArray
    view: ImageArray
    x: NDArray[Any]
    geometry: Geometry
    preprocessing: Preprocessing
    by: TaskExplainer
    source: str
    decoded: Size


class TaskExplainer(Rebuilt, ABC):
    """Explains images for one task.

    A task's constructor takes ``(model, methods=None, *, preprocessing=None, <its own options>, **options)``, the last
    as :class:`~portable_cam.explainer.Explainer` takes them, and sets ``explainer`` and ``preprocessing``. A new task
    is a subclass in a file of its own, and a row in :mod:`portable_cam.tasks.registry`.
    """

    #: Its name on the command line.
    task: ClassVar[str]
    #: The methods where none are named.
    default_methods: ClassVar[tuple[str, ...]]
    #: Its own options of the constructor.
    takes: ClassVar[frozenset[str]] = frozenset()
    #: Its own options of a call, given anew for each image.
    asks: ClassVar[frozenset[str]] = frozenset()
    #: Those of ``takes`` and ``asks`` that must be given.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Whether ``target`` may say that something else than the task's own kind of thing is explained.
    takes_target: ClassVar[bool] = False

    explainer: Explainer
    preprocessing: Preprocessing
    _look: Look | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if kwargs.get("target") is not None and not cls.takes_target:
            raise OptionError(
                f"the task {cls.task} says itself what kind of thing is explained: {option('target')} is for "
                f"Explainer; {option('targets')} of a call says which"
            )
        return super().__new__(cls, *args, **kwargs)

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], targets: Targets = ..., **asked: Any
    ) -> list[Explanation]: ...
    @overload
    def __call__(self, image: Iterator[Any], targets: Targets = ..., **asked: Any) -> Iterator[Explanation]: ...
    @overload
    def __call__(self, image: Any, targets: Targets = ..., **asked: Any) -> Explanation: ...
    @each_photo
    def __call__(self, image: Any, targets: Targets = None, **asked: Any) -> Any:
        """Explain one image, or each of several.

        Args:
            image: A path, bytes, PIL image or uint8 array or tensor (H, W, 3); a list of them, which gives a list; an
                iterator, which gives an iterator that explains each image when it is asked for.
            targets: What is explained, in the task's own terms; None for what the model finds.
            **asked: Those of ``asks``.

        Raises:
            ImageError: The image cannot be decoded.
            LabelError, TargetError, InputError: What is asked for does not fit the model or the image.
            OptionError: The task does not take an option, or needs one.
        """
        return self.explain_prepared(self.prepare(image), targets, **asked)

    def prepare(self, image: Any) -> Photo:
        """Decode an image and make the model's input of it; safe in several threads at once.

        Args:
            image: As for a call.

        Raises:
            ImageError: The image cannot be decoded.
        """
        decoded, size = read_photo(image, self._enough)
        chosen = self._for(size)
        chosen._look = self._look
        preprocessing = chosen._preprocessing_for(size)
        view = preprocessing.view(decoded, size)
        source = str(image) if isinstance(image, str | os.PathLike) else ""
        x = preprocessing.prepared(decoded, view)
        read_at = (decoded.shape[0], decoded.shape[1])
        return Photo(decoded, view, x, preprocessing.geometry(size), preprocessing, chosen, source, read_at)

    def explain_prepared(self, photo: Photo, targets: Targets = None, **asked: Any) -> Explanation:
        """As a call, with an image that was prepared before.

        Args:
            photo: What :meth:`prepare` made.
            targets: As for a call, as are the others.
            **asked: See ``targets``.

        Raises:
            LabelError, TargetError, InputError, OptionError: As for a call.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        unknown = sorted(given.keys() - self.asks)
        if unknown:
            known = f"takes {', '.join(map(option, sorted(self.asks)))}, but no" if self.asks else "takes no"
            raise OptionError(f"the task {self.task} {known} {', '.join(map(option, unknown))}")
        missing = [name for name in self.needs if name in self.asks and name not in given]
        if missing:
            raise OptionError(f"the task {self.task} needs {', '.join(map(option, missing))}")
        return photo.by._explain(photo, targets, given)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""
        guess = self.preprocessing.guess_note()
        return self.explainer.notes if guess is None else (*self.explainer.notes, guess)

    @property
    def look(self) -> Look:
        """How explanations are drawn: as the profile's peers, unless it is set."""
        return self._look or look_of(self.explainer.profile)

    @look.setter
    def look(self, look: Look) -> None:
        self._look = look

    @abstractmethod
    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        """Explain one prepared image; ``asked`` holds those of ``asks`` that were given."""

    def _for(self, size: Size) -> TaskExplainer:
        """What explains an image of this size: another, where the graph depends on it."""
        return self

    def _preprocessing_for(self, size: Size) -> Preprocessing:
        """How an image of this size becomes the input."""
        return self.preprocessing

    def _enough(self, size: Size) -> Size:
        """The least size at which a photo of ``size`` is decoded: what the model needs, and what is drawn."""
        prepared = self._for(size)._preprocessing_for(size)
        if isinstance(prepared, ByFunction):  # which takes the photo as it is
            return size
        needed = prepared.geometry(size).scaled
        drawn = self.look.max_size or max(size)
        # at least as long as drawn, and so much more than needed that the reduction does not show in the input
        shares = [_GAP * part / whole for part, whole in zip(needed, size, strict=True)]
        share = min(1.0, max(*shares, drawn / max(size)))
        return math.ceil(share * size[0]), math.ceil(share * size[1])

    def _explanation(self, photo: Photo, result: Result, labels: Sequence[str], **own: Any) -> Explanation:
        """The explanation of an image, ``own`` being the fields that this task alone fills."""
        (height, width), decoded = photo.geometry.photo, photo.decoded
        notes = (*self.notes, *photo.preprocessing.notes((height, width)))
        if decoded != (height, width):
            smaller = f"the photo of {width} x {height} pixels was decoded at {decoded[1]} x {decoded[0]}"
            notes = (*notes, f"{smaller}, several times what the model takes")
        return Explanation(
            task=self.task,
            result=result,
            image=photo.image,
            view=photo.view,
            geometry=photo.geometry,
            preprocessing=photo.preprocessing.recorded(),
            labels=[list(labels)],
            writer=ReportWriter(),
            sign=self.explainer.sign,
            notes=(*notes, *(note for note in result.notes if note not in notes)),
            source=photo.source,
            checks=[check.to_dict() for check in result.checks],
            facts=facts_of(self.explainer, self.task),
            look=self.look,
            **own,
        )

    def _nothing(self, photo: Photo, why: str, **own: Any) -> Explanation:
        """The explanation of an image in which the model finds nothing: no targets, and why."""
        known, size = self.explainer, photo.preprocessing.size
        shapes = {m: (size if METHODS[m].is_heat_map else photo.x.shape[1:]) for m in known.methods}
        result = Result(
            scores=np.zeros((1, 0), np.float32),
            targets=np.zeros((1, 0), np.int64),
            layer=known.layer,
            maps={method: np.zeros((1, 0, *shape), np.float32) for method, shape in shapes.items()},
            raw={},
            flags=[[]],
            guided_nodes=known.guided_nodes,
            outputs={},
        )
        made = self._explanation(photo, result, [], nothing_found=why, **own)
        return replace(made, notes=(*made.notes, f"nothing found: {why}"))  # pages show notes


def finite(values: NDArray[Any], what: str) -> NDArray[Any]:
    """The scores of an image, as they are.

    Raises:
        InputError: Some are NaN or infinite: which is the highest means nothing.
    """
    if not np.isfinite(values).all():
        wrong = int(values.size - np.isfinite(values).sum())
        raise InputError(
            f"{what} of this image are NaN or infinite ({wrong} of {values.size}): the model overflows on it, or its "
            "weights are damaged; check the preprocessing"
        )
    return values


class LabelledExplainer(TaskExplainer):
    """A task whose targets are classes with names."""

    labels: Labels | None

    @property
    def notes(self) -> tuple[str, ...]:
        if self.labels is None or not self.labels.guessed:
            return super().notes
        guess = f"class names assumed: {self.labels.source}'s, by the number of classes; give the model's own as labels"
        return (*super().notes, guess)

    def name(self, target: int) -> str:
        """The label of a class, or its number."""
        return self.labels[target] if self.labels else f"class {target}"

    def number(self, target: int | str) -> int:
        """The number of a class by its name or number."""
        return class_numbers([target], self.labels)[0]

    def _known_labels(self, labels: AnyLabels, classes: int | None) -> Labels | None:
        """The labels as given, else those of the model's description or metadata, else those that a model of this task
        with so many classes usually has.

        Raises:
            LabelError: They cannot be read, or their number is not that of the classes.
        """
        said = self.explainer.description.task_options.get("labels")
        given = as_labels(labels) or as_labels(said, "the model's description")
        if given:
            return given.check(classes)
        return labels_in(self.explainer.metadata, classes) or Labels.default(classes, self.task)


def class_numbers(names: Sequence[int | str], labels: Labels | None) -> tuple[int, ...]:
    """The numbers of classes by their names or numbers.

    Raises:
        LabelError: There is no class of that name.
        TargetError: A name is ``topk``, which is not a class.
    """
    asked = parse_targets(list(names), labels) or []
    if min(asked, default=0) < 0:
        raise TargetError(f"{', '.join(map(str, names))}: a rank is no class, give the number or name of one")
    return tuple(asked)


def each_once(result: Result) -> Result:
    """The result of one image without targets that are explained before, as a class that is also the top one."""
    first = {target: k for k, target in reversed(list(enumerate(result.targets[0].tolist())))}
    kept = sorted(first.values())
    if len(kept) == result.targets.shape[1]:
        return result
    by_name: dict[str, Any] = {
        n: {k: v[:, kept] for k, v in getattr(result, n).items()} for n in ("maps", "raw", "words")
    }
    return replace(
        result,
        scores=result.scores[:, kept],
        targets=result.targets[:, kept],
        flags=[[row[k] for k in kept] for row in result.flags],
        gradients=None if result.gradients is None else result.gradients[:, kept],
        **by_name,
    )


def class_in_range(label: int, classes: int) -> int:
    """The class number itself.

    Raises:
        TargetError: The model has no such class.
    """
    if not 0 <= label < classes:
        raise TargetError(f"class {label} is out of range: the model has {classes} classes, 0 to {classes - 1}")
    return label
