# SPDX-License-Identifier: Apache-2.0
"""Which task a model does: by its inputs and outputs, the same for every command, and never by default."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from costs import slow_but
from PIL import Image
from typer.testing import CliRunner, Result

import portable_cam as pcam
from portable_cam import assets
from portable_cam.cli import app
from portable_cam.errors import InputError, OptionError, TargetError
from portable_cam.targets import Class
from portable_cam.tasks.recognize import implied_task, recognize

MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"

# an output of each kind, and what it is; the image is (N, 3, 16, 64)
GRAPHS = {
    "line, by its softmax": ("ctc", "p = AveragePool<kernel_shape=[16, 4], strides=[4, 4]>(x) s = Squeeze(p, two) "
                                    "t = Transpose<perm=[0, 2, 1]>(s) y = Softmax<axis=-1>(t)", "float[N,16,3] y"),
    "line, by its linear layer": ("ctc", "p = AveragePool<kernel_shape=[16, 4], strides=[4, 4]>(x) s = Squeeze(p, two) "
                                         "t = Transpose<perm=[0, 2, 1]>(s) m = MatMul(t, w) y = Add(m, b)",
                                  "float[N,16,3] y"),
    "classes": ("classify", "p = GlobalAveragePool(x) y = Flatten(p)", "float[N,3] y"),
    "classes, one pixel": ("classify", "y = GlobalAveragePool(x)", "float[N,3,1,1] y"),
    "pixels": ("segment", "y = Conv<kernel_shape=[1, 1]>(x, k)", "float[N,3,16,64] y"),
}  # fmt: skip
# no scores of a task known here: rows of boxes made by no known head, features, several vectors
UNKNOWN = {
    "boxes": ("s = Reshape(x, rows) y = Concat<axis=2>(s, s)", "float[N,48,128] y"),
    "features": ("s = Reshape(x, rows) t = Tanh(s) y = Mul(t, t)", "float[N,48,64] y"),
    "more rows than columns": ("s = Reshape(x, long) m = MatMul(s, w) y = Add(m, b)", "float[N,1024,3] y"),
    "two vectors": ("p = GlobalAveragePool(x) y = Flatten(p) z = Neg(y)", "float[N,3] y, float[N,3] z"),
    "patches of a grid": (
        "p = Conv<kernel_shape=[8, 8], strides=[8, 8]>(x, patch) s = Reshape(p, grid) "
        "t = Transpose<perm=[0, 2, 1]>(s) m = MatMul(t, w) y = Add(m, b)",
        "float[N,16,3] y",
    ),
    "landmarks": (
        "p = GlobalAveragePool(x) f = Flatten(p) m = MatMul(f, many) y = Reshape(m, pairs)",
        "float[N,6,2] y",
    ),
    "five axes": ("y = Unsqueeze(x, two)", "float[N,3,1,16,64] y"),
}


def model(body: str, y: str, inputs: str = "float[N,3,16,64] x") -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({y}) {{ {body} }}')
    weights = {
        "two": np.array([2]),
        "w": np.eye(3, dtype=np.float32),
        "b": np.ones(3, np.float32),
        "k": np.eye(3, dtype=np.float32)[:, :, None, None],
        "rows": np.array([0, 48, 64]),
        "patch": np.ones((3, 3, 8, 8), np.float32),
        "grid": np.array([0, 3, 16]),
        "many": np.ones((3, 12), np.float32),
        "pairs": np.array([0, 6, 2]),
        "long": np.array([0, 1024, 3]),
        "table": np.eye(3, dtype=np.float32),
    }
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in weights.items() if name in used)
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("kind", GRAPHS)
def test_by_inputs_and_outputs(kind: str) -> None:
    task, body, y = GRAPHS[kind]
    assert recognize(model(body, y))[0] == task


def test_by_token_ids() -> None:
    """Words that go in make a question or a caption; integers that are not looked up in a table do not."""
    for y, task in (("float[N,T] y", "vqa"), ("float[N,T,3] y", "caption")):
        last = "y = ReduceMean<axes = [2], keepdims = 0>(s)" if task == "vqa" else "y = Identity(s)"
        body = f"p = GlobalAveragePool(x) v = Flatten(p) e = Gather(table, q) s = MatMul(e, table) {last}"
        assert recognize(model(body, y, "float[N,3,16,64] x, int64[N,T] q"))[0] == task
    sizes = "p = GlobalAveragePool(x) f = Flatten(p) c = Cast<to = 1>(q) y = Mul(f, c)"
    assert recognize(model(sizes, "float[N,3] y", "float[N,3,16,64] x, int64[N,3] q"))[0] == "classify"


@pytest.mark.parametrize(
    ("name", "task"),
    slow_but(
        ["det_fastestdet_coco_352", "seg_deeplabv3_mnv2_voc_qdq_argmax", "cls_mnist_cntk_opset8"],
        [
            ("det_fastestdet_coco_352", "detect"),
            ("det_nanodet_m_coco_416", "detect"),
            ("det_ultraface_ssd_rfb320", "detect"),
            ("det_yolox_nano_coco_416", "detect"),
            ("seg_deeplabv3_mnv2_voc_qdq_argmax", "segment"),
            ("cls_mnist_cntk_opset8", "classify"),
            ("cls_text_orientation_ppocr_mobilenetv3", "classify"),
        ],
    ),
)
def test_real_models(zoo: Path, name: str, task: str) -> None:
    assert recognize(zoo / "models" / f"{name}.onnx")[0] == task


@pytest.mark.parametrize(
    ("name", "task"), [("vqa_recurrent", "vqa"), ("vqa_attention", "vqa"), ("caption_lstm", "caption")]
)
def test_models_of_words(name: str, task: str) -> None:
    assert recognize(MODELS / f"{name}.onnx")[0] == task


def test_a_recogniser_of_paddleocr() -> None:
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs PaddleOCR's recogniser: pip install --no-deps rapidocr-onnxruntime")
    path = Path(spec.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    assert recognize(path)[0] == "ctc"


def test_paddleocrs_metadata_is_enough() -> None:
    made = model(*UNKNOWN["features"])
    onnx.helper.set_model_props(made, {"character": "a\nb"})
    assert recognize(made)[0] == "ctc"


def test_a_tensor_that_was_named() -> None:
    made = model(*UNKNOWN["two vectors"])
    assert recognize(made, output="z")[0] == "classify"
    assert recognize(model(*UNKNOWN["features"]), output="x")[0] == "segment"
    with pytest.raises(TargetError, match="output='nothing' is no tensor"):
        recognize(made, output="nothing")


def test_a_task_that_was_named() -> None:
    assert recognize(model(*UNKNOWN["features"]), "classify")[0] == "classify"
    with pytest.raises(TargetError, match="not those of a detector"):
        recognize(model(*UNKNOWN["features"]), "detect")
    with pytest.raises(OptionError, match="task 'dream' does not exist; the tasks are classify, detect, segment,"):
        recognize(assets.model(), "dream")
    assert implied_task(["vocabulary", "decoder"]) == "caption"
    assert implied_task(["vocabulary"]) is None


@pytest.mark.parametrize("kind", slow_but(["features", "boxes"], UNKNOWN))
def test_nothing_is_a_classifier_by_default(kind: str, tmp_path: Path) -> None:
    made, path, photo = model(*UNKNOWN[kind]), tmp_path / "m.onnx", tmp_path / "p.png"
    path.write_bytes(made.SerializeToString())
    Image.new("RGB", (64, 16)).save(photo)
    with pytest.raises(TargetError, match=r"not recognised\. By their shapes its outputs could be: 'y' FLOAT") as error:
        pcam.explain(path, photo)
    for output in made.graph.output:
        assert f"'{output.name}' FLOAT" in str(error.value)
    for command in (("explain", path, photo, "-o", tmp_path / "o"), ("layers", path), ("export", path, "-o", "o.onnx")):
        done = run(*command)
        assert isinstance(done.exception, TargetError)
        assert not (tmp_path / "o").exists()
    report = json.loads(run("doctor", path, "--json").stdout)
    assert (report["task"], report["explainable"]) == (None, False)
    assert "is not recognised" in report["problems"][0]
    table = run("doctor", path)
    assert table.exit_code == 1
    assert "not recognised" in table.stdout


def test_no_image() -> None:
    made = model("y = Relu(x)", "float[N,3] y", "float[N,3] x")
    with pytest.raises(InputError, match="no image input"):
        recognize(made)


@pytest.mark.slow
def test_explain_without_a_task(zoo: Path, tmp_path: Path) -> None:
    """UltraFace's two outputs were taken for those of a classifier."""
    path, photo = zoo / "models" / "det_ultraface_ssd_rfb320.onnx", assets.photo("astronaut.jpg")
    done = run("explain", path, photo, "-o", tmp_path, "--json", "--format", "json")
    assert done.exit_code == 0
    assert "task: detect (recognised; --task overrides)\n" in done.stderr
    (record,) = json.loads(done.stdout)["images"]
    assert record["task"] == "detect"
    assert record["explained"][0]["detection"] > 0.99
    assert record["files"] == [str(tmp_path / "astronaut.json")]
    named = run("explain", path, photo, "-o", tmp_path, "--task", "segment")
    assert "a score per class and pixel" in str(named.exception)


@pytest.mark.slow
def test_the_parts_of_a_caption_imply_the_task(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "scene.png")
    parts = ("--decoder", MODELS / "caption_lstm_decoder.onnx", "--vocabulary", MODELS / "caption_words.txt")
    done = run("explain", MODELS / "caption_encoder.onnx", tmp_path / "scene.png", *parts, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "task: caption" in done.stderr
    assert (tmp_path / "out" / "scene.sheet.png").is_file()


def test_the_tensors_of_a_task_are_found_once(small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    right = Class.tensors

    def counted(self: Class, *given: Any) -> Any:
        calls.append(1)
        return right(self, *given)

    monkeypatch.setattr(Class, "tensors", counted)
    assert recognize(small_cnn) == ("classify", Class())
    assert len(calls) == 1
