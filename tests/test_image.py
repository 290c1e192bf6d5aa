# SPDX-License-Identifier: Apache-2.0
"""Every kind of picture that people have, and every kind of file that is none."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from portable_cam import assets
from portable_cam.errors import ImageError
from portable_cam.image.decode import MAX_PIXELS, read_image, read_photo
from portable_cam.image.preprocess import Preprocessing
from portable_cam.image.unit_range import to_unit_range
from portable_cam.kernels import reference

# red top left, green top right, blue bottom left, white bottom right, in three sizes of step so that no turn is hidden
UPRIGHT = np.zeros((4, 6, 3), np.uint8)
UPRIGHT[:2, :3], UPRIGHT[:2, 3:], UPRIGHT[2:, :3], UPRIGHT[2:, 3:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# how a camera held in each of the eight ways stores the upright picture (EXIF 2.32, table 6: where row 0, column 0 are)
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    np.testing.assert_array_equal(read_image(encoded(stored, form, exif=exif)), UPRIGHT)


def test_damaged_exif_does_not_hide_a_sound_picture() -> None:
    data = encoded(Image.fromarray(UPRIGHT), exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(data), UPRIGHT)


def test_kinds_of_source_agree(tmp_path: Path) -> None:
    image = Image.fromarray(UPRIGHT)
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(image))
    for source in (path, str(path), path.read_bytes(), image, UPRIGHT):
        picture = read_image(source)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, UPRIGHT)


def test_16_bit_is_scaled_not_cut_off() -> None:
    deep = np.array([[0, 257, 256, 128 * 257], [65535, 65534, 300, 40000]], np.uint16)
    wanted = np.rint(deep / 257).astype(np.uint8)
    for form in ("PNG", "TIFF"):
        picture = read_image(encoded(Image.fromarray(deep), form))
        np.testing.assert_array_equal(picture, np.repeat(wanted[:, :, None], 3, 2))
    np.testing.assert_array_equal(read_image(deep)[:, :, 0], wanted)
    np.testing.assert_array_equal(read_image(Image.fromarray(deep.astype(np.int32)))[:, :, 0], wanted)


def test_beyond_16_bit_is_an_error() -> None:
    with pytest.raises(ImageError, match="beyond 16 bits"):
        read_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100, 255], [0, 100, 255]),
        ([-1, 0, 1], [0, 128, 255]),
        ([300, 300, 300], [0, 0, 0]),
    ],
)
def test_floating_point(values: list[float], wanted: list[int]) -> None:
    row = np.array([values], np.float32)
    assert read_image(Image.fromarray(row))[0, :, 1].tolist() == wanted
    assert read_image(encoded(Image.fromarray(row), "TIFF"))[0, :, 1].tolist() == wanted
    assert read_image(row)[0, :, 1].tolist() == wanted


def test_nan_pixels_are_an_error() -> None:
    with pytest.raises(ImageError, match="NaN"):
        read_image(Image.fromarray(np.array([[0, np.nan]], np.float32)))


def test_grey_and_one_bit() -> None:
    grey = np.array([[0, 77, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(grey))), np.repeat(grey[:, :, None], 3, 2))
    bits = Image.fromarray(np.array([[False, True]]))
    assert read_image(encoded(bits))[0].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert read_image(np.array([[False, True]]))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_transparency_is_laid_on_white() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    wanted = [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert read_image(encoded(Image.fromarray(rgba)))[0].tolist() == wanted
    assert read_image(rgba)[0].tolist() == wanted
    grey = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8))
    assert read_image(encoded(grey))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert read_image(encoded(image))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert read_image(encoded(image, transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    # a colour declared transparent in a picture without palette or alpha channel
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))[0, 0].tolist() == [255] * 3


def test_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(read_image(encoded(image, "JPEG", quality=100))[4, 4], (255, 0, 0), atol=4)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP"])
def test_first_of_several_frames(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_image(data)[4, 4], (255, 0, 0), atol=4)


def bomb() -> bytes:
    """A PNG of some hundred bytes that says it has a billion pixels."""
    header = struct.pack(">IIBBBBB", 40000, 25000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


PNG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Image.open(assets.photo("chelsea.png")), "JPEG")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"not a picture at all", "is not an image", id="text"),
        pytest.param(EPS, "is a drawing", id="eps-would-run-a-program"),
        pytest.param(PNG[: len(PNG) // 2], "truncated or damaged", id="truncated-png"),
        pytest.param(JPEG[: len(JPEG) // 2], "truncated or damaged", id="truncated-jpeg"),
        pytest.param(PNG[:20], "not an image|truncated or damaged", id="header-only"),
        pytest.param(PNG[:60] + b"\xff" * 40 + PNG[100:], "truncated or damaged", id="damaged"),
        pytest.param(bomb(), f"{MAX_PIXELS}.*scale it down", id="bomb"),
    ],
)
def test_bad_file(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=says) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ImageError, match="the given bytes"):
        read_image(content)


def test_size_limit_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable_cam.image.decode.MAX_PIXELS", 23)
    with pytest.raises(ImageError, match=r"has 6 x 4 pixels, more than the 23 allowed: scale it down"):
        read_image(encoded(Image.fromarray(UPRIGHT)))


def test_many_random_damages_are_all_image_errors() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for data in [PNG, JPEG[:4000], encoded(Image.fromarray(UPRIGHT), "TIFF"), encoded(Image.fromarray(UPRIGHT), "GIF")]:
        for _ in range(40):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 6):
                damaged[at] = rng.integers(0, 256)
            try:
                read_image(bytes(damaged))
            except ImageError:
                refused += 1
    assert refused > 40


@pytest.mark.parametrize("name", ["missing.png", "null\0character.png"])
def test_unreadable_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot read the image"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8), np.zeros(4, np.uint8), np.zeros((2, 2), np.int64)],
    ids=["two-channels", "empty", "one-axis", "int64"],
)
def test_bad_array(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="the given array"):
        read_image(array)


def test_bad_source() -> None:
    with pytest.raises(ImageError, match="not int"):
        read_image(3)  # type: ignore[arg-type]


@given(st.integers(1, 9), st.integers(1, 9))
def test_maps_are_scaled_as_the_kernels_twin_does(h: int, w: int) -> None:
    values = np.random.default_rng(h * 9 + w).standard_normal((h, w)).astype(np.float32)
    np.testing.assert_array_equal(to_unit_range(values), reference.minmax(values.astype(np.float64)))
    assert np.isnan(to_unit_range(np.where(np.arange(w) == 0, np.nan, values))).all()


# -- large photos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_decoded_no_larger_than_needed(form: str, orientation: int) -> None:
    """At a half, a quarter or an eighth, upright, and its own size is known."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((800, 1600, 3), np.uint8)
    upright[:, 800:] = 200
    stored = upright if orientation == 1 else np.rot90(upright)  # shown by a turn of 90 degrees clockwise
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif)
    for enough, factor in (((100, 200), 8), ((100, 201), 4), ((101, 200), 4), ((400, 100), 2), ((401, 100), 1)):
        pixels, size = read_photo(data, {(800, 1600): enough}.__getitem__)  # asked for its upright size alone
        assert size == (800, 1600)
        assert pixels.shape == (800 // factor, 1600 // factor, 3)
        assert pixels[:, :90].max() < 10
        assert pixels[:, -90:].min() > 190
    np.testing.assert_array_equal(read_photo(data)[0], read_image(data))


def test_an_image_that_is_given_stays_as_it_is() -> None:
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (1600, 800), "red"), "JPEG")))
    pixels, size = read_photo(image, lambda size: (100, 100))
    assert (pixels.shape, size) == ((100, 200, 3), (800, 1600))
    assert image.size == (1600, 800)
    deep = Image.fromarray(np.full((800, 1600), 30000, np.uint16))
    assert read_photo(deep, lambda size: (100, 100))[0].shape == (800, 1600, 3), "what cannot be averaged stays, too"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jpg", "png"])
def test_a_photo_of_108_megapixels_needs_little_memory(form: str, tmp_path: Path) -> None:
    """Less than 12 bytes a pixel for all of it, the interpreter and the model included; pictures of a usual size."""
    path = tmp_path / f"large.{form}"
    drawn = Image.linear_gradient("L").convert("RGB").resize((12000, 9000))
    drawn.paste(Image.open(assets.photo()).resize((6000, 3000)), (3000, 3000))
    drawn.save(path, **({"quality": 85} if form == "jpg" else {"compress_level": 1}))
    del drawn
    code = (
        "import sys; from portable_cam.cli import main; sys.argv[0] = 'portable-cam'\n"
        "try: main()\nexcept SystemExit as done: assert not done.code\n"
        # of this process alone: what getrusage gives begins with the peak of the one that started it
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) * 1024)"
    )
    command = ("explain", str(assets.model()), str(path), "-o", str(tmp_path / "out"), "--no-check")
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 12 * 108_000_000
    (overlay,) = (tmp_path / "out").glob("large.*.gradcam.png")
    with Image.open(overlay) as picture:
        assert picture.width == 2048
    assert overlay.stat().st_size < 6_000_000


def test_the_input_of_a_large_photo_is_that_of_the_whole() -> None:
    """What decoding at a fraction changes is at most a few of 255."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((3200, 2400)))
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    for how in ("stretch", "shortest+crop", "letterbox"):
        prepared = Preprocessing((96, 96), resize=how)
        small, size = read_photo(data, lambda size: (300, 400))
        assert small.shape[0] == 300
        whole = prepared.view(read_image(data)).astype(int)
        assert np.abs(prepared.view(small, size) - whole).max() <= 4
        assert prepared.geometry(size) == prepared.geometry((2400, 3200))
