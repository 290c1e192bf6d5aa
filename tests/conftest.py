"""Shared fixtures, and which tests run. Tests on real models need the zoo, which lies beside the project: CI must have
it.

``pytest`` leaves out the tests marked ``slow``. ``pytest --slow`` runs everything, as CI does; with ``-m``, and in the
files and tests that are named on the command line, the mark changes nothing.

The whole suite runs in a process for each core, where pytest-xdist is installed; what is named, or asked for with
``-m``, runs in this one. ``-n`` says otherwise.
"""

import gc
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import numpy as np
import onnx
import onnx.parser
import pytest
from costs import runs_whole_suite, slow_tests_run

# the same draws in every run, with --slow more of them; `--hypothesis-profile=search` looks at new ones
hypothesis.settings.register_profile("few", derandomize=True, deadline=None, max_examples=6)
hypothesis.settings.register_profile("many", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.register_profile("search", deadline=None, max_examples=60)
hypothesis.settings.load_profile("few")

#: The generators at the top of test modules, by module, each with its state before the first test.
GENERATORS = pytest.StashKey[dict[str, list[tuple[np.random.Generator, Any]]]]()
#: Seconds above which a test should be marked ``slow``.
SLOW = 5.0
#: Processes at most: each imports everything and opens models of its own.
PROCESSES = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A process for each core, as ``-n auto``, for the whole suite."""
    if getattr(config.option, "numprocesses", 0) is None and config.option.dist == "no" and runs_whole_suite(config):
        config.option.numprocesses = "auto"
        config.option.maxprocesses = config.option.maxprocesses or PROCESSES
        config.option.dist = "worksteal"  # neighbours stay together, and share what their module has made


def pytest_collection_finish() -> None:
    """The collector of garbage need not look at modules and tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """At the end all garbage is garbage again: libraries look for what they leaked."""
    gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is first imported whether kernels are compiled or interpreted: interpreted, but for
    ``pytest -m gpu``, which runs them on a GPU."""
    if config.option.slow and not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("many")
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where neither is chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests that nobody asked for, and note where the modules' generators of numbers stand."""
    modules = {item.module.__name__: item.module for item in items if isinstance(item, pytest.Function)}
    config.stash[GENERATORS] = {
        name: [(v, v.bit_generator.state) for v in vars(module).values() if isinstance(v, np.random.Generator)]
        for name, module in modules.items()
    }
    left_out = {i for i in items if i.get_closest_marker("slow") and not slow_tests_run(config, i.path)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests that took long and are not marked: a list to look at, no failure, for a machine may be busy."""
    reports = [r for found in terminalreporter.stats.values() for r in found if isinstance(r, pytest.TestReport)]
    long = [r for r in reports if r.when == "call" and r.duration > SLOW and "slow" not in r.keywords]
    if long:
        terminalreporter.section(f"over {SLOW:g} s and not marked slow")
        for report in sorted(long, key=lambda r: -r.duration):
            terminalreporter.line(f"{report.duration:6.1f} s {report.nodeid}")


@pytest.fixture(autouse=True)
def _same_numbers(request: pytest.FixtureRequest) -> None:
    """The same random numbers in a test whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)
    for generator, state in request.config.stash[GENERATORS].get(request.module.__name__, []):
        generator.bit_generator.state = state


@pytest.fixture(autouse=True, scope="session")
def kept_checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks of explanations are kept for this run alone: each model and its options are checked once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTABLE_CAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder with ``models/``, ``images/`` and ``labels/``."""
    folder = Path(os.environ.get("PORTABLE_CAM_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
    if not (folder / "models").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the zoo, and {folder} is not there")
        pytest.skip(f"no zoo at {folder}; set PORTABLE_CAM_ZOO to run the tests on real models")
    return folder


@pytest.fixture(scope="session")
def golden(zoo: Path) -> Path:
    """The folder with the peers' maps."""
    folder = zoo.parent / "golden"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the peers' maps, and {folder} is not there")
        pytest.skip(f"no peers' maps at {folder}")
    return folder


class MakeModel(Protocol):
    """What the fixture ``make_model`` gives."""

    def __call__(
        self, body: str, weights: dict[str, np.ndarray], x: str = ..., y: str = ..., opset: int = ...
    ) -> onnx.ModelProto: ...


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A model written as ONNX text: nodes, weights by name, the declarations of inputs and outputs."""

    def make(
        body: str, weights: dict[str, np.ndarray], x: str = "float[N,3,8,8] x", y: str = "float[N,5] y", opset: int = 17
    ) -> onnx.ModelProto:
        text = f'<ir_version: 8, opset_import: ["": {opset}]> small ({x}) => ({y}) {{ {body} }}'
        model = onnx.parser.parse_model(text)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
        return model

    return make


@pytest.fixture(scope="session")
def small_cnn(make_model: MakeModel) -> onnx.ModelProto:
    """conv, relu, conv, relu, global average pool, linear: (N, 3, 8, 8) to five scores."""
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return make_model(
        """
        c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        r1 = Relu(c1)
        c2 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(r1, w2)
        r2 = Relu(c2)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w3, b3)
        """,
        {"w1": weight(4, 3, 3, 3), "b1": weight(4), "w2": weight(6, 4, 3, 3), "w3": weight(5, 6), "b3": weight(5)},
    )
