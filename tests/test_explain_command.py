"""``portable-cam explain``: what becomes of each photo, and what is said of it."""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from onnx import helper, numpy_helper
from PIL import Image

import portable_cam as pcam
from portable_cam import assets
from portable_cam.cli import main
from portable_cam.errors import InputError, PortableCamWarning

BODY = "c = Conv <pads = [1, 1, 1, 1]> (x, w) r = MIDDLE "
CLASSES = "p = GlobalAveragePool(r) y = Flatten(p)"
MAPS = "y = Conv(r, v)"


def model(path: Path, middle: str = "Relu(c)", end: str = CLASSES, shape: str = "n,3,16,16") -> Path:
    """A small network: a convolution, something in the middle, and scores of classes or pixels."""
    rng = np.random.default_rng(0)
    scores = "float[n,5] y" if end == CLASSES else "float[n,5,h,w] y"
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => ({scores})\n'
        f"{{ {BODY.replace('MIDDLE', middle)} {end} }}"
    )
    for name, size in (("w", (5, 3, 3, 3)), ("v", (5, 5, 1, 1))):
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(size).astype(np.float32), name))
    path.write_bytes(made.SerializeToString())
    return path


def photo(path: Path, size: tuple[int, int] = (40, 20), value: int | None = None) -> Path:
    """An image of (width, height), of noise or one colour."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command as a user runs it, in this process and in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["portable-cam", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


# -- photos and files --------------------------------------------------------------------------------------------------


def test_everything_that_is_written_is_told(run: Any, tmp_path: Path) -> None:
    model(tmp_path / "m.onnx")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a b.png", "a_b.webp", "deep/a b.png"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in" / "note.txt").touch()
    (tmp_path / "in" / "bad.png").write_text("x")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat/dog\ncat dog\nc\nd\ne\n")
    arguments = (
        "in",
        "--labels",
        labels,
        "--preset",
        "unit",
        "--format",
        "png,npy,json",
        "--json",
        "--target",
        "0,1,0",
    )
    status, out, err = run("explain", "m.onnx", *arguments)
    assert status == 1
    told = json.loads(out)
    assert (told["task"], told["failed"]) == ("classify", 1)
    assert [error["image"] for error in told["errors"]] == ["in/bad.png"]
    assert [skipped["path"] for skipped in told["skipped"]] == ["in/note.txt"]
    assert "skipped: 1 in the folders: in/note.txt (not an image)" in err
    files = [file for record in told["images"] for file in record["files"]]
    assert sorted(files) == sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "explained").rglob("*.*"))
    assert len(files) == 3 * 5
    assert "explained/deep/a b.cat%2Fdog.gradcam.png" in files
    for record in told["images"]:
        assert [(line["class"], line["label"]) for line in record["explained"]] == [(0, "cat/dog"), (1, "cat dog")]
    again = run("explain", "m.onnx", ".", "--preset", "unit", "--json")
    assert "explained (the folder of the results)" in again[2]


@pytest.mark.parametrize("suffix", slow_but(["png"], ["png", "jpg", "pdf", "svg", "html", "json"]))
def test_one_photo_to_one_file(run: Any, tmp_path: Path, suffix: str) -> None:
    model(tmp_path / "m.onnx")
    photo(tmp_path / "a.png")
    status, out, err = run("explain", "m.onnx", "a.png", "--preset", "unit", "-o", f"new/r.{suffix}", "--json")
    assert status == 0, err
    assert json.loads(out)["images"][0]["files"] == [f"new/r.{suffix}"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"r.{suffix}"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("b.png", "-o", "r.png"), "-o r.png is one file, but there are 2 images: give a folder"),
        (("-o", "r.npy"), "no .npy is written"),
        (("-o", "r.png", "--format", "json"), "-o r.png is one file"),
        (("-o", "-"), "results are files"),
        (("--mask", "absent.png", "--task", "segment"), "cannot read the image absent.png"),
    ],
)
def test_places_that_do_not_fit(run: Any, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    model(tmp_path / "m.onnx")
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    status, out, err = run("explain", "m.onnx", "a.png", "--preset", "unit", *more)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.slow
def test_a_photo_that_an_option_does_not_fit_fails_alone(run: Any, tmp_path: Path) -> None:
    model(tmp_path / "m.onnx", end=MAPS)
    photo(tmp_path / "a.png", (5, 5))
    photo(tmp_path / "b.png")
    photo(tmp_path / "c.png")
    common = ("a.png", "b.png", "c.png", "--preset", "unit", "--json")
    for option in (("--region", "10,10,20,20"), ("--pixel", "10,10"), ("--mask", "b.png")):
        status, out, _ = run("explain", "m.onnx", *common, *option)
        told = json.loads(out)
        assert (status, told["failed"], [r["image"] for r in told["images"]]) == (1, 1, ["b.png", "c.png"])
        assert told["errors"][0]["image"] == "a.png"
    assert run("explain", "m.onnx", *common, "--region", "20,20,10,10")[0] == 2


# -- what is found -----------------------------------------------------------------------------------------------------


def test_nothing_found_is_a_result(run: Any, tmp_path: Path) -> None:
    made = model(
        tmp_path / "m.onnx", end="o = Constant <value_float = -99.0> () s = Conv(r, v) t = Add(s, o) y = Sigmoid(t)"
    )
    photo(tmp_path / "a.png")
    status, out, err = run("explain", made, "a.png", "--preset", "unit", "--json", "--format", "png,json,npy")
    assert status == 0, err
    (record,) = json.loads(out)["images"]
    assert (record["found"], record["explained"]) == (False, [])
    assert "nothing but background" in record["nothing_found"]
    assert {Path(file).name for file in record["files"]} == {"a.sheet.png", "a.json", "a.layercam.npy"}
    assert run("explain", made, "a.png", "--preset", "unit")[1].startswith("a.png: nothing found: the model sees")
    found = pcam.explain(made, tmp_path / "a.png", preprocessing="unit")
    assert (found.found, found["layercam"].shape) == (False, (1, 0, 16, 16))
    assert "nothing found: the model sees" in found.to_html(tmp_path / "page.html").read_text()
    assert pickle.loads(pickle.dumps(found)).nothing_found == found.nothing_found


def test_scores_that_are_no_numbers(run: Any, tmp_path: Path) -> None:
    """Which class is the top one of NaN means nothing; a class that is named has a record with a flag."""
    made = model(tmp_path / "m.onnx", middle="Log(c)")
    photo(tmp_path / "a.png")
    status, out, err = run("explain", made, "a.png", "--preset", "unit")
    assert (status, out) == (1, "")
    assert "a.png: the scores of this image are NaN or infinite (4 of 5)" in err
    with pytest.raises(InputError, match="NaN or infinite"):
        pcam.explain(made, tmp_path / "a.png", targets="top2", preprocessing="unit")
    status, out, err = run("explain", made, "a.png", "--preset", "unit", "--target", "3", "--json")
    told = json.loads(out)
    assert (status, told["failed"]) == (1, 1)
    assert "the map or score of class 3 is not finite" in err
    (record,) = told["images"]
    assert record["explained"][0]["flags"][-1] == "nan"
    assert record["top"] == []
    maps = model(tmp_path / "maps.onnx", middle="Log(c)", end=MAPS)
    assert "NaN or infinite" in run("explain", maps, "a.png", "--preset", "unit")[2]


# -- preprocessing -----------------------------------------------------------------------------------------------------


def test_what_is_guessed_is_said_in_python(tmp_path: Path) -> None:
    made = model(tmp_path / "m.onnx")
    with pytest.warns(PortableCamWarning, match=r"preprocessing guessed \(color, mean, resize, scale, std\)"):
        found = pcam.explain(made, photo(tmp_path / "a.png"))
    assert any(note.startswith("preprocessing guessed") and "--" not in note for note in found.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PortableCamWarning)
        sure = pcam.explain(made, tmp_path / "a.png", preprocessing="imagenet")
    assert not any("guessed" in note for note in sure.notes)


def test_places_are_sought_in_the_whole_photo(run: Any, tmp_path: Path) -> None:
    """The left quarter of a wide photo, which a centre crop would not show."""
    made = model(tmp_path / "m.onnx", end=MAPS)
    photo(tmp_path / "wide.png", (80, 20))
    for preset in (None, "imagenet"):
        found = pcam.explain(made, tmp_path / "wide.png", preprocessing=preset, region=(0, 0, 20, 20))
        assert (found.preprocessing.resize, found.geometry.seen) == ("stretch", (0, 0, 80, 20))
        detail = found.details[0]
        assert (detail.given, detail.share) == ("region", 0.25)
    status, out, _ = run("explain", made, "wide.png", "--preset", "imagenet", "--region", "0,0,20,20")
    assert status == 0
    assert "your region, 25.0 % of the photo" in out
    cropped = pcam.explain(made, tmp_path / "wide.png", preprocessing={"preset": "imagenet", "resize": "shortest+crop"})
    shares = [detail.share for detail in cropped.details]
    assert 0 < sum(share or 0 for share in shares) < 0.3  # the crop is a quarter of the photo, and a little less


def test_shares_are_of_the_photo_without_its_padding(tmp_path: Path) -> None:
    made = model(tmp_path / "m.onnx", end=MAPS)
    boxed = {"preset": "unit", "resize": "letterbox"}
    found = pcam.explain(made, photo(tmp_path / "a.png", (80, 20)), preprocessing=boxed, targets=[0, 1, 2, 3, 4])
    assert sum(detail.share or 0 for detail in found.details if detail.found) == pytest.approx(1)


@pytest.mark.parametrize(("size", "expected"), [((100, 60), (64, 96)), ((3000, 1000), (352, 1024)), ((9, 9), (32, 32))])
def test_open_sizes_follow_the_photo(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    made = model(tmp_path / "m.onnx", end=MAPS, shape="n,3,a,b")
    found = pcam.explain(made, photo(tmp_path / "a.png", size), preprocessing="unit")
    assert found.preprocessing.size == expected
    assert "size" not in found.preprocessing.guessed
    assert any("each photo at its own" in note for note in found.notes)
    assert pcam.explain(made, tmp_path / "a.png", preprocessing={"size": (48, 32)}).preprocessing.size == (48, 32)


# -- guided methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("middle", "policy"),
    [("Relu(c)", None), ("Clip(c, zero, six)", "relu+clip"), ("HardSwish(c)", "all"), ("Tanh(c)", None)],
)
def test_a_policy_that_guides(run: Any, tmp_path: Path, middle: str, policy: str | None) -> None:
    made = model(tmp_path / "m.onnx", middle="Relu(c)")
    loaded = onnx.load(made)
    if middle != "Relu(c)":
        node = next(n for n in loaded.graph.node if n.op_type == "Relu")
        inputs = ["c", "zero", "six"] if "Clip" in middle else ["c"]
        node.CopyFrom(helper.make_node(middle.split("(")[0], inputs, ["r"]))
        for name, value in (("zero", 0), ("six", 6)):
            loaded.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        onnx.save(loaded, made)
    photo(tmp_path / "a.png")
    arguments = ("explain", made, "a.png", "--preset", "unit", "--methods", "guided_backprop", "--json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PortableCamWarning)
        status, out, err = run(*arguments)
        chosen = run(*arguments, "--relu-policy", "relu")[1]
    assert status == 0, err
    assert (f"relu policy: {policy} " in err) == (policy is not None)
    assert json.loads(out)["images"][0]["guided_nodes"] == (0 if middle == "Tanh(c)" else 1)
    assert json.loads(chosen)["images"][0]["guided_nodes"] == (1 if middle == "Relu(c)" else 0)


def test_no_title_of_a_method_that_it_is_not() -> None:
    from portable_cam.report.wording import title_of

    assert title_of("guided_backprop") == "Guided Backprop"
    assert (
        title_of("guided_backprop", guided=False) == title_of("deconvnet", guided=False) == "gradient (nothing guided)"
    )
    assert "gradient (nothing guided)" in title_of("guided_gradcam", guided=False)
    assert title_of("gradcam", guided=False) == "Grad-CAM"


# -- explanation files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", ["gradcam", "layercam,guided_gradcam"])
def test_an_exported_file_is_a_model_too(run: Any, tmp_path: Path, methods: str) -> None:
    """The model inside it is explained, as the file does, with the same result as from the model."""
    made = model(tmp_path / "m.onnx")
    photo(tmp_path / "a.png")
    assert run("export", made, "-o", "e.onnx", "--methods", methods, "--layer", "c")[0] == 0
    status, out, err = run("explain", "e.onnx", "a.png", "--preset", "unit", "--format", "npy", "--json")
    assert status == 0, err
    assert "this is an explanation file" in err
    told = json.loads(out)
    assert told["layer"] == "c"
    (record,) = told["images"]
    assert record["methods"] == methods.split(",")
    expected = pcam.explain(made, tmp_path / "a.png", methods.split(","), layer="c", preprocessing="unit")
    for name in record["methods"]:
        np.testing.assert_allclose(np.load(f"explained/a.{name}.npy"), expected[name][0], atol=1e-6)
    report = json.loads(run("doctor", "e.onnx", "--json")[1])
    assert report["task"] == "classify"
    assert report["inputs"] == ["x FLOAT[n,3,16,16]"]
    assert report["nodes"] == len(onnx.load(made).graph.node)
    assert run("export", "e.onnx", "-o", "again.onnx")[0] == 0


def test_names_that_an_explanation_takes_are_given_back(small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    proto = onnx.ModelProto.FromString(small_cnn.SerializeToString())
    for node in proto.graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = "scores" if name == "y" else name
    proto.graph.output[0].name = "scores"
    built = pcam.export.build_explanation(proto)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    again, before = (pcam.Explainer(m)(x, 1) for m in (built, proto))
    assert list(again.outputs) == list(before.outputs)
    np.testing.assert_allclose(again["gradcam"], before["gradcam"], atol=1e-6)


# -- doctor ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_tries_the_presets(run: Any, tmp_path: Path) -> None:
    """The bundled model without the JSON beside it: the guess is wrong, and the answers show it."""
    shutil.copy(assets.model(), tmp_path / "m.onnx")
    status, out, err = run("doctor", "m.onnx", assets.photo("chelsea.png"), "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["preprocessing"]["guessed"] == ["color", "mean", "resize", "scale", "std"]
    answers = {answer["preset"]: answer for answer in report["answers"]}
    assert list(answers) == [None, "tf", "caffe", "unit", "raw"]  # the preprocessing in use is imagenet's
    assert "mosquito net" in answers[None]["answer"]
    assert "Egyptian cat" in answers["caffe"]["answer"]
    assert answers["caffe"]["certainty"] > 0.45 > 0.3 > answers[None]["certainty"]
    table = run("doctor", "m.onnx", assets.photo("chelsea.png"))[1]
    assert "guessed: color, mean, resize, scale, std" in table
    assert "in use" in table


def test_doctor_never_says_that_works_what_does_not_run(run: Any, tmp_path: Path) -> None:
    made = model(tmp_path / "m.onnx", end="p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, b)")
    loaded = onnx.load(made)
    loaded.graph.initializer.append(numpy_helper.from_array(np.ones((7, 5), np.float32), "b"))
    onnx.save(loaded, made)
    status, out, _ = run("doctor", made, "--json")
    report = json.loads(out)
    assert (status, report["explainable"]) == (1, False)
    assert "yes" not in report["methods"].values()
    assert any("ONNX Runtime refuses the model" in problem for problem in report["problems"])


def test_doctor_names_custom_operators(run: Any, tmp_path: Path) -> None:
    made = model(tmp_path / "m.onnx")
    loaded = onnx.load(made)
    node = next(n for n in loaded.graph.node if n.op_type == "Relu")
    node.CopyFrom(helper.make_node("Mystery", ["c"], ["r"], domain="my.ops", name="strange"))
    loaded.opset_import.append(helper.make_opsetid("my.ops", 1))
    onnx.save(loaded, made)
    status, out, _ = run("doctor", made)
    assert status == 1
    assert "my.ops::Mystery (node 'strange')" in out
    assert json.loads(run("doctor", made, "--json")[1])["custom"] == ["my.ops::Mystery (node 'strange')"]
    assert json.loads(run("doctor", assets.model(), "--json")[1])["custom"] == []


def test_what_libraries_log_stays_off_the_terminal() -> None:
    """onnx-ir logs tracebacks of its shape inference; without a handler Python prints them."""
    script = (
        "import logging, warnings\nfrom portable_cam.cli import commands\n"
        "logging.getLogger('onnx_ir.passes.common').warning('left')\n"
        "logging.getLogger('onnxscript.optimizer').error('right', exc_info=ValueError())\n"
        "commands._show_warning(DeprecationWarning('old'), DeprecationWarning, 'a.py', 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "m.onnx", "a.png", "--methods", ""), "--methods names none"),
        (("explain", "m.onnx", "a.png", "--why", "2", "--rather-than", "2"), "name two classes"),
        (("export", "m.onnx", "-o", "."), "-o . is a folder: name the file"),
    ],
)
def test_mistakes(run: Any, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    model(tmp_path / "m.onnx")
    photo(tmp_path / "a.png")
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())
