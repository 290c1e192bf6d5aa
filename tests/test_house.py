"""The house's rules: which rooms there are, who may import whom, no circles, no shadowed modules, docstrings.

The checker is ``house``; ``test_house_checker`` shows that it finds what it is meant to find.
"""

import ast
import builtins
import contextlib
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import Module, Rooms, Tree, circles, forbidden, misplaced_format_switches, shadowed, strays, within

import portable_cam.errors

ROOT = Path(__file__).parents[1]
TREE = Tree(
    {
        "portable_cam": ROOT / "portable_cam",
        "portable_cam.kernels": ROOT / "kernels",
        "portable_cam.export": ROOT / "export",
    }
)
MODULES = TREE.modules

#: Every room and what it may import: itself, the rooms of its row, what those may import, and ``errors``. Names are
#: those inside ``portable_cam``. A new room gets a row here; a file outside every room fails.
TABLE = {
    "errors": "",
    "spelling": "",
    "checked": "",
    "arrays": "",
    "file_kinds": "",
    # graph time, pure ONNX
    "export.graph": "",
    "export.read": "export.graph file_kinds",
    "export.autodiff": "export.graph",
    "export.passes": "export.read export.autodiff",
    "export.layers": "export.autodiff",
    "export.targets": "export.layers",
    "export.compose": "export.passes",
    "export.methods": "export.targets export.autodiff export.passes",  # a record names the precision it computes in
    "export.options": "export.methods",
    "export.format": "export.options",
    "export.deploy": "export.format export.read",
    "export.assemble": "export.deploy export.compose",
    "export.diagnose": "export.assemble",
    "export": "export.diagnose",
    # run time and users
    "kernels": "",
    "assets": "",
    "image": "arrays file_kinds",
    # what an explanation is and what is asked are below what runs it: the runtime fills results, flags them, and on a
    # GPU makes results of its own kind
    "targets": "export",
    "ultralytics": "",  # what its exporter writes into a file
    "labels": "assets targets ultralytics",
    "result": "",
    "explanation": "result targets image",
    "runtime": "export kernels image result explanation targets",
    "rebuilt": "export",
    "explainer": "runtime verify labels rebuilt",  # which checks what it explained
    "methods": "explainer",
    "report": "explanation image runtime methods",  # the words for the runtime's flags, the titles of methods
    "tasks": "methods report assets",  # the labels of the bundled model
    "metrics": "tasks",  # photos are prepared and classes named as a task does it
    "batch": "tasks",
    "testing": "export runtime",  # verify's checks that users import too: a floor below it
    "verify": "export runtime testing",
    "demo": "tasks metrics",
    "cli": "demo batch metrics verify tasks portable_cam",  # its version
    "portable_cam": "tasks metrics batch",  # the front: names imported on first use
}
#: Rooms that are decided on and yet to be built (docs/adr/0017).
TO_BE_BUILT: set[str] = set()


def full(name: str) -> str:
    return name if name == "portable_cam" else f"portable_cam.{name}"


ROOMS = Rooms(
    {full(room): {full(name) for name in row.split()} for room, row in TABLE.items()},
    {"portable_cam.errors", "portable_cam.spelling", "portable_cam.checked"},
)

#: The only modules that import ONNX Runtime: what runs sessions, and what needs its memory or its converter.
ONNX_RUNTIME = {
    "portable_cam.runtime.session",
    "portable_cam.runtime.ort_format",
    "portable_cam.runtime.gpu.binding",
    "portable_cam.runtime.gpu.float16",
}


def libraries(name: str) -> set[str]:
    return {found.module.split(".")[0] for found in TREE.imports(name)}


def test_packages_are_those_on_disk() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(configured) == sorted(TREE.packages())


def test_every_module_lies_in_one_room() -> None:
    assert strays(TREE, ROOMS) == []


def test_every_room_is_there() -> None:
    empty = {room for room in TABLE if not any(full(room) in ROOMS.of(name) for name in MODULES)}
    assert empty <= TO_BE_BUILT, "rows of the table without a room"
    assert set(TABLE) >= TO_BE_BUILT


def test_who_imports_whom() -> None:
    assert forbidden(TREE, ROOMS) == set()


def test_no_circles() -> None:
    """Imports under TYPE_CHECKING and inside functions count."""
    assert circles({name: TREE.arrows(name) for name in MODULES}) == []


def test_no_relative_imports() -> None:
    assert [name for name in MODULES for found in TREE.imports(name) if found.module.startswith(".")] == []


def test_who_imports_onnx_runtime() -> None:
    assert {name for name in MODULES if "onnxruntime" in libraries(name)} == ONNX_RUNTIME


def test_graph_time_knows_no_framework() -> None:
    found = {
        (name, library)
        for name in MODULES
        if within(name, "portable_cam.export")
        for library in libraries(name) & {"torch", "triton"}
    }
    assert found == {("portable_cam.export.read.from_torch", "torch")}


def test_kernels_and_errors_need_little() -> None:
    kernels = {name for name in MODULES if within(name, "portable_cam.kernels")}
    needed = set().union(*map(libraries, kernels)) - set(sys.stdlib_module_names)
    assert needed <= {"numpy", "portable_cam", "torch", "triton"}
    assert libraries("portable_cam.errors") == set()


def test_no_package_shadows_its_modules() -> None:
    """``import portable_cam.cli.explain as e`` yields the module."""
    assert shadowed(TREE) == []


@pytest.mark.filterwarnings("ignore")  # of libraries that are first imported here
def test_a_package_offers_its_modules_under_their_names() -> None:
    """The same by importing, for names that a package makes on first use."""
    wrong = []
    for name in TREE.packages():
        package = importlib.import_module(name)
        for inner in sorted(TREE.submodules(name)):
            module = importlib.import_module(f"{name}.{inner}")
            lazy = vars(package).get("__getattr__")
            offered = {id(vars(package)[inner])}
            if lazy is not None:
                with contextlib.suppress(AttributeError):
                    offered.add(id(lazy(inner)))
            if offered != {id(module)}:
                wrong.append(f"{name}.{inner}")
    assert wrong == []


def test_a_model_is_normalised_in_one_place() -> None:
    """Everything else takes a model that is normalised already; the front offers the function to users."""
    home = "portable_cam.export.passes.normalize"
    importers = {
        name
        for name in MODULES
        for found in TREE.imports(name)
        if found.module == home or (found.module == "portable_cam.export" and found.name == "normalize")
    }
    callers = {
        name
        for name, module in MODULES.items()
        for node in module.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "normalize"
    }
    assert importers == {"portable_cam.export.passes.normalized", "portable_cam.export"}
    assert callers == {"portable_cam.export.passes.normalized"}


def test_files_are_short() -> None:
    long = {name for name, module in MODULES.items() if module.text.count("\n") > 400}
    assert long == set()


def test_the_formatter_is_switched_off_for_tables_only() -> None:
    others = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in others}
    texts |= {module.path: module.text for module in MODULES.values()}
    wrong = [found for path, text in texts.items() if "fmt:" in text for found in misplaced_format_switches(path, text)]
    assert wrong == []


def test_from_torch_imports_torch_only_when_called() -> None:
    found = [i.late for i in TREE.imports("portable_cam.export.read.from_torch") if i.module == "torch"]
    assert found
    assert all(found)


@pytest.mark.parametrize("name", ["portable_cam", "portable_cam.export", "portable_cam.kernels"])
def test_import_loads_no_runtime(name: str) -> None:
    code = (
        f"import sys, {name}; "
        "print([m for m in ('onnxruntime', 'torch', 'triton', 'matplotlib') if m in sys.modules], end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]"


@pytest.mark.slow
def test_explaining_needs_no_torch() -> None:
    """Everything that the command line imports works where torch is not installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None; "
        "import portable_cam.cli, portable_cam.demo, portable_cam.verify.bench, portable_cam.verify.selfcheck; "
        "import portable_cam.report.write"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def undocumented(module: Module) -> Iterator[str]:
    if ast.get_docstring(module.tree) is None:
        yield module.name
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            # a rule is named in its decorator, after the operator whose gradient it writes
            rule = within(module.name, "portable_cam.export.autodiff") and node.decorator_list
            stub = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
            if not rule and not stub and ast.get_docstring(node) is None:
                yield f"{module.name}.{node.name}"


def test_docstrings() -> None:
    assert [found for module in MODULES.values() for found in undocumented(module)] == []


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
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    }
    assert drawn == real


def test_only_errors_of_the_project_are_raised() -> None:
    """No bare ValueError reaches a user from the rooms that he meets."""
    ours = {name for name, kind in vars(portable_cam.errors).items() if isinstance(kind, type)}
    allowed = ours | {"AttributeError", "typer.BadParameter", "typer.Exit", "NotImplementedError", "AssertionError"}
    for name, module in MODULES.items():
        if name == "portable_cam.export.autodiff.registry":  # tells who writes a rule twice
            continue
        for node in module.nodes:
            if isinstance(node, ast.Raise) and node.exc is not None:
                kind = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                built_in = isinstance(getattr(builtins, kind, None), type)
                assert kind in allowed or not built_in, f"{name}:{node.lineno} raises {kind}"


@pytest.mark.parametrize("name", ["portable_cam", "portable_cam.export", "portable_cam.export.targets"])
def test_what_a_package_offers_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    for offered in package.__all__:
        found = getattr(package, offered)
        assert not inspect.ismodule(found) or found.__name__ == f"{name}.{offered}"
