"""Our maps against those of pytorch-grad-cam and Captum on real models, within the tolerances of docs/methods.md.

In float32 a unit whose input is within rounding of zero may fall on either side of its ReLU, and one flipped mask moves
an input gradient by up to a per cent. Where a picture has such units, whether a run and the peer's agree about them is
the luck of the draw; so input maps are compared over a few draws, the picture varied by less than its own float32
rounding, and must agree in one of them. A wrong rule disagrees in all. A picture too large to have a draw without flips
is compared with its masks pinned to the peer's.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from costs import slow_but

import portable_cam as pcam
from portable_cam import targets
from portable_cam.export.graph.builder import Builder
from portable_cam.export.passes.normalize import normalize
from portable_cam.runtime.session import Session
from portable_cam.tasks.detect import find_head

CASES = [
    "lite0__coral_cat__281__blocks_10_Clip_1",
    "lite0__pgc_both__243__Clip_1",
    "lite0__pgc_both__282__Clip_1",
    "resnet20__coral_cat__3__layer2_layer2_2_Relu_1",
    "resnet20__coral_cat__3__layer3_layer3_2_Relu_1",
    "squeezenet__pgc_both__243__conv10_relu",
    "squeezenet__pgc_both__281__fire9_concat",
    "yolox__pgc_both__detect16__Mul_298",
    "nanodet__pgc_both__detect15__LeakyRelu_426",
    "deeplab__pgc_both__segment12__Relu__94",
]


@dataclass
class Case:
    model: Path
    meta: dict
    arrays: dict

    def has(self, name: str) -> bool:
        return self.meta["same_as"].get(name, name) in self.arrays

    def peer(self, name: str) -> np.ndarray:
        return self.arrays[self.meta["same_as"].get(name, name)]

    @property
    def target(self) -> tuple[targets.Target | None, int]:
        """What the peer explained: the target, and its index."""
        asked = self.meta["target"]
        if isinstance(asked, int):
            return None, asked
        if "segment" in asked:
            return targets.Dense(), asked["segment"]
        head = find_head(self.model, self.arrays["input"].shape[2:])
        box = int(self.arrays["anchor"])
        if head.family == "nanodet":  # counted within the scale of stride 32, behind those of 8 and 16
            box += 52 * 52 + 26 * 26
        return head.target, box * 80 + asked["detect"]


#: Those that run by default.
QUICK = ["resnet20__coral_cat__3__layer3_layer3_2_Relu_1"]


@pytest.fixture(params=slow_but(QUICK, CASES))
def case(request: pytest.FixtureRequest, golden: Path, zoo: Path) -> Case:
    arrays = dict(np.load(golden / f"{request.param}.npz"))
    meta = json.loads(str(arrays["meta"]))
    return Case(zoo / "models" / meta["model"], meta, arrays)


def draws(
    case: Case, profile: str, methods: tuple[str, ...], count: int = 12, model: ir.Model | None = None
) -> Iterator[pcam.Result]:
    """The explanation of the picture, then of pictures that differ from it by rounding."""
    target, index = case.target
    output = None if isinstance(target, targets.Boxes) else case.meta["output"]
    explainer = pcam.Explainer(
        model or case.model,
        methods,
        layer=case.meta["layer_tensor"],
        target=target,
        output=output,
        profile=profile,
        as_is=output is None,  # of a detector the peers explained the probability
    )
    x, random = case.arrays["input"], np.random.default_rng(0)
    for i in range(count):
        noise = 0 if i == 0 else 3e-7 * random.standard_normal(x.shape)
        yield explainer((x * (1 + noise)).astype(np.float32), targets=[[index]])


def explained(case: Case, profile: str, methods: tuple[str, ...]) -> pcam.Result:
    return next(draws(case, profile, methods))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def distance(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Relative L2 distance, and cosine."""
    a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def assert_agree_in_a_draw(case: Case, profile: str, names: dict[str, str]) -> None:
    """Each of our input maps within relative L2 1e-3 and cosine 0.9999 of the peer's in one of the draws."""
    names = {method: peer for method, peer in names.items() if case.has(peer)}
    if not names:
        pytest.skip("the peer has no maps for this case")
    closest = dict.fromkeys(names, (np.inf, 0.0))
    for result in draws(case, profile, tuple(names)):
        for method, peer in names.items():
            closest[method] = min(closest[method], distance(result[method][:, 0], case.peer(peer)))
        if all(l2 < 1e-3 and cosine > 0.9999 for l2, cosine in closest.values()):
            return
    pytest.fail(f"closest in any draw (relative L2, cosine): {closest}")


def pinned(case: Case) -> ir.Model:
    """The model with each unit that lies within rounding of a ReLU's kink moved, by a millionth of the layer's largest
    input, to the side that the peer's run had it on (``tests/kinks/find.py``); that is seen to be all that is moved."""
    model = normalize(case.model)
    relus = {node.outputs[0].name.split(":")[0]: node for node in model.graph if node.op_type in {"Relu", "Clip"}}
    probe = model.clone()
    made = {value.name: value for node in probe.graph for value in node.outputs}
    probe.graph.outputs.extend(made[node.inputs[0].name] for node in relus.values())
    before = Session(probe).run({probe.graph.inputs[0].name: case.arrays["input"]})
    builder = Builder(model.graph)
    with np.load(Path(__file__).parent / "kinks" / "deeplab.npz") as kinks:
        for name, units in kinks.items():
            node = relus[name]
            at, kink, above = units[:, :-2].astype(np.int64), units[:, -2], units[:, -1].astype(bool)
            x = before[node.inputs[0].name]
            step = 1e-6 * np.abs(x).max()
            assert np.abs(x[tuple(at.T)] - kink).max() < 1.2 * step, name
            move = (kink + np.where(above, step, -step) - x[tuple(at.T)]).astype(np.float32)
            indices, updates = builder.constant(at, ir.DataType.INT64), builder.constant(move, ir.DataType.FLOAT)
            moved = builder.op("ScatterND", node.inputs[0], indices, updates, reduction="add")
            moved.shape = node.inputs[0].shape
            node.replace_input_with(0, moved)
    model.graph.sort()
    return model


@pytest.mark.filterwarnings("ignore:no node counts as a ReLU")
def test_captum(case: Case) -> None:
    result = explained(case, "captum", ("gradcam",))
    np.testing.assert_allclose(result.scores[0, 0], case.arrays["score"], rtol=1e-5)
    assert relative(result.raw["gradcam"][0], case.peer("captum.layer_gradcam")[0]) < 1e-4
    assert result["gradcam"].shape == result.raw["gradcam"].shape  # this profile leaves the map at the layer's size
    names = {
        "gradient": "captum.gradient",
        "guided_backprop": "captum.guided_backprop",
        "deconvnet": "captum.deconvnet",
        "guided_gradcam": "captum.guided_gradcam_nearest",
    }
    if not isinstance(case.target[0], targets.Dense):
        assert_agree_in_a_draw(case, "captum", names)
        return
    names.pop("guided_gradcam")  # the peer has none
    # 513 x 513 pixels have flips in every draw; with the masks pinned to the peer's the maps are the same
    for model, most in ((pinned(case), 1e-5), (None, 1e-2)):
        result = next(draws(case, "captum", tuple(names), model=model))
        for method, peer in names.items():
            l2, cosine = distance(result[method][:, 0], case.peer(peer))
            assert l2 < most, (method, most)
            assert cosine > 0.9999, (method, most)


@pytest.mark.filterwarnings("ignore:no node counts as a ReLU")
def test_paper_guided_gradcam_is_captums_with_bilinear_upsampling(case: Case) -> None:
    assert_agree_in_a_draw(case, "paper", {"guided_gradcam": "captum.guided_gradcam_bilinear"})


def test_pytorch_grad_cam(case: Case) -> None:
    peers = {
        "gradcam": "GradCAM",
        "layercam": "LayerCAM",
        "hirescam": "HiResCAM",
        "elementwise_gradcam": "GradCAMElementWise",
        "gradcam_plus_plus": "GradCAMPlusPlus",
        "xgradcam": "XGradCAM",
    }
    if not case.has("pytorch_grad_cam.GradCAM"):
        pytest.skip("the peer has no maps for this case")
    peers = {method: peer for method, peer in peers.items() if case.has(f"pytorch_grad_cam.{peer}")}
    result = explained(case, "pytorch_grad_cam", tuple(peers))
    for method, peer in peers.items():
        # of a layer with negative values, XGrad-CAM divides by sums that are near zero
        most = 1e-3 if method == "xgradcam" and isinstance(case.target[0], targets.Boxes) else 1e-4
        assert np.abs(result[method][0, 0] - case.peer(f"pytorch_grad_cam.{peer}")[0]).max() < most, method


@pytest.mark.parametrize(("method", "peer"), [("eigencam", "EigenCAM"), ("eigen_gradcam", "EigenGradCAM")])
def test_principal_components(case: Case, method: str, peer: str) -> None:
    """Up to the sign, which the peer leaves to its linear algebra: its own steps behind our component."""
    if not case.has(f"pytorch_grad_cam.{peer}"):
        pytest.skip("the peer has no maps for this case")
    raw, theirs = explained(case, "captum", (method,)).raw[method][0, 0], case.peer(f"pytorch_grad_cam.{peer}")[0]

    def finished(maps: np.ndarray) -> np.ndarray:
        small = pcam.kernels.reference.pgc_scale(np.maximum(maps, 0))
        return pcam.kernels.reference.pgc_scale(pcam.kernels.reference.upsample_bilinear(small, theirs.shape))

    assert min(np.abs(finished(sign * raw) - theirs).max() for sign in (1, -1)) < 1e-3


def test_score_cam(case: Case) -> None:
    if not case.has("pytorch_grad_cam.ScoreCAM"):
        pytest.skip("the peer has no maps for this case")
    result = explained(case, "pytorch_grad_cam", ("scorecam",))
    assert np.abs(result["scorecam"][0, 0] - case.peer("pytorch_grad_cam.ScoreCAM")[0]).max() < 1e-3


@pytest.mark.filterwarnings("ignore:no node counts as a ReLU")
def test_input_attributions(case: Case) -> None:
    """Integrated Gradients pass the kinks of ReLUs at many points, so that no draw has none flipped."""
    if not case.has("captum.integrated_gradients_50"):
        pytest.skip("the peer has no maps for this case")
    assert_agree_in_a_draw(case, "captum", {"input_x_gradient": "captum.input_x_gradient"})
    l2, cosine = distance(
        explained(case, "captum", ("integrated_gradients",))["integrated_gradients"][:, 0],
        case.peer("captum.integrated_gradients_50"),
    )
    assert l2 < 1e-2
    assert cosine > 0.9999


@pytest.mark.slow
def test_class_discriminative_on_a_real_photo(zoo: Path) -> None:
    """A dog above a cat: each class's map lies on its animal (boxes from the zoo's manifest, x and y in pixels)."""
    arrays = np.load(zoo.parent / "golden" / "lite0__pgc_both__243__Clip_1.npz")
    explainer = pcam.Explainer(zoo / "models" / "cls_efficientnet_lite0_fp32.onnx", ("cam", "gradcam"))
    result = explainer(arrays["input"], targets=[[243, 281]])
    boxes = ((77, 12, 165, 148), (49, 118, 199, 224))
    for method in ("cam", "gradcam"):
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            # the share of the positive map, not of its normalisation, which would lift the background
            raw = result.raw[method][0, k]
            wide = pcam.kernels.reference.upsample_bilinear(raw, (224, 224))
            assert wide[y0:y1, x0:x1].sum() / wide.sum() >= 0.60, (method, k)


@pytest.mark.slow
def test_targets_together_are_targets_alone(zoo: Path) -> None:
    arrays = np.load(zoo.parent / "golden" / "resnet20__coral_cat__3__layer3_layer3_2_Relu_1.npz")
    methods = ("cam", "gradcam", "guided_backprop", "guided_gradcam", "gradient")
    explainer = pcam.Explainer(zoo / "models" / "cls_cifar10_resnet20_fp32.onnx", methods, details=True)
    x = np.concatenate([arrays["input"], arrays["input"][:, :, ::-1], arrays["input"][..., ::-1]])
    together = explainer(x, targets=[[3, 5, 0], [1, 3, 9], [2, 3, 4]])
    for n in range(3):
        for k in range(3):
            alone = explainer(x[n : n + 1], targets=[[together.targets[n, k]]])
            np.testing.assert_allclose(alone.scores[0, 0], together.scores[n, k], rtol=1e-5)
            for method in methods:
                np.testing.assert_allclose(alone[method][0, 0], together[method][n, k], atol=2e-4, rtol=1e-3)
            np.testing.assert_allclose(alone.gradients[0, 0], together.gradients[n, k], atol=1e-6, rtol=1e-3)
