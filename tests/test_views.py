# SPDX-License-Identifier: Apache-2.0
"""Views of an image: stacked in the batch, or cut out at places that another tensor says. Each map is put back where
its view was, then the views of an image are summed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_after
from onnx import numpy_helper
from PIL import Image
from test_alignment import SIZE, centre, spot
from test_branches import FLIP, ROLL, TURN, UPSIDE, WEIGHTS, head, network
from typer.testing import CliRunner

import portable_cam as pcam
from portable_cam.cli import app
from portable_cam.errors import LayerError, OptionError, TargetError
from portable_cam.export import list_layers

AT = (40, 20)
INTS = {"two": [2, -1, 2], "five_": [5, -1, 2], "of_five": [-1, 1, 48, 48], "ax": [2, 3], "one_": [1], "last": [2, 3]}
GIVEN = {name: np.array(value, np.int64) for name, value in INTS.items()} | WEIGHTS
NET = network("v") + head("p_v")


def model(make_model: Any, body: str, x: str = f"float[N,1,{SIZE},{SIZE}] x", **more: np.ndarray) -> onnx.ModelProto:
    return make_model(body, GIVEN | more, x, "float[M,2] y", 20)  # type: ignore[no-any-return]


def off(heat: np.ndarray, at: tuple[int, int] = AT) -> float:
    """How far from the spot the middle of a map lies."""
    found = centre(heat)
    return float(np.hypot(found[0] - at[0], found[1] - at[1]))


# -- views stacked in the batch, and rolled images -----------------------------------------------------------------

CROPS = "".join(f"c{i} = Slice(x, a{i}, b{i}, ax) u{i} = Unsqueeze(c{i}, one_) " for i in range(5))
CORNERS = {f"a{i}": np.array(at, np.int64) for i, at in enumerate([(0, 0), (0, 16), (16, 0), (16, 16), (8, 8)])}
CORNERS |= {f"b{i}": CORNERS[f"a{i}"] + 48 for i in range(5)}
MEAN = "r = Reshape(y_p_v, two) y = ReduceMean<keepdims = 0>(r, few)"
BATCHES = {
    "a flip": FLIP.replace("v =", "f =") + f"v = Concat<axis = 0>(x, f) {NET} {MEAN}",
    "turned": TURN + f"v = Concat<axis = 0>(x, t) {NET} {MEAN}",
    "turned first": TURN + f"v = Concat<axis = 0>(t, x) {NET} {MEAN}",
    "flips of flips": FLIP.replace("v =", "f =")
    + "h = Concat<axis = 0>(x, f) k = Slice(h, minus, least, rows, minus) v = Concat<axis = 0>(h, k) "
    + f"{NET} r = Reshape(y_p_v, four) y = ReduceMean<keepdims = 0>(r, few)",
    "split again": UPSIDE + f"v = Concat<axis = 0>(x, u) {NET} l, m = Split<num_outputs = 2>(y_p_v) y = Add(l, m)",
    "five crops": CROPS
    + f"s = Concat<axis = 1>(u0, u1, u2, u3, u4) v = Reshape(s, of_five) {NET} "
    + "r = Reshape(y_p_v, images) y = ReduceMean<keepdims = 0>(r, one_)",
}
MORE = CORNERS | {"four": np.array([4, -1, 2]), "images": np.array([-1, 5, 2])}


@pytest.mark.parametrize("name", slow_after(2, lambda name: "batch", BATCHES))
@pytest.mark.parametrize("batch", ["N", 1])
def test_views_stacked_in_the_batch(make_model: Any, name: str, batch: Any) -> None:
    """The spot of each image is where it was drawn, once; also in an image that is not the first."""
    made = model(make_model, BATCHES[name], f"float[{batch},1,{SIZE},{SIZE}] x", **MORE)
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == "p_v"
    places = [AT, (24, 36), (10, 50)] if batch == "N" else [AT]
    result = explainer(np.concatenate([spot(*at) for at in places]), 0)
    for heat, at in zip(result["gradcam"][:, 0], places, strict=True):
        assert off(heat, at) < 1
        assert (heat > 0.5).sum() <= 64, "one spot, not one for each view"
    count = {"flips of flips": 4, "five crops": 5}.get(name, 2)
    assert result.raw["gradcam"].shape[:3] == (len(places), 1, count)
    assert result.views["p_v"].shape == (len(places), count, 2, 3)


def test_maps_of_the_activation_alone(make_model: Any) -> None:
    """A component of each view, put back where the view was; methods of many passes say that they cannot."""
    made = model(make_model, BATCHES["a flip"])
    result = pcam.Explainer(made, ("eigencam", "fem"), threads=1)(spot(*AT), [[0, 1]])
    assert result["eigencam"].shape == (1, 2, SIZE, SIZE)
    assert off(result["eigencam"][0, 1]) < 1
    for method in ("ablationcam", "finer_cam"):
        with pytest.raises(OptionError, match="looks at views that were cut out"):
            pcam.Explainer(made, (method,), threads=1)(spot(*AT), 0)
    assert off(pcam.Explainer(made, ("occlusion",), threads=1)(spot(*AT), 0)["occlusion"][0, 0]) < 4


def test_the_peers_scale_of_all_views_of_an_image(make_model: Any) -> None:
    for profile in ("paper", "pytorch_grad_cam"):
        explainer = pcam.Explainer(model(make_model, BATCHES["turned"]), profile=profile, threads=1)  # type: ignore[arg-type]
        heat = explainer(spot(*AT), 0)["gradcam"][0, 0]
        assert off(heat) < 1
        assert heat.max() == pytest.approx(1, abs=1e-5)
    with pytest.raises(OptionError, match="'p_v' looks at several parts of the image"):
        pcam.Explainer(model(make_model, BATCHES["turned"]), profile="captum")
    with pytest.raises(TargetError, match=r"'y_p_v' .* has 2 rows of scores for each image"):
        pcam.Explainer(model(make_model, BATCHES["turned"]), ("cam",), output="y_p_v")


def test_views_that_are_declared_to_be_images(make_model: Any) -> None:
    with pytest.raises(LayerError, match="declared to have the images along axis 0, which has several views of each"):
        pcam.Explainer(model(make_model, BATCHES["turned"]), layer="p_v", axes={"p_v": "NCHW"})


def test_views_put_back_in_the_graph(make_model: Any) -> None:
    """Split, mirrored back and added: a map of the image; added as they are, the views are lost."""
    body = FLIP.replace("v =", "f =") + f"v = Concat<axis = 0>(x, f) {network('v')} l, m = Split<num_outputs = 2>(p_v) "
    back = "b = Slice(m, minus, least, columns, minus) s = Add(l, b) " + head("s") + "y = Identity(y_s)"
    explainer = pcam.Explainer(model(make_model, body + back), threads=1)
    assert explainer.layer == "s"
    result = explainer(spot(*AT), 0)
    assert off(result["gradcam"][0, 0]) < 1
    assert not result.views
    made = model(make_model, body + "s = Add(l, m) " + head("s") + "y = Identity(y_s)")
    with pytest.raises(LayerError, match="it joins two views of the image that do not lie over each other"):
        pcam.Explainer(made, layer="s")
    assert pcam.Explainer(made).layer == "p_v"


@pytest.mark.parametrize("at", [AT, (40, 62), (3, 30)])
def test_a_rolled_image(make_model: Any, at: tuple[int, int]) -> None:
    """A spot on either side of the seam, the map of the layer as it is, and the whole image seen."""
    made = model(make_model, ROLL.replace("o =", "v =") + NET + "y = Identity(y_p_v)")
    for options in ({}, {"alignment": "field"}):
        explainer = pcam.Explainer(made, threads=1, **options)  # type: ignore[arg-type]
        assert explainer.layer == "p_v"
        result = explainer(spot(at[0], min(at[1], 61)), 0)
        assert off(result["gradcam"][0, 0], (at[0], min(at[1], 61))) < 1.5
        assert not result.unseen


# -- places that another tensor says ----------------------------------------------------------------------------------


COUNTED = "n0 = Shape<start = 0, end = 1>(x) n = Squeeze(n0) count = Range(zero, n, one) "
IN_TABLE = "c = Cast<to = 1>(count) column = Unsqueeze(c, one_) rois = Concat<axis = 1>(column, boxes) "


@pytest.mark.parametrize(
    ("taken", "rows"),
    [
        ("q = Slice(rois, few, one_, one_) s = Squeeze(q, one_) which = Cast<to = 7>(s) ", True),
        ("s = Gather<axis = 1>(rois, zero) which = Cast<to = 7>(s) ", True),
        ("s = Gather<axis = 1>(rois, one) which = Cast<to = 7>(s) ", False),
        ("s = Gather<axis = 1>(rois, zero) r = Slice(s, minus, least, few, minus) which = Cast<to = 7>(r) ", False),
    ],
)
def test_an_index_before_the_boxes(make_model: Any, taken: str, rows: bool) -> None:
    """torchvision's table of regions: the first column is the image's number; another, or turned round, is no proof."""
    numbers = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    body = COUNTED + IN_TABLE + taken + ROI + NET + "y = Identity(y_p_v)"
    made = model(make_model, body, f"float[N,1,{SIZE},{SIZE}] x, float[N,4] boxes", **numbers)
    if not rows:
        with pytest.raises(
            TargetError, match="has several rows of scores for all images together: choose one with row="
        ):
            pcam.Explainer(made)
        return
    boxes = np.array([[0, 20, 40, 60], [30, 0, 62, 32]], np.float32)
    result = pcam.Explainer(made, threads=1)({"x": np.concatenate([spot(*AT), spot(10, 50)]), "boxes": boxes}, 0)
    assert off(result["gradcam"][0, 0]) < 1.5
    assert off(result["gradcam"][1, 0], (10, 50)) < 1.5


@pytest.mark.parametrize("how", ["r = Tile(x, three)", "r = Expand(x, wide)"])
def test_samples_of_an_image(make_model: Any, how: str) -> None:
    """An image several times with different noise, as for dropout at test time: one map."""
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (3, 1, SIZE, SIZE)).astype(np.float32)
    more = {"three": np.array([3, 1, 1, 1]), "wide": np.array([3, 1, 1, 1]), "noise": noise}
    made = model(make_model, f"{how} v = Mul(r, noise) {NET} y = ReduceMean(y_p_v, few)", ONE, **more)
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == "p_v"
    result = explainer(spot(*AT), 0)
    assert off(result["gradcam"][0, 0]) < 1
    assert result.views["p_v"].shape == (1, 3, 2, 3)


def rotation(angle: float, scale: float, row: float, column: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[[c, -s, column], [s, c, row]]], np.float32)


STN = "grid = AffineGrid<align_corners = {0}>(theta, size) v = GridSample<align_corners = {0}>(x, grid) "
ROI = "v = RoiAlign<output_height = 32, output_width = 32, sampling_ratio = 2>(x, boxes, which) "
ONE = f"float[1,1,{SIZE},{SIZE}] x"


def test_a_region(make_model: Any) -> None:
    """One region of the image, whose place is an input: the map lies in it, the rest is unseen."""
    made = model(make_model, ROI + NET + "y = Identity(y_p_v)", f"{ONE}, float[1,4] boxes, int64[1] which")
    explainer = pcam.Explainer(made, ("gradcam", "cam", "guided_gradcam"), threads=1)
    for box in ([4, 20, 36, 52], [10, 30, 60, 60], [0, 0, 64, 64]):
        feeds = {"x": spot(*AT), "boxes": np.array([box], np.float32), "which": np.array([0])}
        result = explainer(feeds, 0)
        for method in ("gradcam", "cam"):
            heat = result[method][0, 0]
            assert off(heat) < 2
            outside = np.ones_like(heat, bool)
            outside[box[1] : box[3], box[0] : box[2]] = False
            assert not heat[outside].any()
        share = (box[2] - box[0]) * (box[3] - box[1]) / SIZE**2
        assert float(result.unseen.get("p_v", np.zeros(1))[0]) == pytest.approx(1 - share, abs=0.03)
        step = (box[3] - box[1]) / 8
        np.testing.assert_allclose(result.views["p_v"][0, 0, 0], [step, 0, box[1] + step / 2 - 0.5], atol=1e-4)
    feeds["boxes"][:] = [[0, 0, 32, 32]]
    assert any("does not see 75% of the image" in note for note in explainer(feeds, 0).notes)


@pytest.mark.parametrize("count", ["3", "R"])
def test_several_regions_of_one_score(make_model: Any, count: str) -> None:
    """The best region's score; and with the number of regions and of images open, each region in its own image."""
    boxes = np.array([[4, 20, 36, 52], [0, 0, 32, 32], [10, 30, 40, 60]], np.float32)
    made = model(
        make_model, ROI + NET + "y = ReduceMax(y_p_v, few)", f"{ONE}, float[{count},4] boxes, int64[{count}] which"
    )
    result = pcam.Explainer(made, threads=1)({"x": spot(*AT), "boxes": boxes, "which": np.zeros(3, np.int64)}, 0)
    assert off(result["gradcam"][0, 0]) < 1.5
    assert result.views["p_v"].shape == ((1, 3, 2, 3) if count == "3" else (3, 2, 3))


def test_regions_of_a_warped_image(make_model: Any) -> None:
    """Frame within frame: a region of what a spatial transformer made; mirror images of a region."""
    body = STN.format(0).replace("v =", "s =") + ROI.replace("(x,", "(s,") + NET + "y = ReduceMax(y_p_v, few)"
    weights = {"size": np.array([1, 1, 48, 48], np.int64), "theta": rotation(0.6, 0.6, 0.2, -0.1)}
    for count in (1, 2):
        made = model(make_model, body, f"{ONE}, float[{count},4] boxes, int64[{count}] which", **weights)
        boxes = np.array([[4, 4, 44, 44], [0, 10, 30, 48]], np.float32)[:count]
        explainer = pcam.Explainer(made, threads=1)
        assert explainer.layer == "p_v"
        feeds = {"x": spot(*AT), "boxes": boxes, "which": np.zeros(count, np.int64)}
        assert off(explainer(feeds, 0)["gradcam"][0, 0]) < 1.5
    body = ROI.replace("v =", "s =") + "f = Slice(s, minus, least, columns, minus) v = Concat<axis = 0>(s, f) "
    made = model(make_model, body + NET + MEAN, f"{ONE}, float[1,4] boxes, int64[1] which")
    feeds = {"x": spot(*AT), "boxes": np.array([[4, 20, 50, 60]], np.float32), "which": np.zeros(1, np.int64)}
    assert off(pcam.Explainer(made, threads=1)(feeds, 0)["gradcam"][0, 0]) < 1.5


@pytest.mark.parametrize(
    ("body", "inputs", "why"),
    [
        (
            f"{ROLL} v = Concat<axis = 0>(o, o) {NET} {MEAN}",
            ONE,
            "it stacks views whose rows and columns are not known",
        ),
        (
            FLIP.replace("v =", "f =")
            + "s = Concat<axis = 0>(x, f) "
            + ROI.replace("(x,", "(s,")
            + NET
            + "y = ReduceMax(y_p_v, few)",
            f"{ONE}, float[2,4] boxes, int64[2] which",
            "its indices choose between images and more",
        ),
    ],
)
def test_what_is_not_combined_is_refused(make_model: Any, body: str, inputs: str, why: str) -> None:
    with pytest.raises(LayerError, match=why):
        pcam.Explainer(model(make_model, body, inputs), layer="p_v")


def test_half_precision_takes_one_map_for_each_image(make_model: Any) -> None:
    made = model(make_model, BATCHES["turned"])
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(OptionError, match="several views of an image has no gradient in float16"):
        pcam.Explainer(made)
    heat = pcam.Explainer(made, precision="float32", threads=1)(spot(*AT), 0)["gradcam"][0, 0]
    assert off(heat) < 1


@pytest.mark.parametrize("count", [1, 2])
def test_crop_and_resize(make_model: Any, count: int) -> None:
    """ONNX Runtime's own operator, as TensorFlow's detectors have it."""
    body = "v = com.microsoft.CropAndResize(x, boxes, which, crop) " + NET + "y = ReduceMax(y_p_v, few)"
    inputs = f"{ONE}, float[{count},4] boxes, int32[{count}] which"
    made = model(make_model, body, inputs, crop=np.array([32, 40], np.int32))
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    boxes = np.array([[0.3, 0.1, 0.9, 0.7], [0.5, 0, 1, 0.6]], np.float32)[:count]
    feeds = {"x": spot(*AT), "boxes": boxes, "which": np.zeros(count, np.int32)}
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == "p_v"
    assert off(explainer(feeds, 0)["gradcam"][0, 0]) < 1.5


def test_regions_of_several_images(make_model: Any) -> None:
    """A row of scores for each region is no row for each image; behind a sum of all, each region lies in its image."""
    inputs = f"float[N,1,{SIZE},{SIZE}] x, float[R,4] boxes, int64[R] which"
    with pytest.raises(TargetError, match=r"has several rows of scores for all images together: choose one with row="):
        pcam.Explainer(model(make_model, ROI + NET + "y = Identity(y_p_v)", inputs))
    made = model(make_model, ROI + NET + "y = ReduceSum(y_p_v, few)", inputs)
    images = np.concatenate([spot(*AT), spot(10, 50)])
    boxes = np.array([[30, 0, 62, 32], [0, 20, 40, 60], [40, 0, 60, 20]], np.float32)
    which = np.array([1, 0, 1])
    result = pcam.Explainer(made, threads=1)({"x": images, "boxes": boxes, "which": which}, 0)
    assert off(result["gradcam"][0, 0]) < 1.5
    assert off(result["gradcam"][1, 0], (10, 50)) < 1.5


def test_a_region_for_each_image(make_model: Any) -> None:
    """By an index that counts the images: one view each, and rows of scores that are the images'."""
    count = "n0 = Shape<start = 0, end = 1>(x) n = Squeeze(n0) which = Range(zero, n, one) "
    numbers = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    made = model(
        make_model,
        count + ROI + NET + "y = Identity(y_p_v)",
        f"float[N,1,{SIZE},{SIZE}] x, float[N,4] boxes",
        **numbers,
    )
    images = np.concatenate([spot(*AT), spot(10, 50)])
    boxes = np.array([[0, 20, 40, 60], [30, 0, 62, 32]], np.float32)
    result = pcam.Explainer(made, threads=1)({"x": images, "boxes": boxes}, 0)
    assert result.views["p_v"].shape == (2, 1, 2, 3)
    assert off(result["gradcam"][0, 0]) < 1.5
    assert off(result["gradcam"][1, 0], (10, 50)) < 1.5


BASE = np.stack([*np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48)), np.ones((48, 48))], -1)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("theta", [rotation(0, 0.5, 0.3, -0.2), rotation(0.6, 0.6, 0.2, -0.1), rotation(2, -0.7, 0, 0)])
def test_a_spatial_transformer(make_model: Any, theta: np.ndarray, corners: int) -> None:
    """Constant or computed, by AffineGrid or by a product with a table of places."""
    size = np.array([1, 1, 48, 48], np.int64)
    product = "flat = MatMul(table, turned) grid = Reshape(flat, as_grid) v = GridSample<align_corners = 1>(x, grid) "
    tables = {"table": BASE.reshape(1, -1, 3).astype(np.float32), "as_grid": np.array([1, 48, 48, 2])}
    ways = [
        (STN.format(corners), ONE, {"size": size, "theta": theta}),
        (STN.format(corners), f"{ONE}, float[1,2,3] theta", {"size": size}),
        ("turned = Transpose<perm = [0, 2, 1]>(theta) " + product, f"{ONE}, float[1,2,3] theta", tables),
    ]
    for body, inputs, weights in ways:
        explainer = pcam.Explainer(model(make_model, body + NET + "y = Identity(y_p_v)", inputs, **weights), threads=1)
        feeds = {"x": spot(*AT)} | ({"theta": theta} if "theta" in inputs else {})
        result = explainer(feeds, 0)
        assert explainer.layer == "p_v"
        assert off(result["gradcam"][0, 0]) < 1.5
        assert result.flags == [[()]]


def test_a_grid_that_is_no_affine_map(make_model: Any) -> None:
    """A constant one is refused and named; one that only the numbers of the moment show is left out, with a flag."""
    bent = np.stack(np.meshgrid(np.linspace(-1, 1, 48) ** 3, np.linspace(-1, 1, 48)), -1)[None].astype(np.float32)
    made = model(make_model, "v = GridSample(x, bent) " + NET + "y = Identity(y_p_v)", ONE, bent=bent)
    with pytest.raises(LayerError, match=r"not known behind GridSample .* its grid is no affine map"):
        pcam.Explainer(made)
    flow = "d0 = Conv(x, flow) d = Transpose<perm = [0, 2, 3, 1]>(d0) grid = Add(d, still) v = GridSample(x, grid) "
    weights = {"flow": np.ones((2, 1, 1, 1), np.float32), "still": np.zeros((1, 64, 64, 2), np.float32)}
    made = model(make_model, flow + NET + "y = Identity(y_p_v)", ONE, **weights)
    assert "p_v" not in {layer.name for layer in list_layers(made)}
    product = "flat = MatMul(table, theta) grid = Reshape(flat, as_grid) v = GridSample(x, grid) "
    table = np.sort(np.random.default_rng(0).uniform(-1, 1, (1, 48 * 48, 3)).astype(np.float32), 1)
    made = model(
        make_model,
        product + NET + "y = Identity(y_p_v)",
        f"{ONE}, float[1,3,2] theta",
        table=table,
        as_grid=np.array([1, 48, 48, 2]),
    )
    with pytest.raises(LayerError, match="its grid is no affine map"):
        pcam.Explainer(made, layer="p_v")


def test_numbers_show_that_a_grid_is_bent(make_model: Any) -> None:
    """Rows taken for columns: of a structure that affine grids have, and no affine map."""
    body = "flat = MatMul(table, theta) grid = Reshape(flat, as_grid) v = GridSample(x, grid) "
    table = BASE[:, :40].reshape(1, -1, 3).astype(np.float32)
    made = model(
        make_model,
        body + NET + "y = Identity(y_p_v)",
        f"{ONE}, float[1,3,2] theta",
        table=table,
        as_grid=np.array([1, 40, 48, 2]),
    )
    theta = rotation(0, 0.5, 0, 0).transpose(0, 2, 1)
    result = pcam.Explainer(made, threads=1)({"x": spot(*AT), "theta": theta}, 0)
    assert "unplaced" in result.flags[0][0]
    assert not result["gradcam"].any()
    assert np.isnan(result.views["p_v"]).any()


@pytest.mark.parametrize(
    ("body", "more", "starts"),
    [
        ("end = Add(start, size) v = Slice(x, start, end, ax) ", {"size": np.array([32, 32])}, [[20, 4], [30, 10]]),
        (
            "end = Sub(start, size) v = Slice(x, start, end, ax, back) ",
            {"size": np.array([32, 32]), "back": np.array([-1, -1])},
            [[55, 40], [50, 33]],
        ),
        ("pads = Concat<axis = 0>(none, start, none, start) v = Pad(x, pads) ", {"none": np.array([0, 0])}, [[8, 16]]),
    ],
)
def test_cuts_and_pads_at_run_time(make_model: Any, body: str, more: dict[str, Any], starts: list[list[int]]) -> None:
    made = model(make_model, body + NET + "y = Identity(y_p_v)", f"{ONE}, int64[2] start", **more)
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == "p_v"
    for start in starts:
        assert off(explainer({"x": spot(*AT), "start": np.array(start)}, 0)["gradcam"][0, 0]) < 1.5


@pytest.mark.parametrize("kind", ['mode = "linear"', 'mode = "nearest"'])
def test_an_image_of_any_size_resized_in_the_graph(make_model: Any, kind: str) -> None:
    """As networks that bring their own preprocessing do: the map lies on the image as it came."""
    sizes = {"sizes": np.array([1, 1, 48, 48])}
    body = f"u = Resize<{kind}>(x, , , sizes) v = Slice(u, a4, b4, ax) "
    more = sizes | {"a4": np.array([4, 4]), "b4": np.array([44, 44])}
    made = model(make_model, body + NET + "y = Identity(y_p_v)", "float[1,1,H,W] x", **more)
    explainer = pcam.Explainer(made, threads=1)
    for height, width in ((64, 64), (96, 80)):  # a cell is up to 8 pixels
        image = np.zeros((1, 1, height, width), np.float32)
        image[0, 0, 37:43, 27:33] = 1
        assert off(explainer(image, 0)["gradcam"][0, 0], (40, 30)) < height / 32


def test_what_is_unseen_is_said_on_the_command_line(make_model: Any, tmp_path: Path) -> None:
    body = "v = Slice(x, a4, b4, ax) " + NET + "y = Identity(y_p_v)"
    onnx.save(model(make_model, body, ONE, a4=np.array([4, 4]), b4=np.array([36, 36])), tmp_path / "m.onnx")
    Image.fromarray((spot(*AT)[0, 0] * 255).astype(np.uint8)).save(tmp_path / "spot.png")
    given = ["explain", tmp_path / "m.onnx", tmp_path / "spot.png", "--task", "classify", "-o", tmp_path / "out"]
    found = CliRunner().invoke(app, [*map(str, given), "--no-check"])
    assert "spot.png: layer 'p_v' does not see 75% of the image" in found.stderr


def test_checks_of_views(make_model: Any) -> None:
    """The derivative at a layer of views is compared over all of them."""
    made = model(make_model, BATCHES["turned"])
    checks = {check.name: check for check in pcam.Explainer(made, threads=1).check(spot(*AT) + 0.1, 0)}
    assert checks["layer"].passed
    assert checks["images"].passed
    assert checks["occlusion"].passed
