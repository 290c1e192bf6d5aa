"""A picture of a map with its key below it, for a file that is looked at by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from portable_cam.explanation import Explanation
from portable_cam.image.geometry import ImageArray
from portable_cam.report.figures import note_of, title_of_target
from portable_cam.report.key import Key, keys_of
from portable_cam.report.letters import width_of, wrap, write
from portable_cam.report.maps import ShownMaps, map_image
from portable_cam.report.record import lines_of
from portable_cam.report.scene import scene_of
from portable_cam.report.style import FAINT, INK

_LEAST = 400  # pixels of the longer side, below which a key cannot be read


def keyed_image(explanation: Explanation, maps: ShownMaps, k: int) -> ImageArray:
    """The map of target ``k`` over the whole photo; below it what it is of, by which method, and the key."""
    scene = scene_of(explanation, explanation.look.max_size, _LEAST)
    picture = map_image(explanation, maps, k, scene)
    line = lines_of(explanation)[k]
    said = [f"{title_of_target(explanation, line)}: {maps.title}", note_of(line), maps.remark(k)]
    keys = keys_of([maps], explanation.look, unseen=scene.frame is not None)
    return np.concatenate([picture, _foot(picture.shape[1], said, keys)])


def _foot(width: int, said: Sequence[str], keys: Sequence[Key]) -> ImageArray:
    """The white strip below a picture: lines, the first larger, then the keys."""
    letter = min(26.0, max(11.0, width / 40))
    pad = round(letter * 0.8)
    room = width - 2 * pad
    image = Image.new("RGB", (width, 40 * round(letter) * (1 + len(keys))), "white")
    pen, y = ImageDraw.Draw(image), float(pad)
    for i, text in enumerate(filter(None, said)):
        size = letter * 1.15 if i == 0 else letter
        lines = wrap(text, room, size)
        write(pen, (pad, y), lines, size, INK if i == 0 else FAINT)
        y += 1.3 * size * len(lines)
    for key in keys:
        y += 0.6 * letter
        y = _scale(image, pen, key, pad, y, letter) if key.ticks else _sample(image, pen, key, pad, y, letter)
    return np.asarray(image.crop((0, 0, width, min(image.height, round(y) + pad))))


def _scale(image: Image.Image, pen: ImageDraw.ImageDraw, key: Key, pad: int, y: float, letter: float) -> float:
    """A key's caption, its scale and its ticks; where they end."""
    room = image.width - 2 * pad
    lines = wrap(key.caption, room, letter)
    write(pen, (pad, y), lines, letter, INK)
    y += 1.3 * letter * len(lines) + 2
    tall = round(letter * 0.9)
    image.paste(Image.fromarray(key.pixels).resize((room, tall), Image.Resampling.BILINEAR), (pad, round(y)))
    y += tall + 2
    for at, text in key.ticks:
        line = wrap(text, room, letter)
        write(pen, (pad + at * (room - width_of(line[0], letter)), y), line, letter, FAINT)
    return y + 1.3 * letter


def _sample(image: Image.Image, pen: ImageDraw.ImageDraw, key: Key, pad: int, y: float, letter: float) -> float:
    """A key's sample and its caption beside it; where they end."""
    size = round(2.2 * letter), round(1.3 * letter)
    image.paste(Image.fromarray(key.pixels).resize(size, Image.Resampling.BILINEAR), (pad, round(y)))
    x = pad + size[0] + round(0.6 * letter)
    lines = wrap(key.caption, image.width - pad - x, letter)
    write(pen, (x, y), lines, letter, INK)
    return y + 1.3 * letter * len(lines)
