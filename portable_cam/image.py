"""Pictures in: any file that Pillow reads to an RGB array."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from portable_cam.errors import ImageError

Picture: TypeAlias = NDArray[np.uint8]

#: Larger pictures are refused: a few kilobytes can unpack to gigabytes (a decompression bomb).
MAX_PIXELS = 200_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image(source: str | Path | bytes | Image.Image | NDArray[Any]) -> Picture:
    """A picture as uint8 (H, W, 3), RGB.

    EXIF orientation is applied; grey, palette and CMYK pictures are converted; transparent pixels are laid on white;
    16-bit and floating-point pictures are scaled to 8 bits rather than cut off; of several frames the first is taken.

    Raises:
        ImageError: It is not a picture, truncated, too large, or not there.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the given image")
    name = "the given bytes" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the image {name}: {error.strerror or error}") from None
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own limit and fails at twice that; ours is checked before anything is decoded
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{name} has {image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed: "
                        "scale it down first"
                    )
                return _to_rgb(image, name)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        what = "too large" if isinstance(error, Image.DecompressionBombError) else "not a picture that Pillow reads"
        raise ImageError(f"{name} is {what}: give a JPEG, PNG, BMP, TIFF or WebP of moderate size") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name} is truncated or damaged ({error}): save or download it again") from None


def expand_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, folders as the pictures in them, sorted.

    Raises:
        ImageError: A folder holds no picture, or nothing was given.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ImageError(f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
            found += inside
        else:
            found.append(path)
    if not found:
        raise ImageError("no image was given")
    return found


def _to_rgb(image: Image.Image, name: str) -> Picture:
    image = ImageOps.exif_transpose(image)
    if image.mode in {"I;16", "I;16B", "I;16L", "I;16N"} or image.mode == "I":
        deep = np.asarray(image).astype(np.float64)
        return _grey(deep / 257 if deep.max(initial=0) > 255 or image.mode != "I" else deep)
    if image.mode == "F":
        return _grey(_stretched(np.asarray(image), name))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return np.asarray(image.convert("RGB"), dtype=np.uint8).copy()


def _stretched(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Floating point as it is usually meant: 0 to 1, else 0 to 255, else from its least to its greatest value."""
    deep = values.astype(np.float64)
    if not np.isfinite(deep).all():
        raise ImageError(f"{name} holds NaN or infinite pixels")
    low, high = deep.min(initial=0), deep.max(initial=0)
    if low >= 0 and high <= 1:
        return deep * 255
    return deep if low >= 0 and high <= 255 else (deep - low) / (high - low) * 255


def _grey(values: NDArray[np.float64]) -> Picture:
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_array(array: NDArray[Any]) -> Picture:
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in {1, 3} or array.size == 0:
        raise ImageError(f"a picture array has shape (H, W, 3), (H, W, 1) or (H, W), not {array.shape}")
    if array.dtype != np.uint8:
        raise ImageError(f"a picture array is uint8, 0 to 255, not {array.dtype}; give other data to Explainer directly")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
