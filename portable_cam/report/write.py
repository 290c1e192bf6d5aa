# SPDX-License-Identifier: Apache-2.0
"""The writer of explanations: files, figures and pages, all of the same record and the same images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from portable_cam.errors import OptionError
from portable_cam.explanation import Explanation
from portable_cam.report import page
from portable_cam.report.figures import of_words, sheet_of
from portable_cam.report.files import FORMATS, save, save_figure, save_text
from portable_cam.report.keyed import keyed_image
from portable_cam.report.maps import heat_map, map_image, maps_named, shown_maps
from portable_cam.report.naming import parts_of, stem_of
from portable_cam.report.record import record_of
from portable_cam.report.scene import scene_of


class ReportWriter:
    """What :class:`~portable_cam.explanation.Explanation` draws and writes itself with."""

    def record(self, explanation: Explanation) -> dict[str, Any]:
        """See :func:`~portable_cam.report.record.record_of`."""
        return record_of(explanation)

    def overlay(self, explanation: Explanation, method: str, k: int, *, key: bool = False) -> Image.Image:
        """One method's map over the whole photo, with its key below if asked for."""
        maps, k = maps_named(explanation, method, k)
        if key:
            return Image.fromarray(keyed_image(explanation, maps, k))
        return Image.fromarray(map_image(explanation, maps, k, scene_of(explanation, explanation.look.max_size)))

    def heatmap(self, explanation: Explanation, method: str, k: int) -> NDArray[np.float32]:
        """One method's map at the size of the photo."""
        return heat_map(explanation, *maps_named(explanation, method, k))

    def plot(self, explanation: Explanation) -> Figure:
        """Everything in one figure."""
        return sheet_of(explanation)

    def save(self, explanation: Explanation, path: str | Path) -> list[Path]:
        """A page for ``.html``, a figure for another suffix, else the files of a folder."""
        path, folder = Path(path), str(path).endswith(("/", os.sep)) or Path(path).is_dir() or not Path(path).suffix
        if folder:
            stem = stem_of(Path(explanation.source or "image"))
            return [Path(file) for file in write_explanation(explanation, path, stem)["files"]]
        if path.suffix.lower() in {".html", ".htm"}:
            return [save_text(page.page(explanation), path)]
        return [save_figure(sheet_of(explanation), path)]

    def fragment(self, explanation: Explanation) -> str:
        """HTML to be shown in a notebook."""
        return page.fragment(explanation)

    def page(self, explanation: Explanation) -> str:
        """A self-contained page."""
        return page.page(explanation)


def write_explanation(
    explanation: Explanation, folder: str | Path, stem: str, formats: Sequence[str] = FORMATS
) -> dict[str, Any]:
    """Write one image's files, and return the record with their paths under ``files``.

    PNG: ``stem.sheet.png`` with everything side by side, and ``stem.<label>.<method>.png``, maps over the whole photo
    with their keys, but for words and characters. NPY: ``stem.<method>.npy``, (K, ...). JSON: the record.
    :mod:`portable_cam.report.naming` has the names. What speaks against the targets (``sign="negative"``) goes to
    ``stem.against.*``, so that it does not replace what speaks for them.
    """
    record = record_of(explanation)
    stem = f"{stem}.against" if explanation.sign == "negative" else stem
    shown = shown_maps(explanation)
    images, written = {}, []
    if "png" in formats:
        if not of_words(explanation):  # of a text there would be dozens
            for k, label in enumerate(parts_of(explanation.labels[0])):
                for maps in shown:
                    images[f"{label}.{maps.name}"] = keyed_image(explanation, maps, k)
        written.append(save_figure(sheet_of(explanation), Path(folder) / f"{stem}.sheet.png"))
    arrays = {maps.name: maps.result[maps.method][0] for maps in shown}
    written += save(folder, stem, images=images, arrays=arrays, document=record, formats=formats)
    return {**record, "files": [str(path) for path in written]}


def check_formats(text: str) -> tuple[str, ...]:
    """The formats in a comma-separated list.

    Raises:
        OptionError: There is no such format, or none is named.
    """
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not formats:
        raise OptionError(f"no format was named: choose from {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise OptionError(f"format '{name}' does not exist; the formats are {', '.join(FORMATS)}")
    return formats
