# SPDX-License-Identifier: Apache-2.0
"""An explanation's figures: one sheet of everything, or for words a strip or the answers, by method."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from portable_cam.explanation import Explanation
from portable_cam.report.maps import ShownMaps, map_image, marked_view, shown_maps
from portable_cam.report.record import lines_of
from portable_cam.report.sheet import Panel, Section, sheet_figure
from portable_cam.report.strips import Cell, answers_figure, stacked, strip_figure
from portable_cam.report.wording import how_much, part_explained


def figures_of(explanation: Explanation) -> dict[str, Figure]:
    """Every figure, by what its file's name ends with: ``sheet``; ``strip`` or ``answers``, behind the method's name
    where there are several; none where nothing was found."""
    if not explanation.found:
        return {}
    if explanation.drawing == "sheet":
        return {"sheet": sheet_of(explanation)}
    shown = shown_maps(explanation)
    kind = explanation.drawing
    return {kind if len(shown) == 1 else f"{maps.name}.{kind}": _words_figure(explanation, maps) for maps in shown}


def whole_figure(explanation: Explanation) -> Figure:
    """Everything in one figure."""
    if not explanation.found:
        return _nothing_figure(explanation)
    if explanation.drawing == "sheet":
        return sheet_of(explanation)
    shown = shown_maps(explanation)
    if len(shown) < 2:
        return _words_figure(explanation, shown[0] if shown else None)
    heading = heading_of(explanation)
    return stacked([_words_figure(explanation, maps, f"{heading}: {maps.title}") for maps in shown])


def sheet_of(explanation: Explanation, heading: str | None = None) -> Figure:
    """The sheet of an explanation, by default headed by the photo's name."""
    return sheet_figure(
        marked_view(explanation),
        sections_of(explanation),
        heading_of(explanation) if heading is None else heading,
        explanation.top,
        scale=explanation.top_scale,
        explained={line.get("name", line["label"]) for line in lines_of(explanation)},
    )


def heading_of(explanation: Explanation) -> str:
    """What is above a figure: the text, the question, or the photo's name."""
    text = explanation.text.strip()
    return _signed(explanation, text) if text else explanation.question or Path(explanation.source).name


def sections_of(explanation: Explanation) -> list[Section]:
    """A section of the sheet for each target."""
    shown = shown_maps(explanation)
    return [
        Section(
            title=_signed(explanation, line["label"]),
            note=how_much(line) + part_explained(line),
            panels=[Panel(maps.title, map_image(explanation, maps, k), maps.remark(k)) for maps in shown],
        )
        for k, line in enumerate(lines_of(explanation))
    ]


def _nothing_figure(explanation: Explanation) -> Figure:
    """The photo, and why there is nothing to show of it."""
    height, width = explanation.image.shape[:2]
    figure = Figure(figsize=(5, 5 * height / width + 1), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.04, 0.04, 0.92, 0.92 - 0.8 / float(figure.get_figheight())))
    axes.imshow(explanation.image)
    axes.set_axis_off()
    text = textwrap.fill(f"nothing found: {explanation.nothing_found}", 70)
    figure.text(0.04, 0.97, text, va="top", fontsize=9, parse_math=False)
    return figure


def _words_figure(explanation: Explanation, maps: ShownMaps | None, heading: str | None = None) -> Figure:
    """A strip or the answers of one method; of none, where only words are explained."""
    heading = heading_of(explanation) if heading is None else heading
    cells = _cells(explanation, maps)
    if explanation.drawing == "strip":
        return strip_figure(explanation.view, cells, heading)
    return answers_figure(explanation.view, cells, heading, explanation.words, explanation.token_attribution)


def _cells(explanation: Explanation, maps: ShownMaps | None) -> Sequence[Cell]:
    """A cell for each target: its probability or score below it, or why its map is empty."""
    cells = []
    for k, line in enumerate(lines_of(explanation)):
        word = _signed(explanation, line["label"]) if explanation.drawing == "answers" else line["label"]
        if maps is None:
            cells.append(Cell(word, how_much(line), None))
        else:
            cells.append(Cell(word, maps.remark(k) or how_much(line), map_image(explanation, maps, k)))
    return cells


def _signed(explanation: Explanation, text: str) -> str:
    """A title that tells which sign the maps have."""
    return f"against: {text}" if explanation.sign == "negative" else text
