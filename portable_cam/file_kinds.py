# SPDX-License-Identifier: Apache-2.0
"""What a file is that is neither a model nor a photo that can be read, and what to do about it.

A kind is told by its first bytes or, where those say nothing, by its suffix. Each has advice for who gave it as a
model, as a photo, or as either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

#: How much of a file is looked at.
HEAD = 1024
Role: TypeAlias = Literal["model", "photo"]

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_URL = re.compile(r"(?:https?|ftp|s3|gs|hf|file|data):/?/?", re.IGNORECASE)
_TO_ONNX = "a model is given as ONNX: "
_FIRST = "the model comes first, then the image"
#: How the extra that reads photos of phones is installed.
HEIF_HINT = "reading it needs pillow-heif: pip install pillow-heif"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: With its article.
        advice: By what it was given as; empty where that is right.
        suffixes: Those that tell it, where the first bytes do not.
        begins: Whether its first bytes tell it.
        reads_as_preview: Libraries that read photos show a small preview in its place.
    """

    name: str
    advice: dict[Role, str]
    suffixes: frozenset[str] = frozenset()
    begins: Callable[[bytes], bool] = lambda head: False
    reads_as_preview: bool = False


def _kind(
    name: str,
    *,
    model: str,
    photo: str,
    suffixes: str = "",
    begins: bytes | tuple[bytes, ...] | Callable[[bytes], bool] = (),
    reads_as_preview: bool = False,
) -> Kind:
    """A row: what it begins with, or a function of that; suffixes by spaces."""
    test = begins if callable(begins) else lambda head: head.startswith(begins)
    return Kind(name, {"model": model, "photo": photo}, frozenset(suffixes.split()), test, reads_as_preview)


def _brand(head: bytes) -> bytes:
    """Of the formats that lie in ISO's container."""
    return head[8:12] if head[4:8] == b"ftyp" else b""


def _is_video(head: bytes) -> bool:
    brand = _brand(head)
    moving = bool(brand) and brand not in _HEIF_BRANDS | _AVIF_BRANDS and not brand.startswith(b"jp")
    return moving or head.startswith((b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"FLV\x01")) or head[8:12] == b"AVI "


def _is_image(head: bytes) -> bool:
    """One of the formats that are read."""
    starts = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\x01\0", b"\0\0\0\x0cjP  ")
    return head.startswith(starts) or head[8:12] == b"WEBP" or _brand(head) in _AVIF_BRANDS


def _is_onnx(head: bytes) -> bool:
    """A protobuf that begins with a small version number, and the producer or the opset."""
    return head[:1] == b"\x08" and head[1:2] < b"\x14" and head[2:3] in {b"\x12", b"\x1a", b":", b"B"}


_DEVELOP = "develop it to PNG or JPEG first"
_CONVERT = f"{_TO_ONNX}export it to ONNX with the tools of its framework"

#: The first whose first bytes match, else the first that the suffix names.
KINDS: tuple[Kind, ...] = (
    _kind(
        "a pointer of Git LFS, not the file itself", model="fetch it with: git lfs pull", photo="fetch it with: "
        "git lfs pull", begins=b"version https://git-lfs",
    ),
    _kind(
        "a page of HTML", model="the download gave a page in place of the file: download it again",
        photo="the download gave a page in place of the image: download it again", suffixes=".html .htm",
        begins=lambda head: head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
    ),
    _kind(
        "a PyTorch file", suffixes=".pt .pth .pt2 .ckpt .torchscript",
        model=f"{_TO_ONNX}torch.onnx.export(module, example, 'model.onnx') writes it, as does "
        "portable_cam.export.from_torch", photo=_FIRST,
        begins=lambda head: (head.startswith(b"PK") and b"data.pkl" in head) or head[:2] in {b"\x80\x02", b"\x80\x04"},
    ),
    _kind(
        "a Keras file", suffixes=".h5 .hdf5 .keras",
        model=f"{_TO_ONNX}model.export('model.onnx', format='onnx') in Keras 3 writes it, else tf2onnx", photo=_FIRST,
        begins=lambda head: head.startswith(b"\x89HDF") or (head.startswith(b"PK") and b"config.json" in head),
    ),
    _kind(
        "a TensorFlow Lite file", suffixes=".tflite .lite", photo=_FIRST, begins=lambda head: head[4:8] == b"TFL3",
        model=f"{_TO_ONNX}python -m tf2onnx.convert --tflite FILE --output model.onnx (pip install tf2onnx)",
    ),
    _kind(
        "a file of TensorRT, compiled for one kind of GPU, without a graph to differentiate",
        model="give the ONNX file that it was built from", photo=_FIRST, suffixes=".engine .plan .trt", begins=b"ftrt",
    ),
    _kind(
        "in ONNX Runtime's own format, which can only be run", photo=_FIRST, suffixes=".ort",
        model="give the .onnx file that it was made from", begins=lambda head: head[4:8] == b"ORTM",
    ),
    _kind("a file of OpenVINO", model=_CONVERT, photo=_FIRST, begins=lambda head: b"<net " in head, suffixes=".xml"),
    _kind(
        "a file of weights without a graph (safetensors)", suffixes=".safetensors", photo=_FIRST,
        model=f"{_TO_ONNX}load the weights into their model, and export that with torch.onnx.export",
        begins=lambda head: head[8:9] == b"{" and head[4:8] == b"\0\0\0\0",
    ),
    _kind("a file of weights of a language model (GGUF)", model=_CONVERT, photo=_FIRST, begins=b"GGUF"),
    _kind(
        "a TensorFlow graph", suffixes=".pb", photo=_FIRST,
        model=f"{_TO_ONNX}python -m tf2onnx.convert --saved-model FOLDER --output model.onnx (pip install tf2onnx)",
    ),
    _kind("a Core ML model", model=_CONVERT, photo=_FIRST, suffixes=".mlmodel .mlpackage"),
    _kind(
        "a file of PaddlePaddle", suffixes=".pdmodel .pdiparams .pdparams", photo=_FIRST,
        model=f"{_TO_ONNX}paddle2onnx writes it (pip install paddle2onnx)",
    ),
    _kind(
        "a file of another framework", model=_CONVERT, photo=_FIRST,
        suffixes=".caffemodel .prototxt .param .params .weights .cfg .mar .pkl .joblib .uff .mnn .rknn .hef .tmfile",
    ),
    _kind(
        "a PDF", model=_FIRST, photo="export its page as PNG first, as with: pdftoppm -png FILE page", begins=b"%PDF",
        suffixes=".pdf",
    ),
    _kind(
        "a video", model=_FIRST, photo="take images out of it first, as with: ffmpeg -i FILE frame%04d.png",
        begins=_is_video, suffixes=".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .flv .3gp .mts .ts .ogv",
    ),
    _kind(
        "a HEIC photo", model=_FIRST, photo=HEIF_HINT, suffixes=".heic .heif .hif",
        begins=lambda head: _brand(head) in _HEIF_BRANDS,
    ),
    _kind(
        "a camera's raw file", model=_FIRST, photo=_DEVELOP, reads_as_preview=True,
        suffixes=".cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .dng .orf .rw2 .raf .pef .srw .x3f .3fr .iiq",
    ),
    _kind("a drawing (SVG)", model=_FIRST, photo="render it as PNG first", suffixes=".svg .svgz .eps .ps .ai",
          begins=lambda head: b"<svg" in head or head.startswith(b"%!PS")),
    _kind("a Photoshop file", model=_FIRST, photo="save it as PNG first", suffixes=".psd .psb .xcf", begins=b"8BPS"),
    _kind("a DICOM file", model=_FIRST, photo="convert it to PNG first", suffixes=".dcm .dicom",
          begins=lambda head: head[128:132] == b"DICM"),
    _kind("an array", model=_CONVERT, suffixes=".npy .npz", begins=b"\x93NUMPY",
          photo="arrays are explained from Python, with portable_cam.Explainer"),
    _kind("an archive", model="unpack it, and give the .onnx file inside", photo="unpack it first",
          suffixes=".zip .tar .gz .tgz .7z .rar .xz .bz2", begins=(b"PK", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")),
    _kind("an image", model=_FIRST, photo="", begins=_is_image,
          suffixes=".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .avif .ico .ppm .pgm .tga .pcx .jp2"),
    _kind("an ONNX model", model="", photo=_FIRST, suffixes=".onnx", begins=_is_onnx),
)  # fmt: skip


def kind_of(path: str, head: bytes | None = None) -> Kind | None:
    """The kind of a file, by its first bytes, else by its suffix; None where neither tells.

    Args:
        path: Where it lies, or a name.
        head: Its first bytes; None: the suffix alone counts.
    """
    if head is not None:
        for kind in KINDS:
            if kind.begins(head[:HEAD]):
                return kind
    suffix = Path(path).suffix.lower()
    return next((kind for kind in KINDS if suffix in kind.suffixes), None)


def advice(path: str, head: bytes | None, role: Role) -> str | None:
    """What a file is and what to do, as ``is a PDF: export its page as PNG first``; None where it is not known, or is
    what it was given as."""
    for kind in (kind_of(path, head), kind_of(path)):  # other protobufs begin as ONNX does
        if kind is not None and kind.advice[role]:
            return f"is {kind.name}: {kind.advice[role]}"
    return None


def why_missing(path: str, role: Role) -> str | None:
    """Why there is no file of this name, where the name itself tells: a URL, standard input, a pattern."""
    what = "model" if role == "model" else "image"
    if _URL.match(path):
        return f"{path} is a URL: download the {what} first, and give the file"
    if path == "-":
        return f"the {what} is not read from standard input (-): save it to a file, and give that"
    if re.search(r"[*?\[]", path):
        return (
            f"there is no file {path}: a pattern is expanded by the shell, where it stands without quotes and matches "
            f"something; give the {what} by name" + (", or the folder that the images are in" * (role == "photo"))
        )
    return None


def listed(kinds: Iterable[tuple[str, str]], most: int = 8) -> str:
    """Files by why they are skipped: ``2 a PDF (a.pdf, b.pdf)``."""
    by_why: dict[str, list[str]] = {}
    for path, why in kinds:
        by_why.setdefault(why, []).append(path)
    parts = []
    for why, paths in by_why.items():
        rest = f" and {len(paths) - most} more" * (len(paths) > most)
        parts.append(f"{', '.join(paths[:most])}{rest} ({why})")
    return "; ".join(parts)
