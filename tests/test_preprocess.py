# SPDX-License-Identifier: Apache-2.0
"""Preprocessing against torchvision's arithmetic written out; every source of what a model wants, and contradiction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from portable_cam import assets
from portable_cam.errors import InputError, PreprocessError
from portable_cam.image.decode import read_image
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.presets import PRESETS
from portable_cam.image.resolve import METADATA_KEY, resolve
from portable_cam.image.sidecar import FIELDS, find_sidecar
from portable_cam.labels import Labels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NCHW, NHWC = (1, 3, 224, 224), (None, 224, 224, 3)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(assets.photo("chelsea.png"))  # 300 x 451


def torchvision(photo: np.ndarray, resize: int, crop: int) -> np.ndarray:
    """transforms.Resize(resize), CenterCrop(crop), ToTensor(), Normalize(MEAN, STD) on a PIL image."""
    image = Image.fromarray(photo)
    w, h = image.size
    size = (resize, int(resize * h / w)) if w <= h else (int(resize * w / h), resize)
    image = image.resize(size, Image.Resampling.BILINEAR)
    top, left = round((image.height - crop) / 2), round((image.width - crop) / 2)
    image = image.crop((left, top, left + crop, top + crop))
    tensor = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (MEAN, STD))
    return ((tensor - mean) / std)[None]


@pytest.mark.parametrize(("size", "resize_to"), [(224, 256), (299, 342), (227, 259), (32, 37)])
@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_imagenet_is_torchvision(photo: np.ndarray, size: int, resize_to: int, turned: bool) -> None:
    picture = np.ascontiguousarray(photo.transpose(1, 0, 2)) if turned else photo
    prepared = resolve((1, 3, size, size), "float32", preset="imagenet")
    assert prepared.resize_to == resize_to
    x = prepared(picture)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, torchvision(picture, resize_to, size), atol=2e-6, rtol=0)


def test_tf_caffe_unit_raw(photo: np.ndarray) -> None:
    pixels = np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BILINEAR)).astype(np.float64)
    wanted = {
        "tf": pixels / 127.5 - 1,
        "caffe": pixels[:, :, ::-1] - (104, 117, 123),
        "unit": pixels / 255,
        "raw": pixels,
    }
    for preset, values in wanted.items():
        nhwc = resolve(NHWC, "float32", preset=preset)(photo)
        assert nhwc.shape == (1, 224, 224, 3)
        np.testing.assert_allclose(nhwc[0], values, atol=1e-5, err_msg=preset)
        nchw = resolve(NCHW, "tensor(float)", preset=preset)(photo)
        np.testing.assert_array_equal(nchw, nhwc.transpose(0, 3, 1, 2))


def test_grey_is_pillows_luma(photo: np.ndarray) -> None:
    prepared = resolve((1, 1, 28, 28), np.float32, preset="raw")
    assert prepared.color == "gray"
    image = Image.fromarray(photo).resize((28, 28), Image.Resampling.BILINEAR).convert("L")
    np.testing.assert_array_equal(prepared(photo)[0, 0], np.asarray(image))


def test_a_preset_keeps_to_its_channels_when_the_order_turns(photo: np.ndarray) -> None:
    rgb, bgr = (resolve(NCHW, "float32", preset="imagenet", color=color)(photo) for color in ("rgb", "bgr"))
    np.testing.assert_array_equal(rgb, bgr[:, ::-1])


@pytest.mark.parametrize(
    ("dtype", "fields", "pixels", "wanted"),
    [
        ("uint8", {}, [0, 128, 255], [0, 128, 255]),
        ("int8", {}, [0, 128, 255], [-128, 0, 127]),
        ("int8", {"preset": "raw"}, [0, 100, 255], [0, 100, 127]),
        ("int8", {"scale": 1 / 255, "mean": 0.485, "std": 0.229 / 50}, [0, 124, 255], [-106, 0, 112]),
        ("uint8", {"mean": -20, "std": 1.0, "scale": 1.0}, [0, 1, 250], [20, 21, 255]),
        ("float16", {"preset": "unit"}, [0, 51, 255], [0, np.float16(0.2), 1]),
    ],
)
def test_types(dtype: str, fields: dict[str, Any], pixels: list[int], wanted: list[float]) -> None:
    prepared = resolve((1, 1, 3, 3), dtype, color="rgb", size=(1, 3), layout="nhwc", **fields)
    x = prepared(np.repeat(np.array(pixels, np.uint8)[None, :, None], 3, 2))
    assert x.dtype == np.dtype(dtype)
    assert x[0, 0, :, 0].tolist() == wanted


def test_letterbox_is_yolox(photo: np.ndarray) -> None:
    sidecar = {"resize": "letterbox", "pad_position": "top-left", "color": "bgr", "scale": 1, "size": 416}
    prepared = resolve((1, 3, 416, 416), "float32", sidecar=sidecar)
    assert prepared.guessed == ()
    ratio = min(416 / 300, 416 / 451)
    h, w = int(300 * ratio), int(451 * ratio)
    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[:h, :w] = np.asarray(Image.fromarray(photo).resize((w, h), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(prepared(photo)[0], canvas[:, :, ::-1].transpose(2, 0, 1))
    assert prepared.geometry((300, 451)).inner == (0, 0, w, h)
    centred = Preprocessing((416, 416), resize="letterbox").view(photo)
    np.testing.assert_array_equal(centred[(416 - h) // 2 :][:h], canvas[:h])
    assert (centred[: (416 - h) // 2] == 114).all()


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (10, 1000), (1, 1), (225, 224), (256, 256)])
@pytest.mark.parametrize("size", [(224, 224), (48, 192), (7, 5)])
@pytest.mark.parametrize("resize", ["stretch", "shortest+crop", "letterbox"])
def test_view_has_the_inputs_size_and_no_black(shape: tuple[int, int], size: tuple[int, int], resize: Any) -> None:
    prepared = Preprocessing(size, resize=resize)
    view = prepared.view(np.full((*shape, 3), 114, np.uint8))
    assert view.shape == (*size, 3)
    assert (view == 114).all()
    left, top, right, bottom = prepared.geometry(shape).box
    if resize != "letterbox":
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]


@pytest.mark.parametrize("resize", ["stretch", "shortest+crop", "letterbox"])
def test_geometry_leads_back_to_the_photo(resize: Any) -> None:
    """A bright spot of the photo, seen in the input, is laid back where it was."""
    photo = np.zeros((300, 451, 3), np.uint8)
    photo[140:170, 200:240] = 255
    prepared = Preprocessing((224, 224), resize=resize, pad_value=0)
    geometry = prepared.geometry((300, 451))
    seen = prepared.view(photo)[:, :, 0] / 255
    laid = geometry.on_photo(seen)
    assert laid.shape == (300, 451)
    ys, xs = np.nonzero(laid > 0.5)
    np.testing.assert_allclose((ys.min(), ys.max() + 1, xs.min(), xs.max() + 1), (140, 170, 200, 240), atol=2)
    # the same spot through the box, by hand
    left, top, right, bottom = geometry.box
    ys, xs = np.nonzero(seen > 0.5)
    np.testing.assert_allclose(top + (ys.mean() + 0.5) * (bottom - top) / 224, 155, atol=0.8)
    np.testing.assert_allclose(left + (xs.mean() + 0.5) * (right - left) / 224, 220, atol=0.8)


def test_on_photo_fills_what_the_model_did_not_see() -> None:
    geometry = Preprocessing((224, 224), resize="shortest+crop").geometry((300, 451))
    laid = geometry.on_photo(np.ones((224, 224), np.float32), fill=-1)
    left, top, right, bottom = (round(v) for v in geometry.box)
    assert (laid[top + 1 : bottom - 1, left + 1 : right - 1] == 1).all()
    assert (laid[:, : left - 1] == -1).all()
    assert (laid[: top - 1] == -1).all()


@pytest.mark.parametrize(
    ("shape", "layout", "size", "color"),
    [
        ((1, 3, 224, 224), "nchw", (224, 224), "rgb"),
        (("N", 3, "H", "W"), "nchw", (224, 224), "rgb"),
        ((None, 96, 96, 3), "nhwc", (96, 96), "rgb"),
        ((-1, 64, 64, 1), "nhwc", (64, 64), "gray"),
        ((1, 1, 28, 28), "nchw", (28, 28), "gray"),
        ((1, 3, 48, 192), "nchw", (48, 192), "rgb"),
        ((1, 3, 64, None), "nchw", (64, 64), "rgb"),
        ((None, None, None, 3), "nhwc", (224, 224), "rgb"),
    ],
)
def test_layout_and_size_are_read_from_the_shape(shape: Any, layout: str, size: Any, color: str) -> None:
    prepared = resolve(shape, "float32", preset="unit")
    assert (prepared.layout, prepared.size, prepared.color) == (layout, size, color)
    assert "layout" not in prepared.guessed
    assert ("size" in prepared.guessed) == any(not isinstance(d, int) for d in (shape[1:3] + shape[2:])[:4] if d != 3)


def test_what_is_guessed_is_said() -> None:
    assert resolve(NCHW, "float32").guessed == ("color", "mean", "resize", "scale", "std")
    assert resolve(NCHW, "float32") == Preprocessing(
        (224, 224), **PRESETS["imagenet"], guessed=("color", "mean", "resize", "scale", "std")
    )
    assert resolve(NCHW, "float32", preset="tf").guessed == ()
    assert resolve(NHWC, "uint8").guessed == ("color", "resize")
    assert resolve((None, None, None, None), "float32", preset="tf").guessed == ("layout", "size")
    assert resolve((None, None, None, None), "float32", preset="tf", layout="nhwc", size=99).guessed == ()
    assert resolve((1, 3, 3, 3), "float32", preset="tf").guessed == ("layout",)
    assert resolve(NCHW, "float32", mean=(104, 117, 123), color="bgr").guessed == ("resize", "scale")
    assert resolve(NCHW, "float32", mean=(104, 117, 123)).scale == 1
    assert resolve(NCHW, "float32", mean=MEAN, std=STD).scale == 1 / 255


def test_bundled_model_guesses_nothing() -> None:
    prepared = resolve(("N", 3, 227, 227), "float32", sidecar=find_sidecar(assets.model()))
    assert prepared.guessed == ()
    assert prepared.describe() == "BGR 227x227, stretched, mean (104, 117, 123), NCHW float32"


def test_bundled_model_sees_both_objects_of_the_bundled_photo() -> None:
    """The whole road of the demo: a wrong colour order, scale or size would lose one of the two."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(assets.model(), providers=["CPUExecutionProvider"])
    prepared = resolve(
        session.get_inputs()[0].shape, session.get_inputs()[0].type, sidecar=find_sidecar(assets.model())
    )
    (scores,) = session.run(None, {session.get_inputs()[0].name: prepared(read_image(assets.photo()))})
    names = Labels.default(scores.shape[1])
    assert names is not None
    assert {names[int(i)] for i in np.argsort(-scores[0])[:2]} == {"tiger cat", "coffee mug"}
    assert np.sort(scores[0])[-2] > 0.2


def test_describe() -> None:
    assert resolve(NCHW, "float32", preset="imagenet").describe() == (
        "RGB 224x224, resize 256 + centre crop, /255, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225), "
        "NCHW float32"
    )
    assert resolve(NHWC, "uint8").describe() == "RGB 224x224, stretched, values 0-255, NHWC uint8"
    assert resolve(NCHW, "float32", preset="tf").describe() == "RGB 224x224, stretched, /127.5, mean 1, NCHW float32"


def test_json_round_trip() -> None:
    for given in (resolve(NCHW, "float32"), resolve((1, 1, 9, 7), "int8"), Preprocessing((8, 9), resize="letterbox")):
        text = json.dumps(given.to_json())
        assert Preprocessing.from_json(text) == given
        assert Preprocessing.from_json(json.loads(text)) == given
    prepared = resolve(NCHW, "float32", preset="caffe", resize="letterbox")
    assert resolve(NCHW, "float32", metadata={METADATA_KEY: json.dumps(prepared.to_json())}) == prepared


def test_order_of_sources() -> None:
    metadata = {METADATA_KEY: json.dumps({"preset": "caffe"})}
    assert resolve(NCHW, "float32", metadata=metadata).color == "bgr"
    assert resolve(NCHW, "float32", metadata=metadata, sidecar={"preset": "tf"}).mean == (1, 1, 1)
    assert resolve(NCHW, "float32", sidecar={"preset": "tf", "mean": 0.5}).mean == (0.5,) * 3
    replaced = resolve(NCHW, "float32", sidecar={"mean": 0.5, "interpolation": "bicubic"}, preset="caffe")
    assert (replaced.mean, replaced.interpolation) == ((104, 117, 123), "bilinear")
    assert resolve(NCHW, "float32", sidecar={"preset": "imagenet"}, resize="stretch").resize_to is None
    # a guess that was written down stays one until it is said otherwise
    noted = {METADATA_KEY: json.dumps(resolve(NCHW, "float32").to_json())}
    assert "color" in resolve(NCHW, "float32", metadata=noted).guessed
    assert "color" not in resolve(NCHW, "float32", metadata=noted, color="rgb").guessed


def test_find_sidecar(tmp_path: Path) -> None:
    model = tmp_path / "model.v2.onnx"
    assert find_sidecar(model) is None
    shared = tmp_path / "preprocessor_config.json"
    shared.write_text("{}")
    assert find_sidecar(model) == shared
    beside = tmp_path / "model.v2.json"
    beside.write_text('{"format": "another tool\'s"}')
    assert find_sidecar(model) == shared
    beside.write_text('{"preset": "tf"}')
    assert find_sidecar(model) == beside
    sure = tmp_path / "model.v2.preprocess.json"
    sure.write_text("{}")
    assert find_sidecar(model) == sure


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (  # ViT
            {
                "do_normalize": True,
                "do_resize": True,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "resample": 2,
                "size": {"height": 224, "width": 224},
            },
            {"resize": "stretch", "mean": (0.5,) * 3, "scale": 1 / 255, "interpolation": "bilinear"},
        ),
        (  # CLIP, MobileNet
            {
                "image_mean": MEAN,
                "image_std": STD,
                "do_rescale": True,
                "rescale_factor": 0.00392156862745098,
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "size": {"shortest_edge": 248},
                "resample": 3,
                "image_processor_type": "CLIPImageProcessor",
            },
            {"resize": "shortest+crop", "resize_to": 248, "mean": MEAN, "std": STD, "interpolation": "bicubic"},
        ),
        (  # ConvNeXt
            {"image_mean": MEAN, "image_std": STD, "crop_pct": 0.875, "size": {"shortest_edge": 224}},
            {"resize": "shortest+crop", "resize_to": 256},
        ),
        (
            {"do_normalize": False, "do_rescale": False, "size": 224},
            {"resize": "stretch", "scale": 1, "mean": (0,) * 3},
        ),
    ],
)
def test_hugging_face_files(config: dict[str, Any], wanted: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    prepared = resolve(NCHW, "float32", sidecar=path)
    assert {name: getattr(prepared, name) for name in wanted} == wanted
    assert prepared.guessed == ()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"preset": "imagnet"}, "'imagnet' is unknown: choose one of imagenet"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values, but the model takes 3 channels"),
        ({"std": 0}, r"std .* is zero"),
        ({"scale": 0}, "scale is zero"),
        ({"std": float("nan")}, "std nan is not a finite"),
        ({"mean": "0.5"}, "mean= takes float"),
        ({"size": 256}, "size 256x256 contradicts the model's input of 224x224"),
        ({"size": [1, 2, 3]}, "is not a positive number"),
        ({"size": -1}, "is not a positive number"),
        ({"layout": "nhwc"}, "no axis of 3 or 1 channels to go with layout nhwc"),
        ({"layout": "chw"}, "choose nchw or nhwc"),
        ({"color": "gray"}, "no axis of 1 channel to go with colour gray"),
        ({"color": "hsv"}, "choose one of rgb, bgr, gray"),
        ({"resize": "crop"}, "choose one of stretch"),
        ({"preset": "imagenet", "mean": (104, 117, 123)}, "beyond the pixels"),
        ({"sidecar": {"meen": 0.5}}, "unknown keys: meen; known are"),
        ({"sidecar": {"image_mean": MEAN, "image_std": STD, "windows": 3}}, "unknown keys: windows"),
        ({"sidecar": {"image_mean": MEAN}}, "lacks image_mean or image_std"),
        ({"sidecar": {"preset": "x"}}, "'x' is unknown"),
        ({"sidecar": {"dtype": "uint8"}}, "says uint8, but the model takes float32"),
        ({"sidecar": {"resize": "stretch", "resize_to": 256}}, "goes with resize 'shortest"),
        ({"sidecar": {"resize": "shortest+crop", "resize_to": 200}}, "less than the crop"),
        ({"sidecar": {"pad_value": 300}}, "is not a pixel"),
        ({"metadata": {METADATA_KEY: "{"}}, f"{METADATA_KEY} is not JSON"),
        ({"metadata": {METADATA_KEY: "[]"}}, "is a JSON list"),
    ],
)
def test_contradictions(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(PreprocessError, match=says):
        resolve(NCHW, "float32", **fields)


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((1, 10), "float32", r"\(1, 10\) is not a batch of images"),
        ((1, 4, 64, 64), "float32", r"\(1, 4, 64, 64\) has no axis of 3 or 1 channels: give"),
        (NCHW, "tensor(string)", "holds no picture"),
        (NCHW, "bool", "holds no picture"),
    ],
)
def test_input_that_is_no_image(shape: Any, dtype: str, says: str) -> None:
    with pytest.raises(PreprocessError, match=says):
        resolve(shape, dtype)


def test_float_values_for_an_integer_input() -> None:
    with pytest.raises(PreprocessError, match=r"4\.4 steps of brightness in the model's uint8 input"):
        resolve(NHWC, "uint8", preset="imagenet")


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[1]", b" " * (1 << 21)], ids=["cut", "binary", "list", "huge"]
)
def test_bad_sidecar_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.preprocess.json"
    path.write_bytes(content)
    with pytest.raises(PreprocessError) as caught:
        resolve(NCHW, "float32", sidecar=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("hugging_face", [False, True], ids=["ours", "hugging-face"])
@pytest.mark.parametrize(
    "value", [None, True, -1, 0, 1e400, "x", [], [1], ["x"], {}, {"shortest_edge": "x"}, [[1]]], ids=repr
)
def test_no_value_of_a_sidecar_breaks_out(value: Any, hugging_face: bool) -> None:
    """Whatever stands in a sidecar, the outcome is a preprocessing or an error of ours."""
    base: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "size": 224} if hugging_face else {}
    keys = {"image_mean", "size", "crop_size", "rescale_factor", "crop_pct", "resample"} if hugging_face else FIELDS
    refused = 0
    for key in keys:
        for more in ({}, {"do_center_crop": True} if hugging_face else {"resize": "shortest+crop"}):
            try:
                x = resolve(NCHW, "float32", sidecar=base | more | {key: value})(np.zeros((9, 9, 3), np.uint8))
            except PreprocessError:
                refused += 1
            else:
                assert np.isfinite(x).all()
    assert refused > 0


def test_from_json_errors() -> None:
    with pytest.raises(PreprocessError, match="lacks 'size'"):
        Preprocessing.from_json({})
    with pytest.raises(PreprocessError, match="unknown keys: bogus"):
        Preprocessing.from_json({"size": 3, "bogus": 1})
    with pytest.raises(PreprocessError, match="guessed 5 is not a list"):
        Preprocessing.from_json({"size": 3, "guessed": 5})


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_only_photos_are_prepared(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="a photo is uint8"):
        Preprocessing((8, 8))(image)


# -- integer inputs that stand for other numbers -------------------------------------------------------------------

STEP, ZERO = 0.0186311, -14


@pytest.mark.parametrize("how", ["option", "sidecar", "the model"])
def test_quantised_input(how: str, tmp_path: Path) -> None:
    """Prepared as for a float model, then divided by the scale, the zero point added, rounded and saturated."""
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    if how == "option":
        prepared = resolve(NCHW, "int8", preset="imagenet", resize="stretch", quantization=(STEP, ZERO))
    elif how == "sidecar":
        content = {"preset": "imagenet", "resize": "stretch", "quantization": [STEP, ZERO]}
        (tmp_path / "m.json").write_text(json.dumps(content))
        prepared = resolve(NCHW, "int8", sidecar=tmp_path / "m.json")
    else:
        prepared = resolve(NCHW, "int8", preset="imagenet", resize="stretch", own_quantization=(STEP, ZERO))
    floats = resolve(NCHW, "float32", preset="imagenet", resize="stretch")(photo).astype(np.float64)
    expected = np.clip(np.rint(floats / STEP + ZERO), -128, 127)
    assert (prepared(photo) == expected).mean() > 0.999  # float32 may round what lies half-way the other way
    assert np.abs(prepared(photo) - expected).max() <= 1
    assert prepared(photo).dtype == np.int8
    assert prepared.guessed == ()
    assert Preprocessing.from_json(json.dumps(prepared.to_json())) == prepared


def test_what_the_model_says_of_its_integers_is_taken_only_where_it_must_be() -> None:
    assert resolve(NHWC, "uint8", own_quantization=(1 / 128, 128)) == resolve(NHWC, "uint8")
    assert resolve(NHWC, "int8", own_quantization=(1 / 255, -128)) == resolve(NHWC, "int8")
    assert resolve(NHWC, "int8", preset="raw", own_quantization=(STEP, ZERO)).quantization is None
    guessed = resolve(NCHW, "int8", own_quantization=(STEP, ZERO))
    assert guessed.quantization == (STEP, ZERO)
    assert guessed.guessed == ("color", "mean", "resize", "scale", "std")
    assert guessed.mean == PRESETS["imagenet"]["mean"]


@pytest.mark.parametrize(
    ("dtype", "given", "message"),
    [
        ("int8", (0, 3), "not a scale above 0"),
        ("int8", (0.1, 0.5), "not a scale above 0"),
        ("int8", (0.1,), "not a scale above 0"),
        ("int8", ("a", "b"), "quantization= takes"),
        ("float32", (0.1, 3), "is for an input of integers"),
        ("int8", (1.0, 0), "steps of brightness"),
    ],
)
def test_impossible_quantisation(dtype: str, given: Any, message: str) -> None:
    with pytest.raises(PreprocessError, match=message):
        resolve(NCHW, dtype, preset="imagenet", quantization=given)
