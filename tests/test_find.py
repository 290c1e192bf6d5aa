"""Which files are photos, and what a file is that is none."""

from pathlib import Path, PurePath

import pillow_heif
import pytest
from PIL import Image

from portable_cam.errors import ImageError, ModelError
from portable_cam.export.read.load import load
from portable_cam.file_kinds import advice
from portable_cam.image import decode
from portable_cam.image.decode import read_image
from portable_cam.image.find import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images on three levels, and with what is none."""
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "deep/a.png", "deep/er/c.jfif", ".hidden.png", "notes.txt", "x.pdf", "deep/v.mp4"):
        (root / name).touch()
    for name in (".git", "out"):
        (root / name).mkdir()
        (root / name / "d.png").touch()
    return root


def test_folders_with_all_below_them(folder: Path) -> None:
    found = find_images([folder], without=folder / "out")
    assert [str(relative) for _, relative in found.photos] == ["a.png", "b.JPG", "deep/a.png", "deep/er/c.jfif"]
    assert all(path == folder / relative for path, relative in found.photos)
    why = {str(path.relative_to(folder)): why.split(":")[0] for path, why in found.skipped}
    assert why == {
        ".git": "hidden",
        ".hidden.png": "hidden",
        "out": "the folder of the results",
        "notes.txt": "not an image",
        "x.pdf": "a PDF",
        "deep/v.mp4": "a video",
    }


def test_files_are_kept_and_none_is_taken_twice(folder: Path) -> None:
    notes = folder / "notes.txt"
    found = find_images([notes, folder / "a.png", folder / "deep", folder / "deep" / ".." / "a.png"])
    assert [path for path, _ in found.photos[:2]] == [notes, folder / "a.png"]
    assert [relative for _, relative in found.photos[2:]] == [PurePath("a.png"), PurePath("er/c.jfif")]
    empty = folder / "empty.png"
    empty.mkdir()
    assert [path for path, _ in find_images([empty]).photos] == [empty]
    with pytest.raises(ImageError, match="holds no image"):
        read_image(empty)
    with pytest.raises(ImageError, match="no image was given"):
        find_images([])


def test_links_do_not_lead_in_a_circle(folder: Path) -> None:
    (folder / "deep" / "up").symlink_to(folder)
    found = find_images([folder / "deep"])
    assert len(found.photos) == 2
    assert (folder / "deep" / "up", "a link") in found.skipped


@pytest.mark.parametrize("orientation", [1, 6])
def test_photos_of_phones(tmp_path: Path, orientation: int) -> None:
    """HEIC, upright as the camera says; AVIF as the library that Pillow brings reads it."""
    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.heic", exif=exif.tobytes())
    image.save(tmp_path / "a.avif")
    assert read_image(tmp_path / "a.heic").shape == ((20, 40, 3) if orientation == 1 else (40, 20, 3))
    assert read_image(tmp_path / "a.avif").shape == (20, 40, 3)
    assert [path.name for path, _ in find_images([tmp_path]).photos] == ["a.avif", "a.heic"]


def test_without_the_library_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_formats", lambda: ("PNG", "JPEG"))
    monkeypatch.setattr(decode, "readable_suffixes", lambda: frozenset({".png", ".jpg"}))
    path = tmp_path / "IMG.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ImageError, match=r"is a HEIC photo: .*pip install pillow-heif"):
        read_image(path)


#: What people give for a model: first bytes and a name, and what they are told.
MODELS = [
    (b"PK\3\4" + bytes(26) + b"archive/data.pkl", "w.pt", "a PyTorch file: .*torch.onnx.export"),
    (b"\x80\x02\x8a\nl", "old.pth", "a PyTorch file"),
    (b"\x89HDF\r\n\x1a\n", "k.h5", "a Keras file"),
    (b"PK\3\4" + bytes(26) + b"config.json", "k.keras", "a Keras file"),
    (b"\x1c\0\0\0TFL3", "l.tflite", "a TensorFlow Lite file: .*--tflite"),
    (b"ftrt" + bytes(9), "e.engine", "TensorRT, .*the ONNX file that it was built from"),
    (b"\x24\0\0\0ORTM", "o.ort", "ONNX Runtime's own format"),
    (b"\2\0\0\0\0\0\0\0{}", "s.safetensors", "weights without a graph"),
    (b"<?xml version='1.0'?><net name='x'/>", "v.xml", "a file of OpenVINO"),
    (b"version https://git-lfs.github.com/spec/v1\n", "m.onnx", "a pointer of Git LFS, .*git lfs pull"),
    (b"<!DOCTYPE html><html></html>", "m.onnx", "a page of HTML"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "m.onnx", "an image: the model comes first"),
    (b"\xff\xd8\xff\xe0", "photo.jpg", "an image: the model comes first"),
    (b"PK\3\4" + bytes(26) + b"model.onnx", "z.zip", "an archive: unpack it"),
    (b"\x08\x04\x12\x10", "c.mlmodel", "a Core ML model"),
    (b"%PDF-1.4", "doc.onnx", "a PDF"),
]


@pytest.mark.parametrize(("head", "name", "told"), MODELS, ids=[name for _, name, _ in MODELS])
def test_what_is_no_model(head: bytes, name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(head)
    with pytest.raises(ModelError, match=rf"{name} is .*{told}"):
        load(path)


def test_folders_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.onnx").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    for name, told in (("a", r"is a folder; give the .onnx file inside it: model\.onnx"), ("saved", "--saved-model")):
        with pytest.raises(ModelError, match=told):
            load(tmp_path / name)


#: What people give for a photo.
PHOTOS = [
    (b"%PDF-1.4", "a.pdf", "a PDF: .*pdftoppm"),
    (b"\0\0\0\x18ftypmp42", "a.mp4", "a video: .*ffmpeg"),
    (b"\x1aE\xdf\xa3", "a.mkv", "a video"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", r"a drawing \(SVG\)"),
    (b"II*\0" + bytes(50), "a.cr2", "a camera's raw file: develop it"),
    (b"8BPS\0\1", "a.psd", "a Photoshop file"),
    (bytes(128) + b"DICM", "scan", "a DICOM file"),
    (b"\x93NUMPY", "a.npy", "an array: .*portable_cam.Explainer"),
    (b"\x08\x07\x12\x07pytorch", "a.onnx", "an ONNX model: the model comes first"),
    (b"<!DOCTYPE html><html></html>", "a.jpg", "not an image, though it is called one|a page of HTML"),
    (b"hello", "a.png", "not an image, though it is called one"),
]


@pytest.mark.parametrize(("head", "name", "told"), PHOTOS, ids=[name for _, name, _ in PHOTOS])
def test_what_is_no_photo(head: bytes, name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(head)
    with pytest.raises(ImageError, match=rf"{name} is (?:{told})"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("https://example.org/a", "is a URL: download the {} first"),
        ("-", "the {} is not read from standard input"),
        ("in/*.zzz", "a pattern is expanded by the shell, where it stands without quotes"),
        ("absent", "cannot read the {} absent: No such file or directory; check the path"),
    ],
)
def test_what_is_no_file(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told.format("model")):
        load(name)
    with pytest.raises(ImageError, match=told.format("image")):
        read_image(name)


def test_a_model_or_photo_needs_no_advice() -> None:
    assert advice("a.onnx", b"\x08\x07\x12\x07pytorch", "model") is None
    assert advice("a.png", b"\x89PNG", "photo") is None
    assert advice("a", b"anything", "photo") is None


def test_no_message_installs_from_an_index() -> None:
    """The project is on none: its extras come from a checkout."""
    root = Path(__file__).parents[1]
    for folder in ("portable_cam", "export", "kernels", "docs"):
        for path in [*(root / folder).rglob("*.py"), *(root / folder).rglob("*.md")]:
            assert "pip install portable-cam" not in path.read_text("utf-8").replace('"', ""), path
