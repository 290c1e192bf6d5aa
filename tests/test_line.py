# SPDX-License-Identifier: Apache-2.0
"""Lines of text read by CTC: a small model with known characters, and PaddleOCR's recogniser where it is installed
(``pip install --no-deps rapidocr-onnxruntime``: its model file alone is used)."""

from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw, ImageFont

from portable_cam.errors import LabelError, LayerError, ModelError, TargetError
from portable_cam.tasks.language.line import LineExplainer

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LINES = ("Grad-CAM maps", "explain ONNX 42", "Heat map: why?", "sum of weights", "Feature layer 7", "8fQw3kZp")


def reader(metadata: str | None = "a\nb", classes: int = 3) -> onnx.ModelProto:
    """Reads colours: at each of W / 4 columns, red says class 1, green class 2, nothing the blank."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        reader (float[N,3,16,W] x) => (float[N,T,{classes}] y) {{
        p = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(x)
        c = Conv(p, w, b)
        m = ReduceMean<axes = [2], keepdims = 0>(c)
        s = Transpose<perm = [0, 2, 1]>(m)
        y = Softmax<axis = -1>(s) }}""")
    weights = np.zeros((classes, 3, 1, 1), np.float32)
    weights[1, 0], weights[2, 1] = 20, 20
    bias = np.full(classes, -50, np.float32)
    bias[:3] = 4, 0, 0
    tensors = {"w": weights, "b": bias}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in tensors.items())
    if metadata is not None:
        onnx.helper.set_model_props(model, {"character": metadata})
    return model


def stripes(letters: str) -> np.ndarray:
    """Eight columns of pixels for each letter: red for a, green for b, black for a blank."""
    colours = {"a": (255, 0, 0), "b": (0, 255, 0), " ": (0, 0, 0)}
    return np.repeat(np.array([[colours[c] for c in letters]], np.uint8), 16, 0).repeat(8, 1)


def small(**options: object) -> LineExplainer:
    return LineExplainer(reader(), preprocessing={"preset": "unit"}, layer="p", **options)  # type: ignore[arg-type]


def test_reads_and_says_where() -> None:
    explained = small()(stripes(" a aab  b "))
    assert explained.text == "aabb"
    assert [(c.first, c.last) for c in explained.characters] == [(2, 3), (6, 9), (10, 11), (16, 17)]
    assert explained.labels == [["a", "a", "b", "b"]]
    assert explained.result["layercam"].shape == (1, 4, 16, 80)
    for k, character in enumerate(explained.characters):
        column = explained.result["layercam"][0, k].max(0).argmax() // 4
        assert character.first <= column <= character.last
        assert explained.result.scores[0, k] == pytest.approx(np.log(character.probability), abs=1e-4)


def test_pieces_of_the_text() -> None:
    explained = small()(stripes(" a aab  b "), ["ab", "*"])
    assert explained.labels == [["ab", "aabb"]]
    assert [detail.span for detail in explained.details] == [(1, 3), (0, 4)]
    each = small()(stripes(" a aab  b ")).result.scores[0]
    np.testing.assert_allclose(explained.result.scores[0], [each[1] + each[2], each.sum()], rtol=1e-5)
    with pytest.raises(TargetError, match=r"'ba' is not in 'aabb': name a part of that$"):
        small()(stripes(" a aab  b "), ["ba"])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    empty = small()(stripes("    "))
    assert (empty.found, empty.labels) == (False, [[]])
    assert "no character was read" in empty.nothing_found
    with pytest.raises(LabelError, match="which characters the model reads is not known"):
        LineExplainer(reader(None))
    with pytest.raises(LabelError, match="has 1 characters, but the model 4 classes with the blank"):
        LineExplainer(reader("a", classes=4))
    with pytest.raises(LabelError, match="the blank cannot be class 3: the model has 3"):
        LineExplainer(reader(), blank=3)
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }'
    with pytest.raises(ModelError, match=r"one output \(N, frames, characters\)"):
        LineExplainer(onnx.parser.parse_model(text))
    with pytest.raises(LayerError, match="no layer has cells of at most 2 pixels: name one with layer="):
        LineExplainer(reader(), preprocessing={"preset": "unit"})


@pytest.mark.parametrize(
    ("characters", "classes", "known"),
    [(["a", "b"], 3, ["", "a", "b"]), (["a", "b"], 4, ["", "a", "b", " "]), (["#", "a", "b"], 3, ["", "a", "b"])],
    ids=["blank added", "blank and space added", "blank in the list"],
)
def test_characters(characters: list[str], classes: int, known: list[str], tmp_path: Path) -> None:
    options = {"preprocessing": {"preset": "unit"}, "layer": "p"}
    model = reader(None, classes)
    assert LineExplainer(model, vocabulary=characters, **options).characters == known  # type: ignore[arg-type]
    (tmp_path / "c.txt").write_text("\n".join(characters))
    assert LineExplainer(model, vocabulary=tmp_path / "c.txt", **options).characters == known  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recogniser() -> Path:
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs PaddleOCR's recogniser: pip install --no-deps rapidocr-onnxruntime")
    return Path(spec.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_rec_infer.onnx"


def rendered(text: str, font: str) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
    """A line, and the box of each of its characters."""
    face = ImageFont.truetype(str(FONTS / font), 30)
    image = Image.new("RGB", (int(face.getlength(text)) + 24, 48), (240, 240, 235))
    draw = ImageDraw.Draw(image)
    draw.text((12, 6), text, font=face, fill=(20, 20, 40))
    boxes = [draw.textbbox((12 + face.getlength(text[:i]), 6), c, font=face) for i, c in enumerate(text)]
    return np.asarray(image), boxes


@pytest.mark.slow
def test_peaks_lie_on_the_characters(recogniser: Path) -> None:
    """At least nine in ten, within the character's box; the text itself is read without a fault."""
    task = LineExplainer(recogniser, threads=1)
    on = []
    for i, text in enumerate(LINES):
        pixels, boxes = rendered(text, ("DejaVuSans.ttf", "DejaVuSerif.ttf")[i % 2])
        explained = task(pixels)
        assert explained.text.replace(" ", "") == text.replace(" ", "")
        solid = [box for box, c in zip(boxes, text, strict=True) if c != " "]
        for k, (left, top, right, bottom) in enumerate(solid):
            on_photo = explained.geometry.on_photo(explained.result["layercam"][0, k])
            y, x = np.unravel_index(on_photo.argmax(), on_photo.shape)
            on.append(left <= x <= right and top <= y <= bottom)
    assert len(on) > 60
    assert np.mean(on) >= 0.9
