# SPDX-License-Identifier: Apache-2.0
"""Any common image file to an RGB array."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from portable_cam.arrays import as_array
from portable_cam.errors import ImageError
from portable_cam.file_kinds import advice, kind_of, why_missing
from portable_cam.image.geometry import ImageArray, Size

#: Larger images are refused before they are decoded: some kilobytes can unpack to gigabytes (a decompression bomb).
#: 120 million pixels hold the photos of 108-megapixel phones and take 360 MB as RGB.
MAX_PIXELS = 120_000_000

#: The formats read. Image files are untrusted: Pillow would hand an EPS file to Ghostscript, which runs programs, and
#: its rarest decoders are its least tried ones.
READABLE_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "HEIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "TGA",
    "TIFF",
    "WEBP",
)

_ORIENTATION = 0x0112
# EXIF 2.32, table 6: how to turn an image stored with each orientation upright; 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ON_ITS_SIDE = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
#: Modes whose values Pillow averages.
_AVERAGED = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})


def read_image(source: str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]) -> ImageArray:
    """An image as uint8 (H, W, 3), RGB.

    EXIF orientation is applied, and of several frames the first taken. Grey, 1-bit, palette and CMYK images are
    converted; transparent ones are laid on white, as a page shows them. 16-bit values are divided by 257, so that
    65535 becomes 255 and nothing is cut off. Floating point is taken as 0 to 1 if all of it lies there, else as 0 to
    255, else stretched from its least to its greatest value.

    Args:
        source: A path, a file's bytes, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8,
            uint16, bool or floating point; the fourth channel is opacity.

    Raises:
        ImageError: It is not an image, is truncated, larger than :data:`MAX_PIXELS`, or missing.
    """
    return read_photo(source)[0]


def read_photo(
    source: str | os.PathLike[str] | bytes | Image.Image | NDArray[Any], enough: Callable[[Size], Size] | None = None
) -> tuple[ImageArray, Size]:
    """An image as :func:`read_image` has it, a large one at a half, a quarter or an eighth of its size; and the size
    (height, width) that it has.

    A JPEG is decoded at that size, others are averaged over blocks. An array is taken as it is.

    Args:
        source: As for the other.
        enough: From the image's size to the least one to decode it at; None: its own.

    Raises:
        ImageError: As for the other.
    """
    if isinstance(source, np.ndarray):
        array = _from_array(source)
        return array, (array.shape[0], array.shape[1])
    if isinstance(source, Image.Image):
        return _decode(source, "the given image", enough, given=True)
    if isinstance(source, bytes):
        name, data = "the given bytes", source
    elif isinstance(source, str | os.PathLike):
        if Path(source).is_dir():
            raise ImageError(f"the folder {source} holds no image file: give image files, or the folder they are in")
        name, data = str(source), _bytes_of(Path(source))
    elif hasattr(source, "__array__") or hasattr(source, "__dlpack__"):
        array = _from_array(as_array(source, "the given image", ImageError))
        return array, (array.shape[0], array.shape[1])
    else:
        raise ImageError(f"a picture is a path, bytes, a PIL image or an array, not {type(source).__name__}")
    if not data:
        raise ImageError(f"{name} is empty: save or download it again")
    if (kind := kind_of(name)) is not None and kind.reads_as_preview:
        raise ImageError(f"{name} {advice(name, None, 'photo')}")
    try:
        with warnings.catch_warnings():
            # Pillow warns at a limit of its own and fails at twice that; ours is checked here, before any decoding
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has far more than the {MAX_PIXELS} pixels allowed: scale it down first") from None
    except UnidentifiedImageError:
        raise _not_read(name, data) from None
    except Exception as error:
        raise _damaged(name, error) from None
    with image:
        return _decode(image, name, enough)


@cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`READABLE_FORMATS` that this build of Pillow has, and HEIF where pillow-heif is installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        pillow_heif = import_module("pillow_heif")
        pillow_heif.register_heif_opener()
    return tuple(name for name in READABLE_FORMATS if name in Image.OPEN)


@cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes of the formats that are read here."""
    formats = _formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        known = why_missing(str(path), "photo")
        raise ImageError(known or f"cannot read the image {path}: {reason}; check the path") from None


def _damaged(name: str, error: Exception | str) -> ImageError:
    return ImageError(f"{name} is truncated or damaged ({error}): save or download it again")


def _not_read(name: str, data: bytes) -> ImageError:
    """Why no decoder takes a file."""
    inside = kind_of("", data)
    if inside is not None and inside.suffixes & readable_suffixes():
        return _damaged(name, "only its first bytes are those of an image")
    if inside is None and Path(name).suffix.lower() in readable_suffixes():
        return ImageError(f"{name} is not an image, though it is called one: save or download it again")
    known = advice(name, data, "photo")
    return ImageError(
        f"{name} {known}"
        if known
        else f"{name} is not an image, or not one of {', '.join(_formats())}: convert it to PNG"
    )


def _decode(
    image: Image.Image, name: str, enough: Callable[[Size], Size] | None, *, given: bool = False
) -> tuple[ImageArray, Size]:
    """As :func:`read_photo`; a ``given`` image is its owner's, and not to be made smaller."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed: scale it down first"
        )
    try:
        size = None
        if image.format == "JPEG" and enough is not None and not given:
            size = _upright_size(image)
            factor = _factor(size, enough(size))
            # decoded at that size: neither time nor memory for the whole
            image.draft(None, (-(-image.width // factor), -(-image.height // factor)))
        image.load()
        turn = _turn(image)  # other formats may tell it behind the pixels, or turn them themselves
        if size is None:
            size = _upright_size(image)
            factor = 1 if enough is None or image.mode not in _AVERAGED else _factor(size, enough(size))
            image = image if factor == 1 else image.reduce(factor)
        return _to_rgb(image if turn is None else image.transpose(turn), name), size
    except ImageError:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise nearly every kind of exception
        raise _damaged(name, error) from None


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image upright; None if it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF is common and no reason to refuse a sound image
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _factor(size: Size, enough: Size) -> int:
    """The largest of 8, 4 and 2 that leaves both sides long enough, else 1."""
    return next((f for f in (8, 4, 2) if size[0] // f >= enough[0] and size[1] // f >= enough[1]), 1)


def _upright_size(image: Image.Image) -> Size:
    """(height, width) once it is turned upright."""
    return (image.width, image.height) if _turn(image) in _ON_ITS_SIDE else (image.height, image.width)


def _to_rgb(image: Image.Image, name: str) -> ImageArray:
    # 16-bit grey is "I;16", and "I" where an older Pillow read it from PNG
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ImageError(f"{name} holds {deep.min()} to {deep.max()}, beyond 16 bits: scale it to 8 bits first")
        return _rgb(deep / 257)
    if image.mode == "F":
        return _rgb(_stretched(np.asarray(image), name))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _from_array(array: NDArray[Any]) -> ImageArray:
    name = "the given array"
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.shape[0] in {1, 3, 4} and array.shape[2] not in {1, 3, 4}:
        raise ImageError(
            f"{name} has shape {array.shape}, channels first: a picture is (H, W, 3), which array.transpose(1, 2, 0) "
            "gives"
        )
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4} or array.size == 0:
        raise ImageError(f"{name} has shape {array.shape}: a picture is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.uint16:
        array = _rounded(array / 257)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        array = _rounded(_stretched(array, name))
    if array.dtype != np.uint8:
        raise ImageError(f"{name} holds {array.dtype}: a picture is uint8, uint16, bool or floating point")
    return _to_rgb(Image.fromarray(array), name) if array.shape[2] == 4 else _rgb(array)


def _stretched(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Floating point to 0 to 255, by what it usually means: 0 to 1, else 0 to 255, else from its least to its most."""
    deep = values.astype(np.float64)
    if not np.isfinite(deep).all():
        raise ImageError(f"{name} holds NaN or infinite pixels: replace them first")
    low, high = float(deep.min()), float(deep.max())
    if low >= 0 and high <= 255:
        return deep * 255 if high <= 1 else deep
    return (deep - low) / ((high - low) or 1) * 255


def _rounded(values: NDArray[Any]) -> ImageArray:
    rounded: NDArray[Any] = np.clip(np.rint(values), 0, 255)
    return rounded.astype(np.uint8)


def _rgb(values: NDArray[Any]) -> ImageArray:
    """(H, W), (H, W, 1) or (H, W, 3) of 0 to 255 to a new uint8 (H, W, 3)."""
    pixels = _rounded(values)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
