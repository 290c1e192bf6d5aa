"""Files from photo to overlay: the pixels that the model gets, and those that a person sees, as in Python."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from portable_cam import assets
from portable_cam.cli import main
from portable_cam.errors import OptionError
from portable_cam.explainer import Explainer
from portable_cam.export.assemble.files import deployed
from portable_cam.export.deploy.about import about_path, describe_file
from portable_cam.export.deploy.deployment import Deployment
from portable_cam.export.deploy.end_to_end.view import write_view
from portable_cam.export.deploy.end_to_end.wrap import take_photos
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.image.colormap import NOT_A_NUMBER, overlay
from portable_cam.image.decode import read_image
from portable_cam.image.look import Look
from portable_cam.image.preprocess import Preprocessing
from portable_cam.tasks.recognize import recognize
from portable_cam.tasks.surroundings import colors, photo_input, surroundings

MakeModel = Callable[..., onnx.ModelProto]
RANDOM = np.random.default_rng(4)


def started(model: ir.Model | onnx.ModelProto) -> ort.InferenceSession:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def viewer(prepared: Preprocessing) -> ort.InferenceSession:
    """A graph from a photo to the model's input alone."""
    photo = ir.Value(name="photo", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["H", "W", "C"]))
    graph = ir.Graph([photo], [], nodes=[], opset_imports={"": 18}, name="view")
    view = write_view(Builder(graph), photo, photo_input(prepared))
    view.input.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(prepared.dtype)))
    graph.outputs.append(view.input)
    return started(ir.Model(graph, ir_version=8))


PREPARED = [
    {"size": (24, 20)},
    {"size": (24, 20), "resize": "letterbox", "pad_value": 7},
    {"size": (24, 20), "resize": "letterbox", "pad_position": "top-left"},
    {"size": (24, 20), "resize": "shortest+crop"},
    {"size": (24, 20), "resize": "shortest+crop", "resize_to": 24},
    {"size": (20, 20), "color": "bgr", "scale": 1 / 255, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)},
    {"size": (20, 20), "color": "gray", "layout": "nhwc"},
    {"size": (20, 20), "dtype": "uint8", "layout": "nhwc"},
    {"size": (20, 20), "dtype": "int8", "mean": (128.0,)},
]


@pytest.mark.parametrize("fields", PREPARED, ids=lambda f: "-".join(map(str, list(f.values())[1:2])) or "stretch")
def test_the_model_gets_the_very_pixels(fields: dict[str, Any]) -> None:
    """Photos larger, smaller, wide, tall and of one pixel."""
    prepared = Preprocessing(**fields)
    session = viewer(prepared)
    for size in ((61, 47), (31, 93), (9, 13), (24, 20), (1, 1), (5, 150)):
        photo = RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8)
        (found,) = session.run(None, {"photo": photo})
        np.testing.assert_array_equal(found, prepared(photo), err_msg=str(size))


def test_a_tall_photo_is_within_a_grey_level() -> None:
    """Pillow resizes along columns first where the height shrinks much more than the width, from version 13 on."""
    photo = RANDOM.integers(0, 256, (97, 23, 3)).astype(np.uint8)
    prepared = Preprocessing(size=(24, 20))
    (found,) = viewer(prepared).run(None, {"photo": photo})
    rows_first = Image.fromarray(photo).resize((20, 97), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, prepared(np.asarray(rows_first)))
    assert np.abs(found - prepared(photo)).max() <= 1


@pytest.mark.parametrize("kind", ["bicubic", "lanczos"])
def test_filters_that_fall_below_zero(kind: Any) -> None:
    """Their weights are no fractions: a level may be rounded the other way."""
    prepared = Preprocessing(size=(24, 20), interpolation=kind)
    for size in ((61, 47), (9, 13)):
        photo = RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8)
        (found,) = viewer(prepared).run(None, {"photo": photo})
        apart = np.abs(found - prepared(photo))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.002


@pytest.mark.parametrize("kind", ["nearest", "box"])
def test_filters_that_choose(kind: Any) -> None:
    prepared = Preprocessing(size=(20, 20), interpolation=kind)
    photo = RANDOM.integers(0, 256, (60, 100, 3)).astype(np.uint8)
    (found,) = viewer(prepared).run(None, {"photo": photo})
    np.testing.assert_array_equal(found, prepared(photo))


def test_a_transparent_photo_is_laid_on_white() -> None:
    rgba = RANDOM.integers(0, 256, (20, 20, 4)).astype(np.uint8)
    rgba[:5, :, 3], rgba[5:10, :, 3] = 255, 0
    prepared = Preprocessing(size=(20, 20))
    (found,) = viewer(prepared).run(None, {"photo": rgba})
    wanted = prepared(read_image(Image.fromarray(rgba, "RGBA")))
    assert np.abs(found - wanted).max() <= 1
    np.testing.assert_array_equal(found[:, :, :10], wanted[:, :, :10])


# -- the whole way -------------------------------------------------------------------------------------------------


def whole(model: Any, prepared: Preprocessing, *, targets: int = 1, **options: Any) -> ort.InferenceSession:
    known = NormalizedModel(model)
    built = deployed(known, Options(**options), Deployment(batch=1, targets_per_image=targets))
    metadata = ExplanationMetadata.read(built.metadata_props)
    take_photos(built, metadata, photo_input(prepared), colors(), classes=None, optional=True)
    proto = ir.to_proto(built)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 18
    return started(proto)


def in_python(model: Any, prepared: Preprocessing, photo: NDArray[np.uint8], targets: Any) -> NDArray[np.float32]:
    result = Explainer(model)(prepared(photo), targets)
    size = photo.shape[0], photo.shape[1]
    return np.stack([prepared.geometry(size).on_photo(each) for each in result["gradcam"][0]])


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest+crop"])
def test_overlays_are_those_of_python(small_cnn: onnx.ModelProto, resize: Any) -> None:
    prepared = Preprocessing(size=(8, 8), resize=resize, scale=1 / 64)
    session = whole(small_cnn, prepared, targets=2)
    for size in ((23, 40), (30, 33), (4, 5)):
        photo = RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8)
        made, heat, label, _, explained, _ = session.run(
            None, {"photo": photo, "targets": np.array([[3, -1]]), "opacity": np.array(0.3, np.float32)}
        )
        maps = in_python(small_cnn, prepared, photo, explained)
        np.testing.assert_allclose(heat, maps, atol=1e-5)
        np.testing.assert_array_equal(label, explained)
        assert made.dtype == np.uint8
        for k in range(2):
            apart = np.abs(made[k].astype(int) - overlay(photo, maps[k], Look(opacity=0.3)))
            assert (apart > 1).mean() < 0.01, "a value beside a step of the palette may fall to the other side"
            assert apart.max() <= 4


def test_what_may_be_left_out(small_cnn: onnx.ModelProto) -> None:
    session = whole(small_cnn, Preprocessing(size=(8, 8)))
    photo = RANDOM.integers(0, 256, (12, 9, 4)).astype(np.uint8)
    photo[..., 3] = 255
    default = session.run(["overlay"], {"photo": photo})[0]
    np.testing.assert_array_equal(
        default,
        session.run(["overlay"], {"photo": photo, "targets": np.array([[-1]]), "opacity": np.array(0.8, np.float32)})[
            0
        ],
    )
    assert default.shape == (1, 12, 9, 4), "as many channels as the photo"
    assert (default[..., 3] == 255).all()


def test_values_that_are_no_number_have_their_color(make_model: MakeModel) -> None:
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "b": np.array(np.nan, np.float32)}
    body = "c = Conv(x, w)\nr = Relu(c)\nm = Mul(r, b)\ng = GlobalAveragePool(m)\ny = Flatten(g)"
    session = whole(make_model(body, weights, y="float[N,2] y"), Preprocessing(size=(8, 8)), layer="r")
    photo = np.full((8, 8, 3), 100, np.uint8)
    (made,) = session.run(["overlay"], {"photo": photo, "opacity": np.array(1, np.float32)})
    np.testing.assert_array_equal(made[0], np.broadcast_to(np.uint8(NOT_A_NUMBER), (8, 8, 3)))


def test_names_of_the_model_give_way(make_model: MakeModel) -> None:
    body = "photo = Conv(x, w)\noverlay = Relu(photo)\nlabel = GlobalAveragePool(overlay)\nheatmap = Flatten(label)"
    model = make_model(body, {"w": np.ones((2, 3, 1, 1), np.float32)}, y="float[N,2] heatmap")
    found = whole(model, Preprocessing(size=(8, 8))).run(["overlay", "scores"], {"photo": np.ones((8, 8, 3), np.uint8)})
    assert found[0].shape == (1, 8, 8, 3)
    assert found[1] == 3


@pytest.mark.parametrize(
    "options", [{"methods": ("gradcam", "cam")}, {"methods": ("gradient",)}, {"profile": "captum"}]
)
def test_one_heat_map_is_shown(small_cnn: onnx.ModelProto, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="shows one heat map"):
        whole(small_cnn, Preprocessing(size=(8, 8)), **options)


def test_opencv_gets_none() -> None:
    with pytest.raises(OptionError, match="OpenCV cannot take a photo"):
        Deployment("opencv", photo=True)


# -- the command line, and what is written beside a file ---------------------------------------------------------------


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["portable-cam", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in {0, None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "method"),
    [
        (None, [], "gradcam"),
        ("cls_efficientnet_lite0_fp32", ["--preset", "imagenet"], "gradcam"),
        ("cls_squeezenet1.1_int8_qdq", [], "gradcam"),
        ("det_yolox_nano_coco_416", [], "layercam"),
        ("seg_deeplabv3_mnv2_dm05_voc_fp32_logits", [], "gradcam"),
    ],
)
def test_real_models(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, flags: list[str], method: str
) -> None:
    """The overlay of the command line, within one grey level."""
    path = assets.model() if name is None else zoo / "models" / f"{name}.onnx"
    file = tmp_path / "e.onnx"
    command_line(monkeypatch, "export", path, "-o", file, "--end-to-end", "--methods", method, *flags)
    known = NormalizedModel(path)
    task, target = recognize(known)
    around = surroundings(known, task, target, preset=flags[-1] if flags else None)
    assert around.preprocessing is not None
    session = started(onnx.load(file))
    for photo in map(read_image, (assets.photo(), assets.photo("rocket.jpg"))):
        made, _, label, scores, explained, _ = session.run(None, {"photo": photo})
        result = Explainer(known, (method,), target=target)(around.preprocessing(photo), explained)
        np.testing.assert_allclose(scores, result.scores, rtol=1e-5)
        wide = around.preprocessing.geometry(photo.shape[:2]).on_photo(result[method][0, 0])
        assert np.abs(made[0].astype(int) - overlay(photo, wide)).max() <= 1
        assert label == (explained if around.classes is None else explained % around.classes)


def test_a_json_beside_the_file_says_what_it_is(
    small_cnn: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file, names = tmp_path / "m.onnx", tmp_path / "e.onnx", tmp_path / "names.txt"
    onnx.save(small_cnn, source)
    names.write_text("ant\nbee\ncat\ndog\nelk\n")
    flags = ["--preset", "unit", "--labels", str(names), "--names", "plain"]
    command_line(monkeypatch, "export", source, "-o", file, *flags)
    said = json.loads(about_path(file).read_text())
    schema = json.loads((Path(__file__).parents[1] / "export" / "deploy" / "explainer.schema.json").read_text())
    jsonschema.validate(said, schema)
    assert said["labels"] == ["ant", "bee", "cat", "dog", "elk"]
    assert not said["labels_guessed"]
    assert said["preprocessing"]["scale"] == 1 / 255
    assert said["runtime"]["opset"] == 18
    assert said["names"]["heatmap_gradcam"] == "heatmap.gradcam"
    assert [(i["name"], i["optional"]) for i in said["inputs"]] == [("x", False), ("targets", True)]
    assert said["checks"]["passed"]
    inside = {p.key: p.value for p in onnx.load(file).metadata_props}["portable_cam.explainer"]
    assert json.loads(inside) == said


def test_labels_that_are_only_assumed_are_marked(small_cnn: onnx.ModelProto) -> None:
    built = deployed(NormalizedModel(small_cnn), Options(), Deployment())
    said = describe_file(built, task="classify", preprocessing=None, labels=("a",), labels_guessed=True)
    assert said["labels_guessed"]
