# SPDX-License-Identifier: Apache-2.0
"""An explanation as HTML, with its images inside: a page, or a fragment for a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

from PIL import Image

from portable_cam.explanation import Explanation
from portable_cam.image.geometry import ImageArray
from portable_cam.report.figures import heading_of, sections_of
from portable_cam.report.files import PNG_LEVEL
from portable_cam.report.maps import marked_view
from portable_cam.report.record import record_of
from portable_cam.report.sheet import Section, color_key
from portable_cam.report.wording import how_much, number

_STYLE = """
.pcam { font: 14px/1.4 system-ui, sans-serif; color: #1a1a1a; background: #fff; padding: 12px; }
.pcam figure { display: inline-block; margin: 0 12px 12px 0; vertical-align: top; }
.pcam img { max-width: 280px; display: block; }
.pcam img.key { width: 280px; height: 12px; image-rendering: pixelated; }
.pcam figcaption, .pcam .faint { color: #6b6b6b; font-size: 12px; }
.pcam table { border-collapse: collapse; } .pcam td, .pcam th { padding: 2px 10px 2px 0; text-align: left; }
"""


def page(explanation: Explanation) -> str:
    """A self-contained page."""
    title = escape(heading_of(explanation) or explanation.task)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n{fragment(explanation)}\n</body>\n</html>\n"
    )


def fragment(explanation: Explanation) -> str:
    """The body of the page, with its style."""
    record = record_of(explanation)
    parts = [
        f"<style>{_STYLE}</style>",
        '<div class="pcam">',
        f"<h3>{escape(heading_of(explanation))}</h3>" if heading_of(explanation) else "",
        f'<p class="faint">{escape(_circumstances(explanation))}</p>',
        _figure(marked_view(explanation), "what the model sees"),
        "" if explanation.found else f"<p>nothing found: {escape(explanation.nothing_found)}</p>",
        _table(
            ["the model's top classes", record["top_is"]], [[t["label"], number(t["score"])] for t in record["top"]]
        ),
        *(_section(section, line) for section, line in zip(sections_of(explanation), record["explained"], strict=True)),
        f'<img class="key" alt="" src="{_data(color_key())}"><p class="faint">evidence, none to most</p>',
        _list(explanation.notes),
        f"<p>checks: {_checks(explanation)}</p>",
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _circumstances(explanation: Explanation) -> str:
    layer = explanation.layer if isinstance(explanation.layer, str) else ", ".join(explanation.layer)
    parts = [f"task {explanation.task}", f"layer {layer}" if layer else ""]
    parts.append(f"preprocessing {explanation.preprocessing.describe()}")
    return "; ".join(part for part in parts if part)


def _section(section: Section, line: dict[str, Any]) -> str:
    flags = f" [{', '.join(line['flags'])}]" if line["flags"] else ""
    panels = [_figure(p.image, f"{p.title}{f': {p.remark}' if p.remark else ''}") for p in section.panels]
    words = _table(["word", "adds to the score"], [[word, number(value)] for word, value in line.get("words", ())])
    note = section.note if how_much(line).startswith("score") else f"{section.note}, score {number(line['score'])}"
    return f"<h4>{escape(section.title)}</h4><p>{escape(note + flags)}</p>{''.join(panels)}{words}"


def _checks(explanation: Explanation) -> str:
    if not explanation.checks:
        return "not tested"
    words = {True: "passed", False: "failed"}
    found = [(c["name"], words.get(c["passed"], "not tested"), c["detail"]) for c in explanation.checks]
    return escape("; ".join(f"{name} {verdict}: {detail}" for name, verdict, detail in found))


def _figure(pixels: ImageArray, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img alt="{text}" src="{_data(pixels)}"><figcaption>{text}</figcaption></figure>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"


def _list(items: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _data(pixels: ImageArray) -> str:
    """A PNG as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
