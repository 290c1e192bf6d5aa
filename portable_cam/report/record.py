# SPDX-License-Identifier: Apache-2.0
"""An explanation as plain data: the JSON record, and the lines that every output is made of."""

from __future__ import annotations

from typing import Any

from portable_cam.explanation import Explanation
from portable_cam.report.maps import shown_maps
from portable_cam.report.wording import score_is


def record_of(explanation: Explanation) -> dict[str, Any]:
    """What was explained, as plain data; ``docs/tasks.md`` describes the keys."""
    said = {"said": explanation.text.strip(), "given": explanation.text_given} if explanation.text else {}
    asked = {"question": explanation.question} if explanation.question else {}
    return {
        "task": explanation.task,
        "found": explanation.found,
        **({} if explanation.found else {"nothing_found": explanation.nothing_found}),
        **said,
        **asked,
        "layer": explanation.layer,
        **({} if explanation.result.row is None else {"row": explanation.result.row}),
        "methods": [maps.name for maps in shown_maps(explanation)],
        "notes": list(explanation.notes),
        "guided_nodes": len(explanation.guided_nodes),
        "sign": explanation.sign,
        "preprocessing": explanation.preprocessing.to_json(),
        "checks": list(explanation.checks),
        "top": [{"label": label, "score": score} for label, score in explanation.top],
        "top_is": explanation.top_scale,
        "explained": lines_of(explanation),
    }


def lines_of(explanation: Explanation) -> list[dict[str, Any]]:
    """One entry per target."""
    return [_line(explanation, k) for k in range(len(explanation.labels[0]))]


def _line(explanation: Explanation, k: int) -> dict[str, Any]:
    detail = explanation.details[k].to_dict() if explanation.details else {}
    # words and characters are known by their span; the number of their target says nothing
    number = {} if "span" in detail else {"target": int(explanation.targets[0, k])}
    line = {
        **number,
        "label": explanation.labels[0][k],
        "score": float(explanation.scores[0, k]),
        "score_is": score_is(detail),
        "flags": list(explanation.flags[0][k]),
        **detail,
    }
    if explanation.token_attribution is not None:
        line["words"] = [
            [word, value]
            for word, value in zip(explanation.words, explanation.token_attribution[k].tolist(), strict=True)
        ]
    return line
