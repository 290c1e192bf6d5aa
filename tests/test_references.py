# SPDX-License-Identifier: Apache-2.0
"""What docstrings and comments of the library refer to exists: modules, functions, errors, files."""

import ast
import builtins
import importlib
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import portable_cam.errors

ROOT = Path(__file__).parents[1]
ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")
DOTTED = re.compile(r"(?<![\w.])portable_cam(?:\.\w+)+")
FILE = re.compile(r"(?<![\w/.])(?:docs|tests|benchmarks|export|kernels|portable_cam)/[\w./-]*\w/?")
RAISES = re.compile(r"^ *Raises:\n((?:[ ]*\S.*\n?)+)", re.MULTILINE)
ERROR = re.compile(r"^ *((?:\w+Error(?:, )?)+):", re.MULTILINE)


def library() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for room in ("portable_cam", "export", "kernels"):
        top = ["portable_cam"] if room == "portable_cam" else ["portable_cam", room]
        for path in sorted((ROOT / room).rglob("*.py")):
            inside = path.relative_to(ROOT / room).with_suffix("").parts
            if room != "portable_cam" or inside[0] not in {"export", "kernels"}:  # symlinks to the other two
                found[".".join([*top, *(part for part in inside if part != "__init__")])] = path
    return found


LIBRARY = library()
#: Keys of metadata, which look like modules.
KEYS = {
    key for path in LIBRARY.values() for key in re.findall(r'"(portable_cam\.\w+)"', path.read_text(encoding="utf-8"))
}


def names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module or class defines or imports, by name."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.If):
            found |= names([*node.body, *node.orelse])
    return found


@cache
def module_names(module: str) -> dict[str, ast.stmt]:
    return names(ast.parse(LIBRARY[module].read_text(encoding="utf-8")).body)


def members(node: ast.ClassDef) -> set[str]:
    """Methods and fields of a class, those that ``self`` gets included."""
    assigned = {a.attr for a in ast.walk(node) if isinstance(a, ast.Attribute) and isinstance(a.ctx, ast.Store)}
    return {*names(node.body), *assigned}


def exists(dotted: str, module: str) -> bool:
    """Whether a reference in ``module`` names a module, or something that one defines."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        if (where := ".".join(parts[:end])) in LIBRARY:
            return defined(where, parts[end:])
    return parts[0] in vars(builtins) or defined(module, parts)


def defined(module: str, parts: list[str]) -> bool:
    if not parts:
        return True
    node = module_names(module).get(parts[0])
    if isinstance(node, ast.ImportFrom) and len(parts) > 1 and node.module in LIBRARY:
        return exists(f"{node.module}.{'.'.join(parts)}", module)
    if isinstance(node, ast.ClassDef) and len(parts) > 1:
        return parts[1] in members(node)
    if node is None and len(parts) == 1:  # a method or field, named inside its class
        return any(parts[0] in members(n) for n in module_names(module).values() if isinstance(n, ast.ClassDef))
    return node is not None


def prose(path: Path) -> Iterator[str]:
    """The docstrings and comments of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text
    with path.open("rb") as file:
        yield from (token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT)


def stale(text: str, module: str) -> list[str]:
    """The references of a text that lead nowhere."""
    named = {*ROLE.findall(text), *DOTTED.findall(text)} - KEYS
    found = [name for name in sorted(named) if not exists(name, module)]
    for errors in (error for section in RAISES.findall(text) for error in ERROR.findall(section)):
        known = {**vars(builtins), **vars(portable_cam.errors)}
        known |= vars(importlib.import_module(module))  # errors that a room keeps to itself
        found += [error for error in errors.split(", ") if error not in known]
    for file in FILE.findall(text):
        decision = re.fullmatch(r"docs/adr/\d{4}", file)
        if not (list(ROOT.glob(f"{file}-*.md")) if decision else (ROOT / file).exists()):
            found.append(file)
    return found


@pytest.mark.parametrize("module", LIBRARY)
def test_references(module: str) -> None:
    assert [name for text in prose(LIBRARY[module]) for name in stale(text, module)] == []


@pytest.mark.parametrize(
    "text",
    [
        "see :func:`portable_cam.export.graph.values.rank`",
        "see :class:`Session`",
        "see portable_cam.export.graph.value",
        "the cases are in tests/test_rule.py, in `docs/adr/0099`",
        "Checks.\n\nRaises:\n    ModelError, PortableCamError: It cannot be read.\n",
    ],
)
def test_stale_references_are_found(text: str) -> None:
    assert stale(text, "portable_cam.export.graph.values")
