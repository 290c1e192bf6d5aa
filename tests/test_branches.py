# SPDX-License-Identifier: Apache-2.0
"""Networks that look at the image several times, turned or moved: each branch is put back, then all are combined."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from test_alignment import INTS, SIZE, centre, spot

import portable_cam as pcam
from portable_cam.errors import LayerError, OptionError
from portable_cam.export import doctor, list_layers

AT = (40, 10)  # where the drawn spot is: its mirror images and rotations are far away
WEIGHTS = {name: np.array(value, np.int64) for name, value in INTS.items()} | {
    "mean": np.full((4, 1, 3, 3), 1 / 9, np.float32),
    "half": np.full((4, 2), 0.5, np.float32),
    "few": np.array([0], np.int64),
    "five": np.array([5], np.int64),
    "all": np.array([1000], np.int64),
}
FLIP = "v = Slice(x, minus, least, columns, minus) "
UPSIDE = "u = Slice(x, minus, least, rows, minus) "
TURN = "t0 = Transpose<perm = [0, 1, 3, 2]>(x) t = Slice(t0, minus, least, rows, minus) "
ROLL = "ra = Slice(x, five, all, columns) rb = Slice(x, few, five, columns) o = Concat<axis = 3>(ra, rb) "


def network(value: str) -> str:
    """The same network for each view, up to its last map."""
    return (
        f"c_{value} = Conv<pads = [1, 1, 1, 1]>({value}, mean) r_{value} = Relu(c_{value}) "
        f"p_{value} = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(r_{value}) "
    )


def head(value: str) -> str:
    return f"g_{value} = GlobalAveragePool({value}) f_{value} = Flatten(g_{value}) y_{value} = MatMul(f_{value}, half) "


def model(make_model: Any, body: str) -> onnx.ModelProto:
    return make_model(body, WEIGHTS, f"float[1,1,{SIZE},{SIZE}] x", "float[N,2] y", 18)  # type: ignore[no-any-return]


def of_views(*views: str, before: str) -> str:
    parts = "".join(network(view) + head(f"p_{view}") for view in views)
    return f"{before} {parts} y = Sum({', '.join(f'y_p_{view}' for view in views)})"


def distance(heat: np.ndarray) -> float:
    found = centre(heat)
    return float(np.hypot(found[0] - AT[0], found[1] - AT[1]))


VIEWS = {
    "mirrored": (("x", "v"), FLIP),
    "mirrored twice": (("x", "v", "u"), FLIP + UPSIDE),
    "turned by 90 degrees": (("x", "t"), TURN),
    "mirrored and turned": (("x", "v", "u", "t"), FLIP + UPSIDE + TURN),
}


@pytest.mark.parametrize("name", slow_but(["mirrored", "turned by 90 degrees"], VIEWS))
def test_scores_of_all_views_are_summed(make_model: Any, name: str) -> None:
    """No layer named: that of each view, each map where its view looks at; alone, each lies there too."""
    views, before = VIEWS[name]
    made = model(make_model, of_views(*views, before=before))
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == [f"p_{view}" for view in views]
    assert doctor(made).layers[: len(views)] == explainer.layer
    heat = explainer(spot(*AT), 0)["gradcam"][0, 0]
    assert distance(heat) < 1
    assert (heat > 0.5).sum() <= 64, "one spot, not one for each view"
    for layer in explainer.layer:
        assert distance(pcam.Explainer(made, layer=layer, threads=1)(spot(*AT), 0)["gradcam"][0, 0]) < 1


def test_a_view_that_is_seen_by_one_branch_alone(make_model: Any) -> None:
    """A crop beside the whole image: the spot lies outside the crop, or in both."""
    made = model(make_model, of_views("x", "k", before="k = Slice(x, n16, n48, axes) "))
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == ["p_x", "p_k"]
    for at in (AT, (36, 28)):
        found = centre(explainer(spot(*at), 0)["gradcam"][0, 0])
        assert np.hypot(found[0] - at[0], found[1] - at[1]) < 1
    made = model(make_model, of_views("v", "u", before=FLIP + UPSIDE))
    assert distance(pcam.Explainer(made, threads=1)(spot(*AT), 0)["gradcam"][0, 0]) < 1


def test_maps_put_back_in_the_graph(make_model: Any) -> None:
    """Mirrored back before the sum: one layer that all views pass; not mirrored back, the sum is none."""
    back = "b = Slice(p_v, minus, least, columns, minus) s = Add(p_x, b) "
    tail = head("s") + "y = Identity(y_s)"
    explainer = pcam.Explainer(model(make_model, FLIP + network("x") + network("v") + back + tail), threads=1)
    assert explainer.layer == "s"
    assert distance(explainer(spot(*AT), 0)["gradcam"][0, 0]) < 1
    made = model(make_model, FLIP + network("x") + network("v") + "s = Add(p_x, p_v) " + tail)
    explainer = pcam.Explainer(made, threads=1)
    assert explainer.layer == ["p_x", "p_v"]
    assert distance(explainer(spot(*AT), 0)["gradcam"][0, 0]) < 1
    with pytest.raises(LayerError, match="it joins two views of the image that do not lie over each other"):
        pcam.Explainer(made, layer="s")


def test_the_profile_of_one_layer(make_model: Any) -> None:
    with pytest.raises(OptionError, match="a map per layer, not one of p_x, p_v: explain one layer at a time"):
        pcam.Explainer(model(make_model, of_views("x", "v", before=FLIP)), profile="captum")


def test_branches_of_one_view_have_the_layer_before_them(make_model: Any) -> None:
    """Two heads on one map are no views of their own."""
    body = network("x") + "a = Relu(p_x) b = Tanh(p_x) " + head("a") + head("b") + "y = Add(y_a, y_b)"
    assert pcam.Explainer(model(make_model, body), threads=1).layer == "p_x"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            FLIP + "w = Concat<axis = 0>(x, v) " + network("w") + head("p_w") + "y = ReduceMean(y_p_w, few)",
            "it stacks images",
        ),
        (ROLL + network("o") + head("p_o") + "y = Identity(y_p_o)", "a window over more than one axis of the image"),
    ],
)
def test_what_is_not_put_back_is_refused(make_model: Any, body: str, why: str) -> None:
    """Views stacked in the batch, a rolled image under a convolution: the error names the operator."""
    made = model(make_model, body)
    assert list_layers(made) == []
    with pytest.raises(LayerError, match=f"its rows and columns are not known behind .*{why}"):
        pcam.Explainer(made)
