"""The checker of the house, on a made-up tree: it finds what it is meant to find, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from house import Rooms, Tree, circles, forbidden, misplaced_format_switches, shadowed, strays

SMALL = {"a.low": (), "a.middle": ("a.low",), "a.high": ("a.middle",), "a": ("a.high",)}


@pytest.fixture
def small(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


class Plant:
    """Writes a small tree of three rooms that keeps all rules, with files in other words where a test wants them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, changed: Mapping[str, str] | None = None) -> Tree:
        files = {
            "__init__.py": "from a.high.top import use",
            "low/__init__.py": "",
            "low/ground.py": "import os",
            "low/wall.py": "from a.low import ground",
            "middle.py": "from a.low.ground import os",
            "high/__init__.py": "",
            "high/top.py": "from a.middle import os\nfrom a.low import wall\ndef use(): pass",
        }
        for name, text in {**files, **(changed or {})}.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return Tree({"a": self.folder})


def arrows(tree: Tree) -> dict[str, set[str]]:
    return {name: tree.arrows(name) for name in tree.modules}


def test_finds_nothing_in_a_tree_that_keeps_the_rules(small: Plant) -> None:
    tree, rooms = small(), Rooms(SMALL)
    assert sorted(tree.modules) == ["a", "a.high", "a.high.top", "a.low", "a.low.ground", "a.low.wall", "a.middle"]
    assert arrows(tree)["a.high.top"] == {"a.middle", "a.low.wall"}
    assert (strays(tree, rooms), forbidden(tree, rooms), circles(arrows(tree)), shadowed(tree)) == ([], set(), [], [])


@pytest.mark.parametrize(
    "text",
    [
        "from a.high import top",
        "import a.high.top",
        "from a.high.top import use",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.high.top import use",
        "def late():\n    from a.high import top",
        "class Late:\n    def now(self):\n        import a.high.top as top",
    ],
)
def test_finds_an_import_upwards(small: Plant, text: str) -> None:
    assert forbidden(small({"low/ground.py": text}), Rooms(SMALL)) == {("a.low.ground", "a.high.top")}


def test_finds_an_import_of_the_front(small: Plant) -> None:
    assert forbidden(small({"low/ground.py": "from a import use"}), Rooms(SMALL)) == {("a.low.ground", "a")}


@pytest.mark.parametrize(
    "text",
    [
        "from a.low.wall import ground",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.low import wall",
        "def late():\n    import a.low.wall",
    ],
)
def test_finds_a_circle_inside_a_room(small: Plant, text: str) -> None:
    tree = small({"low/ground.py": text})
    assert forbidden(tree, Rooms(SMALL)) == set()
    assert circles(arrows(tree)) == [["a.low.ground", "a.low.wall"]]


def test_finds_a_long_circle_and_one_of_a_module_alone() -> None:
    graph = {"p": {"q"}, "q": {"r"}, "r": {"p", "s"}, "s": {"t"}, "t": {"t"}, "u": {"p"}}
    assert sorted(circles(graph)) == [["p", "q", "r"], ["t"]]


@pytest.mark.parametrize("file", ["stray.py", "other/__init__.py", "lower.py"])
def test_finds_a_file_in_no_room(small: Plant, file: str) -> None:
    name = "a." + file.removesuffix(".py").removesuffix("/__init__")
    assert strays(small({file: ""}), Rooms(SMALL)) == [name]


def test_finds_a_room_twice_and_a_row_that_names_none(small: Plant) -> None:
    rows = {**SMALL, "a.high.top": ()}  # then the row of a.high is a front, and so a.high.top is in one room still
    assert strays(small(), Rooms(rows)) == []
    with pytest.raises(ValueError, match=r"a\.cellar"):
        Rooms({**SMALL, "a.low": ("a.cellar",)})


@pytest.mark.parametrize(
    "text",
    [
        "from a.high.top import use as top",
        "from a.middle import os as top",
        "def top(): pass",
        "class top: pass",
        "top = 1",
        "top: int = 1",
        "try:\n    import a.low as top\nexcept ImportError:\n    top = None",
        "if True:\n    from a.high.top import use as top",
    ],
)
def test_finds_a_shadowed_module(small: Plant, text: str) -> None:
    assert shadowed(small({"high/__init__.py": text})) == ["a.high.top"]


def test_lets_a_package_import_its_modules(small: Plant) -> None:
    text = "import a.high.top\nfrom a.high import top\nimport a.high.top as top\nfrom a.high.top import use"
    assert shadowed(small({"high/__init__.py": text})) == []


def test_links_to_another_package_are_counted_once(tmp_path: Path) -> None:
    for name in ("outer/own.py", "inner/part.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    (tmp_path / "outer" / "inner").symlink_to(tmp_path / "inner")
    tree = Tree({"outer": tmp_path / "outer", "outer.inner": tmp_path / "inner"})
    assert {name: module.path for name, module in tree.modules.items()} == {
        "outer.own": tmp_path / "outer" / "own.py",
        "outer.inner.part": tmp_path / "inner" / "part.py",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("T = {\n    1: 2,\n}  # fmt: skip\n", None),
        ("T: list[int] = [1,\n  2]  # fmt: skip\n", None),
        ("x = '# fmt: skip'\n", None),
        ("T = [1,  # fmt: skip\n  2]\n", 1),
        ("x = call(1,  2)  # fmt: skip\n", 1),
        ("def f():\n    t = {1:  2}  # fmt: skip\n", 2),
        ("# fmt: off\nT = [1,  2]\n# fmt: on\n", 1),
    ],
)
def test_finds_a_misplaced_switch_of_the_formatter(text: str, line: int | None) -> None:
    found = misplaced_format_switches(Path("f.py"), text)
    assert found[:1] == ([] if line is None else [f"f.py:{line}"])
