# SPDX-License-Identifier: Apache-2.0
"""What is tried on each engine: a model of each kind, and groups of methods."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo import ZOO
from portable_cam import assets
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.assemble.files import deployed
from portable_cam.export.deploy.deployment import Deployment
from portable_cam.export.deploy.end_to_end.wrap import take_photos
from portable_cam.export.format import CLAMPED, ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.read.weights import to_proto
from portable_cam.image.colormap import overlay
from portable_cam.image.decode import read_image
from portable_cam.image.look import DEFAULT
from portable_cam.image.preprocess import Preprocessing
from portable_cam.runtime.session import Session
from portable_cam.tasks.recognize import recognize
from portable_cam.tasks.surroundings import Surroundings, colors, photo_input, surroundings

PHOTO = "photo to overlay"
GROUPS = {
    "Grad-CAM": ("gradcam",),
    "LayerCAM": ("layercam",),
    "guided": ("guided_backprop", "guided_gradcam"),
    PHOTO: ("layercam",),
}

#: The kinds of models: the file of the zoo that stands for each; None for the bundled one, and for a ViT made here.
MODELS: dict[str, str | None] = {
    "float32": None,
    "float32, EfficientNet": "cls_efficientnet_lite0_fp32",
    "float16": "cls_squeezenet1.1_fp16_winml",
    "int8": "cls_squeezenet1.1_int8_qdq",
    "detector, YOLOX": "det_yolox_nano_coco_416",
    "detector, FastestDet": "det_fastestdet_coco_352",
    "segmenter": "seg_deeplabv3_mnv2_dm05_voc_fp32_logits",
    "ViT": None,
}


@dataclass(frozen=True)
class Case:
    """A model and a group of methods, explained here: what every engine is to give.

    Attributes:
        model: A key of :data:`MODELS`.
        group: A key of :data:`GROUPS`.
        feeds: The inputs, the targets among them.
        expected: The outputs of this project's own graph, which has been through none of the passes for a runtime.
    """

    model: str
    group: str
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, NDArray[Any]]

    def file(self, runtime: str) -> onnx.ModelProto:
        """The file for a runtime."""
        known, options = subject(self.model)
        built = deployed(known, options[self.group], Deployment(runtime, batch=1))
        if self.group == PHOTO:
            around = _around(self.model)
            metadata = ExplanationMetadata.read(built.metadata_props)
            how = photo_input(_prepared(self.model))
            take_photos(built, metadata, how, colors(), classes=around.classes, optional=False)
        return to_proto(built)


@cache
def subject(model: str) -> tuple[NormalizedModel, dict[str, Options]]:
    """A model, read once, and what is asked of it in each group."""
    known = NormalizedModel(_source(model))
    _, target = recognize(known)
    return known, {
        group: Options.of(known.described({"methods": methods, "target": target})) for group, methods in GROUPS.items()
    }


def _source(model: str) -> Any:
    if model == "ViT":
        return _vit()
    name = MODELS[model]
    return assets.model() if name is None else ZOO / "models" / f"{name}.onnx"


def _vit() -> onnx.ModelProto:
    import torch

    from benchmarks.architectures.attention import ViT
    from portable_cam.export import from_torch

    torch.manual_seed(0)
    network = ViT()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        return from_torch(network.eval(), torch.zeros(1, 3, 32, 48))


@cache
def _around(model: str) -> Surroundings:
    known = subject(model)[0]
    return surroundings(known, *recognize(known))


def _prepared(model: str) -> Preprocessing:
    prepared = _around(model).preprocessing
    assert prepared is not None  # they all take photos
    return prepared


@cache
def case(model: str, group: str) -> Case:
    """A case, explained on ONNX Runtime here."""
    known, options = subject(model)
    session = Session(explanation_model(known, options[group], targets_per_image=1), threads=1)
    photo, prepared = read_image(assets.photo()), _prepared(model)
    name = next(name for name in session.inputs if name != "targets")
    feeds = {name: prepared(photo).astype(session.dtype(name)), "targets": np.array([[-1]])}
    found = session.run(feeds)
    feeds["targets"] = found["explained"]
    if group != PHOTO:
        return Case(model, group, feeds, {key: value for key, value in found.items() if key != CLAMPED})
    wide = prepared.geometry((photo.shape[0], photo.shape[1])).on_photo(found["heatmap.layercam"][0, 0])
    wanted = {"overlay": overlay(photo, wide)[None], "heatmap": wide[None], "scores": found["scores"]}
    further = {"targets": found["explained"], "opacity": np.array(DEFAULT.opacity, np.float32)}
    return Case(model, group, {"photo": photo, **further}, wanted)


def difference(expected: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]) -> dict[str, float]:
    """For each output the greatest difference over the greatest value; infinite where it is missing, of another shape
    or not finite."""
    differences = {}
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape or not np.isfinite(other.astype(np.float64)).all():
            differences[name] = float("inf")
            continue
        ours, theirs = value.astype(np.float64), other.astype(np.float64)
        differences[name] = float(np.abs(ours - theirs).max() / (np.abs(ours).max() + 1e-12))
    return differences
