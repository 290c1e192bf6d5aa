"""Files of one image's results: PNG, NPY, JSON."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import OptionError
from portable_cam.export.read.whole_files import whole_file, write_whole
from portable_cam.image.geometry import ImageArray

#: What can be written of one image's explanation.
FORMATS = ("png", "npy", "json")

#: zlib's level for PNG. On photos under maps and sheets, 0.2 to 2.3 megapixels, Pillow's default of 6 takes 2.2 to 2.8
#: times as long for files 1 to 5 % smaller; level 1 saves another 40 %, but its files are 9 to 15 % larger.
PNG_LEVEL = 4


def save(
    folder: str | Path,
    stem: str,
    *,
    images: Mapping[str, ImageArray] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    document: Mapping[str, Any] | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Save one image's results: ``stem.<name>.png`` per image, ``stem.<name>.npy`` per array, and ``stem.json``.

    Args:
        folder: Created if it does not exist.
        stem: What all file names begin with; see :mod:`portable_cam.report.naming`, as for the other names.
        images: uint8 (H, W, 3), by name.
        arrays: By name, saved as they are.
        document: Everything else; numpy numbers and arrays in it are written as lists, NaN as null.
        formats: Which of :data:`FORMATS` to write.

    Returns:
        The files written.

    Raises:
        OptionError: A format is unknown, or a file cannot be written.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise OptionError(f"format {unknown[0]!r} is unknown: choose from {', '.join(FORMATS)}")
    written: list[Path] = []

    @contextlib.contextmanager
    def file(*parts: str) -> Iterator[Path]:
        # what a name is made of is encoded already; a separator that is left must not lead out of the folder
        path = Path(folder) / ".".join((stem, *(re.sub(r"[/\\]", _percent, part) for part in parts)))
        with whole_file(path) as place:
            yield place
        written.append(path)

    try:
        for name, pixels in (images or {}).items() if "png" in formats else ():
            with file(name, "png") as place:
                Image.fromarray(pixels).save(place, compress_level=PNG_LEVEL)
        for name, array in (arrays or {}).items() if "npy" in formats else ():
            with file(name, "npy") as place:
                np.save(place, array, allow_pickle=False)
        if document is not None and "json" in formats:
            with file("json") as place:
                place.write_text(_json(document), encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write to {folder}: {error}; choose another folder") from None
    return written


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix says the format (PNG, JPEG, PDF, SVG).

    Raises:
        OptionError: The file cannot be written.
    """
    path = Path(path)
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": PNG_LEVEL}} if path.suffix.lower() == ".png" else {}
    try:
        with whole_file(path) as place:
            figure.savefig(place, **options)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write the picture {path}: {error}; choose another place or format") from None
    return path


def save_text(text: str, path: str | Path) -> Path:
    """Write a text file.

    Raises:
        OptionError: The file cannot be written.
    """
    path = Path(path)
    try:
        write_whole(path, text)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error}; choose another place") from None
    return path


def save_document(document: Mapping[str, Any], path: str | Path) -> Path:
    """Write a document as JSON; see :func:`save`.

    Raises:
        OptionError: The file cannot be written.
    """
    return save_text(_json(document), path)


def _percent(character: re.Match[str]) -> str:
    return f"%{ord(character[0]):02X}"


def _json(document: Mapping[str, Any]) -> str:
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # names of files need not be UTF-8: Python has their other bytes as surrogates, and JSON escapes those
    return text if text.isascii() or not _SURROGATE.search(text) else _SURROGATE.sub(_escaped, text)


def _escaped(surrogate: re.Match[str]) -> str:
    return f"\\u{ord(surrogate[0]):04x}"


_SURROGATE = re.compile("[\ud800-\udfff]")


def _plain(value: Any) -> Any:
    """numpy values as JSON's own; NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
