# SPDX-License-Identifier: Apache-2.0
"""Measures the explanations of a classifier, over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable_cam.errors import InputError, OptionError, TargetError
from portable_cam.explainer import Explainer
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.image.baselines import MEANING, check_baseline
from portable_cam.image.geometry import Size
from portable_cam.labels import AnyLabels
from portable_cam.metrics.metric import Array, Case, Map, Measured, Settings
from portable_cam.metrics.outcome import Evaluation, describe_ties
from portable_cam.metrics.pictures import Picture, Region, as_map, mask_of, pictures_of, scaled
from portable_cam.metrics.randomize import randomized
from portable_cam.metrics.ranking import tied
from portable_cam.metrics.references import REFERENCES, check_references
from portable_cam.metrics.registry import DEFAULT, METRICS, OF_REGIONS, check_metrics
from portable_cam.runtime.native import native_of
from portable_cam.runtime.scorer import Scale, Scorer
from portable_cam.tasks.base import AnyPreprocessing, class_numbers
from portable_cam.tasks.classify import PhotoExplainer


def evaluate(
    model: AnyModel,
    images: Any,
    methods: Sequence[str] = ("gradcam", "layercam", "gradient"),
    metrics: Sequence[str] | None = None,
    baseline: str = "blur",
    *,
    other_baselines: Sequence[str] = ("mean",),
    score: Scale = "probability",
    targets: Sequence[int | str] | int | str | None = None,
    regions: Sequence[Region] | None = None,
    maps: Mapping[str, ArrayLike] | None = None,
    references: Sequence[str] = tuple(REFERENCES),
    settings: Settings | None = None,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
    labels: AnyLabels = None,
    preprocessing: AnyPreprocessing = None,
    **options: Any,
) -> Evaluation:
    """Measure how far the explanations of a classifier can be trusted.

    Args:
        model: The path of the model, or the model itself.
        images: Photos: a folder, or a list of what :func:`~portable_cam.image.decode.read_image` takes; or an array
            (N, C, H, W) or (N, H, W, C) as the model takes it.
        methods: As for :class:`~portable_cam.explainer.Explainer`. Results of the input's shape become maps by the sum
            of their absolute values over the channels.
        metrics: Names of :data:`~portable_cam.metrics.registry.METRICS`.
        baseline: ``blur``, ``mean`` or ``zero``: what stands in for what is taken away of an image.
        other_baselines: Measured too, to see whether they have other winners.
        score: ``probability`` of the class, or its ``logit``.
        targets: A class for each image, or one for all, by number or name; None for the top class of each.
        regions: For each image where its object is: left, top, right, bottom in pixels of the photo, or a mask of its
            size.
        maps: Maps of your own by name, (N, H, W) at the model's input size, measured beside the methods'.
        references: Of :data:`~portable_cam.metrics.references.REFERENCES`.
        settings: Steps, samples, seed.
        batch: Images per run.
        progress: Called with how many images are done, of how many.
        labels: As for :class:`~portable_cam.tasks.classify.PhotoExplainer`, as is the rest.
        preprocessing: See ``labels``.
        **options: See ``labels``.

    Raises:
        OptionError, InputError, TargetError: What is asked for does not fit.
    """
    chosen = check_metrics(metrics if metrics is not None else (*DEFAULT, *(OF_REGIONS if regions is not None else ())))
    plan = _Plan(
        metrics=chosen,
        baselines=tuple(dict.fromkeys(map(check_baseline, (baseline, *other_baselines)))),
        references=check_references(tuple(references)),
        settings=settings or Settings(),
        own={name: np.asarray(value, np.float64) for name, value in (maps or {}).items()},
    )
    plan.check(score, regions)
    known = normalized(model)
    explainer = PhotoExplainer(
        known, tuple(methods) or ("gradient",), labels=labels, preprocessing=preprocessing, **options
    )
    scorer = _scorer(known, options, score, batch)
    pictures = pictures_of(images, explainer.preprocessing)
    numbers = _targets(targets, len(pictures), explainer)
    _check_lengths(plan.own, regions, len(pictures))
    taken = [name for name in plan.own if name in {*methods, *plan.references}]
    if taken:
        raise OptionError(f"the maps '{taken[0]}' have the name of a method or reference: give them another")
    if numbers is None:
        numbers = [int(scorer.top(picture.x)[0]) for picture in pictures]
    run = _Run(plan, known, explainer, tuple(methods), options, scorer, pictures, numbers)
    for i, picture in enumerate(pictures):
        region = None if regions is None else mask_of(regions[i], picture, run.size(picture))
        run.measure(i, region)
        if progress is not None:
            progress(i + 1, len(pictures))
    return run.outcome()


def _scorer(model: NormalizedModel, options: Mapping[str, Any], score: Scale, batch: int) -> Scorer:
    """Scores what the explainer with these options explains."""
    of_model = {
        name: options[name] for name in ("target", "row", "output", "precision", "axes", "as_is") if name in options
    }
    of_session = {name: options[name] for name in ("device", "providers", "threads", "time_limit") if name in options}
    of_session |= native_of(options)
    return Scorer(model, Options(**model.described(of_model)), scale=score, batch=batch, **of_session)


@dataclass
class _Plan:
    metrics: tuple[str, ...]
    baselines: tuple[str, ...]
    references: tuple[str, ...]
    settings: Settings
    own: dict[str, Map]

    def check(self, score: Scale, regions: Sequence[Region] | None) -> None:
        if score not in {"probability", "logit"}:
            raise OptionError(f"score is probability or logit, not {score!r}")
        for metric in (METRICS[name] for name in self.metrics):
            if "probability" in metric.needs and score != "probability":
                raise OptionError(
                    f"{metric} is defined for probabilities: leave it out, or measure score='probability'"
                )
            if "region" in metric.needs and regions is None:
                raise OptionError(f"{metric} needs to know where the objects are: give regions, or leave it out")
            if "explain" in metric.needs and self.own:
                raise OptionError(
                    f"{metric} explains other images or models, which maps of your own do not: leave it out"
                )
            if metric.name == "road":
                from portable_cam.metrics.road import require

                require()


@dataclass
class _Run:
    """The evaluation as it goes on."""

    plan: _Plan
    model: NormalizedModel
    explainer: PhotoExplainer
    methods: tuple[str, ...]
    options: dict[str, Any]
    scorer: Scorer
    pictures: list[Picture]
    targets: list[int]
    values: dict[tuple[str, str, str], list[Measured]] = field(default_factory=dict)
    ties: dict[str, list[float]] = field(default_factory=dict)
    stages: dict[int, Explainer] = field(default_factory=dict)

    def size(self, picture: Picture) -> Size:
        shape = picture.x.shape
        return (shape[2], shape[3]) if self._channel_axis == 1 else (shape[1], shape[2])

    @property
    def _channel_axis(self) -> int:
        return self.scorer.metadata.channel_axis

    def measure(self, index: int, region: NDArray[np.bool_] | None) -> None:
        """Everything about one image."""
        first = self._case(index, region)
        maps = {**first.explain(first.x, first.target)} if self.methods else {}
        maps |= {name: self._own(name, index, first) for name in self.plan.own}
        references = {name: REFERENCES[name](first) for name in self.plan.references}
        for name, heat in (maps | references).items():
            self.ties.setdefault(name, []).append(tied(heat))
        for baseline in self.plan.baselines:
            case = first if baseline == first.baseline else replace(first, baseline=baseline)
            for metric in (METRICS[name] for name in self.plan.metrics):
                if baseline != self.plan.baselines[0] and not metric.uses_baseline:
                    continue
                for name, heat in (maps | references).items():
                    unknown = "region" in metric.needs and region is None
                    made = Measured(float("nan")) if unknown else metric.measure(case, name, heat)
                    key = (name, metric.name, baseline if metric.uses_baseline else "")
                    self.values.setdefault(key, []).append(made)

    def _others(self, index: int, random: np.random.Generator) -> list[Array]:
        """Three images of other classes than an image's and each other's; none where there are not as many."""
        found: list[Array] = []
        seen = {self.targets[index]}
        for i in random.permutation(len(self.pictures)):
            if (
                len(found) < 3
                and self.targets[i] not in seen
                and self.pictures[i].x.shape == self.pictures[index].x.shape
            ):
                seen.add(self.targets[i])
                found.append(self.pictures[i].x)
        return found if len(found) == 3 else []

    def _case(self, index: int, region: NDArray[np.bool_] | None) -> Case:
        explainer, picture, target = self.explainer.explainer, self.pictures[index], self.targets[index]

        def score(images: Array) -> Map:
            return self.scorer(images, np.full((len(images), 1), target))[:, 0]

        def explain(by: Explainer, x: Array, number: int) -> dict[str, Map]:
            known_nothing = {name: REFERENCES[name](case) for name in self.plan.references}
            return self._maps(by, x, number) | known_nothing

        def by_stage(stage: int) -> dict[str, Map]:
            return explain(self._randomized(stage), picture.x, target)

        quantization = explainer.input_quantization
        case = Case(
            index=index,
            x=picture.x,
            target=target,
            channel_axis=self._channel_axis,
            score=score,
            explain=partial(explain, explainer),
            randomized=by_stage,
            classes=explainer.classes,
            baseline=self.plan.baselines[0],
            settings=self.plan.settings,
            zero=0.0 if quantization is None else quantization[1],
            region=region,
        )
        case.others = self._others(index, case.random(7))
        return case

    def _maps(self, explainer: Explainer, x: Array, target: int) -> dict[str, Map]:
        """The methods' maps, (H, W) from 0 to 1."""
        result = explainer(x, [[target]])
        return {name: as_map(result[name][0, 0], self._channel_axis, x.shape) for name in self.methods}

    def _own(self, name: str, index: int, case: Case) -> Map:
        heat = self.plan.own[name][index]
        if heat.shape != case.size:
            raise InputError(f"the map '{name}' is {heat.shape} for an input of {case.size}: give (images, H, W)")
        if not np.isfinite(heat).all():
            raise InputError(f"the map '{name}' of image {index} holds NaN or infinity")
        return scaled(heat)

    def _randomized(self, stage: int) -> Explainer:
        """The explainer of the model with its weights randomised so far; built once."""
        if stage not in self.stages:
            settings = self.plan.settings
            changed = randomized(self.model, stage / settings.stages, settings.seed)
            prepared = self.explainer.preprocessing
            made = PhotoExplainer(changed, self.methods, preprocessing=prepared, **self.options)
            self.stages[stage] = made.explainer
        return self.stages[stage]

    def outcome(self) -> Evaluation:
        plan = self.plan
        curves: dict[tuple[str, str, str], Map] = {}
        for key, found in self.values.items():
            points = [measured.curve for measured in found if measured.curve is not None]
            if len(points) == len(found):
                curves[key] = np.mean(np.stack(points), axis=0)
        ties = {name: np.array(values) for name, values in self.ties.items()}
        used = [name for name in plan.baselines if any(METRICS[metric].uses_baseline for metric in plan.metrics)]
        methods = (*self.methods, *plan.own)
        return Evaluation(
            images=[picture.name for picture in self.pictures],
            targets=[self.explainer.name(target) for target in self.targets],
            methods=methods,
            references=plan.references,
            metrics=plan.metrics,
            values={key: np.array([measured.value for measured in found]) for key, found in self.values.items()},
            curves=curves,
            ties=ties,
            baselines=plan.baselines,
            score=self.scorer.describe(),
            notes=(
                f"preprocessing: {self.explainer.preprocessing.describe()}",
                *_guessed(self.explainer.preprocessing.guessed, self.pictures),
                *(f"baseline {name}: {MEANING[name]}" for name in used),
                *describe_ties(ties, methods),
                *(text for text in self.explainer.notes if text != self.explainer.preprocessing.guess_note()),
            ),
            passes=self.scorer.passes,
        )


def _targets(given: Any, count: int, explainer: PhotoExplainer) -> list[int] | None:
    if given is None:
        return None
    each = [given] * count if isinstance(given, str | int | np.integer) else list(given)
    if len(each) != count:
        raise TargetError(f"{len(each)} targets for {count} images: give one for each, or one for all")
    return [class_numbers([int(t) if isinstance(t, np.integer) else t], explainer.labels)[0] for t in each]


def _check_lengths(own: Mapping[str, Map], regions: Sequence[Region] | None, count: int) -> None:
    for name, value in own.items():
        if value.ndim != 3 or len(value) != count:
            raise InputError(f"the maps '{name}' have shape {value.shape}: give ({count}, H, W)")
    if regions is not None and len(regions) != count:
        raise InputError(f"{len(regions)} regions for {count} images: give one for each, None where it is not known")


def _guessed(fields: Sequence[str], pictures: Sequence[Picture]) -> list[str]:
    """What was guessed of the preprocessing of photos, which a model may answer wrongly."""
    if not fields or all(picture.geometry is None for picture in pictures):
        return []
    return [f"the preprocessing is guessed ({', '.join(fields)}): a model that sees other numbers is measured wrongly"]
