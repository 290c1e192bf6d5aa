"""Shared fixtures. Tests on real models need the zoo, which lies beside the project: CI must have it."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnx.parser
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is first imported whether kernels are compiled or interpreted: interpreted, but for
    ``pytest -m gpu``, which runs them on a GPU."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where neither is chosen


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
