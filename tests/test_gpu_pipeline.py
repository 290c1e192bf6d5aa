# SPDX-License-Identifier: Apache-2.0
"""The GPU's pipeline without a GPU: on the host, with interpreted kernels, it gives the maps of heads in the graph."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from costs import slow_but

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import DeviceError, InputError, ModelError, OptionError, TargetError
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.deploy.cuda import optimize_for_cuda
from portable_cam.export.methods import registry
from portable_cam.export.options import Options
from portable_cam.image.colormap import overlay
from portable_cam.runtime.gpu import Cuda, Host, pipeline, placement
from portable_cam.runtime.gpu.binding import BoundSession
from portable_cam.runtime.gpu.device import HostDevice
from portable_cam.runtime.gpu.float16 import to_float16
from portable_cam.runtime.session import Placed, Session
from portable_cam.tasks.raw_outputs import session_options

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

#: Those that need no kernel of their own, or have one.
METHODS = tuple(name for name, method in registry.METHODS.items() if method.kernel or not method.is_heat_map)
MAPS = tuple(name for name in METHODS if registry.METHODS[name].is_heat_map)
random = np.random.default_rng(3)


def pixels(count: int, *shape: int) -> np.ndarray:
    return random.standard_normal((count, *(shape or (3, 8, 8))), dtype=np.float32)


def compare(ours: pcam.Result, theirs: pcam.Result, relative: float = 1e-5) -> None:
    """Everything in two results, floats to a fraction of their greatest value."""
    assert ours.maps.keys() == theirs.maps.keys()
    assert ours.raw.keys() == theirs.raw.keys()
    assert ours.outputs.keys() == theirs.outputs.keys()
    assert ours.layer == theirs.layer
    assert ours.flags == theirs.flags
    assert ours.guided_nodes == theirs.guided_nodes
    np.testing.assert_array_equal(ours.targets, theirs.targets)
    pairs = [(ours.scores, theirs.scores)]
    for mine, other in ((ours.maps, theirs.maps), (ours.raw, theirs.raw), (ours.outputs, theirs.outputs)):
        pairs += [(mine[name], other[name]) for name in other]
    for name in ("activations", "gradients"):
        if getattr(theirs, name) is not None:
            pairs.append((getattr(ours, name), getattr(theirs, name)))
    for mine, other in pairs:
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        assert np.abs(mine - other).max() <= relative * np.abs(other).max()


@pytest.fixture(scope="module")
def explainers(small_cnn: onnx.ModelProto) -> Callable[..., tuple[pcam.Explainer, pcam.Explainer]]:
    """One on the host's pipeline, one with heads in the graph."""

    def make(methods: Any = METHODS, **options: Any) -> tuple[pcam.Explainer, pcam.Explainer]:
        device = options.pop("device", Host(heads="kernels"))
        return pcam.Explainer(small_cnn, methods, device=device, **options), pcam.Explainer(
            small_cnn, methods, **options
        )

    return make


@pytest.mark.parametrize("sign", slow_but(["positive"], ["positive", "negative"]))
@pytest.mark.parametrize("profile", slow_but(["paper"], ["paper", "pytorch_grad_cam", "captum"]))
def test_same_maps_as_in_the_graph(explainers: Any, profile: str, sign: str) -> None:
    ours, theirs = explainers(METHODS if sign == "positive" else MAPS, profile=profile, sign=sign, details=True)
    x = pixels(2)
    compare(ours(x), theirs(x))
    compare(ours(x[:1], [[1, 4]]), theirs(x[:1], [[1, 4]]))


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["paper", "pytorch_grad_cam"])
def test_several_layers(explainers: Any, profile: str) -> None:
    ours, theirs = explainers(("gradcam", "guided_gradcam"), layer=["r1", "r2"], profile=profile)
    x = pixels(2)
    compare(ours(x), theirs(x))


def test_captum_explains_one_layer(explainers: Any) -> None:
    with pytest.raises(OptionError, match="one layer at a time"):
        explainers(("gradcam",), layer=["r1", "r2"], profile="captum")


@pytest.mark.slow
def test_channels_last(make_model: Any) -> None:
    weight = random.standard_normal((4, 3, 3, 3), dtype=np.float32)
    model = make_model(
        "t = Transpose<perm = [0, 3, 1, 2]>(x) c = Conv<pads = [1, 1, 1, 1]>(t, w) r = Relu(c) "
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB = 1>(f, v)",
        {"w": weight, "v": random.standard_normal((5, 4), dtype=np.float32)},
        x="float[N,6,9,3] x",
    )
    x = pixels(2, 6, 9, 3)
    compare(pcam.Explainer(model, METHODS, device=Host(heads="kernels"))(x), pcam.Explainer(model, METHODS)(x))


@pytest.mark.slow
def test_a_channel_per_class(make_model: Any) -> None:
    model = make_model(
        "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p)",
        {"w": random.standard_normal((5, 3, 1, 1), dtype=np.float32)},
    )
    x, options = pixels(2), {"methods": ("cam", "gradcam"), "sign": "negative"}
    compare(pcam.Explainer(model, device=Host(heads="kernels"), **options)(x), pcam.Explainer(model, **options)(x))


def test_a_large_layer_of_varying_gradient(make_model: Any) -> None:
    """More pixels than one tile holds, and a gradient that differs from place to place."""
    model = make_model(
        "c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) q = Mul(r, r) p = GlobalAveragePool(q) f = Flatten(p) "
        "y = Gemm<transB = 1>(f, v)",
        {
            "w": random.standard_normal((4, 3, 3, 3), dtype=np.float32),
            "v": random.standard_normal((5, 4), dtype=np.float32),
        },
        x="float[N,3,20,20] x",
    )
    x = pixels(1, 3, 20, 20)
    compare(pcam.Explainer(model, layer="r", device=Host(heads="kernels"))(x), pcam.Explainer(model, layer="r")(x))


def test_batches_are_filled_up(explainers: Any) -> None:
    ours, theirs = explainers(("gradcam", "guided_backprop"), device=Host(heads="graph", buckets=(1, 4)))
    sizes = (1, 3, 2, 4, 5, 3)
    batches = [pixels(size) for size in sizes]
    results = [ours(x) for x in batches]
    for x, result in zip(batches, results, strict=True):
        compare(result, theirs(x))
    assert set(ours.pipeline().bound._bound) == {((n, 3, 8, 8), (n, 1)) for n in (1, 4, 5)}


def test_the_graphs_own_heads(explainers: Any) -> None:
    ours, theirs = explainers(METHODS, device=Host(heads="graph"), details=True)
    x = pixels(2)
    compare(ours(x), theirs(x))
    compare(ours.on_device(x).numpy(), theirs(x))
    assert ours.on_device(x).flags == theirs(x).flags


@pytest.mark.slow
def test_results_stay_when_the_next_come(explainers: Any) -> None:
    ours, theirs = explainers(("gradcam", "guided_backprop", "guided_gradcam"))
    first, second = pixels(2), pixels(2)
    results = [ours.on_device(x) for x in (first, second)]
    compare(results[0].numpy(), theirs(first))
    compare(results[1].numpy(), theirs(second))


@pytest.mark.slow
def test_from_and_to_torch(explainers: Any) -> None:
    ours, theirs = explainers()
    x = pixels(2)
    result = ours.on_device(torch.from_numpy(x), [1, 2])
    assert len(result) == 2
    assert list(result) == list(METHODS)
    assert "gradcam" in result
    maps = torch.from_dlpack(result["gradcam"])
    assert maps.data_ptr() == result["gradcam"].pointer
    expected = theirs(x, [1, 2])
    np.testing.assert_allclose(maps.numpy(), expected["gradcam"], atol=1e-5)
    np.testing.assert_allclose(np.asarray(result.raw["gradcam"]), expected.raw["gradcam"], rtol=1e-5, atol=1e-6)
    assert repr(result["gradcam"]) == "DeviceArray(float32[2, 1, 8, 8] on cpu:0)"
    assert result.flags == expected.flags
    with pytest.raises(OptionError, match="'scorecam' was not computed"):
        result["scorecam"]


def test_overlay(explainers: Any) -> None:
    ours, theirs = explainers(("gradcam", "gradient"))
    x, photos = pixels(2), random.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    result = ours.on_device(x)
    pictures = result.overlay("gradcam", photos)
    assert pictures.shape == (2, 1, 8, 8, 3)
    expected = [overlay(photo, maps[0]) for photo, maps in zip(photos, theirs(x)["gradcam"], strict=True)]
    off = np.abs(pictures.numpy()[:, 0].astype(int) - np.stack(expected).astype(int))
    assert (off > 0).mean() < 0.02  # a value between two colours may fall to either
    np.testing.assert_array_equal(pictures, result.overlay("gradcam", torch.from_numpy(photos)))
    with pytest.raises(InputError, match="have no overlay"):
        result.overlay("gradient", photos)
    with pytest.raises(InputError, match="must be uint8, not float32"):
        result.overlay("gradcam", photos.astype(np.float32))
    with pytest.raises(InputError, match="the photos must have shape"):
        result.overlay("gradcam", photos[:1])


class Elsewhere:
    """An array of a GPU that is not ours."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 3

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError


def test_inputs_refused(explainers: Any) -> None:
    ours, theirs = explainers(("gradcam",))
    with pytest.raises(InputError, match="DLPack device 2:3, not on cpu:0"):
        ours.on_device(Elsewhere())
    with pytest.raises(InputError, match="must be contiguous"):
        ours.on_device(torch.zeros(2, 3, 8, 16)[..., ::2])
    with pytest.raises(InputError, match="detached"):
        ours.on_device(torch.zeros(2, 3, 8, 8, requires_grad=True))
    with pytest.raises(InputError, match=r"shape \(any, 3, 8, 8\), not \(2, 3, 8, 9\)"):
        ours.on_device(torch.zeros(2, 3, 8, 9))
    with pytest.raises(InputError, match="must be float32, not float16"):
        ours.on_device(torch.zeros(2, 3, 8, 8).half())
    with pytest.raises(TargetError, match="out of range"):
        ours.on_device(torch.zeros(2, 3, 8, 8), [5, 0])
    with pytest.raises(DeviceError, match="runs on the host"):
        theirs.on_device(pixels(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_flags(explainers: Any) -> None:
    ours, theirs = explainers(("gradcam", "guided_backprop"))
    x = np.stack([pixels(1)[0], np.zeros((3, 8, 8), np.float32)])
    assert ours.on_device(x).flags == theirs(x).flags
    bad = torch.from_numpy(pixels(2))
    bad[1, 0, 0, 0] = np.nan
    flags = ours.on_device(bad).flags
    assert flags[0] == [()]
    assert "nan" in flags[1][0]


@pytest.mark.slow
def test_float16(explainers: Any, small_cnn: onnx.ModelProto) -> None:
    ours = pcam.Explainer(small_cnn, METHODS, device=Host(heads="kernels", precision="float16", placement="error"))
    theirs = pcam.Explainer(small_cnn, METHODS)
    assert ours.pipeline().session.raw.get_outputs()[-1].type == "tensor(float16)"
    x = pixels(2)
    result, expected = ours(x, [1, 2]), theirs(x, [1, 2])
    for method in METHODS:
        assert result[method].dtype == np.float32
        ours_flat, flat = result[method].ravel(), expected[method].ravel()
        assert ours_flat @ flat > 0.999 * np.linalg.norm(ours_flat) * np.linalg.norm(flat)


HALVES = ("cls_squeezenet", "cls_text", "det_yolox", "det_nanodet", "seg_deeplabv3_mnv2_dm05")


@pytest.mark.slow
def test_models_in_half_precision(zoo: Path) -> None:
    """Of the zoo: float ones are converted, and answer as in float32 with weights of half precision (which alone costs
    YOLOX 8 % on noise); quantised ones are refused by a node's name."""
    for path in sorted((zoo / "models").glob("*.onnx")):
        if not path.stem.startswith(HALVES):
            continue
        if "int8" in path.name:
            with pytest.raises(ModelError, match="a quantised model is not converted to float16"):
                to_float16(path)
            continue
        rounded = onnx.load(path)
        for tensor in rounded.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                weights = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
        plain, half = Session(rounded, optimize=False), Session(to_float16(path))
        sizes = next(iter(plain.inputs.values())).shape
        shape = [n if isinstance(n, int) and n > 0 else (224 if axis else 1) for axis, n in enumerate(sizes)]
        (name,) = plain.inputs
        x = np.random.default_rng(0).random(shape, np.float32)
        expected, found = plain.run({name: x.astype(plain.dtype(name))}), half.run({name: x.astype(half.dtype(name))})
        for output, value in expected.items():
            flat, ours = value.astype(np.float64).ravel(), found[output].astype(np.float64).ravel()
            # half an ulp, 5e-4, for each of up to 100 activations in a row
            assert np.linalg.norm(ours - flat) < 0.05 * np.linalg.norm(flat), (path.name, output)


@pytest.mark.slow
def test_what_runs_was_compiled_ahead(explainers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant that explanations launch is among those that are compiled ahead of time."""
    from portable_cam.kernels.cubins import all_variants

    seen = set()
    real = HostDevice.launch

    def launch(self: Any, variant: Any, grid: Any, arguments: Any) -> None:
        seen.add(variant)
        real(self, variant, grid, arguments)

    monkeypatch.setattr(HostDevice, "launch", launch)
    for profile in ("paper", "pytorch_grad_cam", "captum"):
        for precision in ("float32", "float16"):
            for methods in (METHODS, ("cam", "gradcam", "gradient", "guided_gradcam")):
                explainers(methods, profile=profile, device=Host(heads="kernels", precision=precision))[0](pixels(1))
        if profile != "captum":
            explainers(("gradcam", "guided_gradcam"), profile=profile, layer=["r1", "r2"])[0](pixels(1))
    assert len(seen) > 15
    assert seen <= set(all_variants())

    def kinds(variants: Any) -> set[tuple[Any, ...]]:
        return {(v.types, dict(v.constants)["METHOD"]) for v in variants if v.kernel == "cam.weighted_sum"}

    assert kinds(seen) == kinds(all_variants())  # and nothing is compiled that no method launches


def test_each_kernel_belongs_to_a_method() -> None:
    from portable_cam.kernels import cam

    assert {method.kernel for method in registry.METHODS.values()} - {None} == set(cam.METHODS)


def test_maps_without_a_kernel_are_made_in_the_graph(explainers: Any) -> None:
    x = pixels(2)
    ours, theirs = explainers(("gradcam", "eigencam"), device=Host())
    compare(ours(x), theirs(x))
    with pytest.raises(OptionError, match="no kernel for eigencam"):
        explainers(("gradcam", "eigencam"))


def test_kernels_asked_for_but_not_there(explainers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable_cam.runtime.gpu.pipeline.has_kernels", lambda device: False)
    with pytest.raises(DeviceError, match=r"Triton is not installed.*kernels\.compile"):
        explainers(("gradcam",))
    ours, theirs = explainers(("gradcam",), device=Host())
    x = pixels(2)
    compare(ours(x), theirs(x))
    assert "heatmap.gradcam" in ours.pipeline().outputs


def test_two_threads_on_one_explainer(small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share its buffers, and get their own results."""
    explainer = pcam.Explainer(small_cnn, ("gradcam", "gradient"), device=Host(heads="graph"))
    batches = [pixels(3) for _ in range(4)]
    expected = [explainer(x, 1)["gradient"] for x in batches]
    bound, run = explainer.pipeline().bound, BoundSession._run
    # time for the others to write into the buffers
    monkeypatch.setattr(bound, "_run", lambda *given: [sleep(0.002), run(bound, *given)])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lambda x: explainer(x, 1)["gradient"], batches))
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_buffers_are_kept_for_few_shapes(small_cnn: onnx.ModelProto) -> None:
    explainer = pcam.Explainer(small_cnn, device=Host(heads="graph", buckets=None, shapes_kept=2))
    x = pixels(2)
    first = explainer(x, 1)["gradcam"]  # and its last image alone, to see that images do not mix
    for count in (2, 1, 3, 4, 1, 5):
        explainer(pixels(count), 1)
        kept = [key[0][0] for key in explainer.pipeline().bound._bound]
        assert len(kept) <= 2
        assert kept[-1] == count
    assert kept == [1, 5], "what was used last stays"
    np.testing.assert_array_equal(explainer(x, 1)["gradcam"], first)
    with pytest.raises(OptionError, match="shapes_kept is at least 1"):
        Host(shapes_kept=0)


@pytest.mark.parametrize(("targets", "why"), [(1, "nodes are not on the GPU"), (None, "control flow")])
def test_cuda_graphs_that_cannot_be_recorded(
    small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, targets: int | None, why: str
) -> None:
    """Nodes on the host, and several targets, which are a loop: both run without, and say so."""

    class Recording(HostDevice):
        def providers(self, *, cuda_graphs: bool = False) -> list[Any]:
            return ["recording"] if cuda_graphs else ["CPUExecutionProvider"]

    def start(model: Any, *, providers: list[Any], **options: Any) -> Session:
        if providers == ["recording"]:
            raise ModelError("nodes are not on the GPU")
        return Session(model, providers=providers, **options)

    monkeypatch.setattr(pipeline, "Session", start)
    built = explanation_model(small_cnn, Options(("gradcam",)), targets_per_image=targets)
    with pytest.warns(UserWarning, match=f"without CUDA graphs: .*{why}"):
        made = pipeline.Pipeline(built, Recording(Host()), Cuda(cuda_graphs=True))
    feeds = {"x": pixels(1), "targets": np.array([[1]])}
    expected = Session(built).run(feeds)
    np.testing.assert_array_equal(made.run(feeds)["raw.gradcam"], expected["raw.gradcam"])


@pytest.mark.slow
@pytest.mark.parametrize("device", [Host(heads="graph"), Cuda(), "cuda"])
def test_a_detector_takes_a_device_with_options(zoo: Path, device: Any) -> None:
    """Its first pass, which finds the boxes, runs on the same device; on a GPU not with the provider's own options."""
    taken = session_options({"device": device, "threads": 1})
    providers = taken.pop("providers")
    assert taken == {"threads": 1}
    assert providers[-1] == "CPUExecutionProvider"
    if not isinstance(device, Host):
        name, options = providers[0]
        assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "0")
        assert "user_compute_stream" not in options
    path = zoo / "models" / "det_ultraface_ssd_rfb320.onnx"
    if isinstance(device, Host):
        photo = assets.photo("astronaut.jpg")
        ours, theirs = (pcam.DetectExplainer(path, device=d)(photo) for d in (device, "cpu"))
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_allclose(ours["layercam"], theirs["layercam"], atol=1e-6)
    else:
        with pytest.raises(DeviceError, match="CUDAExecutionProvider is not in this build"):
            pcam.DetectExplainer(path, device=device)


def test_cuda_asked_for_but_not_there(small_cnn: onnx.ModelProto) -> None:
    for device in ("cuda", Cuda(index=1)):
        with pytest.raises(DeviceError, match="CUDAExecutionProvider is not in this build"):
            pcam.Explainer(small_cnn, device=device)


def test_options() -> None:
    name, options = Cuda(nhwc=True, memory_limit=1 << 30, provider_options={"use_tf32": "7"}).provider(4096)
    assert name == "CUDAExecutionProvider"
    assert options == {
        "device_id": "0",
        "user_compute_stream": "4096",
        "use_tf32": "7",
        "prefer_nhwc": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": "0",
        "gpu_mem_limit": str(1 << 30),
    }
    assert Cuda().provider(0)[1]["use_tf32"] == "0"
    assert Cuda(cuda_graphs=True).provider(8, cuda_graphs=True)[1]["enable_cuda_graph"] == "1"
    with pytest.raises(OptionError, match="default stream"):
        Cuda(cuda_graphs=True, stream=0)
    assert Cuda(precision="tf32").provider(0)[1]["use_tf32"] == "1"
    with pytest.raises(OptionError, match="precision is one of float32, tf32, float16"):
        Cuda(precision="int8")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="conv_search"):
        Cuda(conv_search="fast")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="ascending"):
        Host(buckets=(4, 1))


def test_placement(small_cnn: onnx.ModelProto) -> None:
    graph = explanation_model(small_cnn, targets_per_image=1)
    host = {"Relu", "Gather", "Shape"}
    nodes = [
        Placed(str(node.name), node.op_type, "CPUExecutionProvider" if node.op_type in host else "GPU")
        for node in graph.graph
    ]
    found = placement.elsewhere(graph, nodes, "GPU")
    assert {node.operator for node in found} == {"Relu"}
    text = placement.describe(found * 4, "GPU")
    assert "do not run on GPU: Relu" in text
    assert "more" in text
    inserted = [Placed("new", "FusedConv", "CPUExecutionProvider"), Placed("m", "MemcpyToHost", "CPUExecutionProvider")]
    assert placement.elsewhere(graph, inserted, "GPU") == inserted[:1]


@pytest.mark.parametrize("targets_per_image", [1, None])
def test_a_graph_for_a_gpu_pools_once(make_model: Any, targets_per_image: int | None) -> None:
    """No poolings of one element but the model's own, no second pooling for indices, the same maps."""
    body = """
        a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r)
        q = MaxPool<kernel_shape = [2, 2], strides = [1, 1], pads = [0, 0, 0, 0]>(r)
        s = Add(p, q) f = GlobalAveragePool(s) y = Flatten(f)
    """
    weights = {"w": random.standard_normal((5, 3, 3, 3)).astype(np.float32)}
    options = Options(("gradcam", "guided_gradcam", "gradient"))
    model = explanation_model(make_model(body, weights), options, targets_per_image=targets_per_image)
    feeds = {"x": pixels(2), "targets": np.array([[1], [2]])}
    before = Session(model).run(feeds)
    optimize_for_cuda(model.graph)
    for graph in [model.graph, *model.graph.subgraphs()]:
        assert sum(node.op_type == "MaxPool" for node in graph) <= 1
    for name, value in Session(model).run(feeds).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize("targets_per_image", [1, None])
def test_a_graph_for_a_gpu_pads_transposed_convolutions_evenly(make_model: Any, targets_per_image: int | None) -> None:
    """The model's own and those of gradients, in the graph and in the Scan's body; the maps stay the same bits."""
    body = """
        a = Conv<pads = [0, 1, 1, 0], strides = [2, 2]>(x, w) r = Relu(a)
        c = ConvTranspose<pads = [0, 0, 2, 1], strides = [2, 2]>(r, up) q = Relu(c)
        d = Conv<pads = [1, 1, 1, 1]>(q, v) f = GlobalAveragePool(d) y = Flatten(f)
    """
    shapes = {"w": (6, 3, 3, 3), "up": (6, 6, 3, 3), "v": (5, 6, 3, 3)}
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = explanation_model(
        make_model(body, weights), Options(("gradcam", "gradient")), targets_per_image=targets_per_image
    )
    feeds = {"x": pixels(2), "targets": np.array([[1], [2]])}
    before = Session(model).run(feeds)
    assert len(_uneven(model)) == 2
    optimize_for_cuda(model.graph)
    assert not _uneven(model)
    for name, value in Session(model).run(feeds).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def _uneven(model: ir.Model) -> list[ir.Node]:
    """Transposed convolutions that the CUDA provider has no kernel for."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    pads = {node: node.attributes.get_ints("pads", []) for node in nodes if node.op_type == "ConvTranspose"}
    return [node for node, given in pads.items() if given[: len(given) // 2] != given[len(given) // 2 :]]


@pytest.mark.slow
def test_biases_of_a_quantised_model_are_floats_on_a_gpu(zoo: Path) -> None:
    """Which changes no map; the int8 weights stay what they are."""
    path = zoo / "models" / "cls_mobilenetv2_torch_int8_nchw_tflm.onnx"
    model = explanation_model(path, Options(("gradcam",)), targets_per_image=1)
    feeds = {"input.5": np.random.default_rng(0).integers(-128, 128, (1, 3, 224, 224)).astype(np.int8)}
    feeds["targets"] = np.array([[1]])
    before = Session(model, as_written=True).run(feeds)
    assert len(_dequantized(model, ir.DataType.INT32)) > 40
    count = len(_dequantized(model, ir.DataType.INT8))
    optimize_for_cuda(model.graph)
    assert not _dequantized(model, ir.DataType.INT32)
    assert len(_dequantized(model, ir.DataType.INT8)) == count > 40
    for name, value in Session(model, as_written=True).run(feeds).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def _dequantized(model: ir.Model, dtype: ir.DataType) -> list[ir.Node]:
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [n for n in nodes if n.op_type == "DequantizeLinear" and n.inputs[0].dtype == dtype]  # type: ignore[union-attr]


@pytest.mark.slow
def test_whole_numbers_elsewhere_in_an_explanation(zoo: Path) -> None:
    """Arithmetic of shapes and indices may be on the host, and is told from that of maps."""
    path = zoo / "models" / "cls_text_orientation_ppocr_mobilenetv3.onnx"
    built = explanation_model(path, Options(("guided_gradcam",)))
    placed = Session(built, record_placement=True).placement()
    found = {node.operator for node in placement.elsewhere(built, placed, "CUDAExecutionProvider")}
    assert {"Conv", "Mul", "Relu"} <= found
    assert {"NonZero", "Concat", "Equal"} <= {node.operator for node in placed} - found


def test_a_node_elsewhere_is_told(small_cnn: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "elsewhere", lambda *_: [Placed("r1", "Relu", "OtherExecutionProvider")])
    with pytest.raises(DeviceError, match="Relu 'r1' \\(OtherExecutionProvider\\)"):
        pcam.Explainer(small_cnn, device=Host(placement="error"))
    with pytest.warns(UserWarning, match="1 of the graph's nodes do not run on CPUExecutionProvider"):
        pcam.Explainer(small_cnn, device=Host())
