# SPDX-License-Identifier: Apache-2.0
"""A finished explanation graph as a file for one runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import OptionError
from portable_cam.export.deploy.constants import fold_constants
from portable_cam.export.deploy.default_target import give_default_target
from portable_cam.export.deploy.idle_attributes import drop_idle_attributes
from portable_cam.export.deploy.lowest_opset import LOWEST, to_lowest_opset
from portable_cam.export.deploy.masks import compare_for_masks
from portable_cam.export.deploy.plain_names import give_plain_names
from portable_cam.export.deploy.pools import without_pool_indices
from portable_cam.export.deploy.runtimes import Runtime, runtime_named
from portable_cam.export.deploy.strip_shapes import strip_all_inner_shapes, strip_inner_shapes
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.passes.fold import infer_model_shapes

Names: TypeAlias = Literal["dotted", "plain"]


_MOST_TARGETS = 100  # each is a backward pass of its own in the file
_MOST_IMAGES = 2**20


@dataclass(frozen=True)
class Deployment:
    """Where a file is to run, and what it takes at once.

    Attributes:
        runtime: A name of :data:`~portable_cam.export.deploy.runtimes.RUNTIMES`.
        targets_per_image: How many targets per image; None for any number, by a Scan.
        batch: How many images; ``"any"`` for any number; None for what suits the runtime.
        opset: The opset of the file; None for the lowest that the graph needs.
        names: ``plain`` for outputs named by letters, digits and underscores alone.
        photo: Whether the file is to take a photo and give the overlay; it then takes one at a time.

    Raises:
        OptionError: There is no such runtime, or it cannot do what is asked.
    """

    runtime: str = "onnxruntime"
    targets_per_image: int | None = 1
    batch: int | Literal["any"] | None = None
    opset: int | None = None
    names: Names = "dotted"
    photo: bool = False

    def __post_init__(self) -> None:
        runtime = self.wanted
        if self.targets_per_image is not None and self.targets_per_image < 1:
            raise OptionError(f"a file takes at least one target per image, not {self.targets_per_image}")
        if self.targets_per_image is None and not runtime.loops:
            raise OptionError(f"{runtime.title} has no Scan, by which a file takes any number of targets: say how many")
        if self.photo and not runtime.photos:
            raise OptionError(
                f"{runtime.title} cannot take a photo: it has no arithmetic on integers. Prepare it outside"
            )
        if self.photo and self.batch not in {None, 1}:
            raise OptionError(f"a file from photo to overlay takes one photo at a time, not {self.batch}")
        if self.batch not in {None, "any"} and (isinstance(self.batch, bool) or not isinstance(self.batch, int)):
            raise OptionError(f"batch is a number of images, or 'any', not {self.batch!r}")
        count = self.targets_per_image
        if isinstance(count, int) and count > _MOST_TARGETS:
            raise OptionError(
                f"a file is written out for each of its targets, up to {_MOST_TARGETS}, not {count}: "
                "None takes any number, by a loop"
            )
        if isinstance(self.batch, int) and self.batch > _MOST_IMAGES:
            raise OptionError(f"a batch has at most {_MOST_IMAGES} images, not {self.batch}")
        if isinstance(self.batch, int) and self.batch < 1:
            raise OptionError(f"a batch has at least one image, not {self.batch}")
        if self.names not in {"dotted", "plain"}:
            raise OptionError(f"names are dotted or plain, not {self.names!r}")

    @property
    def wanted(self) -> Runtime:
        """The record of the runtime."""
        return runtime_named(self.runtime)

    @property
    def images(self) -> int | None:
        """How many images the file takes; None for any number."""
        return 1 if self.photo else None if self.batch == "any" else self.batch or self.wanted.batch


def deploy(model: ir.Model, deployment: Deployment) -> ir.Model:
    """The graph that :func:`~portable_cam.export.assemble.explanation.explanation_model` gives, as a file for a
    runtime: the same values, in operators and with attributes that it reads. The model is changed.

    Raises:
        OptionError: There is no file of the opset asked for.
        ModelError: A node has no form in the opset.
    """
    runtime, metadata, notes = deployment.wanted, ExplanationMetadata.read(model.metadata_props), []
    infer_model_shapes(model)
    if not runtime.pool_indices and (left := without_pool_indices(model)):
        notes.append(f"gives indices of a MaxPool, which it may not run: {', '.join(left)}")
    if not runtime.steep_masks:
        compare_for_masks(model)
    if runtime.folded or deployment.images is not None:
        fold_constants(model, weights=runtime.folded)
    drop_idle_attributes(model.graph, LOWEST)
    model = to_lowest_opset(model, deployment.opset, limit=runtime.opset)
    if not runtime.defaults:
        passes.RemoveInitializersFromInputsPass()(model)
    elif not metadata.inputs:
        give_default_target(model.graph, metadata.image, ranked=bool(metadata.ranked))
    if runtime.shapes:
        strip_inner_shapes(model)
    else:
        strip_all_inner_shapes(model)
    about = {"name": runtime.name, "least": runtime.least, "notes": [*runtime.promises, *notes]}
    replace(metadata, runtime=about).write(model)
    if deployment.names == "plain":
        rename_plainly(model)
    return model


def rename_plainly(model: ir.Model) -> None:
    """Give inputs and outputs plain names, in place, and write the ones they had into the metadata."""
    renamed = give_plain_names(model.graph)
    replace(ExplanationMetadata.read(model.metadata_props), plain=renamed or None).write(model)
