# SPDX-License-Identifier: Apache-2.0
"""The documents against the tree: the links, paths, modules, commands and options in them exist, and examples run."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md"), *DOCS.glob("adr/*.md")])
DECISIONS = sorted(DOCS.glob("adr/*.md"))

#: Files that a command in the documents writes, and that are not in the tree.
WRITTEN = {"benchmarks/results/gpu.csv"}
#: Rooms and names that the documents announce; one leaves the list when it is there.
TO_COME: set[str] = set()
#: Packages that a module may need and that an installation may lack.
OPTIONAL = {"torch", "triton"}

FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
TREE = re.compile(r"(?<![\w./-])(?:export|kernels|portable_cam|tests|benchmarks|docs)/[\w./*-]*[\w/*]")
DOTTED = re.compile(r"(?<![\w./-])(?:portable_cam|pcam)(?:\.[A-Za-z_]\w*)+")
MODULE = re.compile(r"python -m ([\w.]+)")
SCRIPT = re.compile(r"python ((?:tests|benchmarks|docs)/[\w./]+)")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def broken_links(text: str, folder: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = folder / path if path else None
        if file is None:
            there = anchor in anchors(text)
        else:
            there = file.exists() and (not anchor or anchor in anchors(file.read_text(encoding="utf-8")))
        if not there:
            yield target


def missing_paths(text: str) -> Iterator[str]:
    for match in TREE.finditer(re.sub(r"\w+://\S+", "", text)):
        path = match.group()
        there = any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()
        if not there and path.rstrip("/") not in WRITTEN | TO_COME:
            yield path
    for span in spans(text):  # a file named by itself, beside one that was named with its folder
        if re.fullmatch(r"\w+\.py", span) and not any(
            next((ROOT / folder).rglob(span), None) for folder in ("export", "kernels", "portable_cam", "tests")
        ):
            yield span


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    if parts[0] == "pcam":
        parts[0] = "portable_cam"
    found = None
    for i, part in enumerate(parts):
        if found is not None and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(".".join(parts[: i + 1]))
        except ModuleNotFoundError as error:
            return error.name in OPTIONAL
    return True


def missing_names(text: str) -> Iterator[str]:
    for match in DOTTED.finditer(re.sub(r"\w+://\S+", "", text)):
        name = match.group()
        if name not in TO_COME and not name.endswith((".md", ".py", ".onnx")) and not is_there(name):
            yield name
    for name in MODULE.findall(text):
        top = name.split(".")[0]
        if top in {"portable_cam", "benchmarks", "tests"}:
            file = ROOT.joinpath(*name.split("."))
            if not file.with_suffix(".py").is_file() and not (file / "__main__.py").is_file():
                yield f"python -m {name}"
    for name in SCRIPT.findall(text):
        if not (ROOT / name).is_file() and not (ROOT / name / "__main__.py").is_file():
            yield f"python {name}"


def options_of_commands() -> dict[str, set[str]]:
    """Each command's options, as the program itself has them."""
    import typer

    from portable_cam.cli import app

    group = typer.main.get_command(app)
    return {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def wrong_commands(text: str, commands: dict[str, set[str]]) -> Iterator[str]:
    """Commands that do not exist, and options that a command does not take."""
    for line in text.replace("\\\n", " ").splitlines():
        for call in re.findall(r"portable-cam (?!\[)([a-z][^`|&]*)", line.split("  #")[0]):
            name, *words = re.split(r"\s+", re.sub(r"\"[^\"]*\"", "", call))
            if name not in commands:
                yield f"portable-cam {name}"
                continue
            for word in words:
                option = re.match(r"-[a-z]\b|--[a-z-]+", word)
                if option and option.group() not in commands[name]:
                    yield f"portable-cam {name} {option.group()}"


def unknown_options(text: str, commands: dict[str, set[str]]) -> Iterator[str]:
    """Options named by themselves that neither a command nor a script of the project has."""
    known = set().union(*commands.values())
    files = [path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    scripts = "".join(path.read_text(encoding="utf-8") for path in files if path != Path(__file__))
    for span in spans(text):
        option = re.match(r"--[a-z-]+", span)
        if option and option.group() not in known and f'"{option.group()}"' not in scripts:
            yield option.group()


def missing_imports(text: str) -> Iterator[str]:
    """What the examples import from the project and is not there; an example that is no Python raises, but for an
    excerpt from a file, which tests/test_docs_run.py holds against it."""
    for block in blocks_of(ROOT / "page.md", text):
        if block.language != "python" or block.mark == "from":
            continue
        for node in ast.walk(ast.parse(block.body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "portable_cam":
                yield from (
                    name for name in (f"{node.module}.{alias.name}" for alias in node.names) if not is_there(name)
                )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links(page: Path) -> None:
    assert list(broken_links(page.read_text(encoding="utf-8"), page.parent)) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths(page: Path) -> None:
    assert list(missing_paths(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [*missing_names(text), *missing_imports(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands(page: Path) -> None:
    text, commands = page.read_text(encoding="utf-8"), options_of_commands()
    assert [*wrong_commands(text, commands), *unknown_options(text, commands)] == []


def test_what_is_to_come_is_not_there_yet() -> None:
    assert [name for name in TO_COME if (ROOT / name).exists() or ("/" not in name and is_there(name))] == []


def test_the_checks_find_what_is_wrong() -> None:
    commands = options_of_commands()
    wrong = (
        "[a](nowhere.md) [b](#no-such-heading) `export/nowhere.py` `nowhere_at_all.py` portable_cam.nowhere "
        "`pcam.Nothing` `python -m benchmarks.nothing` `--no-such-option` `portable-cam nothing` "
        "`portable-cam doctor model.onnx --preset raw`\n\n```python\nfrom portable_cam.export import nothing\n```\n"
    )
    assert list(broken_links(wrong, ROOT)) == ["nowhere.md", "#no-such-heading"]
    assert list(missing_paths(wrong)) == ["export/nowhere.py", "nowhere_at_all.py"]
    assert list(missing_names(wrong)) == ["portable_cam.nowhere", "pcam.Nothing", "python -m benchmarks.nothing"]
    assert list(missing_imports(wrong)) == ["portable_cam.export.nothing"]
    assert list(wrong_commands(wrong, commands)) == ["portable-cam nothing", "portable-cam doctor --preset"]
    assert list(unknown_options(wrong, commands)) == ["--no-such-option"]


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = {(DOCS / target).resolve() for target in re.findall(r"\]\(([\w./-]+\.md)\)", index)}
    pages = {page for page in PAGES if page.parent != ROOT and page.name != "README.md"}
    assert pages - listed == set()


def test_decisions_are_in_the_index_under_their_titles() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(\d+)\. \[(.+)\]\(adr/(\d{4})-[\w-]+\.md\)$", index, re.MULTILINE)
    titles = []
    for path in DECISIONS:
        number, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(": ", 1)
        assert number == path.name[:4], f"{named(path)} has the number {number} in its title"
        titles.append((str(int(number)), title, number))
    assert listed == titles
    assert [int(number) for number, *_ in titles] == list(range(1, len(titles) + 1))


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent == DOCS and p.name != "README.md"], ids=named)
def test_a_page_says_first_for_whom_it_is(page: Path) -> None:
    title, blank, first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert first.startswith("For "), f"{named(page)} does not say in its first lines who needs it"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 105
