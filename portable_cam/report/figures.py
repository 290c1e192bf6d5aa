# SPDX-License-Identifier: Apache-2.0
"""An explanation's sheet: everything of it in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from portable_cam.explanation import Explanation
from portable_cam.report.key import keys_of
from portable_cam.report.maps import map_image, marked_photo, shown_maps
from portable_cam.report.record import lines_of
from portable_cam.report.scene import scene_of
from portable_cam.report.sheet import Panel, Section, sheet_figure
from portable_cam.report.wording import how_much, number, part_explained, top_is

#: The longer side of a photo on a sheet, in pixels: twice what is seen of it, for who looks closer in a PDF.
_LONGEST = 800


def sheet_of(explanation: Explanation, heading: str | None = None) -> Figure:
    """The sheet of an explanation, by default headed by the photo's name."""
    scene = scene_of(explanation, _LONGEST)
    shown = shown_maps(explanation)
    lines = lines_of(explanation)
    sections = [
        Section(
            title=title_of_target(explanation, line),
            note=note_of(line),
            panels=[Panel(maps.title, map_image(explanation, maps, k, scene), maps.remark(k)) for maps in shown],
            words=[(word, value) for word, value in line.get("words", ())],
        )
        for k, line in enumerate(lines)
    ]
    if not explanation.found:
        shown, sections = [], [Section("nothing found", explanation.nothing_found, [])]
    return sheet_figure(
        marked_photo(explanation, scene),
        sections,
        heading_of(explanation) if heading is None else heading,
        explanation.top,
        scale=top_is(explanation.top_scale),
        explained={line.get("name", line["label"]) for line in lines},
        keys=keys_of(shown, explanation.look, unseen=bool(shown) and scene.frame is not None),
        facts=facts_of(explanation),
        small=of_words(explanation),
    )


def heading_of(explanation: Explanation) -> str:
    """What is above a figure: the photo's name, and the text or the question."""
    name, text = Path(explanation.source).name, explanation.text.strip()
    said = f"“{text}”{' (given)' if explanation.text_given else ''}" if text else explanation.question
    return ": ".join(part for part in (name, said) if part)


def title_of_target(explanation: Explanation, line: dict[str, Any]) -> str:
    """What a target is called, and which sign the maps have."""
    return f"against: {line['label']}" if explanation.sign == "negative" else str(line["label"])


def note_of(line: dict[str, Any]) -> str:
    """The numbers of a target."""
    found = how_much(line) + part_explained(line)
    if "probability" in line and "span" not in line:
        found += f", score {number(line['score'], 2)}"
    return found


def facts_of(explanation: Explanation) -> str:
    """How the maps were made."""
    layers = [explanation.layer] if isinstance(explanation.layer, str) else explanation.layer
    made = [f"layer {', '.join(layers)}" if any(layers) else "", explanation.preprocessing.describe()]
    return "; ".join(part for part in made if part)


def of_words(explanation: Explanation) -> bool:
    """Whether the targets are words or characters, of which there are many."""
    return any(detail.span is not None for detail in explanation.details)
