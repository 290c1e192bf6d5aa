"""The command line: what goes to stdout and stderr, exit statuses, files."""

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from detectors import IMAGE, joined
from PIL import Image

import portable_cam
from portable_cam import assets
from portable_cam.cli import main


@dataclass
class Outcome:
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as a user runs it, in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["portable-cam", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def small(small_cnn: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_cnn.SerializeToString())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos, the second truncated, and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png"):
        Image.fromarray(random.integers(0, 255, (16, 24, 3), np.uint8)).save(folder / name)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not a photo")
    return folder


MODELS = Path(__file__).parents[1] / "benchmarks" / "train" / "models"
CAPTION = (
    MODELS / "caption_encoder.onnx",
    "--task",
    "caption",
    "--decoder",
    MODELS / "caption_lstm_decoder.onnx",
    "--vocabulary",
    MODELS / "caption_words.txt",
)
VQA = (
    MODELS / "vqa_recurrent.onnx",
    "--task",
    "vqa",
    "--vocabulary",
    MODELS / "vqa_words.txt",
    "--labels",
    MODELS / "vqa_answers.txt",
)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A large red square left of a small blue one."""
    pixels = np.full((64, 64, 3), 220, np.uint8)
    pixels[20:44, 4:28] = (215, 45, 45)
    pixels[26:42, 42:58] = (50, 80, 220)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.slow
def test_caption(run: Run, scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = run("explain", *CAPTION, scene, "-o", folder, "--format", "png,npy,json")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "scene.png: a red square left of a blue square"
    assert [line.split()[1] for line in lines[1:]] == lines[0].split()[1:]
    assert {p.name for p in folder.iterdir()} == {"scene.sheet.png", "scene.layercam.npy", "scene.json"}
    maps = np.load(folder / "scene.layercam.npy")
    for word, (left, right) in (("red", (4, 28)), ("blue", (42, 58))):
        k = lines[0].split()[1:].index(word)
        assert left <= maps[k].max(0).argmax() < right
    said = ("--caption", "a green cross", "--target", "green cross,*")
    forced = run("explain", *CAPTION, scene, "-o", folder, *said, "--json")
    record = json.loads(forced.out)["images"][0]
    assert (record["said"], record["given"]) == ("a green cross", True)
    assert [entry["label"] for entry in record["explained"]] == ["green cross", "a green cross"]


def test_vqa(run: Run, scene: Path, tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), (245, 240, 250), np.uint8)
    pixels[10:30, 30:54] = (255, 0, 0)
    Image.fromarray(pixels).save(scene)
    folder = tmp_path / "out"
    asked = ("--question", "What color is the rectangle?")
    done = run("explain", *VQA, scene, "-o", folder, *asked, "--json", "--format", "png,json")
    assert done.status == 0
    (explained,) = json.loads(done.out)["images"][0]["explained"]
    assert explained["label"] == "red"
    assert [word for word, _ in explained["words"]] == ["what", "color", "is", "the", "rectangle"]
    assert {p.name for p in folder.iterdir()} == {"scene.sheet.png", "scene.red.layercam.png", "scene.json"}
    assert json.loads((folder / "scene.json").read_text())["explained"][0]["words"] == explained["words"]


def test_ctc(run: Run, tmp_path: Path) -> None:
    """A reader of colours: red says a, green says b."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        reader (float[N,3,16,W] x) => (float[N,T,3] y) {
        p = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(x)
        m = ReduceMean<axes = [2], keepdims = 0>(p)
        s = Transpose<perm = [0, 2, 1]>(m)
        y = Softmax<axis = -1>(s) }""")
    (tmp_path / "reader.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "letters.txt").write_text("a\nb\n")
    # here blue stands for the blank, the first class
    pixels = np.repeat(np.array([[(0, 0, 9), (0, 9, 0), (0, 0, 9), (9, 0, 0)]], np.uint8) * 28, 16, 0).repeat(8, 1)
    Image.fromarray(pixels).save(tmp_path / "line.png")
    how = ("--vocabulary", tmp_path / "letters.txt", "--layer", "p", "--preset", "raw", "--color", "bgr")
    done = run(
        "explain", tmp_path / "reader.onnx", tmp_path / "line.png", "--task", "ctc", *how, "-o", tmp_path / "out"
    )
    assert done.status == 0
    assert [line.split()[1] for line in done.out.splitlines()] == ["ab", "a", "b"]
    assert (tmp_path / "out" / "line.sheet.png").is_file()


def test_options_of_other_tasks(run: Run, small: Path, scene: Path) -> None:
    for arguments, message in (
        ((small, scene, "--task", "dream"), "task 'dream' does not exist; the tasks are classify, "),
        ((small, scene, "--question", "why?"), "the task classify takes no --question"),
        ((small, scene, "--task", "caption"), "the task caption needs --vocabulary"),
        ((*VQA, scene), "the task vqa needs --question"),
        ((*CAPTION, scene, "--labels", "x"), "the task caption takes no --labels"),
        ((*CAPTION, scene, "--caption", "a pink square"), "the word 'pink' is not in"),
        ((*CAPTION[:3], "--decoder", small, *CAPTION[5:], scene), "the decoder does not fit the encoder"),
    ):
        failed = run("explain", *arguments)
        assert failed.status == 2
        assert message in failed.err.replace("\n", " ")


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"portable-cam {portable_cam.__version__}\n", "")


def test_help_lists_the_commands(run: Run) -> None:
    outcome = run("--help")
    assert outcome.status == 0
    for command in ("demo", "explain", "layers", "doctor", "export", "bench"):
        assert command in outcome.out


def test_demo(run: Run, tmp_path: Path) -> None:
    begin = time.thread_time()
    outcome = run("demo", "-o", tmp_path / "new" / "folder")
    spent = time.thread_time() - begin  # of the processor: what else runs on the machine does not count
    assert spent < 10
    assert outcome.status == 0, outcome.err
    first = outcome.out.splitlines()[0]
    assert first.startswith("Explained why SqueezeNet 1.1 sees ")
    assert " in cat_and_coffee.png: " in first
    with Image.open(tmp_path / "new" / "folder" / "demo.png") as picture:
        assert min(picture.size) > 400


def test_explain(run: Run, tmp_path: Path) -> None:
    outcome = run(
        "explain",
        assets.model(),
        assets.photo("chelsea.png"),
        "-o",
        tmp_path / "out",
        "--target",
        "top2",
        "--methods",
        "gradcam,guided_backprop",
        "--format",
        "png,npy,json",
    )
    assert outcome.status == 0, outcome.err
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == ["chelsea.png"] * 2
    assert "preprocessing: " in outcome.err
    assert "before the final Softmax" in outcome.err
    assert "guessed" not in outcome.err  # a JSON lies beside the model
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"chelsea.sheet.png", "chelsea.gradcam.npy", "chelsea.guided_backprop.npy"} <= names
    assert np.load(tmp_path / "out" / "chelsea.gradcam.npy").shape == (2, 227, 227)
    assert np.load(tmp_path / "out" / "chelsea.guided_backprop.npy").shape == (2, 3, 227, 227)
    (document,) = (path for path in (tmp_path / "out").iterdir() if path.suffix == ".json")
    assert json.loads(document.read_text())["explained"][0]["target"] in range(281, 286)


def test_one_bad_image_does_not_stop_the_others(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    outcome = run("explain", small, photos, "-o", tmp_path / "out", "--preset", "unit")
    assert outcome.status == 1
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == ["a.png", "c.png"]
    errors = [line for line in outcome.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "b.jpg" in errors[0]
    assert (tmp_path / "out" / "c.sheet.png").is_file()


def test_a_missing_image_among_good_ones(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    given = [photos / "a.png", photos / "absent.png", photos / "c.png"]
    outcome = run("explain", small, *given, "-o", tmp_path / "out", "--preset", "unit", "--json", "--format", "npy")
    assert outcome.status == 1
    document = json.loads(outcome.out)
    assert [Path(record["image"]).name for record in document["images"]] == ["a.png", "c.png"]
    assert document["failed"] == 1
    assert "absent.png" in outcome.err


def test_json_is_pure(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    outcome = run(
        "explain", small, photos / "a.png", "-o", tmp_path / "out", "--json", "--format", "json", "--target", "3,1"
    )
    assert outcome.status == 0
    document = json.loads(outcome.out)
    assert document["layer"] == "r2"
    assert [entry["target"] for entry in document["images"][0]["explained"]] == [3, 1]
    assert document["preprocessing"]
    assert "warning: preprocessing guessed" in outcome.err


@pytest.mark.parametrize("command", ["layers", "doctor", "bench"])
def test_json_of_the_other_commands(run: Run, small: Path, command: str) -> None:
    more = ("--seconds", "0.2") if command == "bench" else ()
    outcome = run(command, small, "--json", *more)
    assert outcome.status == 0, outcome.err
    content = json.loads(outcome.out)
    if command == "layers":
        assert content[0]["name"] == "r2"
    elif command == "doctor":
        assert content["explainable"] is True
    else:
        assert content[0]["name"] == "plain inference"
        assert all(row["milliseconds"] > 0 for row in content)


def test_tables(run: Run, small: Path) -> None:
    assert "r2" in run("layers", small).out
    assert "gradcam" in run("doctor", small).out
    assert "Grad-CAM" in run("bench", small, "--seconds", "0.2", "--batch", "2").out


def test_repeated_stems(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "a.png", other / "a.png")
    outcome = run(
        "explain",
        small,
        photos / "a.png",
        other / "a.png",
        "-o",
        tmp_path / "out",
        "--format",
        "npy",
        "--preset",
        "unit",
    )
    assert outcome.status == 0, outcome.err
    assert {p.name for p in (tmp_path / "out" / other.name).iterdir()} == {"a.png.gradcam.npy"}
    assert {p.name for p in (tmp_path / "out" / photos.name).iterdir()} == {"a.png.gradcam.npy"}


def test_export_runs_in_bare_onnxruntime(run: Run, small: Path, tmp_path: Path) -> None:
    file = tmp_path / "made" / "explainer.onnx"
    outcome = run("export", small, "-o", file, "--methods", "gradcam,guided_gradcam")
    assert outcome.status == 0, outcome.err
    assert "self-check: passed" in outcome.err
    onnx.checker.check_model(file, full_check=True)
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for k in (1, 3):
        names = ["scores", "heatmap.gradcam", "guided_gradcam", "y"]
        values = session.run(names, {"x": x, "targets": np.full((2, k), 1)})
        assert [v.shape for v in values] == [(2, k), (2, k, 8, 8), (2, k, 3, 8, 8), (2, 5)]
    proved = json.loads(session.get_modelmeta().custom_metadata_map["portable_cam.self_check"])
    assert proved["passed"] is True
    assert {check["name"] for check in proved["checks"]} == {"outputs", "score", "layer", "input", "maps", "images"}
    assert run("export", small, "-o", file, "--single-target", "--no-check").status == 0
    assert all(node.op_type != "Scan" for node in onnx.load(file).graph.node)


def test_export_of_a_file_that_fails_its_check(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portable_cam.verify import selfcheck

    failed = selfcheck.Proof([selfcheck.Check("input", False, "derivative 1, by central differences -1")])
    monkeypatch.setattr(selfcheck, "self_check", lambda *_, **__: failed)
    outcome = run("export", small, "-o", tmp_path / "e.onnx")
    assert outcome.status == 1
    assert "FAILED" in outcome.err


@pytest.mark.slow
def test_precision(run: Run, zoo: Path, photos: Path, tmp_path: Path) -> None:
    half, target_file = zoo / "models" / "cls_squeezenet1.1_fp16_winml.onnx", tmp_path / "wide.onnx"
    done = run(
        "explain", half, photos / "a.png", "-o", tmp_path / "out", "--precision", "float32", "--preset", "imagenet"
    )
    assert done.status == 0, done.err
    assert "computed in float32, inputs and outputs included" in done.err
    assert run("export", half, "-o", target_file, "--precision", "float32").status == 0
    assert {t.data_type for t in onnx.load(target_file).graph.initializer} & {onnx.TensorProto.FLOAT16} == set()
    assert "not 'half'" in run("export", half, "-o", target_file, "--precision", "half").err


def test_unknown_label_lists_close_ones(run: Run, tmp_path: Path) -> None:
    outcome = run("explain", assets.model(), assets.photo(), "-o", tmp_path, "--target", "expresso")
    assert outcome.status == 2
    assert outcome.out == ""
    assert "error: no class of" in outcome.err
    assert "espresso" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "MODEL", "--output", "nothing"], "--output nothing is no tensor"),
        (["explain", "MODEL", "PHOTO", "--methods", "magic"], "method 'magic' does not exist"),
        (["explain", "MODEL", "PHOTO", "--layer", "nowhere"], "layer 'nowhere' is neither"),
        (["explain", "MODEL", "PHOTO", "--format", "gif"], "format 'gif' does not exist"),
        (["explain", "MODEL", "PHOTO", "--target", "99"], "target 99 is out of range"),
        (["explain", "MODEL", "PHOTO", "--target", "cat"], "have no names: give --labels"),
        (["explain", "MODEL", "PHOTO", "--mean", "a,b"], "--mean takes numbers"),
        (["explain", "MODEL", "PHOTO", "--size", "8by8"], "--size is HEIGHTxWIDTH"),
        (["explain", "MODEL", "PHOTO", "--preset", "none"], "preset 'none' is unknown"),
        (["explain", "MODEL", "PHOTO", "--device", "tpu"], "device is 'cpu' or 'cuda'"),
        (["explain", "MODEL", "PHOTO", "-o", "MODEL"], "cannot write"),
        (["explain", "PHOTO", "PHOTO"], "is an image: the model comes first, then the image"),
        (["explain", "MODEL"], "argument"),
        (["explain", "MODEL", "PHOTO", "--nonsense"], "nonsense"),
        (["bench", "MODEL", "--batch", "0"], "batch"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_use(run: Run, small: Path, photos: Path, arguments: list[str], message: str, tmp_path: Path) -> None:
    known = {"MODEL": small, "PHOTO": photos / "a.png"}
    given = [known.get(word, word) for word in arguments]
    if "-o" not in given and given[0] == "explain":
        given += ["-o", tmp_path / "out"]
    outcome = run(*given)
    assert outcome.status == 2
    assert outcome.out == ""
    assert message.lower() in " ".join(outcome.err.split()).lower()
    assert "Traceback" not in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "task", "layer"),
    [
        ("det_yolox_nano_coco_416", "detect", "841"),
        ("det_ultraface_ssd_rfb320", "detect", ""),
        ("seg_deeplabv3_mnv2_dm05_voc_fp32_logits", "segment", "Relu__94:0"),
        ("cls_squeezenet1.1_int8_qdq", "classify", ""),
    ],
)
def test_commands_know_the_task(run: Run, zoo: Path, tmp_path: Path, model: str, task: str, layer: str) -> None:
    path = zoo / "models" / f"{model}.onnx"
    report = json.loads(run("doctor", path, "--json").out)
    assert report["task"] == task
    assert report["methods"]["gradcam"] == report["methods"]["guided_gradcam"] == "yes"
    assert layer in " ".join(report["layers"])
    names = [found["name"] for found in json.loads(run("layers", path, "--json").out)]
    table = run("layers", path).out
    assert all(name in table for name in names[:10])  # not one is broken in two
    assert f"{len(names) - 10} more with --all" in table
    if model.startswith("det_yolox"):
        assert run("doctor", path, "--task", "classify").status == 1
        assert "TargetError" not in run("doctor", path, "--task", "segment").err
    exported = run("export", path, "-o", tmp_path / "e.onnx", "--methods", "layercam")
    assert exported.status == 0, exported.err
    assert "self-check: passed" in exported.err


def test_a_node_that_refuses_is_told_before(run: Run, small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    model, path = onnx.ModelProto.FromString(small_cnn.SerializeToString()), tmp_path / "training.onnx"
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    norm = onnx.helper.make_node("BatchNormalization", [relu.output[0], *"sbmv"], ["n", "m1", "v1"], training_mode=1)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == relu.output[0]:
                node.input[i] = "n"
    model.graph.node.insert(list(model.graph.node).index(relu) + 1, norm)
    channels = next(t for t in model.graph.initializer if t.name == "w1").dims[0]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.ones(channels, np.float32), name) for name in "sbmv")
    path.write_bytes(model.SerializeToString())
    methods = json.loads(run("doctor", path, "--json").out)["methods"]
    assert methods["gradcam"] == "yes"
    for method in ("gradient", "guided_backprop", "guided_gradcam"):
        assert "it is in training mode" in methods[method]


def test_doctor_on_a_model_that_cannot_be_explained(run: Run, small: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) {y=Relu(x)}'
    )
    small.write_bytes(model.SerializeToString())
    outcome = run("doctor", small)
    assert outcome.status == 1
    assert "no image input" in outcome.out
    assert json.loads(run("doctor", small, "--json").out)["explainable"] is False


def test_no_node_counts_as_a_relu_is_a_warning(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    model = onnx.load(small)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Tanh"
    small.write_bytes(model.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = run("explain", small, photos / "a.png", "-o", tmp_path / "o", "--methods", "guided_backprop")
    assert outcome.status == 0, outcome.err
    assert "warning: no node counts as a ReLU" in outcome.err


def test_axes_are_declared(run: Run, small: Path, photos: Path, tmp_path: Path) -> None:
    """A wrong declaration is refused by what is wrong with it, a right one is taken."""
    arguments = ["explain", small, photos / "a.png", "--size", "8x8", "-o", tmp_path, "--no-check"]
    done = run(*arguments, "--axes", "x=NCHW", "--axes", "r1=NCHW", "--layer", "r1")
    assert done.status == 0, done.err
    assert "'NXHW' does not name the axes of 'r1'" in run(*arguments, "--axes", "r1=NXHW").err
    assert "--axes is NAME=VALUE, not 'r1'" in run(*arguments, "--axes", "r1").err.replace("\n", " ")


@pytest.mark.parametrize(
    "command",
    ["layers", "doctor", pytest.param("export", marks=pytest.mark.slow), pytest.param("bench", marks=pytest.mark.slow)],
)
def test_a_head_is_taken_by_whoever_reads_a_model(
    run: Run, command: str, tmp_path: Path, make_model: Callable[..., onnx.ModelProto]
) -> None:
    """The way out of a detector that nothing tells of: every command that is refused by one takes it."""
    body, weights = joined(6, "y = Transpose<perm = [0, 2, 1]>(z)")
    model, head = tmp_path / "m.onnx", tmp_path / "head.json"
    onnx.save(make_model(body, weights, IMAGE, "float[1,42,6] y"), model)
    start = {"tensor": "y", "start": 4, "stop": 6}
    head.write_text(json.dumps({"classes": start, "boxes": {"tensor": "y", "stop": 4}, "form": "xyxy"}))
    more = {"export": ["-o", tmp_path / "out.onnx", "--no-check"], "bench": ["--seconds", "0.1"]}.get(command, [])
    refused = run(command, model, "--task", "detect", *more)
    assert refused.status == 2
    assert "(--head)" in refused.err
    done = run(command, model, "--task", "detect", "--head", head, *more)
    assert done.status == 0, done.err


def test_channels_are_taken_by_whoever_reads_a_model(
    run: Run, tmp_path: Path, make_model: Callable[..., onnx.ModelProto]
) -> None:
    model = tmp_path / "m.onnx"
    weights = {"w": np.ones((4, 3, 1, 1), np.float32), "rows": np.array([1, 4, 8, -1], np.int64)}
    onnx.save(
        make_model("c = Conv(x, w) y = Reshape(c, rows)", weights, y="float[1,4,8,8] y", x="float[1,3,8,8] x"), model
    )
    made = tmp_path / "out.onnx"
    assert run("export", model, "--task", "segment", "--channels", "last", "--no-check", "-o", made).status == 0
    props = {prop.key: prop.value for prop in onnx.load(made).metadata_props}
    assert json.loads(props["portable_cam.target"])["channels"] == "last"
    assert run("layers", model, "--task", "segment", "--channels", "first").status == 0
    assert "channels" in run("doctor", model, "--task", "segment", "--channels", "middle").err
