# SPDX-License-Identifier: Apache-2.0
"""Pages: what they hold, and what a real browser makes of it; and a notebook."""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam import assets
from portable_cam.cli import app
from portable_cam.explanation import Explanation
from portable_cam.image.colormap import overlay
from portable_cam.report.entries import sizes_for
from portable_cam.report.page import Report

NAMES = ("astronaut.jpg", "cat_and_coffee.png", "chelsea.png", "coffee.jpg")


@pytest.fixture(scope="module")
def explained() -> list[Explanation]:
    options = {"preset": "caffe", "resize": "shortest+crop"}
    explainer = pcam.PhotoExplainer(assets.model(), ("gradcam", "guided_gradcam"), preprocessing=options)
    return [explainer(assets.path(name), "top2") for name in NAMES]


@pytest.fixture(scope="module")
def report(explained: list[Explanation]) -> str:
    made = Report(len(explained), "Photos & <b>more</b>")
    for one in explained:
        made.add(replace(one, facts={**one.facts, "model": "</script><script>alert(1)</script>.onnx"}))
    made.add_failure("<img src=x>.jpg is truncated")
    return made.html()


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def opened(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def test_a_page_holds_what_the_record_says(explained: list[Explanation], report: str) -> None:
    data = data_of(report)
    for one, photo in zip(explained, data["photos"], strict=True):
        record = one.to_dict()
        assert photo["name"] == Path(one.source).name
        assert photo["size"] == [one.image.shape[1], one.image.shape[0]]
        for target, line in zip(photo["targets"], record["explained"], strict=True):
            assert target["name"] == line["label"]
            assert target["score"] == line["score"]
            assert target["probability"] == line["probability"]
            assert target["flags"] == line["flags"]
            assert set(target["maps"]) == {"gradcam", "guided_gradcam"}
            assert ["label", line["label"]] in target["numbers"]
    assert [key["caption"].split(",")[0] for key in data["keys"]] == [
        "evidence for it",
        "gradient of each colour channel",
        "not seen by the model",
    ]


def test_a_page_needs_nothing_else_and_escapes_all(report: str) -> None:
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", report)
    assert "http:" not in report
    assert "https:" not in report
    assert "default-src 'none'" in report
    assert report.count("<script") == 2
    assert "Photos &amp; &lt;b&gt;more&lt;/b&gt;" in report
    assert "<img src=x>" not in report


def test_the_map_of_a_page_is_the_map(explained: list[Explanation], report: str) -> None:
    one, photo = explained[2], data_of(report)["photos"][2]
    pixels = opened(photo["targets"][1]["maps"]["gradcam"]["image"])
    height, width = pixels.shape[:2]
    assert max(height, width) == sizes_for(len(explained)).map
    small = Image.fromarray(np.nan_to_num(one.heatmap("gradcam", 1))).resize((width, height), Image.Resampling.BOX)
    off = np.abs(pixels[:, :, 0] / 255 - np.asarray(small))
    assert off.mean() < 0.01
    assert (off > 0.1).mean() < 0.02, "but at the edge of what is seen"
    assert (pixels[:, :, 1] == 0).all()


def test_what_is_no_number_is_marked(explained: list[Explanation]) -> None:
    broken = {"gradcam": explained[0]["gradcam"].copy()}
    broken["gradcam"][0, 0, 100:120] = np.nan
    broken["gradcam"][0, 1] = np.nan
    page = Report(1, "broken")
    page.add(replace(explained[0], result=replace(explained[0].result, maps=broken)))
    first, second = (opened(t["maps"]["gradcam"]["image"]) for t in data_of(page.html())["photos"][0]["targets"])
    assert 0 < (first[:, :, 1] == 255).mean() < 0.5
    assert (second[:, :, 1] == 255).mean() > 0.5


def test_thousands_fit_into_a_page(explained: list[Explanation]) -> None:
    many = Report(3000, "many")
    many.add(explained[0])
    assert len(json.dumps(data_of(many.html())["photos"])) < 45_000


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where Playwright and it are installed."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as running:
        try:
            options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            found = running.chromium.launch(executable_path=path, args=options)
        except playwright.Error as error:
            pytest.skip(f"Playwright finds no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def opened_page(browser: Any, report: str, tmp_path: Path) -> Iterator[Any]:
    """The report in the browser; whatever it complains of, or asks the network for, fails the test."""
    (tmp_path / "report.html").write_text(report, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    for _ in range(100):
        if page.evaluate("[...document.querySelectorAll('.card')].slice(0, 3).every(e => e.card.values)"):
            break
        page.wait_for_timeout(50)
    yield page
    page.close()
    assert wrong == []


def names_shown(page: Any) -> list[str]:
    return page.eval_on_selector_all(".card h2", "all => all.map(e => e.firstChild.textContent)")


def pixels_of(page: Any, number: int) -> np.ndarray:
    """What a card's canvas shows."""
    return opened(page.evaluate(f"document.querySelectorAll('.card canvas')[{number}].toDataURL()"))


@pytest.mark.slow
def test_the_browser_draws_what_the_library_draws(opened_page: Any, explained: list[Explanation]) -> None:
    """The same colours, but for what scaling the map up in the browser changes."""
    shown = pixels_of(opened_page, 2)
    one = explained[2]
    photo = np.asarray(Image.fromarray(one.image).resize(shown.shape[1::-1]))
    size = shown.shape[1::-1]
    heat = np.asarray(Image.fromarray(np.nan_to_num(one.heatmap("gradcam", 0))).resize(size)).clip(0, 1)
    left = round(one.geometry.box[0] * size[0] / one.image.shape[1]) + 8
    right = round(one.geometry.box[2] * size[0] / one.image.shape[1]) - 8
    off = np.abs(shown.astype(int) - overlay(photo, heat).astype(int))[40:-40, left:right]
    assert off.mean() < 4
    opened_page.locator("#opacity").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    opened_page.wait_for_timeout(500)
    plain = pixels_of(opened_page, 2)[40:-40, left:right].astype(int)
    assert np.ptp(plain, axis=2).max() <= 1, "the photo in grey"


@pytest.mark.slow
def test_photos_are_found_sorted_and_switched(opened_page: Any) -> None:
    page = opened_page
    assert names_shown(page) == list(NAMES)
    page.fill("#find", "coffee")
    assert names_shown(page) == ["cat_and_coffee.png", "coffee.jpg"]
    assert page.inner_text("#count") == "2 of 4 photos"
    page.fill("#find", "")
    page.select_option("#sort", "name")
    assert names_shown(page) == sorted(NAMES)
    page.select_option("#sort", "probability")
    best = page.evaluate("[...document.querySelectorAll('.card')].map(e => e.card.photo.targets[0].probability)")
    assert best == sorted(best, reverse=True)
    page.fill("#least", str(best[1]))
    assert len(names_shown(page)) == 2
    page.fill("#least", "")
    name = page.evaluate("document.querySelector('.card').card.photo.targets[1].name")
    page.select_option("#class", name)
    assert len(names_shown(page)) == 1
    assert page.locator(".card .note b").first.inner_text() == name
    page.select_option("#class", "")
    page.click("#methods button[data-value=guided_gradcam]")
    page.wait_for_timeout(500)
    gray = pixels_of(page, 0).astype(int)
    assert abs(np.median(gray) - 128) < 3
    page.click("#methods button[data-value=photo]")
    page.wait_for_timeout(500)
    assert pixels_of(page, 0).std() > 20


@pytest.mark.slow
def test_numbers_are_behind_a_hover(opened_page: Any, explained: list[Explanation]) -> None:
    box = opened_page.locator(".card canvas").nth(1).bounding_box()
    opened_page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = opened_page.locator(".card .tip").nth(1)
    said = re.fullmatch(r"pixel (\d+), (\d+): (\d\.\d\d) of the most", tip.inner_text())
    assert said is not None
    x, y, value = map(float, said.groups())
    assert (x, y) == (pytest.approx(280, abs=3), pytest.approx(150, abs=3))
    assert value == pytest.approx(explained[1].heatmap("gradcam", 0)[int(y), int(x)], abs=0.05)
    opened_page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    assert tip.inner_text().endswith(": not seen by the model")
    assert "probability" in opened_page.locator(".card .targets button").first.get_attribute("title")


@pytest.mark.slow
def test_a_page_can_be_printed(opened_page: Any) -> None:
    assert opened_page.pdf()[:5] == b"%PDF-"
    opened_page.emulate_media(media="print")
    assert not opened_page.is_visible("#tools")


@pytest.mark.slow
def test_many_photos_are_built_as_one_scrolls(browser: Any, explained: list[Explanation], tmp_path: Path) -> None:
    report = Report(200, "many")
    for i in range(200):
        report.add(replace(explained[i % 4], source=f"photo {i}.jpg"))
    (tmp_path / "many.html").write_text(report.html(), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto((tmp_path / "many.html").as_uri())
    first = page.locator(".card").count()
    assert first < 150
    for _ in range(8):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(200)
    assert page.locator(".card").count() == 200
    drawn = page.evaluate("[...document.querySelectorAll('.card')].filter(e => e.card.canvas.width > 1).length")
    assert drawn < 100, "what is out of sight holds no pixels"
    page.close()


# -- in a notebook -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_notebook_shows_an_explanation(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    code = (
        "import portable_cam as pcam\nfrom portable_cam import assets\n"
        'e = pcam.explain(assets.model(), assets.photo(), targets="tiger cat")\ne'
    )
    cells = [nbformat.v4.new_code_cell(text) for text in (code, "e.plot()", 'e.overlay("gradcam")', "print(repr(e))")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.outputs if output.output_type != "stream"]
    page = shown[0]["data"]["text/html"]
    assert "tiger cat" in page
    assert page.count("<img") == 3, "the photo, the map, the key"
    assert "<script" not in page, "a notebook that is not trusted drops scripts"
    assert "image/png" in shown[2]["data"], "the overlay as Pillow shows itself"
    assert "<Explanation of 'cat_and_coffee.png'" in notebook.cells[3].outputs[0]["text"]


# -- on the command line -----------------------------------------------------------------------------------------------


def explain(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["explain", str(assets.model()), *map(str, arguments)])


def test_a_report_is_the_only_file_unless_others_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what failed, in the look that was asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "<img src=x>.jpg").write_bytes(b"\xff\xd8\xff")
    look = ("--colormap", "viridis", "--opacity", "0.5", "--contours", "0.25,0.75")
    done = explain(assets.path("coffee.jpg"), "<img src=x>.jpg", "--report", "new/report.html", "--no-check", *look)
    assert done.exit_code == 1, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"<img src=x>.jpg", "new"}
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert [photo["name"] for photo in data["photos"]] == ["coffee.jpg"]
    assert data["look"]["palette"][:3] == [68, 1, 84], "viridis"
    assert (data["look"]["opacity"], data["look"]["contours"]) == (0.5, [0.25, 0.75])
    assert [text for _, text in data["keys"][0]["ticks"]] == ["none", "0.25", "0.75", "most"]
    assert "1 not explained" in page
    assert "&lt;img src=x&gt;.jpg is truncated" in page
    assert "<title>squeezenet1.1.onnx: 2 photos</title>" in page
    assert "SHA-256" in page


@pytest.mark.slow
def test_a_report_beside_other_files(tmp_path: Path) -> None:
    report, out = tmp_path / "report.html", tmp_path / "out"
    done = explain(assets.photo(), "--report", report, "-o", out, "--max-size", 200, "--json", "--no-check")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"] == str(report)
    (overlay,) = out.glob("*.gradcam.png")
    with Image.open(overlay) as picture:
        assert picture.width == 200


def test_looks_and_reports_that_cannot_be(tmp_path: Path) -> None:
    for arguments, message in (
        (("--colormap", "viridi"), "there is no colour map 'viridi'; did you mean viridis"),
        (("--opacity", "2"), "opacity 2.0 is not between 0 and 1"),
        (("--contours", "1.5"), "contour 1.5 is not between 0 and 1"),
        (("--max-size", "-1"), "max_size -1 is not a number of pixels"),
        (("--report", tmp_path / "report.pdf"), "is no HTML file: give a name that ends in .html"),
    ):
        done = explain(assets.photo(), *arguments, "-o", tmp_path / "out")
        assert done.exit_code != 0
        assert message in f"{done.output} {done.exception}"
        assert not (tmp_path / "out").exists()
