# SPDX-License-Identifier: Apache-2.0
"""Each block of code in the documents runs as it stands, in a folder with the files that it names."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from documents import FROM_ZOO, ROOT, STANDINS, Block, blocks_of, furnish

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
#: Blocks that are not run, each with a reason before it: how many on which page.
NOT_RUN = {
    "docs/batch.md": 2,
    "docs/contributing.md": 1,
    "docs/gpu.md": 5,
    "docs/language.md": 1,
    "docs/writing-a-rule.md": 1,
}
#: The languages, and what is done with a block in each.
LANGUAGES = {"sh": "run", "python": "run", "json": "parsed", "text": "shown"}


def of_language(language: str) -> list[Any]:
    """The blocks of a language that are run, all but the first of the README slow."""
    found = [block for block in BLOCKS if block.language == language and not block.mark]
    return [
        pytest.param(block, id=str(block), marks=[] if block.page == "README.md" else [pytest.mark.slow])
        for block in found
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The working directory of a block, with what it names."""
    block: Block = request.getfixturevalue("block")
    zoo = request.getfixturevalue("zoo") if block.files & FROM_ZOO else None
    furnish(tmp_path, block.files, zoo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a command of the program, in this process."""
    from portable_cam.cli import main

    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def same(printed: str, comment: str) -> bool:
    """Whether a printed line is what the comment begins with, numbers with a point to two per cent."""
    ours, theirs = (re.findall(r"-?\d+\.\d+|\w+|[^\w\s]", text) for text in (printed, comment))
    return len(theirs) >= len(ours) > 0 and all(
        math.isclose(float(a), float(b), rel_tol=0.02) if "." in a and len(a) > 1 and "." in b else a == b
        for a, b in zip(ours, theirs, strict=False)
    )


@pytest.mark.filterwarnings("default")  # other libraries' own, as a reader would see them
@pytest.mark.parametrize("block", of_language("python"))
def test_python(block: Block, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs by itself; what it prints is what its comments say."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.body, str(block), "exec"), {"__name__": "__main__"})
    comments = re.findall(r"^print\(.*\)\s+# (.+)$", block.body, re.MULTILINE)
    lines = printed.getvalue().splitlines()
    if comments:
        assert len(lines) == len(comments)
    for line, comment in zip(lines, comments, strict=False):
        assert same(line, comment), f"{block} says {comment!r}, and prints {line!r}"


@pytest.mark.parametrize("block", of_language("sh"))
def test_commands(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in block.commands:
        assert words[0] == "portable-cam", f"{block}: {words[0]} is no command of the program: mark the block"
        assert run_command(words, monkeypatch) == 0, f"{block}: {' '.join(words)}"


@pytest.mark.parametrize("block", of_language("json"))
def test_json(block: Block) -> None:
    """It is what its page says: the description of a model, or a detector's head."""
    from portable_cam.export.read.description import Description
    from portable_cam.tasks.detect import read_head

    content = json.loads(block.body)
    if "version" in content:
        assert Description(content).task == content["task"]
    elif content.get("family") not in {"inner_nms", "end_to_end"}:
        assert read_head(content).family


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in BLOCKS if b.mark == "from"])
def test_excerpts(block: Block) -> None:
    """Line by line as the file has them, whatever their indentation."""
    source, ours = (
        "\n".join(line.strip() for line in text.strip().splitlines())
        for text in ((ROOT / block.what).read_text(encoding="utf-8"), block.body)
    )
    assert ours in source, f"{block} is not what {block.what} holds"


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in BLOCKS if b.mark == "ci"])
def test_commands_of_the_continuous_integration(block: Block) -> None:
    assert f"readme {block.what}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_block_is_run_or_says_why_not() -> None:
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []
    left = [block for block in BLOCKS if block.mark == "not run"]
    assert [str(block) for block in left if len(block.what.split()) < 4] == [], "give a reason"
    assert dict(Counter(block.page for block in left)) == NOT_RUN
    runs = [block for block in BLOCKS if LANGUAGES[block.language] == "run" and not block.mark]
    assert len(runs) > 2 * len(left)


def test_the_files_that_stand_in_are_named_and_there() -> None:
    """Each is used, and none of those outside the zoo is missing."""
    assert set(STANDINS) == set().union(*(block.files for block in BLOCKS))
    assert all(found(None) is None or os.path.exists(found(None)) for found in STANDINS.values())


def test_what_fails_in_a_block_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<!-- not run: because it takes a GPU -->\n```sh\npytest -m gpu\n```\n\n  ```python\n  a = b\n  ```\n"
    first, second = blocks_of(tmp_path / "page.md", text)
    assert (first.mark, first.what, first.commands) == ("not run", "because it takes a GPU", [["pytest", "-m", "gpu"]])
    assert (second.mark, second.body, second.line) == ("", "a = b\n", 6)
    with pytest.raises(NameError):
        exec(second.body, {})
    assert run_command(["portable-cam", "explain", "nowhere.onnx", "nowhere.jpg"], monkeypatch) == 2
    assert same("[[22.25]]", "[[22.24]] scores")
    assert not same("[[23.25]]", "[[22.24]]")
