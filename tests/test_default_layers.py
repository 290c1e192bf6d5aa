# SPDX-License-Identifier: Apache-2.0
"""The layer that is explained where none is named: what ``docs/methods.md`` promises, family by family.

``benchmarks/results/layers.csv`` records timm's and torchvision's networks, which the tests do not install
(``python -m benchmarks.layers``); the patterns that were hard are here as small graphs.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_cam.errors import LayerError
from portable_cam.export.layers.branches import default_layers
from portable_cam.export.layers.candidates import candidates, find_axes, layer_axes
from portable_cam.export.layers.pyramid import pyramid
from portable_cam.export.layers.spatial import is_feature_map
from portable_cam.export.passes.normalized import normalized

with (Path(__file__).parents[1] / "benchmarks" / "results" / "layers.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))

#: Network: rows and columns of the last stage, and which of torch's modules gives the layer. Where the class token
#: alone goes on, that is the normalisation before the last attention; where the tokens are averaged, the last
#: normalisation, or the last block where the normalisation follows the mean. Of CrossViT the row has the best
#: candidate, of one of its two branches; explained are both.
PROMISED = {
    "timm/swin_tiny_patch4_window7_224": (7, "norm"),
    "timm/swinv2_tiny_window8_256": (8, "norm"),
    "timm/swinv2_cr_tiny_ns_224": (7, "stages"),
    "timm/swin_s3_tiny_224": (7, "norm"),
    "timm/levit_128s": (4, "stages"),
    "timm/hiera_tiny_224": (7, "blocks.11"),
    "timm/vit_tiny_patch16_224": (14, "blocks.11.norm1"),
    "timm/vit_small_patch32_224": (7, "blocks.2.norm1"),
    "timm/vit_base_patch16_gap_224": (14, "norm"),
    "timm/vit_tiny_r_s16_p8_224": (7, "blocks.2.norm1"),
    "timm/vit_small_patch14_reg4_dinov2": (16, "blocks.2.norm1"),
    "timm/vit_relpos_small_patch16_224": (14, "norm"),
    "timm/vit_base_patch16_siglip_224": (14, "norm"),
    "timm/naflexvit_base_patch16_gap": (24, "norm"),
    "timm/deit_tiny_distilled_patch16_224": (14, "blocks.2.norm1"),
    "timm/deit3_small_patch16_224": (14, "blocks.2.norm1"),
    "timm/beit_base_patch16_224": (14, "norm"),
    "timm/cait_xxs24_224": (14, "blocks"),
    "timm/xcit_nano_12_p16_224": (14, "cls_attn_blocks.1.norm1"),
    "timm/crossvit_tiny_240": (20, "blocks.2.blocks.0"),
    "timm/twins_pcpvt_small": (7, "norm"),
    "timm/twins_svt_small": (7, "norm"),
    "timm/pvt_v2_b0": (7, "stages"),
    "timm/coat_lite_tiny": (7, "serial_blocks4.1.norm1"),
    "timm/convit_tiny": (14, "blocks.2.norm1"),
    "timm/tnt_s_legacy_patch16_224": (14, "blocks.2.norm_out"),
    "timm/nest_tiny": (14, "norm"),
    "timm/pit_ti_224": (7, "transformers.2.blocks.3.norm1"),
    "timm/visformer_tiny": (7, "norm"),
    "timm/mvitv2_tiny": (7, "norm"),
    "timm/davit_tiny": (7, "norm_pre"),
    "timm/focalnet_tiny_srf": (7, "norm"),
    "timm/gcvit_xxtiny": (7, "stages"),
    "timm/maxvit_tiny_rw_224": (7, "norm"),
    "timm/coatnet_nano_rw_224": (7, "norm"),
    "timm/mobilevit_xxs": (8, "final_conv"),
    "timm/mobilevitv2_050": (8, "final_conv"),
    "timm/edgenext_xx_small": (8, "norm_pre"),
    "timm/efficientformer_l1": (7, "norm"),
    "timm/efficientformerv2_s0": (7, "norm"),
    "timm/efficientvit_b0": (7, "head.in_conv"),
    "timm/efficientvit_m0": (4, "stages"),
    "timm/fastvit_t8": (8, "final_conv"),
    "timm/tiny_vit_5m_224": (7, "stages"),
    "timm/poolformer_s12": (7, "stages"),
    "timm/mixer_s32_224": (7, "norm"),
    "timm/gmlp_ti16_224": (14, "norm"),
    "timm/resmlp_12_224": (14, "norm"),
    "timm/sequencer2d_s": (16, "norm"),
    "timm/botnet26t_256": (8, "final_conv"),
    "timm/lambda_resnet26t": (8, "final_conv"),
    "timm/samvit_base_patch16_224": (14, "neck"),
}


def known(row: dict[str, str]) -> bool:
    """torch's exporter wrote the network."""
    return not row["error"].startswith("not exported")


def test_the_table_is_complete() -> None:
    exported = Counter(row["network"] for row in ROWS if known(row))
    assert len(exported) >= 45
    assert exported.keys() == PROMISED.keys()
    assert all(exported[name] == 2 for name in PROMISED if "swin" in name)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if known(row)], ids=lambda row: f"{row['network']}-{row['exporter']}"
)
def test_the_layer_is_the_promised_one(row: dict[str, str]) -> None:
    side, module = PROMISED[row["network"]]
    assert row["error"] == ""
    assert row["grid"] == f"{side} x {side}"
    assert row["module"] == module
    assert sorted(row["layout"]) in (sorted("NCHW"), sorted("NTC"))


# -- small graphs ------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(11)


def weight(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "patch": weight(6, 3, 4, 4), "wider": weight(6, 6, 2, 2), "w": weight(6, 5), "q": weight(6, 6), "k": weight(6, 6),
    "v": weight(6, 6), "query": weight(1, 3, 6), "scale": np.ones(6, np.float32), "boxes": weight(6, 4),
    "to_tokens": np.array([0, 6, 24]), "heads": np.array([0, 24, 2, 3]), "whole": np.array([0, 24, 6]),
    "few": np.array([0, 3, 6]), "column": weight(6, 6, 1, 1), "twice": np.array([1, 1, 2, 2], np.float32),
    "rows": np.array([0, 6, -1]),
}  # fmt: skip
TOKENS = "p = Conv<strides = [4, 4]>(x, patch) f = Reshape(p, to_tokens) t = Transpose<perm = [0, 2, 1]>(f) "
ENCODER = """
    q1 = MatMul(t, q) q2 = Reshape(q1, heads) q3 = Transpose<perm = [0, 2, 1, 3]>(q2)
    k1 = MatMul(t, k) k2 = Reshape(k1, heads) k3 = Transpose<perm = [0, 2, 3, 1]>(k2)
    v1 = MatMul(t, v) v2 = Reshape(v1, heads) v3 = Transpose<perm = [0, 2, 1, 3]>(v2)
    logits = MatMul(q3, k3) shares = Softmax(logits) m1 = MatMul(shares, v3)
    m2 = Transpose<perm = [0, 2, 1, 3]>(m1) m3 = Reshape(m2, whole) s = Add(t, m3) memory = LayerNormalization(s, scale)
"""
DECODER = """
    dk = MatMul(memory, k) dkt = Transpose<perm = [0, 2, 1]>(dk) dl = MatMul(query, dkt) cross = Softmax(dl)
    dv = MatMul(memory, v) d = MatMul(cross, dv)
"""


def chosen(make_model: Any, body: str, *scores: str, y: str) -> tuple[list[str], set[str]]:
    """The candidates, and all tensors of four axes that are offered."""
    graph = normalized(make_model(body, WEIGHTS, "float[N,3,16,24] x", y, 17)).graph
    values = {str(v.name): v for node in graph for v in node.outputs}
    found = candidates(graph, *(values[name] for name in scores))
    axes = find_axes(graph)
    return [layer.name for _, layer in found], {n for n, v in values.items() if is_feature_map(v, axes.get(v))}


def test_queries_that_read_an_encoder(make_model: Any) -> None:
    """DETR: the last tokens of the encoder, which all queries read; no attention between them, and no queries."""
    body = TOKENS + ENCODER + DECODER + "y = MatMul(d, w) b = MatMul(d, boxes)"
    found, maps = chosen(make_model, body, "y", "b", y="float[N,3,5] y, float[N,3,4] b")
    assert found[0] == "memory"
    assert not {"logits", "shares", "d", "q3", "k3", "v3", "m1"} & {*found, *maps}
    assert not {"dl", "cross"} & {*found, *maps}, "what constant queries read of each place is no map of features"
    made = make_model(body, WEIGHTS, "float[N,3,16,24] x", "float[N,3,5] y, float[N,3,4] b", 17)
    with pytest.raises(LayerError, match=r"'cross' .* it holds how much each query reads of each place, no features"):
        layer_axes(graph := normalized(made).graph, [v for node in graph for v in node.outputs if v.name == "cross"])


@pytest.mark.parametrize("bias", ["kv0", "kv1 = Add(kv0, both)"])
def test_a_pooling_by_attention(make_model: Any, bias: str) -> None:
    """SigLIP: a query reads keys and values that one linear layer makes; the layer is what that reads."""
    side = bias.split(" ")[0]
    body = TOKENS + ENCODER + f"kv0 = MatMul(memory, pair) {bias if '=' in bias else ''} "
    body += f"kv = Reshape({side}, pairs) dk, dv = Split<axis = 2, num_outputs = 2>(kv) "
    body += "k4 = Squeeze(dk, second) v4 = Squeeze(dv, second) dkt = Transpose<perm = [0, 2, 1]>(k4) "
    body += "dl = MatMul(one_query, dkt) cross = Softmax(dl) d = MatMul(cross, v4) "
    body += "h = Squeeze(d, first_) y = MatMul(h, w)"
    more = {"pair": weight(6, 12), "both": weight(12), "pairs": np.array([0, 24, 2, 6]), "one_query": weight(1, 1, 6)}
    more |= {"second": np.array([2]), "first_": np.array([1])}
    graph = normalized(make_model(body, WEIGHTS | more, "float[N,3,16,24] x", "float[N,5] y", 18)).graph
    found = [layer.name for _, layer in candidates(graph, graph.outputs[0])]
    assert found[0] == "memory"
    assert not {"kv0", "kv1", "kv", "dl", "cross"} & {*found}


def branch(i: int) -> str:
    """The class token of the other branch reads the tokens of this one, and goes back before its own."""
    return f"""
        s{i} = Concat<axis = 1>(c{1 - i}, o{i}) n{i} = LayerNormalization(s{i}, scale)
        h{i} = Gather<axis = 1>(n{i}, none) q{i} = MatMul(h{i}, q)
        a{i} = MatMul(n{i}, k) b{i} = Transpose<perm = [0, 2, 1]>(a{i})
        d{i} = MatMul(q{i}, b{i}) e{i} = Softmax(d{i}) v{i} = MatMul(n{i}, v) r{i} = MatMul(e{i}, v{i})
        m{i} = Concat<axis = 1>(r{i}, o{1 - i}) w{i} = LayerNormalization(m{i}, scale)
    """


def test_two_branches_with_class_tokens(make_model: Any) -> None:
    """CrossViT: the class token of each of two branches reads the tokens of the other; the layers are those of both."""
    more = {
        "coarse": weight(6, 3, 8, 8),
        "to_few": np.array([0, 6, 6]),
        "class": weight(1, 1, 6),
        "one": np.array([1]),
        "many": np.array([1000]),
        "none": np.array([0]),
    }
    body = TOKENS + "p1 = Conv<strides = [8, 8]>(x, coarse) f1 = Reshape(p1, to_few) "
    body += "t1 = Transpose<perm = [0, 2, 1]>(f1) "
    body += "k0 = Concat<axis = 1>(class, t) k1 = Concat<axis = 1>(class, t1) l0 = Tanh(k0) l1 = Tanh(k1) "
    body += "c0 = Gather<axis = 1>(l0, none) c1 = Gather<axis = 1>(l1, none) "
    body += "o0 = Slice(l0, one, many, one) o1 = Slice(l1, one, many, one) "
    heads = [f"g{i} = Gather<axis = 1>(w{i}, none) z{i} = Squeeze(g{i}, one) y{i} = Gemm(z{i}, w) " for i in (0, 1)]
    body += branch(0) + branch(1) + "".join(heads) + "y = Add(y0, y1)"
    graph = normalized(make_model(body, WEIGHTS | more, "float[1,3,16,24] x", "float[1,5] y", 17)).graph
    found = candidates(graph, graph.outputs[0])
    assert not found[0][1].why.startswith("every"), "the class token of the other branch goes past it"
    layers = default_layers(graph, graph.outputs[0])
    assert {str(layer.name) for layer in layers} == {"n0", "n1"}


def test_a_mean_of_tokens(make_model: Any) -> None:
    body = TOKENS + ENCODER + "m = ReduceMean<axes = [1], keepdims = 0>(memory) y = Gemm(m, w)"
    assert chosen(make_model, body, "y", y="float[N,5] y")[0][0] == "memory"


LAST_OF_MAPS = "g = GlobalAveragePool(r) h = Flatten(g) "
LAST_OF_CELLS = """
    c = Transpose<perm = [0, 2, 3, 1]>(r) n = LayerNormalization(c, scale)
    h = ReduceMean<axes = [1, 2], keepdims = 0>(n)
"""
STAGES = "p = Conv<strides = [4, 4]>(x, patch) a = Relu(p) b = Conv<strides = [2, 2]>(a, wider) r = Relu(b) "


@pytest.mark.parametrize(("head", "layer"), [(LAST_OF_MAPS, "r"), (LAST_OF_CELLS, "n")])
def test_stages(make_model: Any, head: str, layer: str) -> None:
    """The last one, whether the maps stay channels first or not."""
    assert chosen(make_model, STAGES + head + "y = Gemm(h, w)", "y", y="float[N,5] y")[0][0] == layer


@pytest.mark.parametrize("neck", ["", "u = Resize(r, , twice) j = Conv(a, column) fine = Add(u, j) "])
def test_detectors_with_and_without_a_neck(make_model: Any, neck: str) -> None:
    """One layer for each scale that the neck or the heads read."""
    heads = "".join(
        f"c{i} = Conv({scale}, column) y{i} = Reshape(c{i}, rows) "
        f"b{i} = Conv({scale}, column) z{i} = Reshape(b{i}, rows) "
        for i, scale in enumerate(("fine" if neck else "a", "r"))
    )
    ends = ", ".join(f"float[N,A,B] {name}{i}" for i in (0, 1) for name in "yz")
    graph = normalized(make_model(STAGES + neck + heads, WEIGHTS, "float[N,3,16,24] x", ends, 17)).graph
    assert [str(v.name) for v in pyramid(graph, list(graph.outputs))] == ["a", "r"]
