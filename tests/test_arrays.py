# SPDX-License-Identifier: Apache-2.0
"""What explainers take for arrays, photos and targets, and what they say where one is taken for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import portable_cam as pcam
from portable_cam.arrays import as_array
from portable_cam.errors import ImageError, InputError, LabelError, OptionError, TargetError

X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)
PHOTOS = [np.random.default_rng(i).integers(0, 255, (12, 16, 3), np.uint8) for i in range(3)]
NAMES = ["tabby", "tiger cat", "lynx", "cougar", "lion"]


@pytest.fixture(scope="module")
def explainer(small_cnn: onnx.ModelProto) -> pcam.Explainer:
    return pcam.Explainer(small_cnn, labels=NAMES)


@pytest.fixture(scope="module")
def photos(small_cnn: onnx.ModelProto) -> pcam.PhotoExplainer:
    return pcam.PhotoExplainer(small_cnn, preprocessing="unit", labels=NAMES)


class OnlyDLPack:
    """An array of another library, as far as it says anything."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def forms() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(X.copy()).requires_grad_()
    return {
        "array": X,
        "list of arrays": list(X),
        "nested lists": X.tolist(),
        "generator": (x for x in X),
        "tensor with a gradient": tensor,
        "list of tensors": [tensor[0], tensor[1]],
        "generator of tensors": (x for x in tensor),
        "bfloat16": tensor.bfloat16(),
        "DLPack": OnlyDLPack(X),
        "list of DLPack": [OnlyDLPack(x) for x in X],
        "dict": {"x": tensor},
        "read-only": np.broadcast_to(X, X.shape),
    }


@pytest.mark.parametrize("form", list(forms()) if pytest.importorskip("torch") else [])
def test_whatever_converts_to_an_array(explainer: pcam.Explainer, form: str) -> None:
    found = explainer(forms()[form], [1, 2])
    tolerance = 0.05 if form == "bfloat16" else 0
    np.testing.assert_allclose(found.scores, explainer(X, [1, 2]).scores, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["int32", "tensor", "DLPack", "list of tensors"])
def test_targets_from_other_libraries(explainer: pcam.Explainer, form: str) -> None:
    torch = pytest.importorskip("torch")
    given = {
        "int32": np.array([1, 2], np.int32),
        "tensor": torch.tensor([1, 2]),
        "DLPack": OnlyDLPack(np.array([1, 2])),
        "list of tensors": [torch.tensor(1), torch.tensor(2)],
    }[form]
    assert explainer(X, given).targets.tolist() == [[1], [2]]


def test_further_inputs_from_other_libraries(make_model: Any) -> None:
    torch = pytest.importorskip("torch")
    weights = {"w": np.random.default_rng(1).standard_normal((4, 3, 1, 1)).astype(np.float32)}
    model = make_model("r = Relu(x) y = Conv(r, w)", weights, y="float[N,4,8,8] y")
    explainer = pcam.Explainer(model, target=pcam.targets.Dense("mask"))
    mask = torch.ones(8, 8, requires_grad=True)
    assert explainer(X, [0, 1], mask=mask).scores.shape == (2, 1)


def test_what_no_array_comes_of(explainer: pcam.Explainer) -> None:
    class Broken:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("on another planet")

    with pytest.raises(InputError, match=r"input 'x' does not make an array \(on another planet\): give a numpy array"):
        explainer(Broken())
    with pytest.raises(ImageError, match="the photo does not make an array"):
        as_array([[1], [2, 3]], "the photo", ImageError)


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "numbers"),
    [
        ("lynx", [[2], [2]]),
        ("lynx, 0", [[2, 0], [2, 0]]),
        (["lynx", "Tiger_Cat"], [[2], [1]]),
        ([["lynx", 4], ["lion", "tabby"]], [[2, 4], [4, 0]]),
        (np.array(["lynx", "lion"]), [[2], [4]]),
    ],
)
def test_names_where_labels_are_given(explainer: pcam.Explainer, targets: Any, numbers: list[list[int]]) -> None:
    assert explainer(X, targets).targets.tolist() == numbers


def test_ranks_mixed_with_names(explainer: pcam.Explainer, photos: pcam.PhotoExplainer) -> None:
    best = explainer.top(X, 2).targets
    assert explainer(X, "top2").targets.tolist() == best.tolist()
    assert explainer(X, "lynx, top2").targets.tolist() == [[2, *row] for row in best.tolist()]
    assert explainer(X, ["top1", "lion"]).targets.tolist() == [[best[0, 0]], [4]]
    top = photos(PHOTOS[0], "top2")
    first, second = top.labels[0]
    other = next(name for name in NAMES if name not in {first, second})
    assert photos(PHOTOS[0], f"{other}, top2").labels == [[other, first, second]]
    mixed = photos(PHOTOS[0], ["top2", second, other])
    assert mixed.labels == [[first, second, other]], "each is explained once"
    assert mixed["gradcam"].shape[1] == len(mixed.flags[0]) == 3
    np.testing.assert_array_equal(mixed["gradcam"][:, :2], top["gradcam"])
    with pytest.raises(TargetError, match="top9: between 1 and 5 top classes"):
        photos(PHOTOS[0], "top9")


def test_names_need_labels(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(LabelError, match="'lynx' is a name, but the model's classes have no names: give labels="):
        pcam.Explainer(small_cnn)(X, "lynx")
    with pytest.raises(LabelError, match="names 2 classes, but the model has 5"):
        pcam.Explainer(small_cnn, labels=["a", "b"])


def test_labels_of_the_model_itself(small_cnn: onnx.ModelProto) -> None:
    model = onnx.ModelProto.FromString(small_cnn.SerializeToString())
    onnx.helper.set_model_props(model, {"labels": ",".join(NAMES)})
    assert pcam.Explainer(model)(X, "lion").targets.tolist() == [[4], [4]]


@pytest.mark.parametrize("given", ["tabby", 3, [1, 2]])
def test_target_for_targets(small_cnn: onnx.ModelProto, explainer: pcam.Explainer, given: Any) -> None:
    says = "what kind of thing is explained, a class where nothing is said; which one is named by targets=, in the call"
    for make in (pcam.Explainer, lambda m, **k: pcam.explain(m, PHOTOS[0], task="classify", **k)):
        with pytest.raises(TargetError, match=says):
            make(small_cnn, target=given)
    with pytest.raises(TargetError, match="a call takes targets= for which one is explained"):
        explainer(X, target=given)


def test_targets_for_target(small_cnn: onnx.ModelProto, explainer: pcam.Explainer) -> None:
    with pytest.raises(OptionError, match=r"targets=\[281\] says in a call which one is explained; .* target= for"):
        pcam.Explainer(small_cnn, targets=[1])  # type: ignore[call-arg]
    for call in (lambda t: explainer(X, t), lambda t: pcam.explain(small_cnn, PHOTOS[0], targets=t, task="classify")):
        with pytest.raises(TargetError, match="Class says what kind of thing is explained: that is target= of the exp"):
            call(pcam.targets.Class())
    with pytest.raises(OptionError, match="the task segment says itself what kind of thing is explained: target= is"):
        pcam.SegmentExplainer(small_cnn, target=pcam.targets.Class())


# -- photos ------------------------------------------------------------------------------------------------------------


def test_a_list_of_photos(photos: pcam.PhotoExplainer, small_cnn: onnx.ModelProto) -> None:
    found = photos(PHOTOS, "lynx")
    assert [e.scores.item() for e in found] == [photos(photo, "lynx").scores.item() for photo in PHOTOS]
    found = pcam.explain(small_cnn, tuple(PHOTOS), preprocessing="unit")
    assert [e.notes[-1] for e in found] == ["task recognised: classify"] * 3


def test_a_generator_of_photos_is_not_run_ahead_of(photos: pcam.PhotoExplainer, small_cnn: onnx.ModelProto) -> None:
    taken = []

    def source() -> Iterator[Any]:
        for i, photo in enumerate(PHOTOS):
            taken.append(i)
            yield photo

    for found in (photos(source()), pcam.explain(small_cnn, source(), preprocessing="unit")):
        taken.clear()
        assert next(found).scores.shape == (1, 1)
        assert taken == [0]
        assert len(list(found)) == 2


def test_a_photo_of_several_that_fails_is_named(photos: pcam.PhotoExplainer) -> None:
    with pytest.raises(ImageError, match="image 1, counted from 0: the given bytes is not an image"):
        photos([PHOTOS[0], b"no image"])
    with pytest.raises(ImageError, match=r"^cannot read the image nowhere\.png"):
        photos([PHOTOS[0], "nowhere.png"])


def test_photos_of_other_libraries(photos: pcam.PhotoExplainer) -> None:
    torch = pytest.importorskip("torch")
    expected = photos(PHOTOS[0]).scores
    for photo in (torch.from_numpy(PHOTOS[0].copy()), OnlyDLPack(PHOTOS[0]), Image.fromarray(PHOTOS[0])):
        np.testing.assert_array_equal(photos(photo).scores, expected)
    with pytest.raises(ImageError, match=r"shape \(3, 12, 16\), channels first: .* array\.transpose\(1, 2, 0\)"):
        photos(torch.from_numpy(PHOTOS[0].copy()).permute(2, 0, 1))
