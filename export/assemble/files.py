# SPDX-License-Identifier: Apache-2.0
"""The portable explainer as a file: a model and options to what a runtime runs without this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

import onnx
import onnx_ir as ir

from portable_cam.checked import checked
from portable_cam.errors import OptionError
from portable_cam.export.assemble.at_size import at_batch
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.deploy.deployment import Deployment, Names, deploy
from portable_cam.export.options import Keywords, Options
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.export.read.weights import save_model, to_proto
from portable_cam.export.targets import Target


@checked
def build_explanation(
    model: AnyModel,
    methods: Sequence[str] = ("gradcam",),
    layer: str | Sequence[str] | None = None,
    target: Target | None = None,
    *,
    targets_per_image: int | None = 1,
    runtime: str = "onnxruntime",
    batch: int | Literal["any"] | None = None,
    opset: int | None = None,
    names: Names = "dotted",
    preprocessing: str | None = None,
    **options: Unpack[Keywords],
) -> onnx.ModelProto:
    """The portable explainer: one ONNX file of standard operators that computes scores, maps and the model's outputs.

    Args:
        model: A path, bytes, ``onnx.ModelProto``, ``onnx_ir.Model`` or
            :class:`~portable_cam.export.passes.normalized.NormalizedModel`.
        methods: As in :class:`~portable_cam.export.options.Options`; likewise ``layer``, ``target`` and ``**options``:
            ``output``, ``row``, ``profile``, ``relu_policy``, ``saturation``, ``sign``, ``precision``,
            ``alignment``, ``axes``, ``as_is``, ``details``, ``words``.
        layer: See ``methods``.
        target: See ``methods``.
        targets_per_image: How many targets the file takes per image; None for any number, by a Scan.
        runtime: What the file is for: a name of :data:`~portable_cam.export.deploy.runtimes.RUNTIMES`.
        batch: How many images it takes at a time; ``"any"`` for any number; None for what suits the runtime.
        opset: Its opset, 18 to 21; None for the lowest that the graph needs.
        names: ``plain`` for inputs and outputs named by letters, digits and underscores alone.
        preprocessing: JSON to store in the metadata.
        **options: See ``methods``.

    Returns:
        A model with the inputs of the original, ``targets`` int64 (N, K), and those that the target brings (a mask,
        say), each (N, K, ...); a negative target -r means the class of rank r of that image, up to 16, for targets that
        have a ranking. Where the runtime has defaults and the target brings nothing, ``targets`` may be left out: the
        top classes. Outputs: ``scores`` (N, K), ``explained`` int64 (N, K) the targets with negative ones resolved,
        ``clamped`` bool (N, K) where a target was out of range and the nearest one was explained,
        for each method of maps ``heatmap.<method>`` (N, K, H, W), ``raw.<method>`` (N, K, h, w) and ``range.<method>``
        (N, K, 2) (least and greatest value before the ReLU), for the others one output of their name (N, K, C, H, W) in
        the image's own layout; then the model's own outputs. :mod:`portable_cam.export.format` lists all names.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model, or the
            explanation is larger than one protobuf can be: see :func:`save_explanation`.
    """
    model = normalized(model)
    chosen = Options.of(model.described({"methods": methods, "layer": layer, "target": target, **options}))
    return to_proto(deployed(model, chosen, Deployment(runtime, targets_per_image, batch, opset, names), preprocessing))


@checked
def save_explanation(
    path: str | Path,
    model: AnyModel,
    methods: Sequence[str] = ("gradcam",),
    layer: str | Sequence[str] | None = None,
    target: Target | None = None,
    *,
    targets_per_image: int | None = 1,
    runtime: str = "onnxruntime",
    batch: int | Literal["any"] | None = None,
    opset: int | None = None,
    names: Names = "dotted",
    preprocessing: str | None = None,
    **options: Unpack[Keywords],
) -> list[Path]:
    """Build an explanation and write it, whatever its size: to ``path``, and where it is larger than the 2 GiB of one
    protobuf its weights to ``path`` with ``.data`` added, which has to stay beside it. The weights are streamed from
    the model's own files.

    Args:
        path: The file to write.
        model: As for :func:`build_explanation`, as are the others.
        methods: As there.
        layer: As there.
        target: As there.
        targets_per_image: As there.
        runtime: As there.
        batch: As there.
        opset: As there.
        names: As there.
        preprocessing: As there.
        **options: As there.

    Returns:
        The files written.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model.
    """
    model = normalized(model)
    chosen = Options.of(model.described({"methods": methods, "layer": layer, "target": target, **options}))
    deployment = Deployment(runtime, targets_per_image, batch, opset, names)
    return save_model(deployed(model, chosen, deployment, preprocessing), Path(path))


def deployed(
    model: NormalizedModel, options: Options, deployment: Deployment, preprocessing: str | None = None
) -> ir.Model:
    """An explanation as a file for a runtime, with weights that are still the source's.

    Args:
        model: The model.
        options: What is explained, and how.
        deployment: Where it is to run.
        preprocessing: JSON to store in the metadata.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model.
    """
    asked_for = deployment.batch not in {None, "any"}
    try:
        model = at_batch(model, deployment.images)
    except OptionError:
        if asked_for:
            raise  # else a model with a batch of its own keeps it
    built = explanation_model(
        model,
        options,
        targets_per_image=deployment.targets_per_image,
        preprocessing=preprocessing,
        free_batch=deployment.images is None,
    )
    return deploy(built, deployment)
