# SPDX-License-Identifier: Apache-2.0
"""Whatever is given to a public function: a result, or an error of the project's own that says what was expected."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from PIL import Image

import portable_cam as pcam
from portable_cam import assets, targets
from portable_cam.export.options import Options
from portable_cam.image.decode import read_image
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.resolve import resolve
from portable_cam.labels import read_labels
from portable_cam.tasks.language.caption import CaptionExplainer

MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)
PHOTO = np.random.default_rng(6).integers(0, 255, (16, 16, 3), np.uint8)

#: Values that hardly any argument takes; none is a model that would be explained.
WRONG: dict[str, Any] = {
    "None": None, "True": True, "-1": -1, "10**30": 10**30, "1.5": 1.5, "nan": float("nan"), "1j": 1j,
    "''": "", "text": "no such thing", "null": "a\0b", "bytes": b"ab", "[]": [], "()": (), "[None]": [None],
    "[[1], [2, 3]]": [[1], [2, 3]], "['a', 1]": ["a", 1], "{}": {}, "{1: 2}": {1: 2}, "{'a': None}": {"a": None},
    "{'a': {'b': 1}}": {"a": {"b": 1}}, "set": {"a"}, "object": object(), "class": int, "lambda": lambda *_: None,
    "path": Path("no/such/file"), "folder": Path("/"), "array": np.zeros((2, 2)), "objects": np.array([None, "a"]),
    "empty array": np.zeros((0, 3)), "strings": np.array(["a", "b"]), "iterator": "iterator", "range": range(3),
    "target": targets.Class(), "image": Image.new("RGB", (4, 4)), "np.float32": np.float32(2), "exception": ValueError,
}  # fmt: skip


def value_of(name: str) -> Any:
    """An iterator is made anew: it is used up by the first that takes it."""
    return iter([1, None]) if name == "iterator" else WRONG[name]


def segmenter() -> onnx.ModelProto:
    head = '<ir_version: 8, opset_import: ["": 17]> m (float[1,3,8,8] x) => (float[1,4,8,8] y)'
    model = onnx.parser.parse_model(head + " { r = Relu(x) y = Conv(r, w) }")
    weights = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


def detector(make_model: Any) -> onnx.ModelProto:
    from detectors import IMAGE, joined

    body, weights = joined(6, "y = Transpose<perm = [0, 2, 1]>(z)")
    return make_model(body, weights, IMAGE, "float[1,42,6] y")


HEAD = {"classes": {"tensor": "y", "start": 4, "stop": 6}, "boxes": {"tensor": "y", "stop": 4}}


@cache
def captions() -> CaptionExplainer:
    return CaptionExplainer(
        MODELS / "caption_encoder.onnx",
        decoder=MODELS / "caption_lstm_decoder.onnx",
        vocabulary=MODELS / "caption_words.txt",
    )


def cases(model: onnx.ModelProto, make_model: Any) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions, each with arguments that it takes."""
    made = pcam.Explainer(model)
    photo = pcam.PhotoExplainer(model, preprocessing="unit")
    segment = pcam.SegmentExplainer(segmenter(), preprocessing="unit")
    explained = photo(PHOTO)
    of_explainer = {"methods": ("gradcam",), "layer": "r2", "output": "y", "profile": "paper", "axes": {"x": "NCHW"}}
    of_photo = {"methods": ("gradcam",), "preprocessing": "unit", "labels": list("abcde"), "rather_than": 1}
    return {
        "Explainer": (
            pcam.Explainer,
            {
                "model": model,
                **of_explainer,
                "target": targets.Class(),
                "device": "cpu",
                "providers": None,
                "threads": 1,
                "optimize": True,
                "time_limit": 9.0,
                "check": False,
                "labels": None,
                "session_options": {},
                "custom_op_libraries": (),
                "relu_policy": "relu",
                "saturation": "pass",
                "sign": "positive",
                "precision": "model",
                "alignment": "stretch",
                "as_is": False,
                "details": False,
                "words": False,
            },
        ),
        "call": (made, {"x": X, "targets": [1, 2]}),
        "a dict": (lambda x: made({"x": x}), {"x": X}),
        "top": (made.top, {"x": X, "k": 2}),
        "ranked": (made.ranked, {"x": X, "targets": [[1, -2], [0, -1]]}),
        "check": (made.check, {"x": X, "targets": [1, 2]}),
        "input_shape": (made.input_shape, {"name": "x"}),
        "Options": (Options, {**of_explainer, "target": None}),
        "explain": (
            pcam.explain,
            {
                "model": model,
                "image": PHOTO,
                "targets": "a",
                "task": "classify",
                **of_photo,
                "sets": None,
                "device": "cpu",
            },
        ),
        "PhotoExplainer": (pcam.PhotoExplainer, {"model": model, **of_photo, "sets": None, "layer": "r2"}),
        "sets": (pcam.PhotoExplainer, {"model": model, "labels": list("abcde"), "sets": {"ab": ["a", 1]}}),
        "a photo": (photo, {"image": PHOTO, "targets": "top2"}),
        "SegmentExplainer": (
            pcam.SegmentExplainer,
            {
                "model": segmenter(),
                "preprocessing": "unit",
                "channels": "first",
                "threshold": 0.5,
                "most": 2,
                "labels": list("abcd"),
                "rather_than": 1,
            },
        ),
        "a mask": (segment, {"image": PHOTO, "targets": 1, "mask": np.ones((16, 16))}),
        "a region": (segment, {"image": PHOTO, "targets": 1, "region": (0, 0, 4, 4)}),
        "a pixel": (segment, {"image": PHOTO, "targets": 1, "pixel": (3, 3)}),
        "DetectExplainer": (
            pcam.DetectExplainer,
            {
                "model": detector(make_model),
                "preprocessing": "unit",
                "head": HEAD,
                "part": "class",
                "threshold": 0.1,
                "overlap": 0.5,
                "most": 2,
                "labels": ["a", "b"],
                "rather_than": 1,
            },
        ),
        "build_explanation": (pcam.export.build_explanation, {"model": model, **of_explainer, "targets_per_image": 1}),
        "differentiate": (
            pcam.export.differentiate,
            {"model": model, "of": "y", "wrt": ["x"], "relu_rule": "guided", "relu_policy": "relu"},
        ),
        "list_layers": (pcam.export.list_layers, {"model": model, "output": "y", "target": None}),
        "doctor": (pcam.export.doctor, {"model": model, "output": "y", "target": None}),
        "trace_axes": (pcam.export.trace_axes, {"model": model, "tensor": "r2", "axes": None}),
        "normalize": (pcam.export.normalize, {"model": model}),
        "link": (
            pcam.export.link,
            {
                "encoder": MODELS / "caption_encoder.onnx",
                "decoder": MODELS / "caption_lstm_decoder.onnx",
                "mapping": {"features": "features"},
            },
        ),
        "unroll": (
            pcam.export.unroll,
            {
                "decoder": MODELS / "caption_lstm_step.onnx",
                "steps": 2,
                "tokens": "tokens",
                "logits": "logits",
                "state": {"h_next": "h", "c_next": "c"},
            },
        ),
        "CaptionExplainer": (
            CaptionExplainer,
            {
                "model": MODELS / "caption_encoder.onnx",
                "decoder": MODELS / "caption_lstm_decoder.onnx",
                "vocabulary": MODELS / "caption_words.txt",
                "mapping": None,
                "longest": 4,
            },
        ),
        "a caption": (lambda **given: captions()(**given), {"image": PHOTO, "targets": "*", "caption": "a red circle"}),
        "a target": (
            lambda **k: pcam.Explainer(segmenter(), target=targets.Dense(**k)),
            {"over": "predicted", "channels": "first", "threshold": 0.5},
        ),
        "a set": (lambda sets: pcam.Explainer(model, target=targets.ClassSet(sets)), {"sets": ((0, 1), (2,))}),
        "boxes": (
            lambda classes: pcam.Explainer(detector(make_model), target=targets.Boxes(classes)),
            {"classes": (targets.Columns("y"),)},
        ),
        "overlay": (explained.overlay, {"method": "gradcam", "k": 0}),
        "a method": (explained.__getitem__, {"key": "gradcam"}),
        "read_image": (read_image, {"source": PHOTO}),
        "Preprocessing": (Preprocessing, {"size": (8, 8), **dict.fromkeys(FIELDS)}),
        "from_json": (Preprocessing.from_json, {"content": {"size": [8, 8]}}),
        "resolve": (
            resolve,
            {
                "input_shape": [1, 3, 8, 8],
                "input_dtype": "float32",
                "preset": "unit",
                "mean": 0.5,
                "std": 0.5,
                "scale": 1.0,
                "color": "rgb",
                "layout": "nchw",
                "size": 8,
                "resize": "stretch",
                "quantization": None,
                "sidecar": None,
                "metadata": None,
            },
        ),
        "read_labels": (read_labels, {"path": assets.imagenet_labels()}),
    }


FIELDS = [name for name in inspect.signature(Preprocessing).parameters if name != "size"]
NAMES = [
    "Explainer",
    "call",
    "a dict",
    "top",
    "ranked",
    "check",
    "input_shape",
    "Options",
    "explain",
    "PhotoExplainer",
    "sets",
    "a photo",
    "SegmentExplainer",
    "a mask",
    "a region",
    "a pixel",
    "DetectExplainer",
    "build_explanation",
    "differentiate",
    "list_layers",
    "doctor",
    "trace_axes",
    "normalize",
    "link",
    "unroll",
    "CaptionExplainer",
    "a caption",
    "a target",
    "a set",
    "boxes",
    "overlay",
    "a method",
    "read_image",
    "Preprocessing",
    "from_json",
    "resolve",
    "read_labels",
]


@pytest.fixture(scope="module")
def public(small_cnn: onnx.ModelProto, make_model: Any) -> Mapping[str, tuple[Callable[..., Any], dict[str, Any]]]:
    return cases(small_cnn, make_model)


@pytest.mark.parametrize("name", slow_but(["call", "Options", "read_image", "a photo", "a method"], NAMES))
def test_an_error_of_the_project_or_none(public: Any, name: str) -> None:
    function, right = public[name]
    base = {key: value for key, value in right.items() if value is not None or name != "Preprocessing"}
    foreign = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**base)
        for argument in right:
            for kind in WRONG:
                try:
                    function(**{**base, argument: value_of(kind)})
                except pcam.Error as error:
                    if len(str(error)) < 10:
                        foreign[f"{argument}={kind}"] = repr(error)
                except Exception as error:
                    foreign[f"{argument}={kind}"] = f"{type(error).__name__}: {str(error)[:80]}"
    assert foreign == {}


def test_every_case_is_run(public: Any) -> None:
    assert list(public) == NAMES
