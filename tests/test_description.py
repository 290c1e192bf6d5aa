"""``model.explain.json``: drafted by doctor, corrected by a person, read by everything."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from test_reading_scores import MAP, VECTOR, X, model, tensor
from typer.testing import CliRunner, Result

import portable_cam as pcam
from portable_cam import assets
from portable_cam.cli import app
from portable_cam.errors import InputError, OptionError
from portable_cam.export import build_explanation
from portable_cam.export.read.description import METADATA_KEY, Description, description_path, schema
from portable_cam.tasks.draft import draft
from portable_cam.tasks.recognize import recognize

PHOTO = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)


def saved(folder: Path, made: onnx.ModelProto, **said: Any) -> Path:
    path = folder / "m.onnx"
    onnx.save(made, path)
    if said:
        description_path(path).write_text(json.dumps({"version": 1, **said}))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_doctor_drafts_and_explain_reads(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(assets.model(), path)
    drafted = run("doctor", path, "--write")
    assert drafted.exit_code == 0, drafted.output
    content = json.loads(description_path(path).read_text())
    jsonschema.validate(content, schema())
    assert content["task"] == "classify"
    assert content["input"]["axes"] == "NCHW"
    assert content["scores"] == {"output": "prob"}
    assert content["derived"]["scores"][0]["axes"] == ["images", "classes"]
    assert content["derived"]["layers"][0]["step"] == [16, 16]
    # what it says holds: other preprocessing, names and methods
    content["input"]["preprocessing"] = json.loads(assets.path("squeezenet1.1.preprocess.json").read_text())
    content |= {"labels": [f"thing {i}" for i in range(1000)], "methods": ["layercam"]}
    description_path(path).write_text(json.dumps(content))
    result = run("explain", path, assets.photo(), "--out", tmp_path / "out", "--no-check")
    assert result.exit_code == 0, result.output
    assert "thing " in result.stdout
    assert "guessed" not in result.stderr
    explained = pcam.explain(path, assets.photo())
    assert explained.labels[0][0].startswith("thing ")
    assert list(explained.result.maps) == ["layercam"]


def test_what_is_corrected_wins(tmp_path: Path) -> None:
    """A probability, another layer, another task; and what is given to a call wins over it."""
    made = model(VECTOR + "y = Softmax(l)", "float[N,5] y")
    path = saved(tmp_path, made, scores={"output": "y", "as_is": True}, layer="r", options={"relu_policy": "all"})
    explainer = pcam.Explainer(path)
    assert explainer.layer == "r"
    np.testing.assert_allclose(explainer(X, 1).scores[:, 0], tensor(made, "y")[:, 1], rtol=1e-4)
    assert pcam.Explainer(path, layer="f").layer == "f"
    built = build_explanation(path)
    assert {p.key: p.value for p in built.metadata_props}["portable_cam.relu_policy"] == "all"


def test_the_task_is_what_it_says(tmp_path: Path) -> None:
    features = model(VECTOR + "y = Relu(l)", "float[N,5] y")
    assert recognize(saved(tmp_path, features, task="classify"))[0] == "classify"
    pixels = saved(tmp_path, model(MAP + "y = Sigmoid(z)", "float[N,5,8,8] y"), task="segment", threshold=0.9)
    high = pcam.explain(pixels, PHOTO, ("gradient",), [0], preprocessing="unit").details[0].share
    low = pcam.explain(pixels, PHOTO, ("gradient",), [0], preprocessing="unit", threshold=0.1).details[0].share
    assert high is not None
    assert low is not None
    assert high < low


def test_labels_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    path = saved(tmp_path, model(VECTOR + "y = Softmax(l)", "float[N,5] y"), labels="names.txt")
    assert pcam.explain(path, PHOTO, preprocessing="unit").labels[0][0] in set("abcde")


def test_export_puts_it_inside_and_beside(tmp_path: Path) -> None:
    path = saved(tmp_path, model(VECTOR + "y = Softmax(l)", "float[N,5] y"), labels=list("abcde"))
    written = tmp_path / "explainer.onnx"
    result = run("export", path, "-o", written, "--no-check")
    assert result.exit_code == 0, result.output
    beside = json.loads(description_path(written).read_text())
    inside = {p.key: p.value for p in onnx.load(written).metadata_props}[METADATA_KEY]
    assert json.loads(inside) == beside
    assert beside["labels"] == list("abcde")


def test_inside_the_metadata_it_holds_too(tmp_path: Path) -> None:
    made = model(VECTOR + "y = Softmax(l)", "float[N,5] y")
    onnx.helper.set_model_props(made, {METADATA_KEY: json.dumps({"version": 1, "layer": "r"})})
    assert pcam.Explainer(made).layer == "r"
    assert pcam.Explainer(saved(tmp_path, made, layer="f")).layer == "f"  # the file beside it comes first


def test_a_draft_keeps_what_was_said(tmp_path: Path) -> None:
    path = saved(tmp_path, model(VECTOR + "y = Softmax(l)", "float[N,5] y"), labels=list("abcde"), layer="r")
    content = draft(path)
    assert content["layer"] == "r"
    assert content["labels"] == list("abcde")
    assert draft(path) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"taks": "classify"}', "'taks' was unexpected"),
        ('{"task": "dream"}', "task: 'dream' is not one of"),
        ('{"labels": [1]}', "labels: .* is not valid"),
        ('{"threshold": 2}', "threshold: 2 is greater than or equal to the maximum"),
        ('{"axes": {"r": "XY"}}', "axes/r: 'XY' does not match"),
        ('{"options": {"relu_polcy": "all"}}', "there is no option 'relu_polcy'"),
        ('{"input": {"axes": "NCHW"}}', "input has axes, but no name"),
        ('{"layer": "nothing"}', "nothing"),
        ('{"input": {"name": "y", "axes": "NCHW"}}', "axes are declared of|does not name the axes"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, model(VECTOR + "y = Softmax(l)", "float[N,5] y"))
    description_path(path).write_text(text)
    with pytest.raises(pcam.Error, match=message):
        pcam.Explainer(path)


def test_a_description_without_a_folder_names_no_files() -> None:
    with pytest.raises(OptionError, match="is in no folder: list them"):
        _ = Description({"labels": "names.txt"}, "it").task_options


def test_an_image_declared_otherwise_is_read_so(tmp_path: Path) -> None:
    path = saved(tmp_path, model(VECTOR + "y = Softmax(l)", "float[N,5] y"), axes={"x": "NHWC"})
    with pytest.raises((InputError, pcam.Error)):
        pcam.Explainer(path)(X[:, :, :5])
