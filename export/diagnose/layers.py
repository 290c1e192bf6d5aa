"""The layers of a model that can be explained."""

from __future__ import annotations

from collections.abc import Mapping

from portable_cam.checked import checked
from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.diagnose.declared import declared_model
from portable_cam.export.layers.candidates import Layer, candidates
from portable_cam.export.passes.normalized import AnyModel
from portable_cam.export.targets import Target
from portable_cam.export.targets.scores import find_scores


@checked
def list_layers(
    model: AnyModel,
    output: str | None = None,
    target: Target | None = None,
    axes: Mapping[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> list[Layer]:
    """The candidates of a model, best first; those of a classifier, or of what ``target`` explains.

    First come the tensors that every path from the image to the scores passes, from the last one back: what the
    classifier reads is all there. Then those on only some of the paths.

    Args:
        model: The model.
        output: The tensor that holds the scores, if it is to be another than the model's own.
        target: What would be explained; None for a class.
        axes: What a person declares of axes, as ``{"x": "NHWC"}``.
        size: Height and width of the image, where the model leaves them open.
    """
    graph = at_size(declared_model(model, axes), size).graph
    found = [find_scores(graph, output)] if target is None else target.tensors(graph, output)
    return [layer for _, layer in candidates(graph, *(scores.value for scores in found))]
