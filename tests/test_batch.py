# SPDX-License-Identifier: Apache-2.0
"""A batch of one in the file, made symbolic where the operators prove that images do not mix."""

import numpy as np
import onnx
import pytest
import torch

from benchmarks.architectures import ARCHITECTURES
from portable_cam import Explainer
from portable_cam.export import from_torch

SHAPE = '<ir_version: 8, opset_import: ["": 17]> m (float[1,4,2,2] x) => (float[1,{width}] y)'


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
@pytest.mark.parametrize(("name", "freed"), [("resnet", True), ("shufflenet", True), ("vit", False)])
def test_three_images_at_once_are_three_single_runs(name: str, freed: bool) -> None:
    """torch's exporter writes every batch of one into its Reshapes. A vision transformer's class token is repeated for
    a batch of one, which keeps its file to one image at a time."""
    architecture = ARCHITECTURES[name]
    model = from_torch(architecture.build(), torch.zeros(1, 3, *architecture.size), dynamic_batch=False)
    explainer = Explainer(model)
    assert (explainer.input_shape()[0] != 1) is freed
    x = np.random.default_rng(0).standard_normal((3, 3, *architecture.size)).astype(np.float32)
    together = explainer(x)
    for i in range(3):
        alone = explainer(x[i : i + 1])
        np.testing.assert_array_equal(together.targets[i], alone.targets[0])
        np.testing.assert_allclose(together.scores[i], alone.scores[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together.maps["gradcam"][i], alone.maps["gradcam"][0], atol=1e-4)


@pytest.mark.parametrize("shape", [[1, 16], [1, -1], [-1, 16]])
@pytest.mark.parametrize("allowzero", [0, 1])
def test_a_reshape_that_keeps_the_batch_is_freed(shape: list[int], allowzero: int) -> None:
    explainer = Explainer(_reshaped(shape, allowzero), layer="r", output="y")
    assert explainer.input_shape()[0] != 1
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(explainer(x, 5).scores[:, 0], np.maximum(x, 0).reshape(3, 16)[:, 5], rtol=1e-6)


def test_a_reshape_that_moves_the_batch_is_not() -> None:
    """(4, 4) of one image: of three it would be (12, 4)."""
    tail = "s = ReduceMax<axes = [1], keepdims = 0>(f) y = Unsqueeze(s, first)"
    explainer = Explainer(_reshaped([4, 4], 1, tail, 4), layer="r", output="y")
    assert explainer.input_shape()[0] == 1


@pytest.mark.parametrize("mixes", [False, True])
def test_an_opened_batch_is_checked_by_running_it(mixes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that is wrong, here one that takes a mean over images for granted, costs a note and not a wrong map."""
    monkeypatch.setattr("portable_cam.export.passes.dynamic_batch._keeps_images_apart", lambda *_: True)
    axis = 0 if mixes else 1
    model = onnx.parser.parse_model(
        f"""{SHAPE.format(width=4)} {{
            m = ReduceMean<axes = [{axis}]>(x) d = Sub(x, m) r = Relu(d)
            p = GlobalAveragePool(r) y = Flatten(p) }}"""
    )
    explainer = Explainer(model, layer="r")
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)
    for _ in range(2):  # the second time it is known
        together = explainer(x, 2)
        assert any("one by one" in note for note in together.notes) is mixes
        alone = np.concatenate([explainer(x[i : i + 1], 2).scores for i in range(3)])
        np.testing.assert_allclose(together.scores, alone, rtol=1e-5)


def _reshaped(shape: list[int], allowzero: int, tail: str = "y = Identity(f)", width: int = 16) -> onnx.ModelProto:
    body = f"r = Relu(x) f = Reshape<allowzero = {allowzero}>(r, shape) {tail}"
    model = onnx.parser.parse_model(f"{SHAPE.format(width=width)} {{ {body} }}")
    for name, values in (("shape", shape), ("first", [0])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    return model
