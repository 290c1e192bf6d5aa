# SPDX-License-Identifier: Apache-2.0
"""What pictures say: keys, what the model did not see, contour lines, letters of every script, and how a result shows
itself."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.text
import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from PIL import Image

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import OptionError, PortableCamWarning
from portable_cam.explanation import Explanation
from portable_cam.image.colormap import luma, overlay
from portable_cam.image.geometry import fit
from portable_cam.image.look import Look
from portable_cam.report import fonts
from portable_cam.report.bars import words_reach
from portable_cam.report.canvas import width_of
from portable_cam.report.contours import draw_contours
from portable_cam.report.key import keys_of
from portable_cam.report.letters import fold, wrap
from portable_cam.report.maps import shown_maps
from portable_cam.report.scene import scene_of
from portable_cam.report.sheet import Panel, Section, arrange, sheet_figure
from portable_cam.report.unseen import hatch, seen_frame
from portable_cam.result import Result

METHODS = ("gradcam", "guided_gradcam")


@pytest.fixture(scope="module")
def explained() -> Explanation:
    """Of a photo 560 pixels wide and 300 high, of which a centre crop is seen."""
    options = {"preset": "caffe", "resize": "shortest+crop"}
    return pcam.explain(assets.model(), assets.photo(), METHODS, "tiger cat,coffee mug", preprocessing=options)


@pytest.fixture
def no_other_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if matplotlib's own fonts were the only ones."""

    def forget() -> None:
        for known in (fonts._font_for, fonts._warn):
            known.cache_clear()

    monkeypatch.setattr(fonts, "_files", lambda: ())
    forget()
    yield
    forget()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


# -- what the model did not see ----------------------------------------------------------------------------------------


def test_what_a_crop_leaves_out_is_hatched(explained: Explanation) -> None:
    """It is neither evidence nor its absence; inside the frame nothing is."""
    drawn = np.asarray(explained.overlay("gradcam")).astype(int)
    frame = seen_frame(explained.geometry)
    assert frame is not None
    left, top, right, bottom = frame
    assert (left, right) != (0, 560)
    outside = drawn[:, : left - 4]
    plain = luma(explained.image)[:, : left - 4, None]
    assert 0.05 < (np.abs(outside - plain).max(2) > 10).mean() < 0.4, "lines, and the photo between them"
    inner = slice(top + 4, bottom - 4), slice(left + 4, right - 4)
    heat = explained.heatmap("gradcam")
    expected = overlay(explained.image, np.nan_to_num(heat))
    np.testing.assert_array_equal(drawn[inner], expected[inner])
    assert "not seen by the model" in texts(explained.plot())
    assert np.isnan(heat[:, : left - 2]).all()
    assert np.isfinite(heat[inner]).all()


@pytest.mark.slow
def test_nothing_is_hatched_where_all_is_seen() -> None:
    for resize in ("stretch", "letterbox"):
        geometry = fit((300, 560), (224, 224), resize, None, "center")  # type: ignore[arg-type]
        assert seen_frame(geometry) is None
    stretched = pcam.explain(assets.model(), assets.photo(), targets="tabby")
    assert "not seen by the model" not in texts(stretched.plot())
    assert np.isfinite(stretched.heatmap("gradcam")).all()


def test_hatching_leaves_what_is_framed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    drawn = hatch(pixels, (30, 20, 100, 80))
    np.testing.assert_array_equal(drawn[22:78, 32:98], pixels[22:78, 32:98])
    assert (drawn[20, 30:100] == 255).all(), "a frame"
    assert (hatch(pixels)[20:80, 30:100] != pixels[20:80, 30:100]).any()


def test_signed_pictures_have_the_photos_proportions(explained: Explanation) -> None:
    picture = explained.overlay("guided_gradcam")
    assert picture.size == (560, 300)
    shapes = [axes.images[0].get_array().shape for axes in explained.plot().axes if axes.images]
    assert [shape for shape in shapes if shape[0] > 30] == [(300, 560, 3)] * 5, "the photo, two targets by two methods"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_every_picture_has_its_key(explained: Explanation) -> None:
    """Of what it shows and no more, drawn as the picture is."""
    maps, signed = shown_maps(explained)
    look = Look("viridis", 0.6, contours=(0.5,))
    (scale,) = keys_of([maps], look, unseen=False)
    assert [text for _, text in scale.ticks] == ["none", "0.5", "most"]
    plain = overlay(np.full((24, 256, 3), 128, np.uint8), np.tile(np.linspace(0, 1, 256), (24, 1)), look)
    same = (scale.pixels == plain).all(axis=(0, 2))
    assert same[:100].all()
    assert not same[120:136].all(), "the contour line"
    (gray,) = keys_of([signed], look, unseen=False)
    assert (gray.pixels[:, 127:129] == 0).all(), "zero is marked"
    assert [text for _, text in gray.ticks] == ["lowers the score", "0", "raises it"]
    assert len(keys_of([maps, signed], look, unseen=True)) == 3
    negative = replace(maps, sign="negative")
    assert "against it" in keys_of([negative], look, unseen=False)[0].caption
    assert "as titled" in keys_of([maps, negative], look, unseen=False)[0].caption


def test_a_file_has_its_key_below_the_picture(explained: Explanation) -> None:
    bare, keyed = (np.asarray(explained.overlay("gradcam", 1, key=key)) for key in (False, True))
    assert keyed.shape[1] == bare.shape[1]
    assert keyed.shape[0] > bare.shape[0] + 60
    np.testing.assert_array_equal(keyed[: bare.shape[0]], bare)
    foot = keyed[bare.shape[0] :]
    assert (foot[:, :8] == 255).all(), "nothing runs over the margin"
    assert (foot[:, -8:] == 255).all()
    assert (foot[-4:] == 255).all()


def test_a_broken_map_has_a_key_for_what_is_no_number(explained: Explanation) -> None:
    broken = {"gradcam": explained["gradcam"].copy()}
    broken["gradcam"][0, 0, 3] = np.nan
    e = replace(explained, result=replace(explained.result, maps=broken))
    assert "not a number" in texts(e.plot())


def test_contours() -> None:
    values = np.tile(np.linspace(0, 1, 101), (60, 1))
    pixels = np.full((60, 101, 3), 90, np.uint8)
    drawn = draw_contours(pixels, values, [0.25, 0.75])
    changed = np.flatnonzero((drawn[30] != 90).any(axis=1))
    assert {25, 75} <= set(changed.tolist())
    assert len(changed) < 10
    assert (drawn[30, 25] == 255).all()
    assert draw_contours(pixels, values, []) is pixels


# -- letters -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_other_font")
def test_characters_without_a_font_are_said_otherwise() -> None:
    with pytest.warns(PortableCamWarning, match="no font on this machine has 猫 🦜: .*install one that has them"):
        assert fonts.drawable("a 猫 \U0001f99c") == "a □ [parrot]"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.drawable("a 猫 \U0001f99c") == "a □ [parrot]", "told once"
        assert fonts.drawable("Ägypten →\t✓ 🐱\ufe0f") == "Ägypten → ✓ 🐱"
    assert fonts.families("abc") == ["DejaVu Sans"]


def test_other_scripts_have_a_font_where_one_is_installed(tmp_path: Path) -> None:
    if fonts._font_for("猫") is None:
        pytest.skip("no font with Chinese characters is installed")
    assert fonts.drawable("猫 cat") == "猫 cat"
    assert len(fonts.families("猫 cat")) == 2
    assert [part for part, _ in fonts.runs("猫 cat", 12)] == ["猫", " cat"]
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "猫 cat", fontfamily=fonts.families("猫 cat"), fontweight="bold")
    figure.savefig(tmp_path / "a.png")  # a missing glyph would be a warning, and so an error


def test_lines_lose_nothing() -> None:
    for text in ("one two three four", "W" * 60, "a " + "b" * 40 + " c", ""):
        lines = fold(text, lambda line: len(line) <= 9)
        assert max(map(len, lines)) <= 9
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width_of(line, 9) < 1.3 for line in fold("a long line of many words", lambda s: width_of(s, 9) < 1.3))
    assert wrap("x", 100, 12) == ["x"]


# -- sheets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 7, 9, 13])
def test_no_block_is_alone_on_the_last_line(count: int) -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    blocks = arrange(image, [Section(f"t{i}", "", [Panel("m", image)]) for i in range(count)]).blocks
    lines = [sum(block.y == y for block in blocks) for y in sorted({block.y for block in blocks})]
    assert sum(lines) == count
    assert min(lines) > 1 or max(lines) == 1
    assert lines == sorted(lines, reverse=True)


def test_words_share_one_scale() -> None:
    """A word of one answer that adds little is short beside another's that adds much."""
    rows = [[("what", 0.1), ("color", -0.2)], [("what", 0.8), ("color", float("nan"))]]
    assert words_reach(rows) == 0.8
    assert words_reach([[("a", 0.0)]]) == 1
    image = np.zeros((40, 40, 3), np.uint8)
    figure = sheet_figure(image, [Section("yes", "", [], rows[0]), Section("no", "", [Panel("m", image)], rows[1])])
    bars = [axes for axes in figure.axes if axes.patches]
    assert len({axes.get_xlim() for axes in bars}) == 1
    assert texts(figure).count("adds to the score") == 2
    assert [round(patch.get_width(), 3) for patch in bars[0].patches] == [0.1, -0.2]


@pytest.mark.slow
def test_probabilities_of_logits_are_named_softmax() -> None:
    """Of a model that ends in logits; one that ends in a softmax gives its own."""
    own = pcam.explain(assets.model(), assets.photo(), targets="coffee mug")
    assert own.top_scale == "probability"
    assert own.details[0].probability == pytest.approx(own.top[0][1])
    model = onnx.load(assets.model())
    nodes = [node for node in model.graph.node if node.op_type != "Softmax"]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "logits"
    from_logits = pcam.explain(model, assets.photo(), targets="coffee mug", preprocessing=own.preprocessing)
    assert from_logits.top_scale == "softmax"
    assert from_logits.top[0][0] == own.top[0][0]
    assert from_logits.top[0][1] == pytest.approx(own.top[0][1], rel=1e-4)
    assert any("softmax of" in text for text in texts(from_logits.plot()))
    assert from_logits.to_dict()["explained"][0]["probability"] == pytest.approx(own.details[0].probability, rel=1e-4)


# -- a result shows itself ---------------------------------------------------------------------------------------------


def test_a_result_is_short_in_words(explained: Explanation) -> None:
    said = repr(explained)
    assert said == (
        "<Explanation of 'cat_and_coffee.png': classify, 'tiger cat', 'coffee mug' by gradcam, guided_gradcam, "
        "layer 'conv10_relu'>"
    )
    assert repr(explained.result).startswith("<Result of 1 image, 2 targets: gradcam (1, 2, 227, 227), guided")


def test_items_indices_and_equality(explained: Explanation) -> None:
    assert [name for name, _ in explained.items()] == explained.keys() == list(METHODS)
    assert explained.items()[0][1] is explained["gradcam"]
    assert explained[0] is explained
    assert len(explained) == 1
    with pytest.raises(OptionError, match="there is no image 1: this result has 1"):
        explained[1]
    assert explained == replace(explained, labels=[list(explained.labels[0])])
    assert explained != replace(explained, labels=[["tiger cat", "mug"]])
    changed = {**explained.result.maps, "gradcam": explained["gradcam"] + 1}
    assert explained != replace(explained, result=replace(explained.result, maps=changed))
    assert explained != 3


def test_a_result_by_image() -> None:
    maps = {"cam": np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2)}
    outputs = {"y": np.arange(6).reshape(3, 2), "shared": np.arange(2)}
    flags: list[list[tuple[str, ...]]] = [[(), ("flat",)], [("nan",), ()], [(), ()]]
    scores = np.array([[1, np.nan], [2, 3], [4, 5]], np.float32)
    result = Result(scores, np.zeros((3, 2), np.int64), "layer", maps, {}, flags, [], outputs)
    second = result[1]
    assert len(second) == 1
    np.testing.assert_array_equal(second["cam"], maps["cam"][1:2])
    assert second.flags == [[("nan",), ()]]
    np.testing.assert_array_equal(second.outputs["y"], [[2, 3]])
    np.testing.assert_array_equal(second.outputs["shared"], [0, 1])
    assert result[-2] == second
    assert result[0] == result[0], "NaN is the same as NaN"
    assert result[0] != second
    for index, message in ((3, "there is no image 3: this result has 3"), (1.5, "not by 1.5"), (True, "not by True")):
        with pytest.raises(OptionError, match=message):
            result[index]  # type: ignore[call-overload]


def test_another_look(explained: Explanation) -> None:
    green = explained.styled(colormap="viridis", opacity=1.0, contours=(0.5,))
    assert explained.look == Look()
    assert (np.asarray(green.overlay("gradcam")) != np.asarray(explained.overlay("gradcam"))).any()
    assert explained.styled(max_size=100).overlay("gradcam").size == (100, 54)
    with pytest.raises(OptionError, match="a look has no 'colour'; it has colormap, opacity"):
        explained.styled(colour="red")
    with pytest.raises(OptionError, match="'guided_gradcam' has a signed value for each channel and is no heat map"):
        explained.heatmap("guided_gradcam")


def test_profiles_look_as_their_peers() -> None:
    e = pcam.explain(assets.model(), assets.photo(), targets="tabby", profile="pytorch_grad_cam")
    assert e.look == Look("jet", 0.5, rising=False, gray=False)


def test_small_photos_are_shown_with_square_pixels(explained: Explanation) -> None:
    tiny = replace(explained, image=explained.image[:28, :20])
    scene = scene_of(tiny, 2048, 400)
    assert scene.pixels.shape == (28 * 15, 20 * 15, 3)
    np.testing.assert_array_equal(scene.pixels[::15, ::15], tiny.image)
    assert scene_of(tiny, 14).pixels.shape == (14, 10, 3)
    assert isinstance(explained.overlay("gradcam"), Image.Image)
