# SPDX-License-Identifier: Apache-2.0
"""Several rows of scores for an image, or for all images: one is chosen, and never their sum explained."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from costs import slow_but
from PIL import Image
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam.cli import app
from portable_cam.errors import OptionError, TargetError
from portable_cam.export import build_explanation
from portable_cam.export.passes.normalized import normalized
from portable_cam.targets import Boxes, Class, Columns, Contrast, Dense
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.tasks.recognize import recognize
from portable_cam.verify.selfcheck import self_check

RNG = np.random.default_rng(11)
X = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
HEAD = "r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) "
CROPS = "".join(f"a{i} = Slice(x, s{i}, e{i}, hw) u{i} = Unsqueeze(a{i}, one) " for i in range(3))
#: Body, the output's shape, and from the output (rows of N images) to scores (N, rows, classes).
KINDS: dict[str, tuple[str, str]] = {
    "stacked": (
        "".join(
            f"a{i} = Slice(x, s{i}, e{i}, hw) c{i} = Conv(a{i}, k) r{i} = Relu(c{i}) g{i} = GlobalAveragePool(r{i}) "
            f"f{i} = Flatten(g{i}) l{i} = MatMul(f{i}, w) v{i} = Unsqueeze(l{i}, one) "
            for i in range(3)
        )
        + "y = Concat<axis = 1>(v0, v1, v2)",
        "float[N,3,5] y",
    ),
    "in the batch": (
        CROPS + "t = Concat<axis = 1>(u0, u1, u2) b = Reshape(t, merged) c = Conv(b, k) " + HEAD + "y = MatMul(f, w)",
        "float[M,5] y",
    ),
    "in the batch, split again": (
        CROPS
        + "t = Concat<axis = 1>(u0, u1, u2) b = Reshape(t, merged) c = Conv(b, k) "
        + HEAD
        + "l = Gemm(f, w) y = Reshape(l, split)",
        "float[N,3,5] y",
    ),
    "views one after the other": (
        "".join(f"a{i} = Slice(x, s{i}, e{i}, hw) " for i in range(3))
        + "t = Concat<axis = 0>(a0, a1, a2) c = Conv(t, k) "
        + HEAD
        + "y = MatMul(f, w)",
        "float[M,5] y",
    ),
    "queries": (
        "c = Conv(x, k) r = Relu(c) z = Reshape(r, tokens) s = MatMul(q, z) p = Softmax<axis = -1>(s) "
        "zt = Transpose<perm = [0, 2, 1]>(z) o = MatMul(p, zt) l = MatMul(o, w) y = Add(l, bias)",
        "float[N,3,5] y",
    ),
    "queries, classes before rows": (
        "c = Conv(x, k) r = Relu(c) z = Reshape(r, tokens) s = MatMul(q, z) p = Softmax<axis = -1>(s) "
        "zt = Transpose<perm = [0, 2, 1]>(z) o = MatMul(p, zt) l = MatMul(o, w) y = Transpose<perm = [0, 2, 1]>(l)",
        "float[N,5,3] y",
    ),
}
#: Rows of all images together.
TOGETHER: dict[str, tuple[str, str]] = {
    "frames of a recurrent layer": (
        "c = Conv(x, k) " + HEAD + "u = Unsqueeze(f, one) h, i = GRU<hidden_size = 5>(u, gw, gr) y = Squeeze(h, mid)",
        "float[N,5] y",
    ),
    "views in an order that is found at run time": (
        "a0 = Slice(x, s0, e0, hw) a1 = Slice(x, s1, e1, hw) t0 = Concat<axis = 0>(a0, a1) m = ReduceMean(t0, rest) "
        "n = Shape<start = 0, end = 1>(t0) v, order = TopK<axis = 0>(m, n) o = Squeeze(order, rest) "
        "t = Gather<axis = 0>(t0, o) c = Conv(t, k) " + HEAD + "y = MatMul(f, w)",
        "float[M,5] y",
    ),
}
WEIGHTS = {
    "k": RNG.normal(size=(4, 3, 3, 3)),
    "w": RNG.normal(size=(4, 5)),
    "q": RNG.normal(size=(3, 4)),
    "bias": RNG.normal(size=5),
    "gw": RNG.normal(size=(1, 15, 4)),
    "gr": RNG.normal(size=(1, 15, 5)),
}
INTEGERS = {
    "one": [1], "hw": [2, 3], "merged": [-1, 3, 6, 6], "split": [-1, 3, 5], "tokens": [0, 4, 36], "mid": [1, 2],
    "rest": [1, 2, 3], "s0": [0, 0], "e0": [6, 6], "s1": [2, 2], "e1": [8, 8], "s2": [0, 2], "e2": [6, 8],
}  # fmt: skip


def made(body: str, y: str, batch: str = "N") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[{batch},3,8,8] x) => ({y}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    constants = {n: v.astype(np.float32) for n, v in WEIGHTS.items()} | {n: np.array(v) for n, v in INTEGERS.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if n in used)
    return model


def outputs(model: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def by_image(kind: str, y: np.ndarray) -> np.ndarray:
    """(N, rows, classes)."""
    if kind == "views one after the other":
        return y.reshape(3, len(X), 5).transpose(1, 0, 2)
    return y.transpose(0, 2, 1) if kind == "queries, classes before rows" else y.reshape(len(X), 3, 5)


def slopes(model: onnx.ModelProto, pick: Any) -> np.ndarray:
    """The derivative of one number of the output by each pixel, by central differences."""
    found, step = np.zeros(X.shape), 1e-2
    for at in [(n, c, i, j) for n in range(2) for c in range(3) for i, j in ((0, 0), (3, 4), (7, 7), (2, 6))]:
        for sign in (1, -1):
            x = X.copy()
            x[at] += sign * step
            found[at] += sign * float(pick(outputs(model, x))) / (2 * step)
    return found


@pytest.mark.parametrize("kind", slow_but(["in the batch", "queries"], KINDS))
def test_a_row_of_each_image(kind: str) -> None:
    model, row, target = made(*KINDS[kind]), 2, 3
    explainer = pcam.Explainer(model, ("gradient",), row=row)
    result = explainer(X, target)
    scores = by_image(kind, outputs(model))
    np.testing.assert_allclose(result.scores[:, 0], scores[:, row, target], rtol=1e-4)
    np.testing.assert_array_equal(explainer(X).targets[:, 0], scores[:, row].argmax(axis=1))
    expected = slopes(model, lambda y: by_image(kind, y)[:, row, target].sum())
    tested = expected != 0
    assert tested.any()
    np.testing.assert_allclose(result["gradient"][:, 0][tested], expected[tested], rtol=0.05, atol=2e-3)
    assert result.row == row
    assert any("row 2 of 'y' is explained, which has 3 rows of scores for each image" in n for n in result.notes)
    assert explainer.metadata["portable_cam.row"] == "2"


@pytest.mark.parametrize("kind", slow_but(["frames of a recurrent layer"], TOGETHER))
def test_a_row_of_all_images(kind: str) -> None:
    """Each image's map shows what it adds to that row."""
    model, row, target = made(*TOGETHER[kind]), 1, 3
    result = pcam.Explainer(model, ("gradient",), row=row)(X, target)
    np.testing.assert_allclose(result.scores[:, 0], outputs(model)[row, target], rtol=1e-4)
    expected = slopes(model, lambda y: y[row, target])
    tested = expected != 0
    assert tested.any()
    np.testing.assert_allclose(result["gradient"][:, 0][tested], expected[tested], rtol=0.05, atol=2e-3)
    assert any("one score for all images of a batch" in note for note in result.notes)


@pytest.mark.parametrize("kind", slow_but(["in the batch", "queries"], KINDS))
@pytest.mark.parametrize("output", [None, "y"])
def test_without_a_row_it_is_asked_for(kind: str, output: str | None) -> None:
    with pytest.raises(TargetError, match=r"has 3 rows of scores for each image \(.*\): choose one with row=, 0 to 2"):
        pcam.Explainer(made(*KINDS[kind]), ("gradient",), output=output)


def test_without_a_row_images_that_mix_are_refused() -> None:
    """Which rows belong to which image shows only when it is run."""
    with pytest.raises(TargetError, match=r"'y' have 2 rows for 1 image, .*choose one with row=, 0 to 1"):
        pcam.Explainer(made(*TOGETHER["views in an order that is found at run time"]), ("gradient",))(X[:1], 1)
    with pytest.raises(pcam.errors.InputError, match=r"change each other's scores.*row="):
        pcam.Explainer(made(*TOGETHER["frames of a recurrent layer"]), ("gradient",))(X, 1)


def test_rows_of_a_single_image() -> None:
    model = made(KINDS["in the batch"][0], "float[3,5] y", "1")
    with pytest.raises(TargetError, match=r"has 3 rows of scores for each image .*: choose one with row="):
        pcam.Explainer(model, ("gradient",))
    result = pcam.Explainer(model, ("gradient",), row=1)(X, [1, 2])  # image by image
    each = [outputs(model, x[None])[1] for x in X]
    np.testing.assert_allclose(result.scores[:, 0], [each[0][1], each[1][2]], rtol=1e-4)


def test_there_is_no_such_row() -> None:
    with pytest.raises(TargetError, match=r"row 3 is out of range: 'y' has 3 rows of scores for each image.*0 to 2"):
        pcam.Explainer(made(*KINDS["queries"]), ("gradient",), row=3)
    late = pcam.Explainer(made(*TOGETHER["frames of a recurrent layer"]), ("gradient",), row=2)
    with pytest.raises(TargetError, match="row 2 is out of range: 'y' has fewer rows for 2 images"):
        late(X, 1)
    for wrong, error, why in (
        (-1, TargetError, "row is a whole number from 0"),
        (True, TargetError, "row is a whole number from 0"),
        (1.0, OptionError, "row= takes int | None, not 1.0"),
    ):
        with pytest.raises(error, match=re.escape(why)):
            pcam.Explainer(made(*KINDS["queries"]), row=wrong)


def test_rows_of_nothing_but_classes() -> None:
    head = Boxes((Columns("y"),))
    for target in (Dense(), head):
        with pytest.raises(TargetError, match=f"the target '{target.name}' has none"):
            pcam.Explainer(made(*KINDS["queries"]), ("gradient",), target=target, row=0)
    with pytest.raises(OptionError, match="not one of several"):
        pcam.Explainer(made(*KINDS["queries"]), ("cam",), row=0)


def test_an_axis_that_nothing_tells_is_asked_for() -> None:
    """Neither of two axes is made by a linear layer alone."""
    body = "c = Conv(x, k) r = Relu(c) z = Reshape(r, tokens) s = MatMul(q, z) t = MatMul(z, zw) y = MatMul(q, t)"
    model = made(body.replace("zw", "many"), "float[N,3,5] y")
    model.graph.initializer.append(onnx.numpy_helper.from_array(RNG.normal(size=(36, 5)).astype(np.float32), "many"))
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Einsum", ["q", "t"], ["y"], equation="qc,nck->nqk"))
    with pytest.raises(
        TargetError, match=r"which counts classes is not known.*declare its axes, as axes=\{'y': 'NTC'\}"
    ):
        pcam.Explainer(model, ("gradient",))
    result = pcam.Explainer(model, ("gradient",), row=1, axes={"y": "NTC"})(X, 4)
    np.testing.assert_allclose(result.scores[:, 0], outputs(model)[:, 1, 4], rtol=1e-4)


def test_contrast_within_a_row() -> None:
    model = made(*KINDS["queries"])
    result = pcam.Explainer(model, ("gradient",), target=Contrast(Class()), row=1)(X, 4, rather_than=0)
    y = outputs(model)
    np.testing.assert_allclose(result.scores[:, 0], y[:, 1, 4] - y[:, 1, 0], rtol=1e-4)


@pytest.mark.parametrize("kind", slow_but(["queries"], ["in the batch", "queries", "frames of a recurrent layer"]))
def test_rows_are_checked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTABLE_CAM_CACHE", "")
    known = KINDS | TOGETHER
    checks = {c.name: c for c in pcam.Explainer(made(*known[kind]), ("gradient",), row=1).check(X, 2)}
    for name in ("outputs", "score", "input", "maps"):
        assert checks[name].passed, (name, checks[name].detail)
    assert checks["images"].passed is (True if kind in KINDS else None)
    wrong = Class.chosen

    def another(self: Class, values: np.ndarray, scores: Any) -> np.ndarray:
        return wrong(Class(row=0), values, scores)

    monkeypatch.setattr(Class, "chosen", another)
    checks = {c.name: c for c in pcam.Explainer(made(*known[kind]), ("gradient",), row=1).check(X, 2)}
    assert checks["score"].verdict == "FAILED"


def test_a_file_with_a_row() -> None:
    model = made(*KINDS["queries"])
    built = build_explanation(model, ("gradcam", "gradient"), layer="r", row=2)
    session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"x": X, "targets": np.full((2, 1), 3)})
    np.testing.assert_allclose(scores[:, 0], outputs(model)[:, 2, 3], rtol=1e-4)
    proof = self_check(model, built)
    assert proof.passed, proof.describe()
    assert proof["score"].passed


def test_a_row_on_the_command_line(tmp_path: Path) -> None:
    model, photo = tmp_path / "m.onnx", tmp_path / "p.png"
    onnx.save(made(*KINDS["queries"]), model)
    Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(photo)
    command = ["explain", str(model), str(photo), "-o", str(tmp_path / "o"), "--preset", "unit", "--layer", "r"]
    refused = CliRunner().invoke(app, [*command, "--task", "classify"])
    assert refused.exit_code != 0
    assert "choose one with --row, 0 to 2" in str(refused.exception or refused.output)
    done = CliRunner().invoke(app, [*command, "--row", "1", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)["images"][0]
    assert record["row"] == 1
    assert any("row 1 of 'y'" in note for note in record["notes"])
    (tmp_path / "m.explain.json").write_text(json.dumps({"version": 1, "scores": {"row": 2}}))
    assert recognize(normalized(model))[1] == Class(row=2)
    assert PhotoExplainer(model, ("gradient",), preprocessing="unit")(photo).result.row == 2
