# SPDX-License-Identifier: Apache-2.0
"""Words and phrases within a text."""

from __future__ import annotations

from collections.abc import Sequence

from portable_cam.checked import check
from portable_cam.errors import TargetError
from portable_cam.tasks.base import Targets

#: What to name to explain the text as a whole.
WHOLE = "*"


def parse_phrases(targets: Targets) -> list[str] | None:
    """What a user wrote as phrases: text with commas between them, a list of them, or None.

    Raises:
        TargetError: It is something else.
    """
    check("targets", targets, Targets)
    if targets is None:
        return None
    if isinstance(targets, str):
        return [text for part in targets.split(",") if (text := part.strip())]
    return [str(targets)] if isinstance(targets, int) else [str(part) for part in targets]


def find_spans(
    words: Sequence[str], phrases: Sequence[Sequence[str]] | None, between: str = " "
) -> list[tuple[int, int]]:
    """For each phrase, and each time that a text has it, its first word and the one after its last.

    Args:
        words: The text; or characters, with nothing ``between`` them.
        phrases: What to find, each in words; ``["*"]`` for the whole; None for each word.
        between: What joins words in messages.

    Raises:
        TargetError: The text does not have a phrase.
    """
    if phrases is None:
        return [(i, i + 1) for i in range(len(words))]
    spans: list[tuple[int, int]] = []
    for phrase in phrases:
        if list(phrase) == [WHOLE]:
            found = [(0, len(words))]
        else:
            windows = [(i, i + len(phrase)) for i in range(len(words) - len(phrase) + 1)]
            found = [(i, j) for i, j in windows if list(words[i:j]) == list(phrase)]
        if not found:
            raise TargetError(
                f"'{between.join(phrase)}' is not in '{between.join(words)}': name a part of that"
                + (", or give the caption to be explained" if between else "")
            )
        spans += [span for span in found if span not in spans]
    return spans
