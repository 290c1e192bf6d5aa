# SPDX-License-Identifier: Apache-2.0
"""Explanations as one self-contained HTML page, or as a fragment for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from portable_cam.explanation import Explanation
from portable_cam.image.colormap import palette
from portable_cam.image.look import Look
from portable_cam.report.entries import Sizes, checks_of, data_url, entry_of, sizes_for
from portable_cam.report.figures import facts_of, heading_of, note_of, title_of_target
from portable_cam.report.key import Key, keys_of
from portable_cam.report.maps import ShownMaps, map_image, marked_photo, shown_maps
from portable_cam.report.record import lines_of
from portable_cam.report.scene import Scene, scene_of
from portable_cam.report.style import UNSEEN
from portable_cam.report.wording import number, top_is

_TEMPLATES = Path(__file__).parent / "templates"
_NOTEBOOK = 560  # pixels of the longer side of an image in a notebook, shown at half of it


class Report:
    """A page of photos, which is added to while they are explained, and keeps of each what the page needs alone.

    Args:
        count: How many photos there will be: many are smaller.
        title: Above everything, behind the model's name.
    """

    def __init__(self, count: int, title: str) -> None:
        self.title = title
        self._facts: dict[str, str] = {}
        self._sizes: Sizes = sizes_for(count)
        self._photos: list[dict[str, Any]] = []
        self._failed: list[str] = []
        self._methods: dict[str, str] = {}
        self._keys: dict[str, Key] = {}
        self._look: Look | None = None

    def add(self, explanation: Explanation) -> None:
        """One more photo."""
        entry = entry_of(explanation, self._sizes)
        shown = shown_maps(explanation)
        self._photos.append(entry)
        self._methods |= {maps.name: maps.title for maps in shown}
        self._facts = self._facts or explanation.facts
        self._look = self._look or explanation.look
        keys = keys_of(shown, explanation.look, unseen=entry["seen"] is not None)
        self._keys |= {key.caption: key for key in keys}

    def add_failure(self, text: str) -> None:
        """A photo that could not be explained, and why."""
        self._failed.append(text)

    def html(self) -> str:
        """The page."""
        look = self._look or Look()
        data = {
            "photos": self._photos,
            "methods": [{"name": name, "title": title} for name, title in self._methods.items()],
            "look": {
                "palette": palette(look.colormap).reshape(-1).tolist(),
                "opacity": look.opacity,
                "rising": look.rising,
                "gray": look.gray,
                "contours": look.contours,
            },
            "keys": [
                {"caption": key.caption, "image": data_url(key.pixels), "ticks": key.ticks, "drawn": key.of_overlay}
                for key in self._keys.values()
            ],
            "unseen": UNSEEN,
        }
        return (
            _environment()
            .get_template("page.html")
            .render(
                title=": ".join(filter(None, (self._facts.get("model"), self.title))),
                facts=self._facts,
                failed=self._failed,
                data=data,
                css=_raw("page.css"),
                js=_raw("page.js"),
            )
        )


def page(explanation: Explanation) -> str:
    """A self-contained page of one photo."""
    report = Report(1, heading_of(explanation) or explanation.task)
    report.add(explanation)
    return report.html()


def fragment(explanation: Explanation) -> str:
    """HTML to be shown within a page, without scripts, as a notebook wants it."""
    scene, shown = scene_of(explanation, _NOTEBOOK), shown_maps(explanation)
    return (
        _environment()
        .get_template("fragment.html")
        .render(
            heading=heading_of(explanation),
            circumstances=f"task {explanation.task}; {facts_of(explanation)}",
            photo=data_url(marked_photo(explanation, scene), "JPEG"),
            top=[(label, number(score)) for label, score in explanation.top],
            top_is=top_is(explanation.top_scale),
            sections=[_section(explanation, k, line, shown, scene) for k, line in enumerate(lines_of(explanation))],
            keys=[
                {"caption": key.caption, "image": data_url(key.pixels), "ticks": key.ticks}
                for key in keys_of(shown, explanation.look, unseen=scene.frame is not None)
            ],
            notes=explanation.notes,
            checks=checks_of(explanation),
        )
    )


def _section(
    explanation: Explanation, k: int, line: dict[str, Any], shown: Sequence[ShownMaps], scene: Scene
) -> dict[str, Any]:
    panels = []
    for maps in shown:
        remark = maps.remark(k)
        image = data_url(map_image(explanation, maps, k, scene), "JPEG")
        panels.append({"image": image, "caption": f"{maps.title}: {remark}" if remark else maps.title})
    words = [(word, number(value)) for word, value in line.get("words", ())]
    note, score = note_of(line), f"score {number(line['score'], 2)}"
    return {
        "title": title_of_target(explanation, line),
        "note": note if score in note else f"{note}, {score}",
        "flags": line["flags"],
        "panels": panels,
        "words": words,
    }


@cache
def _environment() -> Environment:
    # everything is escaped: labels and names of files are not trusted
    return Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)


@cache
def _raw(name: str) -> Markup:
    """A file of ours, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
