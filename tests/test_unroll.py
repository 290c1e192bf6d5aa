# SPDX-License-Identifier: Apache-2.0
"""A decoder of one step written out for several: the same as running it again and again."""

import numpy as np
import onnx
import pytest

from portable_cam.errors import ModelError
from portable_cam.export import differentiate
from portable_cam.export.compose.unroll import unroll
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp

RANDOM = np.random.default_rng(11)
STATE = {"after": "before"}
BODY = """(float[N,4] memory, int64[N,1] ids, float[N,4] before) => (float[N,1,5] y, float[N,4] after) {
    e3 = Gather(table, ids)
    e = Squeeze(e3, one)
    m = MatMul(before, w)
    s = Sum(e, m, memory)
    after = Tanh(s)
    y2 = MatMul(after, out)
    y = Unsqueeze(y2, one)
}"""


def step_decoder(body: str = BODY) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> step {body}')
    weights = {"table": (5, 4), "w": (4, 4), "out": (4, 5)}
    tensors = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in {**tensors, "one": np.array([1])}.items()
    )
    return model


def feeds(steps: int) -> dict[str, np.ndarray]:
    return {
        "memory": RANDOM.standard_normal((2, 4)).astype(np.float32),
        "ids": RANDOM.integers(0, 5, (2, steps)),
        "before": RANDOM.standard_normal((2, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1, V)", "(N, V)"])
def test_is_the_decoder_run_again_and_again(flat: bool) -> None:
    model = step_decoder(
        BODY.replace("y2 = MatMul", "y = MatMul").replace("y = Unsqueeze(y2, one)", "").replace("[N,1,5] y", "[N,5] y")
        if flat
        else BODY
    )
    whole = unroll(model, 4, tokens="ids", logits="y", state=STATE)
    onnx.checker.check_model(whole, full_check=True)
    given = feeds(4)
    got = Session(whole).run(given)
    session, state, rows = Session(model), given["before"], []
    for t in range(4):
        result = session.run({"memory": given["memory"], "ids": given["ids"][:, t : t + 1], "before": state})
        rows.append(result["y"].reshape(2, 1, 5))
        state = result["after"]
    np.testing.assert_allclose(got["y"], np.concatenate(rows, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["after"], state, rtol=1e-5, atol=1e-6)


def test_weights_are_stored_once() -> None:
    two, six = (unroll(step_decoder(), steps, tokens="ids", logits="y", state=STATE) for steps in (2, 6))
    assert len(six.graph.initializer) - len(two.graph.initializer) == 4  # the places of the further tokens


def test_gradient_reaches_back_through_all_steps() -> None:
    whole = unroll(step_decoder(), 3, tokens="ids", logits="y", state=STATE)
    check_vjp(whole, feeds(3), "y", ["memory", "before"])
    last = np.zeros((2, 3, 5), np.float32)
    last[:, -1] = 1
    gradient = Session(differentiate(whole, "y", ["before"])).run({**feeds(3), "seed": last})["gradient.before"]
    assert np.abs(gradient).min() > 0


def test_errors() -> None:
    model = step_decoder()
    with pytest.raises(ModelError, match="cannot be unrolled to 0 steps"):
        unroll(model, 0, tokens="ids", logits="y", state=STATE)
    with pytest.raises(ModelError, match="no input 'tokens'; its inputs are memory, ids, before"):
        unroll(model, 2, tokens="tokens", logits="y", state=STATE)
    with pytest.raises(ModelError, match="no output 'h'; its outputs are y, after"):
        unroll(model, 2, tokens="ids", logits="y", state={"h": "before"})
    with pytest.raises(ModelError, match=r"takes 'memory' \(N, 1\)"):
        unroll(model, 2, tokens="memory", logits="y", state=STATE)
