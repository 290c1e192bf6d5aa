# SPDX-License-Identifier: Apache-2.0
"""A function as preprocessing: what part of a photo it takes is measured, and said where it cannot be."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_after
from PIL import Image

import portable_cam as pcam
from portable_cam.errors import InputError, PreprocessError
from portable_cam.image.by_function import ByFunction
from portable_cam.image.geometry import ImageArray
from portable_cam.image.preprocess import Preprocessing

SIZES = [(48, 64), (60, 38), (100, 300), (24, 24)]
FORMS: list[dict[str, Any]] = [
    {"resize": "stretch"},
    {"resize": "shortest+crop"},
    {"resize": "shortest+crop", "resize_to": 40, "color": "bgr", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)},
    {"resize": "letterbox"},
    {"resize": "letterbox", "pad_position": "top-left", "pad_value": 0, "layout": "nhwc"},
    {"resize": "shortest+crop", "color": "gray"},
    {"resize": "shortest+crop", "dtype": "uint8", "layout": "nhwc"},
]


def by_hand(photo: ImageArray) -> Any:
    return np.asarray(Image.fromarray(photo).resize((8, 8))).transpose(2, 0, 1) / np.float32(255)


@pytest.mark.parametrize("case", slow_after(2, lambda case: case[0]["resize"], [(f, s) for f in FORMS for s in SIZES]))
def test_what_is_taken_of_the_photo_is_measured(case: tuple[dict[str, Any], tuple[int, int]]) -> None:
    form, size = case
    known = Preprocessing(size=(32, 32), **{"scale": 1 if "dtype" in form else 1 / 255} | form)
    shape = (1, len(known.mean), 32, 32) if known.layout == "nchw" else (1, 32, 32, len(known.mean))
    measured = ByFunction.of(lambda photo: known(photo), shape, known.dtype)
    assert (measured.size, measured.layout, measured.color) == (known.size, known.layout, known.color)
    assert measured.notes(size) == ()
    ours, theirs = measured.geometry(size), known.geometry(size)
    pixel = max(size) / min(theirs.scaled)
    np.testing.assert_allclose(ours.box, theirs.box, atol=2 * pixel, rtol=0)
    assert ours.size == theirs.size


def test_maps_lie_where_the_function_looks(small_cnn: onnx.ModelProto) -> None:
    """The left half alone is taken: what lies to the right of it is outside."""
    photo = np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8)
    explained = pcam.explain(small_cnn, photo, preprocessing=lambda image: by_hand(image[:, :40]), task="classify")
    left, _, right, _ = explained.geometry.box
    assert abs(left) < 5
    assert abs(right - 40) < 5
    assert "lambda" in explained.preprocessing.describe()
    assert not any("could not be measured" in note for note in explained.notes)
    expected = pcam.Explainer(small_cnn)(by_hand(photo[:, :40])[None])
    np.testing.assert_allclose(explained.scores, expected.scores, rtol=1e-5)
    assert explained.overlay("gradcam").size == (80, 40)


@pytest.mark.parametrize(
    "function",
    [
        lambda photo: by_hand(photo) ** 0.2,
        lambda photo: by_hand(photo[:, ::-1]),
        lambda photo: by_hand(np.sort(photo, 0)),
    ],
    ids=["gamma", "mirrored", "sorted"],
)
def test_what_cannot_be_measured_is_said(small_cnn: onnx.ModelProto, function: Any) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8)
    explained = pcam.explain(small_cnn, photo, preprocessing=function, task="classify")
    (note,) = (note for note in explained.notes if "could not be measured" in note)
    assert "laid over the whole photo" in note
    assert explained.geometry.box == (0, 0, 80, 40)


def test_an_explanation_keeps_the_functions_name_alone(small_cnn: onnx.ModelProto) -> None:
    photo = np.zeros((9, 9, 3), np.uint8)
    explained = pcam.explain(small_cnn, photo, preprocessing=lambda p: by_hand(p), task="classify")
    again = pickle.loads(pickle.dumps(explained))
    assert "test_by_function" in again.to_dict()["preprocessing"]["function"]
    with pytest.raises(PreprocessError, match="knows only the name of"):
        again.preprocessing(photo)
    function = pcam.PhotoExplainer(small_cnn, preprocessing=by_hand)
    assert pickle.loads(pickle.dumps(function))(photo).scores.shape == (1, 1)


def test_tensors_of_torch(small_cnn: onnx.ModelProto) -> None:
    torch = pytest.importorskip("torch")
    photo = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    tensor = pcam.explain(small_cnn, photo, preprocessing=lambda p: torch.from_numpy(by_hand(p)), task="classify")
    np.testing.assert_array_equal(tensor.scores, pcam.explain(small_cnn, photo, preprocessing=by_hand).scores)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda p: p.resize((8, 8)).crop(), PreprocessError, r"failed on a photo, .*Image\.fromarray"),
        (lambda p: None, PreprocessError, "not one image: numbers"),
        (lambda p: "text", PreprocessError, "not one image"),
        (lambda p: np.zeros((2, 3, 8, 8), np.float32), PreprocessError, r"float32\[2, 3, 8, 8\] for a photo, not one"),
        (lambda p: np.zeros((3, 9, 9), np.float32), InputError, r"input 'x' must have shape \(any, 3, 8, 8\), not"),
        (lambda: None, PreprocessError, r"preprocessing= takes .*Callable\[\[ndarray\], Any\]"),
    ],
)
def test_a_function_that_does_not_fit(small_cnn: onnx.ModelProto, function: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        pcam.explain(small_cnn, np.zeros((9, 9, 3), np.uint8), preprocessing=function, task="classify")


def test_a_detector_of_open_size(make_model: Any) -> None:
    """The size at which boxes are read is that of what the function makes."""
    from detectors import IMAGE, joined

    body, weights = joined(6, "y = Transpose<perm = [0, 2, 1]>(z)")
    model = make_model(body, weights, IMAGE.replace("64,32", "h,w"), "float[1,b,6] y")
    head = {"classes": {"tensor": "y", "start": 4, "stop": 6}, "boxes": {"tensor": "y", "stop": 4}}

    def prepare(photo: ImageArray) -> Any:
        return np.asarray(Image.fromarray(photo).resize((32, 64))).transpose(2, 0, 1) / np.float32(255)

    assert pcam.DetectExplainer(model, head=head, preprocessing=prepare).preprocessing.size == (64, 32)
