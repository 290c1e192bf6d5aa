# SPDX-License-Identifier: Apache-2.0
"""Sheets: what they say of each target, and that everything has its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pytest
from costs import slow_but
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from portable_cam import assets
from portable_cam.errors import OptionError
from portable_cam.explanation import Explanation
from portable_cam.image.colormap import overlay
from portable_cam.image.decode import read_image
from portable_cam.image.look import Look
from portable_cam.report.bars import bar_lengths
from portable_cam.report.canvas import wrap
from portable_cam.report.files import save_figure
from portable_cam.report.maps import ShownMaps
from portable_cam.report.record import record_of
from portable_cam.report.sheet import Panel, Section, arrange, sheet_figure
from portable_cam.report.wording import how_much, number, part_explained, score_is
from portable_cam.report.write import write_explanation
from portable_cam.result import Result
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.tasks.language.caption import CaptionExplainer

LONG = "American Staffordshire terrier rather than soft-coated wheaten terrier"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(assets.photo())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    found = []
    write = Figure.savefig

    def watched(self: Figure, *args: object, **options: object) -> None:
        found.append(self)
        write(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def sheet(image: np.ndarray, sections: list[Section], path: Path, *more: Any, **options: Any) -> Path:
    return save_figure(sheet_figure(image, sections, *more, **options), path)


def rows(photo: np.ndarray, targets: int, panels: int, title: str = "class $n$ {x}") -> list[Section]:
    map01 = np.linspace(0, 1, photo.shape[0] * photo.shape[1]).reshape(photo.shape[:2])
    panel = Panel("gradcam", overlay(photo, map01, Look(opacity=0.5, rising=False, gray=False)))
    return [Section(f"{title}{t}", f"score {number(1.5 * t, 2)}", [panel] * panels) for t in range(targets)]


@pytest.mark.parametrize(("targets", "panels", "top"), slow_but(["1"], [(1, 1, 0), (2, 4, 5), (3, 2, 5)]))
def test_sheet(photo: np.ndarray, targets: int, panels: int, top: int, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "sheet.png"
    best = [(f"class {i}" * 9, [0.5, 0.0, -2.0, 1e-9, 1234.5][i]) for i in range(top)]
    assert sheet(photo, rows(photo, targets, panels), path, "a heading " * 40, best) == path
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    edge = np.concatenate([picture[:15].reshape(-1, 3), picture[-15:].reshape(-1, 3), picture[:, :15].reshape(-1, 3)])
    assert (edge == 255).all(), "nothing runs over the margin"
    assert (picture[:, -15:] == 255).all()
    coloured = (picture.max(2) - picture.min(2) > 60).mean(0) > 0.2
    assert coloured.sum() > 0.4 * picture.shape[1], "photo and panels fill the width"


def test_sheet_shows_the_pictures_as_they_are(tmp_path: Path) -> None:
    plain = np.full((40, 40, 3), (12, 200, 99), np.uint8)
    path = sheet(plain, [Section("t", "", [Panel("a", plain), Panel("b", plain[:, :, ::-1])])], tmp_path / "s.png")
    picture = np.asarray(Image.open(path).convert("RGB"))
    for colour in ((12, 200, 99), (99, 200, 12)):
        area = (picture == colour).all(2).sum()
        assert area > 0.9 * (2.3 * 150) ** 2


def test_sheet_errors(photo: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least one target"):
        sheet(photo, [], tmp_path / "s.png")
    with pytest.raises(OptionError, match="cannot write the picture"):
        sheet(photo, rows(photo, 1, 1), tmp_path / "s.notaformat")
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot write the picture"):
        sheet(photo, rows(photo, 1, 1), tmp_path / "file" / "s.png")


@pytest.mark.parametrize(("targets", "panels"), [(1, 1), (2, 1), (4, 1), (8, 1), (3, 2), (2, 4)])
def test_blocks_fill_the_sheet(targets: int, panels: int) -> None:
    photo = np.zeros((90, 90, 3), np.uint8)
    layout = arrange(photo, rows(photo, targets, panels), "a heading")
    wide = panels * 2.3 + (panels - 1) * 0.1
    places = [(b.x, b.y, b.x + wide, b.y + b.strip + layout.tall) for b in layout.blocks]
    for i, a in enumerate(places):
        assert a[0] > 0
        assert a[2] < layout.width
        assert a[3] < layout.height
        assert all(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for b in places[:i]), "they do not overlap"
    filled = targets * wide * layout.tall + layout.photo_tall * 2.7
    assert filled > 0.44 * layout.width * layout.height
    if panels == 1 < targets:
        assert len({b.x for b in layout.blocks}) > 1, "one method does not make a long strip"


@pytest.mark.slow
def test_titles_wrap_and_lose_nothing(photo: np.ndarray, tmp_path: Path, drawn: list[Figure]) -> None:
    (row,) = rows(photo, 1, 1, LONG)
    sheet(photo, [row], tmp_path / "s.png")
    lines = arrange(photo, [row]).blocks[0].lines
    assert len(lines) > 1
    assert " ".join(lines) == row.title
    assert {*lines, row.note} <= set(texts(drawn[0])), "no line is cut, and the score stands by itself"
    assert " ".join(wrap("word " * 100, 2.3, fontsize=11)) == ("word " * 100).strip()
    assert "".join(wrap("W" * 60, 2.3, fontsize=11)) == "W" * 60, "a word without end is broken"
    assert wrap("", 2.3) == ("",)


def test_bars_are_on_the_scale_of_probabilities_or_relative_to_the_best() -> None:
    assert bar_lengths([0.1, 0.05, 0.0]) == [0.1, 0.05, 0.0]
    assert bar_lengths([8.0, 4.0, -2.0, float("nan")]) == [1.0, 0.5, 0.0, 0.0]
    assert bar_lengths([-1.0, -2.0]) == [0.0, 0.0]


def test_what_the_top_scores_are(photo: np.ndarray, tmp_path: Path, drawn: list[Figure]) -> None:
    top = [("tabby", 0.1), ("tiger cat", -0.0)]
    sheet(photo, rows(photo, 1, 1), tmp_path / "s.png", "", top, scale="probability", explained={"tabby"})
    assert "the model's top classes: probability" in texts(drawn[0])
    assert "-0.00" not in texts(drawn[0])
    bars = [[p for p in axes.patches if isinstance(p, Rectangle)][-1] for axes in drawn[0].axes if axes.patches]
    assert [round(bar.get_width(), 3) for bar in bars] == [0.1, 0]
    assert bars[0].get_facecolor() != bars[1].get_facecolor(), "what is explained is set off"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.75067, "0.7507"),
        (-2.51128, "-2.5113"),
        (0.0, "0.0000"),
        (-0.0, "0.0000"),
        (-1e-9, "-1e-09"),
        (3.9e31, "3.9e+31"),
        (1298205.0, "1.298e+06"),
        (54321.0, "54321.0"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_one_number_for_each_task() -> None:
    box = {"score": 0.5512, "detection": 0.7507, "part": "product"}
    assert (how_much(box), part_explained(box)) == ("detection 0.75", "")
    left = {**box, "part": "left"}
    assert (how_much(left), part_explained(left)) == ("detection 0.75", ", left edge explained")
    assert score_is(left) == "left edge"
    assert part_explained({**box, "part": "objectness"}) == ", objectness explained"
    over = {"score": 1e6, "share": 0.213, "found": True}
    assert how_much(over) == "on 21.3 % of the photo"
    assert how_much({**over, "given": "mask"}) == "your mask, 21.3 % of the photo"
    assert how_much({**over, "given": "pixel", "pixel": [3, 4]}) == "at your pixel 3, 4"
    assert score_is(over) == "sum of the class's scores over the pixels"
    assert how_much({**over, "pixel": [3, 4]}) == "at pixel 3, 4"
    assert how_much({**over, "pixel": [3, 4], "found": False}) == "at its best pixel 3, 4"
    assert how_much({"score": -0.3463, "probability": 0.7073, "span": [0, 1]}) == "70.7 %"
    assert how_much({"score": 8.79, "probability": 0.7931}) == "probability 79.3 %"
    assert how_much({"score": 8.79, "probability": 1e-9}) == "probability below 0.01 %"
    assert how_much({"score": 31.78}) == "score 31.78"
    assert how_much({"score": 8.154, "rather_than": "cat"}) == "score difference 8.15"
    assert score_is({"rather_than": "cat"}) == "score of the class, less that of the rival"


def test_a_flagged_map_says_what_it_is() -> None:
    good, none, broken = np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)
    maps = {"gradcam": np.stack([good, none, none, broken])[None]}
    raw = {"gradcam": np.stack([good, none - 1, none + 5, good])[None]}
    result = Result(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int64), "c", maps, raw, [[()] * 4], [], {})
    said = ["", "nothing speaks for it", "one value everywhere", "holds NaN or infinity"]
    maps = ShownMaps("gradcam", "Grad-CAM", "gradcam", result, "positive")
    assert [maps.remark(k) for k in range(4)] == said
    assert replace(maps, sign="negative").remark(1) == "nothing speaks against it"
    gradient = replace(result, maps={"gradient": np.zeros((1, 1, 3, 4, 4), np.float32)})
    assert replace(maps, method="gradient", result=gradient).remark(0) == "one value everywhere"


def explained(**options: str) -> Explanation:
    return PhotoExplainer(assets.model(), ("gradcam",), **options)(assets.photo(), "tabby,goldfish")


@pytest.mark.slow
def test_what_speaks_against_goes_to_files_of_its_own(tmp_path: Path, drawn: list[Figure]) -> None:
    both = [explained(sign=sign) for sign in ("positive", "negative")]
    names = []
    for one in both:
        write_explanation(one, tmp_path, "photo")
        names.append({path.name for path in tmp_path.iterdir()} - {name for found in names for name in found})
    assert "photo.sheet.png" in names[0]
    assert names[1] == {name.replace("photo.", "photo.against.", 1) for name in names[0]}
    assert "tabby" in texts(drawn[0])
    assert {"against: tabby", "against: goldfish", "nothing speaks against it"} <= set(texts(drawn[1]))
    assert [record_of(one)["sign"] for one in both] == ["positive", "negative"]


@pytest.mark.slow
def test_a_contrast_names_both_and_sets_the_class_off(tmp_path: Path, drawn: list[Figure]) -> None:
    explainer = PhotoExplainer(assets.model(), ("gradcam",), rather_than="coffee mug")
    one = explainer(assets.photo(), "tiger cat")
    record = write_explanation(one, tmp_path, "photo", ("png",))
    assert "tiger cat rather than coffee mug" in " ".join(texts(drawn[0]))
    assert any(text.startswith("score difference ") for text in texts(drawn[0]))
    assert (record["explained"][0]["name"], record["explained"][0]["rather_than"]) == ("tiger cat", "coffee mug")
    assert record["top_is"] == "probability"
    bold = [t.get_text() for t in drawn[0].texts if t.get_fontweight() == "bold" and t.get_fontsize() < 9]
    assert bold == ["tiger cat"]


@pytest.mark.slow
def test_words_say_their_probability_in_pictures_and_records(tmp_path: Path, drawn: list[Figure]) -> None:
    models = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
    Image.new("RGB", (96, 96), "red").save(tmp_path / "scene.png")
    for sign in ("positive", "negative"):
        task = CaptionExplainer(
            models / "caption_encoder.onnx",
            decoder=models / "caption_lstm_decoder.onnx",
            vocabulary=models / "caption_words.txt",
            sign=sign,
        )
        record = write_explanation(task(tmp_path / "scene.png"), tmp_path / "out", "scene", ("png",))
        for line in record["explained"]:
            assert line["probability"] == pytest.approx(np.exp(line["score"]))
            title = f"against: {line['label']}" if sign == "negative" else line["label"]
            assert {title, how_much(line)} <= set(texts(drawn[-1]))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"scene.sheet.png", "scene.against.sheet.png"}
    assert f"scene.png: “{record['said']}”" in texts(drawn[-1])
