# SPDX-License-Identifier: Apache-2.0
"""What a reader of an explainer's maps should know, in words."""

from __future__ import annotations

from collections.abc import Iterator

from portable_cam.export.autodiff.relu_policy import ReluPolicy
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.runtime.arithmetic import INEXACT
from portable_cam.spelling import option

#: What a relu_policy that found nothing may be exchanged for, and what the other guides.
_WIDER: dict[ReluPolicy, dict[str, str]] = {
    "relu": {"relu+clip": "ReLU6", "all": "SiLU, GELU, HardSwish and other relatives"},
    "relu+clip": {"all": "SiLU, GELU, HardSwish and other relatives"},
    "all": {},
}


def notes_of(
    known: ExplanationMetadata, options: Options, *, one_image: bool, mixes: bool, inexact: bool
) -> Iterator[str]:
    """The notes on an explanation graph.

    Args:
        known: What the graph says of itself.
        options: What it computes.
        one_image: Whether it takes a single image.
        mixes: Whether images turned out to change each other's scores.
        inexact: Whether this processor computes its quantised layers inexactly.
    """
    if known.cut:
        yield f"the score is '{known.scores}', before the final {known.cut}"
    if known.probability:
        yield f"{known.probability}: near 0 and 1 its gradient vanishes"
    if nothing_guided(known, options):
        yield "no node was guided: the guided maps are the plain gradient"
    if known.row is not None:
        yield f"row {known.row} of '{known.scores}' is explained, which has {known.rows}"
    if known.shared and not one_image:
        yield "one score for all images of a batch: each map shows what its image adds to it"
    if mixes:
        yield "images run one by one: together they gave other scores, though the graph seemed to allow it"
    if inexact:
        yield INEXACT
    if known.widened:
        yield f"the model is {known.widened} and computed in float32, inputs and outputs included"
    if options.precision == "float32":
        yield "computed in float32, inputs and outputs included, whatever types the model is stored in"


def nothing_guided(known: ExplanationMetadata, options: Options) -> bool:
    """Whether guided methods come down to the plain gradient."""
    return any(method.uses_relu_rule for method in options.computed) and not known.guided_nodes


def warning_of_nothing_guided(options: Options) -> str:
    """What to say of that, and which policy would guide something."""
    others = _WIDER[options.relu_policy].items()
    ways = "".join(f"; {option('relu_policy', wider)} also guides {what}" for wider, what in others)
    return f"no node counts as a ReLU here, so that guided methods give the plain gradient{ways}"
