# SPDX-License-Identifier: Apache-2.0
"""Pictures and files: what they show, and that nothing in the data can spoil them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from portable_cam import assets
from portable_cam.errors import InputError, OptionError
from portable_cam.image.colormap import NOT_A_NUMBER, colorize, luma, overlay, signed_image
from portable_cam.image.decode import read_image
from portable_cam.image.look import Look, look_of
from portable_cam.report.files import PNG_LEVEL, save, save_figure
from portable_cam.report.sheet import Panel, Section, sheet_figure


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    y = linear @ (0.2126, 0.7152, 0.0722)
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_colour_map_is_perceptually_uniform() -> None:
    colours = colorize(np.linspace(0, 1, 256)[None])[0]
    light = lightness(colours.astype(np.float64))
    steps = np.diff(light[::8])
    assert (steps > 0).all(), "lightness only rises"
    assert steps.max() < 2 * steps.mean(), "and evenly, or it would draw edges that are not in the map"
    assert light[0] < 5
    assert light[-1] > 95


def test_colorize_clips_and_marks_nan() -> None:
    picture = colorize(np.array([[-3.0, 0.0, 1.0, 9.0, np.nan, np.inf]], np.float32))
    assert picture.dtype == np.uint8
    assert (picture[0, 0] == picture[0, 1]).all()
    assert (picture[0, 2] == picture[0, 3]).all()
    assert (picture[0, 5] == picture[0, 2]).all()
    assert tuple(picture[0, 4]) == NOT_A_NUMBER
    assert tuple(colorize(np.full((1, 1), 0.5))[0, 0]) != NOT_A_NUMBER
    with pytest.raises(InputError, match=r"\(H, W\), not \(1, 2, 3\)"):
        colorize(np.zeros((1, 2, 3)))


FLAT = Look(opacity=0.5, rising=False, gray=False)


def test_overlay_blends() -> None:
    photo = np.full((2, 2, 3), 100, np.uint8)
    map01 = np.array([[0, 1], [0.3, 0.6]])
    assert (overlay(photo, map01, replace(FLAT, opacity=0)) == photo).all()
    np.testing.assert_array_equal(overlay(photo, map01, replace(FLAT, opacity=1)), colorize(map01))
    half = overlay(photo, map01, FLAT).astype(float)
    np.testing.assert_allclose(half, (photo + colorize(map01).astype(float)) / 2, atol=0.5)
    with pytest.raises(InputError, match=r"the map is \(3, 2\)"):
        overlay(photo, np.zeros((3, 2)))


def test_the_photo_keeps_its_brightness_where_there_is_no_evidence() -> None:
    """The more evidence, the more colour; none leaves the photo's grey, so that no colour of the photo is taken for
    evidence."""
    photo = np.random.default_rng(0).integers(0, 256, (4, 256, 3), dtype=np.uint8)
    drawn = overlay(photo, np.tile(np.linspace(0, 1, 256), (4, 1)))
    np.testing.assert_array_equal(drawn[:, 0], np.repeat(luma(photo)[:, :1], 3, 1))
    map01 = np.full((4, 256), 1.0)
    colour = colorize(map01).astype(int)
    np.testing.assert_allclose(overlay(photo, map01), 0.2 * luma(photo)[:, :, None] + 0.8 * colour, atol=0.5)
    spread = (drawn.max(2).astype(int) - drawn.min(2)).mean(0)
    assert spread[0] == 0
    assert spread[128] > 40


def test_values_that_are_no_number_are_seen() -> None:
    photo = np.full((1, 2, 3), 90, np.uint8)
    drawn = overlay(photo, np.array([[np.nan, 0]]), Look(opacity=0.1)).astype(int)
    assert np.abs(drawn[0, 0] - drawn[0, 1]).max() > 40


def test_looks() -> None:
    for wrong, message in (
        ({"colormap": "infernoo"}, "there is no colour map 'infernoo'; did you mean inferno"),
        ({"colormap": ""}, "there is no colour map '': choose one of matplotlib's"),
        ({"opacity": 2}, "opacity 2 is not between 0 and 1"),
        ({"opacity": "x"}, "opacity x"),
        ({"contours": (0.5, 1)}, "contour 1 is not between 0 and 1"),
        ({"max_size": -1}, "max_size -1 is not a number of pixels"),
        ({"max_size": 2.5}, "max_size 2.5"),
    ):
        with pytest.raises(OptionError, match=message):
            Look(**wrong)
    assert look_of("paper") == Look()
    assert look_of("pytorch_grad_cam") == Look("jet", 0.5, rising=False, gray=False)


def test_signed_image_keeps_sign_channel_and_scale() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(0, 1e-4, (3, 50, 60)).astype(np.float32)
    gradients[0, 0, 0], gradients[0, 0, 1] = 50, -50  # outliers must not leave the rest grey
    picture = signed_image(gradients)
    assert picture.shape == (50, 60, 3)
    inner = np.abs(gradients.transpose(1, 2, 0)) > 3e-5
    assert ((picture > 128) == (gradients.transpose(1, 2, 0) > 0))[inner].all()
    assert picture[0, 0, 0] == 255
    assert picture[0, 1, 0] == 0
    assert picture[1:].std() > 30
    np.testing.assert_array_equal(signed_image(gradients.transpose(1, 2, 0)), picture)
    np.testing.assert_array_equal(signed_image(gradients[::-1], color="bgr"), picture)
    np.testing.assert_array_equal(signed_image(gradients * 1000), picture)


def test_signed_image_layout_where_the_shape_is_ambiguous() -> None:
    gradients = np.zeros((3, 4, 3), np.float32)
    gradients[2] = 1
    assert signed_image(gradients, "nchw").shape == (4, 3, 3)
    assert signed_image(gradients, "nhwc").shape == (3, 4, 3)
    assert (signed_image(gradients, "nchw")[:, :, 2] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_and_nan_gradients_are_grey(channels: int) -> None:
    assert set(np.unique(signed_image(np.zeros((channels, 4, 4), np.float32)))) == {128}
    broken = np.full((channels, 4, 4), np.nan, np.float32)
    broken[0, 0, 0] = np.inf
    assert set(np.unique(signed_image(broken))) == {128}


def test_sparse_gradients_are_seen() -> None:
    gradients = np.zeros((1, 50, 50), np.float32)
    gradients[0, 25, 25] = -1e-30
    picture = signed_image(gradients)
    assert (picture[25, 25] == 0).all()
    assert (picture == 128).sum() == picture.size - 3


def test_signed_image_needs_channels() -> None:
    for shape in ((4, 5, 6), (5, 6), (1, 3, 5, 6)):
        with pytest.raises(InputError, match="1 or 3 channels"):
            signed_image(np.zeros(shape))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return read_image(assets.photo())


def test_save(photo: np.ndarray, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    document = {
        "score": np.float32(0.5),
        "target": np.int64(3),
        "none": None,
        "ok": np.bool_(True),
        7: {"a"},
        "values": np.array([1.0, np.nan, np.inf]),
        "path": Path("x"),
        "text": "Ägyptisch",
    }
    written = save(tmp_path / "out", "photo", images={"../a/b": photo}, arrays={"gradcam": array}, document=document)
    assert [p.name for p in written] == ["photo...%2Fa%2Fb.png", "photo.gradcam.npy", "photo.json"]
    assert all(p.parent == tmp_path / "out" for p in written), "no name leads out of the folder"
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), photo)
    np.testing.assert_array_equal(np.load(written[1]), array)
    assert json.loads(written[2].read_text(encoding="utf-8")) == {
        "score": 0.5,
        "target": 3,
        "none": None,
        "ok": True,
        "7": ["a"],
        "values": [1.0, None, None],
        "path": "x",
        "text": "Ägyptisch",
    }


def test_save_only_what_was_asked_for(photo: np.ndarray, tmp_path: Path) -> None:
    everything = {"images": {"a": photo}, "arrays": {"a": photo}, "document": {}}
    for form in ("png", "npy", "json"):
        assert {p.suffix for p in save(tmp_path / form, "x", formats=[form], **everything)} == {f".{form}"}
    with pytest.raises(OptionError, match="'gif' is unknown: choose from png, npy, json"):
        save(tmp_path, "x", formats=["png", "gif"])
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot write to"):
        save(tmp_path / "file", "x", **everything)


def test_png_is_compressed_lightly(photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing took most of a run at Pillow's default level."""
    levels = []
    plain = Image.Image.save

    def watched(self: Image.Image, *args: object, **options: object) -> None:
        levels.append(options.get("compress_level"))
        plain(self, *args, **options)

    monkeypatch.setattr(Image.Image, "save", watched)
    save(tmp_path, "x", images={"a": photo})
    sheet = sheet_figure(photo, [Section("t", "", [Panel("cam", photo)])])
    save_figure(sheet, tmp_path / "s.png")
    assert levels == [PNG_LEVEL, PNG_LEVEL]
    save_figure(sheet, tmp_path / "s.pdf")
    assert (tmp_path / "s.pdf").is_file()


@pytest.mark.slow
def test_no_pyplot() -> None:
    code = "import sys, portable_cam.report.write; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bundled_files_are_all_named_in_the_notice() -> None:
    notice = (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")
    folder = assets.model().parent
    bundled = [p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"]
    assert set(assets.PHOTOS) <= set(bundled)
    assert len(bundled) >= 8
    assert [name for name in bundled if name not in notice] == []
    with pytest.raises(OptionError, match="no bundled photo"):
        assets.photo("../NOTICE")
