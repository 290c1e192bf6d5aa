"""A model is read and normalised once per command, and what is shared is never changed."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from costs import slow_but

from portable_cam import assets
from portable_cam.cli import main
from portable_cam.export import build_explanation, doctor, list_layers
from portable_cam.export.passes import normalized as module
from portable_cam.export.passes.normalized import NormalizedModel, normalized
from portable_cam.verify.selfcheck import self_check


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many models were normalised since the test began."""
    calls: list[object] = []
    inner = module.normalize

    def counted(model: object) -> ir.Model:
        calls.append(model)
        return inner(model)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "normalize", counted)
    return lambda: len(calls)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["portable-cam", *map(str, arguments)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    assert not status


@pytest.mark.parametrize(
    "command", slow_but(["doctor", "layers", "explain"], ["doctor", "layers", "export", "bench", "explain"])
)
def test_each_command_normalises_the_model_once(
    command: str, count: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, list[object]] = {
        "export": ["-o", tmp_path / "out.onnx", "--methods", "gradcam,guided_gradcam"],
        "bench": ["--seconds", "0.1"],
        "explain": [assets.photo(), "-o", tmp_path, "--format", "json"],
    }
    run(monkeypatch, command, assets.model(), *more.get(command, []))
    assert count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "file"),
    [("detect", "det_yolox_nano_coco_416.onnx"), ("segment", "seg_deeplabv3_mnv2_dm05_voc_fp32_logits.onnx")],
)
def test_each_task_normalises_the_model_once(
    task: str, file: str, count: Callable[[], int], zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = zoo / "images" / "pgc_both.png"
    run(monkeypatch, "explain", zoo / "models" / file, photo, "--task", task, "-o", tmp_path, "--format", "json")
    assert count() == 1


@pytest.mark.slow
def test_a_normalised_model_stays_as_it_is() -> None:
    """Whatever is done with it: building, diagnosing, checking work on copies."""
    model = normalized(assets.model())
    before = ir.to_proto(model.copy()).SerializeToString(deterministic=True)
    built = build_explanation(model, ("cam", "gradcam", "guided_backprop"), precision="float32")
    doctor(model)
    list_layers(model)
    self_check(model, built)
    assert ir.to_proto(model.copy()).SerializeToString(deterministic=True) == before
    assert normalized(model) is model


def test_a_copy_has_names_of_its_own() -> None:
    model = NormalizedModel(assets.model())
    copy = model.copy()
    name = next(iter(copy.graph.initializers))
    copy.graph.initializers[name].name = "another"
    assert name in model.graph.initializers
    assert model.graph.initializers[name].name == name
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    assert tensor.name == name
