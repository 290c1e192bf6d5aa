# SPDX-License-Identifier: Apache-2.0
"""The tasks as the command line runs them: a photo in, files and a record out.

A task is a class with ``takes`` and ``needs`` (options of its own), ``explainer``, ``preprocessing`` and ``run``; it is
listed in :data:`JOBS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from portable_cam.errors import OptionError
from portable_cam.explainer import Explainer
from portable_cam.image.preprocess import Preprocessing
from portable_cam.report.write import write_explanation
from portable_cam.tasks.classify import PhotoExplainer

#: Each task's class, by module and name; imported when it is asked for.
JOBS: Mapping[str, tuple[str, str]] = {
    "classify": ("portable_cam.tasks.registry", "ClassifyJob"),
    "detect": ("portable_cam.tasks.registry", "DetectJob"),
    "segment": ("portable_cam.tasks.registry", "SegmentJob"),
    "caption": ("portable_cam.tasks.language.jobs", "CaptionJob"),
    "vqa": ("portable_cam.tasks.language.jobs", "QuestionJob"),
    "ctc": ("portable_cam.tasks.language.jobs", "LineJob"),
}


_FLAGS = {"sets": "set"}  # options whose name on the command line is another


class Job(Protocol):
    """One task with one model."""

    takes: ClassVar[frozenset[str]]
    needs: ClassVar[tuple[str, ...]]
    explainer: Explainer
    preprocessing: Preprocessing

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""

    def run(self, image: Path, folder: Path, stem: str, formats: Sequence[str]) -> dict[str, Any]:
        """Explain one photo, write files that begin with ``stem``, and return the record."""


def job_for(
    task: str,
    model: Path,
    methods: Sequence[str] | None,
    preprocessing: Mapping[str, Any],
    target: str | None,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
) -> Job:
    """The job for a task.

    Args:
        task: A name from :data:`JOBS`.
        model: The file.
        methods: None for the task's own.
        preprocessing: Options of :func:`~portable_cam.image.preprocess.resolve`.
        target: What is explained, in the task's own words.
        options: As for :class:`~portable_cam.explainer.Explainer`.
        own: Options of single tasks, None where they are not given.

    Raises:
        OptionError: There is no such task, it needs an option, or an option belongs to another one.
    """
    if task not in JOBS:
        raise OptionError(f"task '{task}' does not exist; the tasks are {', '.join(JOBS)}")
    module, name = JOBS[task]
    kind = getattr(import_module(module), name)
    given = {option: value for option, value in own.items() if value is not None}
    for option in kind.needs:
        if option not in given:
            raise OptionError(f"the task {task} needs --{option}")
    for option in given:
        if option not in kind.takes:
            raise OptionError(f"the task {task} takes no --{_FLAGS.get(option, option.replace('_', '-'))}")
    job: Job = kind(model, methods, preprocessing, target=target, **options, **given)
    return job


class PhotoJob:
    """A task whose explainer of photos is a :class:`~portable_cam.tasks.classify.PhotoExplainer`."""

    takes: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[tuple[str, ...]] = ()
    #: Options of one photo: what is marked in it.
    marks: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        model: Path,
        methods: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        *,
        target: str | None = None,
        **options: Any,
    ) -> None:
        self._where = {name: options.pop(name) for name in self.marks if name in options}
        given: dict[str, Any] = {} if methods is None else {"methods": methods}
        self._task = self.kind()(model, **given, preprocessing=preprocessing, **options)
        self._target = target
        self.explainer, self.preprocessing = self._task.explainer, self._task.preprocessing

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""
        return self._task.notes

    def kind(self) -> type[PhotoExplainer]:
        """The explainer of photos."""
        return PhotoExplainer

    def run(self, image: Path, folder: Path, stem: str, formats: Sequence[str]) -> dict[str, Any]:
        """A sheet, a picture for each target and method, arrays, a record."""
        explained = self._task(image, self._target, **self._where)
        return write_explanation(explained, folder, stem, formats, heading=image.name)


class ClassifyJob(PhotoJob):
    """Classes of a classifier."""

    takes = frozenset({"labels", "rather_than", "sets"})


class DetectJob(PhotoJob):
    """Boxes of a detector."""

    takes = frozenset({"labels", "rather_than", "head", "part", "threshold", "region"})
    marks = frozenset({"region"})

    def kind(self) -> type[PhotoExplainer]:
        from portable_cam.tasks.detect.photos import DetectExplainer

        return DetectExplainer


class SegmentJob(PhotoJob):
    """Classes of a semantic segmentation, or what is marked."""

    takes = frozenset({"labels", "rather_than", "region", "pixel", "mask"})
    marks = frozenset({"region", "pixel", "mask"})

    def kind(self) -> type[PhotoExplainer]:
        from portable_cam.tasks.segment import SegmentExplainer

        return SegmentExplainer
