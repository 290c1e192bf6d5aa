# SPDX-License-Identifier: Apache-2.0
"""Messages name options as the user who reads them writes them, in Python or on the command line; all exist there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam import assets
from portable_cam.cli import app
from portable_cam.export.options import Options
from portable_cam.image.resolve import resolve
from portable_cam.spelling import FLAGS, command, either, on_command_line, option
from portable_cam.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
LIBRARY = sorted(p for folder in ("portable_cam", "export", "kernels") for p in (ROOT / folder).rglob("*.py"))
#: Where flags belong: the commands, a script with flags of its own, and the module that spells them.
ON_COMMAND_LINE = ("portable_cam/cli/", "kernels/compile.py", "portable_cam/spelling.py")
#: Names the flags of other programs, which convert models.
OTHERS = "portable_cam/file_kinds.py"
#: Where a user of the command line cannot get, and options that have no flag for a reason.
PYTHON_ONLY = {"providers", "preprocessing", "session_options", "custom_op_libraries"}


def options_in_python() -> set[str]:
    tasks = [row.explainer() for row in TASKS.values()]
    functions = (pcam.explain, pcam.Explainer.__init__, pcam.batch.run, resolve)
    found = {name for function in functions for name in inspect.signature(function).parameters}
    return found.union(*(t.takes | t.asks for t in tasks), (f.name for f in dataclasses.fields(Options)))


def flags() -> dict[str, set[str]]:
    import typer

    group: Any = typer.main.get_command(app)
    return {name: {flag for p in one.params for flag in p.opts} for name, one in group.commands.items()}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def messages(tree: ast.AST) -> Iterator[ast.Constant]:
    """Text that is no docstring, no help of an option, and not worded for one of the two anyway."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Call) and called(node) in {"either", "field", "_choice"}:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node
        yield from messages(node)


def badly_spelled(tree: ast.AST, *, of_commands: bool, known: set[str]) -> list[str]:
    """Text that names flags or commands, or for the commands what only Python has."""
    words = "|".join(sorted(known, key=len, reverse=True))
    python = rf"`(?:{words})`|(?<![\w.<]--)(?<![\w<])(?:{words})=(?![=\"])"
    wrong = python if of_commands else rf"(?<!\w)--[a-z]|portable-cam [a-z]|{python}"
    pattern = re.compile(wrong)
    signs = ("--", "`", "=", "portable-cam")  # most texts have none of them
    return [n.value for n in messages(tree) if any(s in n.value for s in signs) and pattern.search(n.value)]


def named_options(tree: ast.AST) -> set[str]:
    """What a module calls ``option`` with, as far as it is written there."""
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and called(n) == "option" and n.args)
    return {n.args[0].value for n in calls if isinstance(n.args[0], ast.Constant)}  # type: ignore[misc]


def test_no_message_names_an_option_by_hand() -> None:
    known, found = options_in_python(), {}
    for path in LIBRARY:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((*ON_COMMAND_LINE[1:], OTHERS)):
            continue
        wrong = badly_spelled(tree_of(path), of_commands=name.startswith(ON_COMMAND_LINE[0]), known=known)
        if wrong:
            found[name] = wrong
    assert found == {}


def test_the_check_finds_what_is_spelled_by_hand() -> None:
    known = options_in_python()
    text = '"""--fine"""\nraise Error("say it with --head")\nraise Error(f"name `output` {x}")\nwarn("give axes={}")'
    assert len(badly_spelled(ast.parse(text), of_commands=False, known=known)) == 3
    assert len(badly_spelled(ast.parse(text), of_commands=True, known=known)) == 2
    fine = "raise Error(f\"{option('head')} of {either('a --b', 'c')}\")"
    assert badly_spelled(ast.parse(fine), of_commands=False, known=known) == []


def test_options_that_messages_name_exist() -> None:
    named = {path: named_options(tree_of(path)) for path in LIBRARY}
    known, every = options_in_python(), set().union(*flags().values())
    wrong = {path: names - known for path, names in named.items()}
    wrong |= {path: {n for n in names - PYTHON_ONLY if option_flag(n) not in every} for path, names in named.items()}
    assert {path: names for path, names in wrong.items() if names} == {}
    assert sum(map(len, named.values())) > 30


def option_flag(name: str) -> str:
    with on_command_line():
        return option(name)


#: Commands that read a model, and so may send a user to the options that say how it is to be read.
READERS = ("explain", "layers", "doctor", "export", "bench")
READING = ("task", "output", "head", "axes", "size", "channels")


@pytest.mark.parametrize("name", READING)
def test_whoever_reads_a_model_takes_what_it_may_need(name: str) -> None:
    found = flags()
    assert [c for c in READERS if option_flag(name) not in found[c]] == []


def test_an_option_as_both_call_it() -> None:
    assert option("output") == "output="
    assert option("axes", {"x": "NCHW"}) == "axes={'x': 'NCHW'}"
    assert option("as_is", True) == "as_is=True"
    assert command("layers") == "portable_cam.export.list_layers(model)"
    with on_command_line():
        assert option("output", "a b") == "--output 'a b'"
        assert option("axes", {"x": "NCHW", "y/0": "NHWC"}) == "--axes x=NCHW --axes y/0=NHWC"
        assert option("as_is", True) == "--as-is"
        assert [option(name) for name in FLAGS] == ["--target", "--set", "--preset"]
        assert command("doctor") == "portable-cam doctor MODEL"
        assert either("a", "b") == "b"
    assert either("a", "b") == "a"


def test_a_model_of_several_inputs_on_the_command_line(make_model: Any, tmp_path: Path) -> None:
    weights = {"w": np.ones((5, 3, 8, 8), np.float32)}
    model = make_model(
        "r = Relu(x) c = Conv(r, w) s = Mul(c, t) y = Flatten(s)", weights, x="float[1,3,8,8] x, float[1] t"
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(pcam.Error, match="input 't' is missing: give a dict of all inputs"):
        pcam.Explainer(model)(np.zeros((1, 3, 8, 8), np.float32))
    photo = str(assets.photo())
    outcome = CliRunner().invoke(
        app, ["explain", str(tmp_path / "m.onnx"), photo, "--task", "classify", "--preset", "unit"]
    )
    assert "is missing: from Python it can be explained, on arrays that you prepare" in outcome.output


def test_the_same_error_in_python_and_on_the_command_line(small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(small_cnn, tmp_path / "m.onnx")
    with pytest.raises(pcam.Error, match=r"; `portable_cam\.export\.list_layers\(model\)` lists the candidates"):
        pcam.Explainer(tmp_path / "m.onnx", layer="nowhere")
    outcome = CliRunner().invoke(app, ["export", str(tmp_path / "m.onnx"), "-o", "x", "--layer", "nowhere"])
    assert "`portable-cam layers MODEL` lists the candidates" in str(outcome.exception)
    assert option("output") == "output=", "what a command has set ends with it"
