# SPDX-License-Identifier: Apache-2.0
"""Fonts that have the characters of a text: matplotlib's own, and for what it lacks one that is installed."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from portable_cam.errors import PortableCamWarning

_BASE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
#: Parts of the names of fonts that have many scripts, looked into before all others.
_WIDE = ("notosanscjk", "sourcehansans", "notoemoji", "symbola", "notosanssymbols2", "wqy", "droidsansfallback",
         "pingfang", "hiragino", "msyh", "yugoth", "malgun", "seguiemj", "seguisym", "arialuni",
         "notosans")  # fmt: skip
#: Shown for a character that no font has.
_MISSING = "□"
#: What changes the character before it in fonts that can do that, and else means nothing: joiners, variation selectors,
#: colours of skin.
_INVISIBLE = frozenset(
    chr(c) for c in (0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400), *range(0xE0100, 0xE01F0))
)


@dataclass(frozen=True)
class Font:
    """A font's file, the name of its family, and the characters it has."""

    path: Path
    family: str
    characters: frozenset[int]


def families(text: str) -> list[str]:
    """The families that matplotlib is to try, in this order, for a text of :func:`drawable`."""
    found = [_base().family]
    for font in filter(None, map(_font_for, text)):
        if font.family not in found:
            _register(font)
            found.append(font.family)
    return found


def drawable(text: str) -> str:
    """The text with what no font on this machine has written otherwise: symbols as their names, others as a box, with
    a warning that says what to install."""
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if c not in _INVISIBLE)
    missing = sorted({c for c in text if _font_for(c) is None})
    if not missing:
        return text
    _warn("".join(missing))
    return text.translate({ord(c): _instead(c) for c in missing})


def runs(text: str, size: float) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The parts of a text of :func:`drawable` with the font that has each, for Pillow, which takes one at a time."""
    files = groupby(text, lambda c: (_font_for(c) or _base()).path)
    return [("".join(part), _sized(path, round(size))) for path, part in files]


def _instead(character: str) -> str:
    symbol = unicodedata.category(character) == "So"
    return f"[{unicodedata.name(character, '').lower()}]" if symbol else _MISSING


@cache  # once for each text
def _warn(missing: str) -> None:
    warnings.warn(
        f"no font on this machine has {' '.join(missing)}: they are written otherwise in pictures; install one that "
        "has them, as fonts-noto-cjk or fonts-noto-extra of Debian and Ubuntu",
        PortableCamWarning,
        stacklevel=2,
    )


@cache
def _register(font: Font) -> None:
    """Make it known to matplotlib as its own regular and bold face, so that a text of any weight finds it."""
    properties = font_manager.ttfFontProperty(FT2Font(font.path))
    entries = [replace(properties, name=font.family, style="normal", weight=weight) for weight in (400, 700)]
    font_manager.fontManager.ttflist.extend(entries)


@cache
def _base() -> Font:
    return _load(str(_BASE))


@cache
def _font_for(character: str) -> Font | None:
    """The first font with this character; None if there is none."""
    code = ord(character)
    if code in _base().characters:
        return _base()
    return next((font for font in _installed() if code in font.characters), None)


def _installed() -> Iterator[Font]:
    """What is installed, those with many characters first; each is read when it is needed."""
    for path in _files():
        try:
            font = _load(path)
        except Exception:  # a file that FreeType does not take, or one of bitmaps, is no help
            continue
        if font.characters:
            yield font


@cache
def _files() -> tuple[str, ...]:
    def rank(path: str) -> tuple[int, str]:
        name = Path(path).stem.lower().replace("-", "").replace("_", "").replace(" ", "")
        return next((i for i, part in enumerate(_WIDE) if part in name), len(_WIDE)), path

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


@cache
def _load(path: str) -> Font:
    font = FT2Font(path)
    scalable = font.scalable
    return Font(Path(path), font.family_name, frozenset(font.get_charmap()) if scalable else frozenset())


@cache
def _sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)
