"""Files for runtimes: the same values, in operators, attributes and an opset that each reads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from portable_cam.errors import ModelError, OptionError
from portable_cam.export import METHODS, build_explanation, differentiate
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.autodiff.rules import relu
from portable_cam.export.deploy.deployment import Deployment
from portable_cam.export.deploy.idle_attributes import drop_idle_attributes
from portable_cam.export.deploy.lowest_opset import needed_opset, to_lowest_opset
from portable_cam.export.deploy.masks import compare_for_masks
from portable_cam.export.deploy.pools import without_pool_indices
from portable_cam.export.deploy.runtimes import RUNTIMES
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.operators import OPSET
from portable_cam.export.options import Options
from portable_cam.export.passes.fold import infer_model_shapes

MakeModel = Callable[..., onnx.ModelProto]
GROUP = ("cam", "gradcam", "layercam", "guided_gradcam")


def run(model: onnx.ModelProto | ir.Model, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def pooling_cnn(make_model: MakeModel) -> onnx.ModelProto:
    """As ``small_cnn``, with a pool, a clip and a class per channel."""
    random = np.random.default_rng(3)
    w1, w2 = (random.standard_normal(s).astype(np.float32) for s in ((4, 3, 3, 3), (5, 4, 3, 3)))
    body = """
        c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
        r1 = Clip(c1, zero, six)
        p1 = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r1)
        c2 = Conv<pads = [1, 1, 1, 1]>(p1, w2)
        r2 = Relu(c2)
        p = GlobalAveragePool(r2)
        y = Flatten(p)
    """
    bounds = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    return make_model(body, {"w1": w1, "w2": w2, **bounds})


# -- every runtime ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_gives_what_the_explainer_gives(
    pooling_cnn: onnx.ModelProto, images: NDArray[np.float32], runtime: str
) -> None:
    options = Options(GROUP, relu_policy="relu+clip")
    feeds = {"x": images[:1], "targets": np.array([[2]])}
    expected = run(explanation_model(pooling_cnn, options, targets_per_image=1), feeds)
    file = build_explanation(pooling_cnn, GROUP, relu_policy="relu+clip", runtime=runtime)
    onnx.checker.check_model(file, full_check=True)
    found = run(file, feeds)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("runtime", [name for name, record in RUNTIMES.items() if record.batch == 1])
def test_a_file_for_one_image_states_no_open_size(pooling_cnn: onnx.ModelProto, runtime: str) -> None:
    file = build_explanation(pooling_cnn, GROUP, runtime=runtime)
    assert not file.graph.value_info
    values = [*file.graph.input, *file.graph.output]
    assert all(dim.HasField("dim_value") for v in values for dim in v.type.tensor_type.shape.dim)
    assert not {node.op_type for node in file.graph.node} & {"Shape", "Size", "NonZero", "Scan", "If", "Loop"}


@pytest.mark.parametrize("runtime", [name for name, record in RUNTIMES.items() if not record.pool_indices])
def test_a_file_without_pool_indices_scatters_nothing(pooling_cnn: onnx.ModelProto, runtime: str) -> None:
    file = build_explanation(pooling_cnn, GROUP, runtime=runtime)
    assert not any(node.op_type.startswith("Scatter") for node in file.graph.node)
    assert all(len(node.output) == 1 for node in file.graph.node if node.op_type == "MaxPool")


def test_no_method_leaves_an_attribute_of_zero(pooling_cnn: onnx.ModelProto) -> None:
    """OpenVINO reads a float attribute of 0 as one that is absent."""
    for model in (
        explanation_model(pooling_cnn, Options(tuple(METHODS), relu_policy="relu+clip")),
        ir.from_proto(build_explanation(pooling_cnn, tuple(METHODS), relu_policy="relu+clip")),
    ):
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        floats = [(n, a) for n in nodes for a in n.attributes.values() if a.type == ir.AttributeType.FLOAT]
        assert floats
        assert [(node.op_type, a.name) for node, a in floats if a.value == 0] == []


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, None])
def test_targets_of_a_fixed_number_are_targets_alone(
    pooling_cnn: onnx.ModelProto, images: NDArray[np.float32], count: int | None
) -> None:
    alone = build_explanation(pooling_cnn, GROUP)
    file = build_explanation(pooling_cnn, GROUP, targets_per_image=count)
    targets = np.array([[0, 3, -2], [4, 1, -1], [-5, 2, 0]])[:, : count or 3]
    together = run(file, {"x": images, "targets": targets})
    for k in range(targets.shape[1]):
        for name, value in run(alone, {"x": images, "targets": targets[:, k : k + 1]}).items():
            if name != "y":
                np.testing.assert_allclose(together[name][:, k : k + 1], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert any(node.op_type == "Scan" for node in file.graph.node) == (count is None)


def test_targets_out_of_range_are_clamped_and_flagged(
    pooling_cnn: onnx.ModelProto, images: NDArray[np.float32]
) -> None:
    file = build_explanation(pooling_cnn, targets_per_image=None)
    asked = np.array([[4, 5, 99, -1, -5, -6, -99]] * 3)
    found = run(file, {"x": images, "targets": asked})
    order = np.argsort(-found["y"], axis=1, kind="stable")
    wanted = np.stack([*[np.full(3, 4)] * 3, order[:, 0], order[:, 4], order[:, 4], order[:, 4]], axis=1)
    np.testing.assert_array_equal(found["explained"], wanted)
    np.testing.assert_array_equal(found["clamped"], [[False, True, True, False, False, True, True]] * 3)
    np.testing.assert_allclose(found["scores"], np.take_along_axis(found["y"], wanted, axis=1), rtol=1e-6)


@pytest.mark.parametrize("batch", ["any", 3])
def test_targets_left_out_are_the_top_classes(
    pooling_cnn: onnx.ModelProto, images: NDArray[np.float32], batch: Any
) -> None:
    file = build_explanation(pooling_cnn, targets_per_image=2, batch=batch)
    default = run(file, {"x": images})
    named = run(file, {"x": images, "targets": np.array([[-1, -2]] * 3)})
    np.testing.assert_array_equal(default["explained"], np.argsort(-default["y"], axis=1, kind="stable")[:, :2])
    for name, value in named.items():
        np.testing.assert_array_equal(default[name], value)
    if batch == "any":  # one row holds for all images
        np.testing.assert_array_equal(
            run(file, {"x": images, "targets": np.array([[1, 0]])})["explained"], [[1, 0]] * 3
        )


def test_a_score_of_nan_elsewhere_is_not_seen(make_model: MakeModel) -> None:
    """A class is picked by comparison, and not by a product with zero."""
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "b": np.array([[0, np.nan]], np.float32)}
    model = make_model(
        "c = Conv(x, w)\nr = Relu(c)\np = GlobalAveragePool(r)\nf = Flatten(p)\ny = Add(f, b)",
        weights,
        y="float[N,2] y",
    )
    found = run(build_explanation(model), {"x": np.ones((1, 3, 8, 8), np.float32), "targets": np.array([[0]])})
    assert found["scores"] == 3
    assert np.isfinite(found["raw.gradcam"]).all()


# -- the opset -------------------------------------------------------------------------------------------------------

#: Operators that changed between the lowest opset written and the one written for, each read in the standard: whether
#: what was valid before means the same.
SAME = {
    "AveragePool": {19}, "Cast": {19, 21}, "CastLike": {19, 21}, "Constant": {19, 21}, "ConstantOfShape": {20, 21},
    "DequantizeLinear": {19, 21}, "Equal": {19}, "Flatten": {21}, "Identity": {19, 21}, "If": {19, 21},
    "IsInf": {20}, "IsNaN": {20}, "Loop": {19, 21}, "Pad": {19, 21}, "QLinearMatMul": {21},
    "QuantizeLinear": {19, 21}, "ReduceMax": {20}, "ReduceMin": {20}, "Reshape": {19, 21}, "Resize": {19},
    "Scan": {19, 21}, "Shape": {19, 21}, "Size": {19, 21}, "Squeeze": {21}, "Transpose": {21}, "Unsqueeze": {21},
}  # fmt: skip
OTHER = {"DFT": {20}, "GridSample": {20}, "GroupNormalization": {21}}
NEW = {"AffineGrid", "DeformConv", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"}


def test_every_change_of_an_operator_was_read() -> None:
    changed: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and 18 < schema.since_version <= OPSET:
            changed.setdefault(schema.name, set()).add(schema.since_version)
    assert {name: versions for name, versions in changed.items() if name not in NEW} == SAME | OTHER
    assert all(not onnx.defs.has(name, 18) for name in NEW)


def _node(text: str, **types: ir.DataType) -> ir.Node:
    """A node as a file states it, with the types of its values."""
    graph = ir.from_proto(onnx.parser.parse_graph(f"g () => () {{ {text} }}"))
    (node,) = graph
    for value in (*node.inputs, *node.outputs):
        if value is not None:
            value.type = ir.TensorType(types.get(str(value.name), ir.DataType.FLOAT))
    return node


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        ("y = Relu (x)", 18),
        ("y = Reshape (x, s)", 18),
        ("y = AveragePool <kernel_shape = [2, 2]> (x)", 18),
        ("y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", 19),
        ("y = AveragePool <kernel_shape = [2, 2], ceil_mode = 1> (x)", 19),
        ('y = Pad <mode = "wrap"> (x, s)', 19),
        ('y = Pad <mode = "edge"> (x, s)', 18),
        ('y = Resize <coordinate_transformation_mode = "half_pixel_symmetric"> (x, , , s)', 19),
        ("y = Gelu (x)", 20),
        ("y = GridSample (x, s)", 20),
        ("y = GroupNormalization <num_groups = 2> (x, s, t)", 21),
        ("y = QuantizeLinear <block_size = 2> (x, s, t)", 21),
        ("y = Unsqueeze (x, s)", 18),
    ],
)
def test_the_opset_that_a_node_needs(text: str, opset: int) -> None:
    assert needed_opset(_node(text, s=ir.DataType.INT64, t=ir.DataType.INT8)) == opset


def test_element_types_count() -> None:
    assert needed_opset(_node("y = Transpose (x)", x=ir.DataType.UINT4, y=ir.DataType.UINT4)) == 21
    assert needed_opset(_node("y = Identity (x)", x=ir.DataType.FLOAT8E4M3FN, y=ir.DataType.FLOAT8E4M3FN)) == 19
    unknown = _node("y = Identity (x)")
    unknown.inputs[0].type = None  # type: ignore[union-attr]
    assert needed_opset(unknown) == 21


def test_attributes_of_a_newer_opset_at_their_default_do_not_count(make_model: MakeModel) -> None:
    pool = "p = AveragePool<kernel_shape = [2, 2], dilations = [1, 1], strides = [2, 2]>(r)"
    body = f"c = Conv(x, w)\nr = Relu(c)\n{pool}\ng = GlobalAveragePool(p)\ny = Flatten(g)"
    model = make_model(body, {"w": np.ones((4, 3, 1, 1), np.float32)}, y="float[N,4] y", opset=19)
    file = build_explanation(model)
    assert (file.opset_import[0].version, file.ir_version) == (18, 8)


def test_a_function_of_a_newer_opset_is_written_out(make_model: MakeModel, images: NDArray[np.float32]) -> None:
    body = "c = Conv(x, w)\nr = Gelu(c)\ng = GlobalAveragePool(r)\ny = Flatten(g)"
    weights = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)}
    model = make_model(body, weights, y="float[N,4] y", opset=20)
    as_is, older = build_explanation(model), build_explanation(model, opset=18)
    assert as_is.opset_import[0].version == 20
    assert older.opset_import[0].version == 18
    assert not any(node.op_type == "Gelu" for node in older.graph.node)
    for name, value in run(as_is, {"x": images}).items():
        np.testing.assert_allclose(run(older, {"x": images})[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_node_without_an_older_form_is_named(make_model: MakeModel) -> None:
    model = ir.from_proto(
        make_model('y = Pad<mode = "wrap">(x, s)', {"s": np.array([0, 0, 1, 1] * 2)}, y="float y", opset=21)
    )
    infer_model_shapes(model)
    with pytest.raises(ModelError, match="Pad as it is used here exists from opset 19 on"):
        to_lowest_opset(model, 18)


# -- attributes ------------------------------------------------------------------------------------------------------


def test_attributes_that_an_older_opset_does_not_know_are_dropped_at_their_default() -> None:
    text = """
        a = AveragePool <kernel_shape = [2, 2], strides = [1, 1], dilations = [1, 1], ceil_mode = 0> (x)
        b = AveragePool <kernel_shape = [2, 2], dilations = [2, 1]> (x)
        c = Resize <mode = "nearest", antialias = 0> (x, , , s)
        d = QuantizeLinear <saturate = 1, block_size = 0, axis = 1> (x, y)
        e = QuantizeLinear <saturate = 0> (x, y)
        f = Reshape <allowzero = 1> (x, s)
    """
    graph = ir.from_proto(onnx.parser.parse_graph(f"g () => () <int64[2] s = {{2, 2}}> {{ {text} }}"))
    drop_idle_attributes(graph, 18)
    pool, resize = {"kernel_shape", "strides", "ceil_mode"}, {"mode", "antialias"}
    left = [pool, {"kernel_shape", "dilations"}, resize, {"axis"}, {"saturate"}, set()]
    assert [set(node.attributes) for node in graph] == left


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0, None), (0, 6)])
def test_masks_are_exact_and_as_comparisons(make_model: MakeModel, low: float, high: float | None) -> None:
    """0 at the bounds, 1 from the smallest normal number on."""
    bounds = {"low": np.array(low, np.float32), "high": np.array(high or 0, np.float32)}
    body = "y = Relu(x)" if high is None else "y = Clip(x, low, high)"
    model = make_model(body, bounds, y="float[N,3,8,8] y")
    tiny = np.finfo(np.float32).tiny
    values = np.array([-1, -tiny, -0.0, 0, tiny, 1e-30, 1, np.nextafter(np.float32(6), 0), 6, 7, 1e30], np.float32)
    x = np.resize(values, (1, 3, 8, 8)).astype(np.float32)
    steep = ir.from_proto(differentiate(model, "y", ["x"]))
    compared = ir.from_proto(differentiate(model, "y", ["x"]))
    compare_for_masks(compared)
    kinds = [{node.op_type for node in m.graph} for m in (steep, compared)]
    assert "HardSigmoid" in kinds[0]
    assert "HardSigmoid" not in kinds[1]
    wanted = ((x > 0) & (x < (high or np.inf))).astype(np.float32)
    for each in (steep, compared):
        found = run(each, {"x": x, "seed": np.ones_like(x)})
        np.testing.assert_array_equal(found["gradient.x"], wanted)


def test_a_slope_of_the_model_stays(make_model: MakeModel) -> None:
    model = ir.from_proto(make_model("y = HardSigmoid<alpha = 0.2, beta = 0.5>(x)", {}, y="float[N,3,8,8] y"))
    compare_for_masks(model)
    assert [node.op_type for node in model.graph] == ["HardSigmoid"]
    assert relu.STEEPEST_MODEL_SLOPE > 1e9


# -- pools -----------------------------------------------------------------------------------------------------------

POOLS = [
    "kernel_shape = [2, 2], strides = [2, 2]",
    "kernel_shape = [3, 3], strides = [2, 2]",
    "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
    "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
    "kernel_shape = [5, 5], strides = [1, 1], pads = [2, 2, 2, 2]",
    "kernel_shape = [3, 2], strides = [1, 3], pads = [0, 1, 2, 0]",
    "kernel_shape = [2, 2], strides = [3, 3]",
    "kernel_shape = [1, 1], strides = [2, 2]",
    "kernel_shape = [2, 3], dilations = [2, 3]",
    "kernel_shape = [3, 3], dilations = [2, 1], strides = [3, 2], pads = [2, 0, 1, 1]",
    'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"',
    'kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER"',
    'kernel_shape = [3, 3], auto_pad = "VALID"',
    "kernel_shape = [1, 4], strides = [1, 4]",
]


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("size", [(9, 8), (8, 13)], ids=str)
def test_pools_without_indices_choose_the_same_element(
    make_model: MakeModel, attributes: str, size: tuple[int, int]
) -> None:
    """Exactly, among equals too: most values here are."""
    model = make_model(f"y = MaxPool<{attributes}>(x)", {}, x=f"float[2,3,{size[0]},{size[1]}] x", y="float y")
    random = np.random.default_rng(5)
    x = random.integers(-2, 2, (2, 3, *size)).astype(np.float32)
    indexed = differentiate(model, "y", ["x"])
    seed = random.integers(-9, 9, run(model, {"x": x})["y"].shape).astype(np.float32)
    rewritten = ir.from_proto(indexed)
    infer_model_shapes(rewritten)
    assert without_pool_indices(rewritten) == []
    assert not any(node.op_type == "ScatterElements" for node in rewritten.graph)
    feeds = {"x": x, "seed": seed}
    expected, found = (run(each, feeds)["gradient.x"] for each in (indexed, rewritten))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("spatial", [(9,), (4, 5, 6)], ids=["1d", "3d"])
def test_pools_of_other_ranks_without_indices(make_model: MakeModel, spatial: tuple[int, ...]) -> None:
    n = len(spatial)
    text = f"kernel_shape = {[3] * n}, strides = {[2] * n}, pads = {[1] * 2 * n}"
    model = make_model(f"y = MaxPool<{text}>(x)", {}, x=f"float[1,2,{str(spatial)[1:-1].strip(',')}] x", y="float y")
    x = np.random.default_rng(2).integers(0, 3, (1, 2, *spatial)).astype(np.float32)
    seed = np.arange(run(model, {"x": x})["y"].size, dtype=np.float32).reshape(run(model, {"x": x})["y"].shape)
    indexed = differentiate(model, "y", ["x"])
    rewritten = ir.from_proto(indexed)
    infer_model_shapes(rewritten)
    assert without_pool_indices(rewritten) == []
    feeds = {"x": x, "seed": seed}
    np.testing.assert_array_equal(run(rewritten, feeds)["gradient.x"], run(indexed, feeds)["gradient.x"])


def test_a_pool_of_an_open_size_is_named(make_model: MakeModel) -> None:
    body = (
        "c = Conv(x, w)\nr = Relu(c)\np = MaxPool<kernel_shape = [2, 2]>(r)\ng = GlobalAveragePool(p)\ny = Flatten(g)"
    )
    model = make_model(body, {"w": np.ones((4, 3, 1, 1), np.float32)}, x="float[N,3,H,W] x", y="float[N,4] y")
    file = build_explanation(model, ("gradient",), runtime="web")
    (note,) = [n for n in _metadata(file).runtime["notes"] if "indices" in n]  # type: ignore[index]
    assert "gives indices of a MaxPool, which it may not run" in note


# -- names, batches, metadata ----------------------------------------------------------------------------------------


def _metadata(file: onnx.ModelProto) -> ExplanationMetadata:
    return ExplanationMetadata.read({p.key: p.value for p in file.metadata_props})


def test_plain_names_are_identifiers_and_written_down(make_model: MakeModel, images: NDArray[np.float32]) -> None:
    body = "c = Conv(x, w)\nr = Relu(c)\ng = GlobalAveragePool(r)\nheatmap_gradcam = Flatten(g)"
    model = make_model(body, {"w": np.ones((4, 3, 1, 1), np.float32)}, y="float[N,4] heatmap_gradcam")
    dotted, plain = (build_explanation(model, names=names) for names in ("dotted", "plain"))  # type: ignore[arg-type]
    names = [v.name for v in (*plain.graph.input, *plain.graph.output)]
    assert all(name.isidentifier() for name in names)
    assert len(set(names)) == len(names)
    known = _metadata(plain).plain
    assert known == {
        "heatmap_gradcam_": "heatmap.gradcam",
        "raw_gradcam": "raw.gradcam",
        "range_gradcam": "range.gradcam",
    }
    ours, theirs = run(dotted, {"x": images}), run(plain, {"x": images})
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, ours[known.get(name, name)])


def test_a_batch_of_its_own_stays(make_model: MakeModel, images: NDArray[np.float32]) -> None:
    body = "c = Conv(x, w)\nr = Relu(c)\ng = GlobalAveragePool(r)\ny = Flatten(g)"
    weights = {"w": np.ones((4, 3, 1, 1), np.float32)}
    fixed = make_model(body, weights, x="float[2,3,8,8] x", y="float[2,4] y")
    assert run(build_explanation(fixed, runtime="mobile"), {"x": images[:2]})["scores"].shape == (2, 1)
    with pytest.raises(OptionError, match="takes images by 2, not by 1"):
        build_explanation(fixed, batch=1)
    open_batch = make_model(body, weights, y="float[N,4] y")
    assert run(build_explanation(open_batch, batch=3), {"x": images})["scores"].shape == (3, 1)


def test_a_file_says_what_it_is_for(pooling_cnn: onnx.ModelProto) -> None:
    said = _metadata(build_explanation(pooling_cnn, runtime="tensorrt"))
    assert said.ranked
    assert said.runtime == {"name": "tensorrt", "least": "10", "notes": [*RUNTIMES["tensorrt"].promises]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"runtime": "caffe"}, "a file is written for one of"),
        ({"runtime": "tract", "targets_per_image": None}, "has no Scan"),
        ({"targets_per_image": 0}, "at least one target"),
        ({"batch": 0}, "at least one image"),
        ({"names": "short"}, "dotted or plain"),
    ],
)
def test_what_a_deployment_refuses(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Deployment(**asked)
