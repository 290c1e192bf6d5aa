# SPDX-License-Identifier: Apache-2.0
"""Models larger than one protobuf, with the limit set low: the same maps, from weights that stay in their file."""

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from costs import slow_but
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam.cli import app
from portable_cam.errors import ExternalDataError, ModelError, OptionError
from portable_cam.export import build_explanation, save_explanation
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.read import weights
from portable_cam.export.read.load import load
from portable_cam.verify.selfcheck import self_check

X = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def large(small_cnn: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small model with its weights in a file, and limits that make it a large one."""
    monkeypatch.setattr(weights, "LIMIT", 1000)
    monkeypatch.setattr(weights, "EXTERNAL", 200)
    monkeypatch.setattr(import_module("portable_cam.export.passes.convert"), "_BIG", 100)
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.onnx"
    onnx.save_model(
        onnx.ModelProto.FromString(small_cnn.SerializeToString()),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


@pytest.mark.parametrize("given", slow_but(["path"], ["path", "proto", "ir", "ir of a file"]))
def test_the_same_maps(large: Path, small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    model = {
        "path": lambda: large,
        "proto": lambda: small_cnn,
        "ir": lambda: ir.from_proto(small_cnn),
        "ir of a file": lambda: ir.load(large),
    }[given]()
    found = pcam.Explainer(model)(X, [[0, 3], [1, 4]])
    monkeypatch.undo()
    expected = pcam.Explainer(small_cnn)(X, [[0, 3], [1, 4]])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.maps["gradcam"], expected.maps["gradcam"], rtol=1e-5, atol=1e-5)


def test_weights_are_mapped_and_not_in_the_protobuf(large: Path) -> None:
    model = load(large)
    mapped = [v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, weights.Mapped)]
    assert mapped
    parts = weights.apart(model)
    assert parts.folder == large.parent.resolve()
    assert not parts.arrays
    inside = {t.name: len(t.raw_data) for t in parts.proto.graph.initializer}
    assert all(inside[str(tensor.name)] == 0 for tensor in mapped)


def test_build_explanation_says_what_to_do(large: Path) -> None:
    with pytest.raises(ModelError, match=r"larger than the 2 GiB of one protobuf: .*save_explanation"):
        build_explanation(large)


@pytest.mark.parametrize("by", ["function", "command"])
def test_two_files_run_anywhere(large: Path, small_cnn: onnx.ModelProto, tmp_path: Path, by: str) -> None:
    path = tmp_path / "out" / "explanation.onnx"
    if by == "function":
        assert save_explanation(path, large) == [path, path.with_name("explanation.onnx.data")]
    else:
        done = CliRunner().invoke(app, ["export", str(large), "-o", str(path)])
        assert done.exit_code == 0, done.output
        assert "explanation.onnx.data" in done.output.replace("\n", "")
        assert "self-check: passed" in done.output
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["heatmap.gradcam"], {"x": X, "targets": np.array([[1], [2]])})[0]
    np.testing.assert_allclose(found, pcam.Explainer(small_cnn)(X, [1, 2]).maps["gradcam"], rtol=1e-5, atol=1e-5)
    again = onnx.load(path, load_external_data=False)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in again.graph.initializer)


@pytest.mark.parametrize("command", ["doctor", "layers", "bench"])
def test_commands(large: Path, command: str) -> None:
    more = ["--seconds", "0.1"] if command == "bench" else []
    done = CliRunner().invoke(app, [command, str(large), *more])
    assert done.exit_code == 0, done.output


def test_self_check(large: Path) -> None:
    built = explanation_model(large)
    assert not weights.fits(built)
    proof = self_check(large, built)
    assert proof.passed
    assert proof["maps"].passed
    assert proof["input"].passed


def test_moved_data_is_named(large: Path) -> None:
    (large.parent / "weights.bin").rename(large.parent / "elsewhere.bin")
    with pytest.raises(ExternalDataError, match=r"'weights.bin'\) is missing"):
        pcam.Explainer(large)


def test_length_that_is_not_the_shape(large: Path) -> None:
    model = onnx.load(large, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "length")
    entry.value = str(int(entry.value) - 4)
    large.write_bytes(model.SerializeToString())
    with pytest.raises(ExternalDataError, match=r"has \d+ bytes; FLOAT\[.*\] takes \d+"):
        pcam.Explainer(large)


def test_the_models_own_weights_are_not_written_over(large: Path) -> None:
    before = (large.parent / "weights.bin").read_bytes()
    (large.parent / "weights.bin").rename(large.parent / "model.onnx.data")
    model = onnx.load(large, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = "model.onnx.data"
    large.write_bytes(model.SerializeToString())
    with pytest.raises(OptionError, match=r"model.onnx.data holds the weights of the model itself"):
        save_explanation(large, large)
    assert (large.parent / "model.onnx.data").read_bytes() == before
