# SPDX-License-Identifier: Apache-2.0
"""One explanation and one protocol for all tasks, and one writer for files, figures and pages."""

import base64
import importlib
import inspect
import io
import json
import pkgutil
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import onnx.parser
import pytest
from costs import slow_but
from PIL import Image
from typer.testing import CliRunner

import portable_cam as pcam
import portable_cam.cli
from portable_cam import assets
from portable_cam.errors import OptionError
from portable_cam.explanation import Explanation
from portable_cam.export.targets import Class
from portable_cam.report.files import FORMATS
from portable_cam.report.write import write_explanation
from portable_cam.tasks import outputs
from portable_cam.tasks.base import Photo, Targets, TaskExplainer
from portable_cam.tasks.preprocessing import preprocessing_of
from portable_cam.tasks.registry import TASKS, Task

MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
WORDS = MODELS / "caption_words.txt"


def scene() -> np.ndarray:
    """A large red square left of a small blue one."""
    pixels = np.full((64, 64, 3), 220, np.uint8)
    pixels[20:44, 4:28] = (215, 45, 45)
    pixels[26:42, 42:58] = (50, 80, 220)
    return pixels


def reader() -> onnx.ModelProto:
    """Reads colours as characters: red says a, green says b, blue is the blank."""
    return onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        reader (float[N,3,16,W] x) => (float[N,T,3] y) {
        p = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(x)
        m = ReduceMean<axes = [2], keepdims = 0>(p)
        s = Transpose<perm = [0, 2, 1]>(m)
        y = Softmax<axis = -1>(s) }""")


def line() -> np.ndarray:
    colours = [(0, 0, 252), (0, 252, 0), (0, 0, 252), (252, 0, 0)]
    return np.repeat(np.array([colours], np.uint8), 16, 0).repeat(8, 1)


def segmenter() -> onnx.ModelProto:
    """The classes are the channels: red, green, blue."""
    return onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,64,64] x) => (float[N,3,64,64] y) { r = Relu(x) y = Softmax<axis = 1>(r) }""")


@cache
def made(task: str) -> Explanation:
    """An explanation of each task that needs no downloaded model, by the one call."""
    if task == "classify":
        return pcam.explain(assets.model(), assets.photo(), targets="tiger cat,coffee mug")
    if task == "segment":
        return pcam.explain(segmenter(), scene(), targets=[0, 2], preprocessing="unit", layer="x")
    if task == "caption":
        return pcam.explain(MODELS / "caption_lstm.onnx", scene(), ("layercam", "gradcam"), vocabulary=WORDS)
    if task == "vqa":
        question = "What color is the rectangle?"
        options = {"vocabulary": MODELS / "vqa_words.txt", "labels": MODELS / "vqa_answers.txt"}
        return pcam.explain(MODELS / "vqa_recurrent.onnx", scene(), targets="top2", question=question, **options)
    options = {"vocabulary": ["a", "b"], "layer": "p", "preprocessing": {"preset": "raw", "color": "bgr"}}
    return pcam.explain(reader(), line(), **options)


KINDS = ("classify", "segment", "caption", "vqa", "ctc")


@pytest.mark.parametrize("task", KINDS)
def test_every_task_gives_the_same(task: str) -> None:
    e = made(task)
    assert isinstance(e, pcam.Explanation)
    assert e.task == task
    assert f"task recognised: {task}" in e.notes
    count = len(e.labels[0])
    assert count > 0
    assert e.scores.shape == e.targets.shape == (1, count)
    assert len(e.flags[0]) == count
    assert e.checks == []
    assert e.sign == "positive"
    assert e.layer == e.result.layer
    assert list(e) == list(e.result)
    for method in e:
        assert method in e
        assert e[method].shape == (1, count, *e.view.shape[:2])
        assert any(name.split(".")[0] == method for name in e.raw)
    assert e.view.shape[:2] == e.preprocessing.size
    assert e.image.dtype == np.uint8
    with pytest.raises(OptionError, match="'rise' was not computed"):
        e["rise"]


@pytest.mark.parametrize("task", slow_but(["classify", "ctc"], KINDS))
def test_files_and_pages_show_the_same(task: str, tmp_path: Path) -> None:
    e = made(task)
    record = write_explanation(e, tmp_path, "photo")
    assert {Path(p).name for p in record["files"]} == {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "photo.json").read_text()) == json.loads(json.dumps(e.to_dict()))
    assert e.to_dict()["task"] == task
    assert [entry["label"] for entry in e.to_dict()["explained"]] == e.labels[0]
    for method in e:
        np.testing.assert_array_equal(np.load(tmp_path / f"photo.{method}.npy"), e[method][0])
    page = e.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    data = page_data(page)
    assert [target["title"] for target in data["photos"][0]["targets"]] == e.labels[0]
    assert [method["name"] for method in data["methods"]] == list(e)
    body = e._repr_html_()
    assert "checks: not tested" in body
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", body)]
    assert len(shown) == 2 + len(e.labels[0]) * len(list(e)), "the photo, the key, and every map"
    assert all(label in body for label in e.labels[0])
    figure = e.plot()
    texts = " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))
    if len(list(e)) == 1:
        assert all(label in texts for label in e.labels[0])
    (file,) = e.save(tmp_path / "all.png")
    with Image.open(file) as picture:
        assert min(picture.size) > 100
    assert {p.suffix[1:] for p in e.save(tmp_path / "folder")} == set(FORMATS)


def test_an_overlay_is_the_file(tmp_path: Path) -> None:
    e = made("classify")
    write_explanation(e, tmp_path, "photo", ("png",))
    with Image.open(tmp_path / "photo.coffee mug.gradcam.png") as file:
        written = np.asarray(file)
    for k in (1, -1):
        np.testing.assert_array_equal(np.asarray(e.overlay("gradcam", k, key=True)), written)
        np.testing.assert_array_equal(np.asarray(e.overlay("gradcam", k)), written[: e.image.shape[0]])
    assert e.overlay("gradcam").size == e.image.shape[1::-1]
    with pytest.raises(OptionError, match="there is no target 2: this explanation has 2"):
        e.overlay("gradcam", 2)
    with pytest.raises(OptionError, match="method 'cam' was not computed; this explanation has gradcam"):
        e.overlay("cam")


@pytest.mark.slow
def test_several_methods_of_words_are_one_sheet() -> None:
    """Each word has an image by each method, under its name."""
    e = made("caption")
    texts = [text.get_text() for text in e.plot().findobj(matplotlib.text.Text)]
    for title in ("LayerCAM", "Grad-CAM"):
        assert texts.count(title) == len(e.labels[0])
    assert f"“{e.text}”" in texts


def test_words_alone_have_a_figure() -> None:
    """Of a question whose image is not explained there are bars and no maps."""
    options = {"vocabulary": MODELS / "vqa_words.txt", "labels": MODELS / "vqa_answers.txt", "explain": "question"}
    e = pcam.explain(MODELS / "vqa_recurrent.onnx", scene(), question="what color is the shape", **options)
    assert list(e) == []
    texts = {text.get_text() for text in e.plot().findobj(matplotlib.text.Text)}
    assert set(e.words) <= texts
    assert e.token_attribution is not None
    assert e.token_attribution.shape == (1, 5)
    assert all(word in e._repr_html_() for word in e.words)


@pytest.mark.slow
def test_what_was_not_found_has_a_counterpart(tmp_path: Path) -> None:
    """With the other sign, named ``against`` or ``for`` in every output."""
    for sign, word, other in (("positive", "against", "negative"), ("negative", "for", "positive")):
        options = {"preprocessing": "unit", "layer": "x", "sign": sign}
        grey = pcam.explain(segmenter(), np.full((64, 64, 3), (200, 90, 20), np.uint8), targets=[0, 1], **options)
        assert grey.labels == [["class 0", "class 1 (not found)"]]
        assert grey.counterpart is not None
        plain = pcam.explain(segmenter(), grey.image, targets=[0, 1], **{**options, "sign": other})
        np.testing.assert_array_equal(grey.counterpart["layercam"], plain["layercam"])
        assert list(grey) == ["layercam"]
        assert grey.to_dict()["methods"] == ["layercam", f"{word}.layercam"]
        names = {Path(p).name for p in write_explanation(grey, tmp_path / sign, "p")["files"]}
        assert any(name.endswith(f".{word}.layercam.npy") for name in names)
        assert any(name.endswith(f".{word}.layercam.png") for name in names)
        assert f"LayerCAM, {word}" in grey._repr_html_()
        grey.overlay(f"{word}.layercam", 1)


def test_pages_escape_what_they_quote(tmp_path: Path) -> None:
    """Labels and names of files are not trusted."""
    names = tmp_path / "<b>&.txt"
    names.write_text("<script>alert(1)</script>\nb & c\n</script><img src=x onerror=alert(2)>")
    e = pcam.explain(segmenter(), scene(), labels=names, targets=[0, 1, 2], layer="x", preprocessing="unit")
    e = replace(e, source="<i>photo</i>.jpg")
    body = e._repr_html_()
    page = e.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (body, page):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<i>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "b &amp; c" in body
    assert page.count("</script>") == 2, "the page's own"
    assert [target["name"] for target in page_data(page)["photos"][0]["targets"]] == e.labels[0]


def page_data(page: str) -> dict[str, Any]:
    """What a page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (
        lambda: made("classify").save(tmp_path / "a.notaformat"),
        lambda: made("classify").save(tmp_path / "file" / "a.png"),
        lambda: made("classify").to_html(tmp_path / "file" / "a"),
    ):
        with pytest.raises(OptionError, match="cannot write"):
            call()


@pytest.mark.parametrize("name", TASKS)
def test_the_protocol(name: str) -> None:
    """Every explainer is made and called in the same way, and says which options it takes."""
    kind = TASKS[name].explainer()
    assert issubclass(kind, TaskExplainer)
    assert kind.task == name
    assert "__call__" not in vars(kind)
    arguments = inspect.signature(kind.__init__).parameters
    assert [name for name, p in arguments.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == ["self", "model", "methods"]
    assert kind.takes <= set(arguments)
    assert not kind.asks & set(arguments)
    assert set(kind.needs) <= kind.takes | kind.asks
    assert kind.default_methods


def test_options_of_a_call() -> None:
    options = {"preprocessing": "unit", "layer": "x"}
    with pytest.raises(OptionError, match="the task segment takes no question"):
        pcam.explain(segmenter(), scene(), question="why?", **options)
    explainer = pcam.SegmentExplainer(segmenter(), **options)
    with pytest.raises(OptionError, match="the task segment takes mask=, pixel=, region=, but no caption="):
        explainer(scene(), caption="a")
    with pytest.raises(OptionError, match="the task vqa needs question="):
        pcam.explain(MODELS / "vqa_recurrent.onnx", scene(), vocabulary=MODELS / "vqa_words.txt")
    assert explainer(scene(), pixel=(10, 30), mask=None).details[0].pixel == (10, 30)


class Loudest(TaskExplainer):
    """A task for this test: the class with the greatest score, called loud."""

    task = "loudest"
    default_methods = ("cam",)
    takes = frozenset({"volume"})

    def __init__(self, model: Any, methods: Any = None, *, preprocessing: Any = None, volume: int = 1, **options: Any):
        self.explainer = pcam.Explainer(model, methods or self.default_methods, **options)
        self.preprocessing = preprocessing_of(self.explainer, model, preprocessing)
        self._volume = volume

    def _explain(self, photo: Photo, targets: Targets, asked: Mapping[str, Any]) -> Explanation:
        return self._explanation(photo, self.explainer(photo.x), ["loud" * self._volume])


@pytest.mark.slow
def test_a_new_task_is_one_file_and_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def recognize(model: Any, output: str | None) -> outputs.Recognized:
        assert model.graph.name
        return outputs.Recognized(Class(), [])

    row = Task("tests.of.the.task", "Loudest", recognize)
    monkeypatch.setitem(TASKS, "loudest", row)  # type: ignore[arg-type]
    monkeypatch.setattr(Task, "explainer", _explainer_of(Task.explainer))
    e = pcam.explain(assets.model(), assets.photo(), volume=2)
    assert (e.task, e.labels, list(e)) == ("loudest", [["loudloud"]], ["cam"])
    done = CliRunner().invoke(
        portable_cam.cli.app, ["explain", str(assets.model()), str(assets.photo()), "-o", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "task: loudest" in done.stderr
    assert "cat_and_coffee.png: loud" in done.stdout


def _explainer_of(known: Callable[[Task], type[TaskExplainer]]) -> Callable[[Task], type[TaskExplainer]]:
    return lambda task: Loudest if task.name == "Loudest" else known(task)


def test_commands_do_not_hide_their_modules() -> None:
    for module in pkgutil.iter_modules(portable_cam.cli.__path__):
        importlib.import_module(f"portable_cam.cli.{module.name}")
        assert isinstance(getattr(portable_cam.cli, module.name), types.ModuleType)


def test_recognisers_are_in_the_table() -> None:
    used = {row.recognize for row in TASKS.values()}
    assert {outputs.detector, outputs.classifier, outputs.segmenter, outputs.line_reader} <= used


def test_names_of_the_package() -> None:
    assert pcam.Cuda().__class__.__module__ == "portable_cam.runtime.gpu.options"
    assert pcam.Explanation is Explanation
    assert set(pcam.__all__) >= {"Cuda", "Explanation", "explain", "Result"}
