"""The house's rules: packages, who may import whom, docstrings."""

import ast
import builtins
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import portable_cam.errors

ROOT = Path(__file__).parents[1]
FOLDERS = {"portable_cam": ROOT / "portable_cam", "kernels": ROOT / "kernels", "export": ROOT / "export"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name; the symlinks inside portable_cam are not followed."""
    found = {}
    for room, folder in FOLDERS.items():
        top = room if room == "portable_cam" else f"portable_cam.{room}"
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if room == "portable_cam" and inside.parts[0] in {"kernels", "export"}:
                continue
            parts = [p for p in (*inside.parts[:-1], inside.stem) if p != "__init__"]
            found[".".join([top, *parts])] = path
    return found


MODULES = modules()


def imports(name: str, *, outside_functions: bool = False) -> Iterator[str]:
    """The dotted names that a module imports; those behind TYPE_CHECKING do not count."""
    pending: list[ast.AST] = [ast.parse(MODULES[name].read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if outside_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            assert node.module is not None
            for alias in node.names:  # `from portable_cam import report` names a module
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        pending.extend(ast.iter_child_nodes(node))


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_packages_are_those_on_disk() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    assert sorted(configured) == sorted(on_disk)


@pytest.mark.parametrize("name", MODULES)
def test_layers(name: str) -> None:
    for module in imports(name):
        top = module.split(".")[0]
        if name not in {
            "portable_cam.runtime.session",
            "portable_cam.runtime.gpu.binding",
            "portable_cam.runtime.gpu.float16",
        }:
            assert top != "onnxruntime", f"{name} imports onnxruntime, which is runtime's and the GPU's"
        if within(name, "portable_cam.export"):
            if name != "portable_cam.export.read.from_torch":
                assert top != "torch", f"{name} imports torch"
            assert top != "triton", f"{name} imports triton"
            if top == "portable_cam":
                assert within(module, "portable_cam.export", "portable_cam.errors"), f"{name} imports {module}"
        if within(name, "portable_cam.kernels"):
            allowed = top in {"numpy", "triton", "torch"} or top in sys.stdlib_module_names
            ours = within(module, "portable_cam.kernels", "portable_cam.errors")
            assert allowed or ours, f"{name} imports {module}"
        if name == "portable_cam.errors":
            pytest.fail(f"errors imports {module}")


def test_from_torch_imports_torch_only_when_called() -> None:
    assert "torch" not in imports("portable_cam.export.read.from_torch", outside_functions=True)
    assert "torch" in imports("portable_cam.export.read.from_torch")


@pytest.mark.parametrize("name", ["portable_cam", "portable_cam.export", "portable_cam.kernels"])
def test_import_loads_no_runtime(name: str) -> None:
    code = (
        f"import sys, {name}; "
        "print([m for m in ('onnxruntime', 'torch', 'triton', 'matplotlib') if m in sys.modules], end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]"


def test_explaining_needs_no_torch() -> None:
    """Everything that the command line imports works where torch is not installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None; "
        "import portable_cam.cli, portable_cam.demo, portable_cam.verify.bench, portable_cam.verify.selfcheck; "
        "import portable_cam.report.write"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def undocumented(name: str) -> Iterator[str]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None:
        yield name
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            # a rule is named in its decorator, after the operator whose gradient it writes
            rule = within(name, "portable_cam.export.autodiff") and node.decorator_list
            if not rule and ast.get_docstring(node) is None:
                yield f"{name}.{node.name}"


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert list(undocumented(name)) == []


def test_tree_of_errors_as_drawn() -> None:
    drawing = (portable_cam.errors.__doc__ or "").splitlines()
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in drawing:
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()
        if not words or not words[0].endswith("Error") or not line.startswith("    "):
            continue
        depth = line.index(words[0])
        while parents and parents[-1][0] >= depth:
            parents.pop()
        drawn[words[0]] = parents[-1][1] if parents else "Exception"
        parents.append((depth, words[0]))
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(portable_cam.errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert drawn == real


def test_only_errors_of_the_project_are_raised() -> None:
    """No bare ValueError reaches a user from the rooms that he meets."""
    ours = {name for name, kind in vars(portable_cam.errors).items() if isinstance(kind, type)}
    allowed = ours | {"AttributeError", "typer.BadParameter", "typer.Exit", "NotImplementedError", "AssertionError"}
    for name, path in MODULES.items():
        if name == "portable_cam.export.autodiff.registry":  # tells who writes a rule twice
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                kind = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                built_in = isinstance(getattr(builtins, kind, None), type)
                assert kind in allowed or not built_in, f"{name}:{node.lineno} raises {kind}"


@pytest.mark.parametrize("name", ["portable_cam", "portable_cam.export", "portable_cam.export.targets"])
def test_what_a_package_offers_is_there(name: str) -> None:
    """Each name of ``__all__``; a function that has the name of its file is the function, not the file."""
    package = importlib.import_module(name)
    for offered in getattr(package, "__all__", ()):
        found = getattr(package, offered)
        assert not inspect.ismodule(found) or not hasattr(found, offered), f"{name}.{offered} is its file"
