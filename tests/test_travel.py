# SPDX-License-Identifier: Apache-2.0
"""Explainers and explanations in other processes: what is pickled is made again, and explains the same."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import portable_cam as pcam
from portable_cam.errors import ModelError, OptionError
from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.diagnose.declared import declared_model
from portable_cam.export.passes.normalized import NormalizedModel, normalized

X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)
PHOTO = np.random.default_rng(6).integers(0, 255, (20, 30, 3), np.uint8)
MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"


def there_and_back(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.fixture
def path(small_cnn: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(small_cnn, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def test_an_explainer(small_cnn: onnx.ModelProto) -> None:
    options: dict[str, Any] = {"methods": ("gradcam", "guided_backprop"), "layer": "r1", "sign": "negative"}
    explainer = pcam.Explainer(small_cnn, **options, threads=1, check=True, labels=list("abcde"))
    expected = explainer(X, ["b", "c"])
    again = there_and_back(explainer)
    assert again.checks == explainer.checks != ()
    found = again(X, ["b", "c"])
    for method in expected:
        np.testing.assert_array_equal(found[method], expected[method])
    assert found.layer == "r1"
    assert copy.deepcopy(explainer)(X).targets.tolist() == explainer(X).targets.tolist()


@pytest.mark.parametrize("form", ["path", "str", "bytes", "proto", "ir", "normalized", "declared"])
def test_every_form_of_a_model(path: Path, form: str) -> None:
    forms: dict[str, Any] = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "proto": onnx.load(path),
        "ir": ir.load(path),
        "normalized": normalized(path),
        "declared": declared_model(at_size(path, (8, 8)), {"r2": "NCHW"}),
    }
    explainer = pcam.Explainer(forms[form])
    pickled = pickle.dumps(explainer)
    weights = next(t for t in onnx.load(path).graph.initializer if t.name == "w2").raw_data
    assert (weights in pickled) == (form not in {"path", "str", "normalized", "declared"}), "a path travels as a path"
    np.testing.assert_array_equal(pickle.loads(pickled)(X)["gradcam"], explainer(X)["gradcam"])


def test_a_relative_path_means_the_same_file_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(pcam.Explainer(path.name))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled)(X).scores.shape == (2, 1)


def test_a_file_that_changed_is_not_explained_for_the_other(path: Path, small_cnn: onnx.ModelProto) -> None:
    """Silently, the worker would explain another model."""
    explainer = pcam.Explainer(path)
    pickled = pickle.dumps(explainer)
    other = onnx.ModelProto.FromString(small_cnn.SerializeToString())
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    onnx.save(other, path)
    with pytest.raises(ModelError, match=r"small\.onnx has changed since the explainer was pickled"):
        pickle.loads(pickled)
    with pytest.raises(ModelError, match=r"small\.onnx has changed since it was read"):
        pickle.dumps(explainer)
    path.unlink()
    with pytest.raises(ModelError, match=r"small\.onnx is not there: a model given by path travels as a path"):
        pickle.loads(pickled)


def test_what_was_said_of_a_model_travels_with_it(path: Path) -> None:
    known = at_size(declared_model(path, {"r1": "NCHW"}), (8, 8)).saying({"task": "classify"})
    assert at_size(known, (8, 8)).description.task == "classify"
    assert at_size(normalized(path), (8, 8)).description.task is None
    again: NormalizedModel = there_and_back(known)
    assert again.description.task == "classify"
    assert again.sha256 == known.sha256
    assert [n.op_type for n in again.graph] == [n.op_type for n in known.graph]


def test_what_was_warned_of_is_not_warned_of_again(make_model: Any) -> None:
    weights = {"w": np.ones((5, 3, 1, 1), np.float32)}
    model = make_model("c = Conv(x, w) s = Sigmoid(c) p = GlobalAveragePool(s) y = Flatten(p)", weights)
    with pytest.warns(UserWarning, match="no node counts as a ReLU"):
        explainer = pcam.Explainer(model, ("guided_backprop",))
    pickled = pickle.dumps(explainer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(pickled)
    assert again.notes == explainer.notes


def explain_in_worker(explainer: pcam.Explainer) -> Any:
    return explainer(X, [1, 2])["gradcam"]


@pytest.mark.slow
def test_a_spawned_process(path: Path) -> None:
    explainer = pcam.Explainer(path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(explain_in_worker, [explainer])
    np.testing.assert_array_equal(found, explainer(X, [1, 2])["gradcam"])


def test_functions_of_a_session_by_cloudpickle(small_cnn: onnx.ModelProto) -> None:
    """As Ray pickles tasks, and what they close over."""
    cloudpickle = pytest.importorskip("cloudpickle")
    explainer = pcam.PhotoExplainer(small_cnn, preprocessing=lambda photo: photo[:8, :8].transpose(2, 0, 1) / 255)

    def work(photo: Any) -> Any:
        return explainer(photo)["gradcam"]

    np.testing.assert_array_equal(pickle.loads(cloudpickle.dumps(work))(PHOTO), work(PHOTO))


@pytest.mark.parametrize(
    ("kind", "model", "options", "asked"),
    [
        ("classify", "small", {"labels": list("abcde"), "rather_than": "c", "preprocessing": "unit"}, {}),
        pytest.param(
            "caption",
            "caption_encoder",
            {"decoder": MODELS / "caption_lstm_decoder.onnx", "vocabulary": str(MODELS / "caption_words.txt")},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "vqa",
            "vqa_recurrent",
            {"vocabulary": MODELS / "vqa_words.txt", "labels": MODELS / "vqa_answers.txt"},
            {"question": "what color"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_explainers_of_photos(
    kind: str, model: str, options: dict[str, Any], asked: dict[str, Any], small_cnn: onnx.ModelProto
) -> None:
    from portable_cam.tasks.registry import task_named

    source = small_cnn if model == "small" else MODELS / f"{model}.onnx"
    explainer: Any = task_named(kind).explainer()(source, **options)  # type: ignore[call-arg]
    expected, found = explainer(PHOTO, **asked), there_and_back(explainer)(PHOTO, **asked)
    assert found.to_dict() == expected.to_dict()
    for method in expected:
        np.testing.assert_array_equal(found[method], expected[method])


def test_an_explanation(small_cnn: onnx.ModelProto) -> None:
    explained = pcam.explain(small_cnn, PHOTO, ("gradcam", "guided_backprop"), "0, 3", labels=list("abcde"))
    found = there_and_back(explained)
    assert found.to_dict() == explained.to_dict()
    for method in explained:
        np.testing.assert_array_equal(found[method], explained[method])
    assert found.overlay("gradcam").tobytes() == explained.overlay("gradcam").tobytes()


# -- what reaches ONNX Runtime -----------------------------------------------------------------------------------------


def test_session_options_reach_onnx_runtime(small_cnn: onnx.ModelProto) -> None:
    given = {"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0", "enable_profiling": False}
    explainer = pcam.Explainer(small_cnn, session_options=given)
    used = explainer._sessions.of(1).raw.get_session_options()
    assert used.intra_op_num_threads == 1
    assert used.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert there_and_back(explainer)(X).scores.shape == (2, 1)


def test_the_users_own_object_is_used_and_left_as_it_was(small_cnn: onnx.ModelProto) -> None:
    own = ort.SessionOptions()
    own.intra_op_num_threads = 1
    own.log_severity_level = 3
    explainer = pcam.Explainer(small_cnn, session_options=own, optimize=False, check=True)
    explainer(X)
    assert explainer._sessions.of(1).raw.get_session_options().intra_op_num_threads == 1
    assert own.log_severity_level == 3
    assert own.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    with pytest.raises(OptionError, match="session_options= as an object of ONNX Runtime cannot be pickled: give"):
        pickle.dumps(explainer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"no_such_thing": 1}, "SessionOptions has no 'no_such_thing'"),
        ({"intra_op_num_threads": "many"}, "intra_op_num_threads does not take 'many'"),
        ({3: 4}, "SessionOptions has no 3"),
        (7, "is a mapping of settings, or onnxruntime.SessionOptions, not int"),
    ],
)
def test_wrong_session_options(small_cnn: onnx.ModelProto, given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pcam.Explainer(small_cnn, session_options=given)


def test_custom_operators(make_model: Any) -> None:
    """An operator of a library before the layer: it runs, in checks and in other processes as well."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    random = np.random.default_rng(0)
    weights = {"w1": random.standard_normal((4, 3, 3, 3)).astype(np.float32), "w2": np.ones((5, 4, 3, 3), np.float32)}
    body = "c = Conv(x, w1) n, q = NegPos(c) d = Conv(q, w2) r = Relu(d) p = GlobalAveragePool(r) y = Flatten(p)"
    model = make_model(body, weights)
    model.graph.node[1].domain = "ai.onnx.contrib"
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.contrib", 1))
    dims = ("N", 4, 6, 6)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, dims))
    with pytest.raises(ModelError, match="NegPos"):
        pcam.Explainer(model, layer="r", axes={"r": "NCHW"})
    options: dict[str, Any] = {
        "layer": "r",
        "axes": {"r": "NCHW"},
        "custom_op_libraries": [extensions.get_library_path()],
    }
    explainer = pcam.Explainer(model, check=True, **options)
    found = explainer(X)
    assert found["gradcam"].shape == (2, 1, 8, 8)
    assert {check.name: check.passed for check in explainer.checks}["outputs"] is True
    np.testing.assert_array_equal(there_and_back(explainer)(X).scores, found.scores)
    photos = pcam.PhotoExplainer(model, preprocessing="unit", **options)
    assert photos(PHOTO).scores.shape == (1, 1)


def test_a_library_that_is_not_there(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match=r"the custom operators of nowhere\.so cannot be loaded"):
        pcam.Explainer(small_cnn, custom_op_libraries=["nowhere.so"])
    with pytest.raises(OptionError, match="custom_op_libraries= would change your object"):
        pcam.Explainer(small_cnn, custom_op_libraries=["a.so"], session_options=ort.SessionOptions())
