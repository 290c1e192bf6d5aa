"""Mutated model files end in an explanation or an error of the project; a short run of ``python tests/fuzz``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from portable_cam.errors import ModelError
from portable_cam.export import build_explanation
from portable_cam.export.passes.normalize import normalize

FUZZ = Path(__file__).parent / "fuzz"


def fuzz(start: int, count: int, out: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--start", str(start), "--count", str(count), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_mutated_models(tmp_path: Path) -> None:
    done, records = fuzz(10_000, 150, tmp_path / "cases.jsonl")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert len(records) == 150
    explained = [r for r in records if r["explain"] == "done"]
    refused = {str(r["explain"]).split(":")[0] for r in records} - {"done"}
    assert len(explained) > 10  # otherwise the models are so broken that nothing is tried
    assert {"ModelError", "LayerError"} <= refused


@pytest.mark.slow
def test_a_case_is_the_same_again(tmp_path: Path) -> None:
    first, second = (fuzz(7, 2, tmp_path / f"{i}.jsonl")[1] for i in range(2))
    assert [r["mutations"] for r in first] == [r["mutations"] for r in second]
    assert [str(r["explain"])[:9] for r in first] == [str(r["explain"])[:9] for r in second]


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def calling(depth: int, last: str) -> onnx.ModelProto:
    """Functions that call the next one twice, the last one ``last``."""
    helper = onnx.helper
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("many", 1)]
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17, "many": 1]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        "{ y = many.F0(x) }"
    )
    for i in range(depth):
        name, domain = (last, "" if last == "Relu" else "many") if i == depth - 1 else (f"F{i + 1}", "many")
        body = [helper.make_node(name, [a], [b], domain=domain) for a, b in (("a", "b"), ("b", "c"))]
        model.functions.append(helper.make_function("many", f"F{i}", ["a"], ["c"], body, imports))
    return model


def test_functions_without_end() -> None:
    assert sum(1 for node in normalize(calling(6, "Relu")).graph if node.op_type == "Relu") == 64
    with pytest.raises(ModelError, match=r"has \d{16,} nodes, its functions inlined; at most 100000"):
        normalize(calling(60, "Relu"))
    with pytest.raises(ModelError, match=r"functions call each other without end: many::F\d -> many::F"):
        normalize(calling(3, "F1"))


@pytest.mark.parametrize(
    ("count", "go", "message"),
    [("", "1", "without end"), ("m", "", "9223372036854775807 times"), ("m", "1", "9223372036854775807 times")],
)
def test_loops_without_end(count: str, go: str, message: str) -> None:
    body = (
        "<body = b (int64 i, bool go, float[N,3,8,8] h) => (bool on, float[N,3,8,8] k) {on = Identity(go) k = Abs(h)}>"
    )
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        f"<int64 m = {{9223372036854775807}}, bool t = {{1}}> {{ y = Loop({count},{'t' if go else ''},x) {body} }}"
    )
    with pytest.raises(ModelError, match=rf"Loop node '.*' runs its body {message}"):
        normalize(model)


def test_sizes_that_no_machine_holds() -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3,8,8] x) => (float[2,3,8,8] y)'
    body = "{ big = ConstantOfShape(n) s = ReduceSum<keepdims = 0>(big) y = Add(x, s) }"
    model = parsed(head + "<int64[1] n = {1000000000000}>" + body)
    with pytest.raises(ModelError, match=r"'big' .*made by ConstantOfShape node .* have 1000000000000 elements"):
        build_explanation(model, ("gradient",))


def test_a_body_without_outputs() -> None:
    gives = "() => (float[2,3] a)"
    branches = f"then_branch = t {gives} {{ a = Neg(x) }}, else_branch = e {gives} {{ a = Abs(x) }}"
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x, bool c) => (float[2,3] y) '
        f"{{ y = If(c) <{branches}> }}"
    )
    del model.graph.node[0].attribute[0].g.output[:]
    with pytest.raises(ModelError, match=r"a subgraph of If node .* has 0 outputs; it must have 1|not valid ONNX"):
        normalize(model)


def test_a_scale_that_ends_the_process(make_model: Any) -> None:
    body = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) p = GlobalAveragePool(d) y = Flatten(p)"
    model = make_model(body, {"s": np.ones((3, 1, 1, 1, 1), np.float32)}, y="float[N,3] y")
    with pytest.raises(ModelError, match="scale or zero point of 5 dimensions"):
        build_explanation(model)
