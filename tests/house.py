"""Reads a tree of Python files and finds what breaks the rules of the house; ``test_house`` has the rules themselves.

Nothing here is imported from the tree that is read: everything is found in the syntax trees, each parsed once.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """A module that another imports, by dotted name.

    Attributes:
        module: The dotted name; a relative one begins with dots.
        name: What is imported from it, None where it is the module itself.
        late: Not when the importing module is imported: inside a function, or under TYPE_CHECKING.
    """

    module: str
    name: str | None
    late: bool


@dataclass
class Module:
    """One file, parsed once."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


class Tree:
    """The modules of some packages, by dotted name.

    Args:
        packages: The folder of each package. Where a package's folder holds a link to another's, its files count once,
            under the name given here.
    """

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self.modules: dict[str, Module] = {}
        for package, folder in packages.items():
            for path in sorted(folder.rglob("*.py")):
                name = ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
                nearest = max((p for p in packages if within(name, p)), key=len)
                if nearest == package:
                    self.modules[name] = Module(name, path)

    @cached_property
    def _imports(self) -> dict[str, list[Import]]:
        return {name: list(self._find_imports(module)) for name, module in self.modules.items()}

    def _find_imports(self, module: Module) -> Iterator[Import]:
        pending: list[tuple[ast.AST, bool]] = [(module.tree, False)]
        while pending:
            node, late = pending.pop()
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, None, late) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                for alias in node.names:  # `from portable_cam import report` names a module
                    whole = f"{base}.{alias.name}"
                    yield Import(whole, None, late) if whole in self.modules else Import(base, alias.name, late)
            late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            late = late or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            pending.extend((child, late) for child in ast.iter_child_nodes(node))

    def imports(self, name: str) -> list[Import]:
        """All imports of a module, those under TYPE_CHECKING and inside functions included."""
        return self._imports[name]

    def arrows(self, name: str) -> set[str]:
        """The modules of this tree that a module imports."""
        return {found.module for found in self.imports(name) if found.module in self.modules}

    def submodules(self, package: str) -> set[str]:
        """The names of a package's own modules and packages."""
        return {name.rpartition(".")[2] for name in self.modules if name.rpartition(".")[0] == package}

    def packages(self) -> list[str]:
        return [name for name, module in self.modules.items() if module.is_package]


def within(module: str, *rooms: str) -> bool:
    """True if the module is one of the rooms or lies in one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


class Rooms:
    """The table of rooms: dotted name to the rooms it may import.

    A room is a package with all that is in it, or one module. A row whose name begins the names of others is a front:
    only the package's ``__init__``. A room may import itself, the rooms of its row and what those may import.
    """

    def __init__(self, rows: Mapping[str, Iterable[str]], everywhere: Iterable[str] = ()) -> None:
        self.rows = {room: set(row) for room, row in rows.items()}
        self.everywhere = set(everywhere)
        named = set().union(*self.rows.values(), self.everywhere)
        if named - set(rows):
            raise ValueError(f"rooms without a row: {sorted(named - set(rows))}")
        self.fronts = {room for room in rows if any(other.startswith(f"{room}.") for other in rows)}

    def of(self, module: str) -> list[str]:
        """The rooms that a module lies in: one, if all is well."""
        return [room for room in self.rows if module == room or (room not in self.fronts and within(module, room))]

    def allowed(self, room: str) -> set[str]:
        """The rooms that one may import."""
        found, pending = {room, *self.everywhere}, [*self.rows[room]]
        while pending:
            now = pending.pop()
            if now not in found:
                found.add(now)
                pending.extend(self.rows[now])
        return found


def strays(tree: Tree, rooms: Rooms) -> list[str]:
    """Modules that lie in no room, or in more than one."""
    return [name for name in tree.modules if len(rooms.of(name)) != 1]


def forbidden(tree: Tree, rooms: Rooms) -> set[tuple[str, str]]:
    """Imports that the table does not allow, as pairs of modules."""
    found = set()
    for name in tree.modules:
        for room in rooms.of(name):
            allowed = rooms.allowed(room)
            found |= {(name, to) for to in tree.arrows(name) if to != name and not set(rooms.of(to)) & allowed}
    return found


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The sets of modules that reach each other, by Tarjan's algorithm; a module that imports itself is one too."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for to in sorted(arrows[module]):
            if to not in number:
                visit(to)
                low[module] = min(low[module], low[to])
            elif to in stack:
                low[module] = min(low[module], number[to])
        if low[module] == number[module]:
            place = stack.index(module)
            circle = sorted(stack[place:])
            del stack[place:]
            if len(circle) > 1 or module in arrows[module]:
                found.append(circle)

    for module in sorted(arrows):
        if module not in number:
            visit(module)
    return found


def _bound(module: Module) -> Iterator[tuple[str, str | None]]:
    """Each name that a module binds at its top level, in branches too, with the dotted name it is imported from."""
    pending: list[ast.stmt] = [*module.tree.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((t.id, None) for target in targets for t in ast.walk(target) if isinstance(t, ast.Name))
        else:
            pending.extend(child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node)


def shadowed(tree: Tree) -> list[str]:
    """The modules whose name their package binds to something else."""
    found = set()
    for package in tree.packages():
        own = tree.submodules(package)
        for name, source in _bound(tree.modules[package]):
            if name in own and source != f"{package}.{name}":
                found.add(f"{package}.{name}")
    return sorted(found)


def misplaced_format_switches(path: Path, text: str) -> list[str]:
    """Places where the formatter is switched off, but for the last line of a table at the top level of a module."""
    switches = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.string.lstrip("# ").startswith("fmt:")
    ]
    if not switches:
        return []
    tables = {
        node.end_lineno
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Dict | ast.List | ast.Tuple | ast.Set)
    }
    return [f"{path}:{line}" for line, word in switches if word != "# fmt: skip" or line not in tables]
