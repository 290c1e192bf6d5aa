"""Bad input has one clear error of the project's own kind that names the thing and the remedy."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import (
    ExternalDataError,
    ImageError,
    InputError,
    LabelError,
    LayerError,
    ModelError,
    OptionError,
    TargetError,
    UnsupportedOperatorError,
)
from portable_cam.export import build_explanation, doctor, list_layers
from portable_cam.export.autodiff.backward import backward
from portable_cam.export.graph.builder import Builder
from portable_cam.export.passes.normalize import normalize
from portable_cam.export.read.load import load
from portable_cam.tasks.classify import PhotoExplainer

X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def explainer(small_cnn: onnx.ModelProto) -> pcam.Explainer:
    return pcam.Explainer(small_cnn)


# -- models ------------------------------------------------------------------------------------------------------------


READERS = [pcam.Explainer, build_explanation, list_layers, doctor, load]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), b"<html></html>" * 9, None]
)
def test_not_a_model(reader: Any, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "thing.onnx"
    path.write_bytes(assets.model().read_bytes()[:-1000] if content is None else content)
    with pytest.raises(
        ModelError, match=r"thing\.onnx (is empty|is not an ONNX model|is not a valid|is an image|is a page of HTML)"
    ):
        reader(path)


@pytest.mark.parametrize("cut", [1, 10, 300, 1500])
def test_truncated_anywhere(small_cnn: onnx.ModelProto, cut: int) -> None:
    data = small_cnn.SerializeToString()
    with pytest.raises(pcam.Error, match=r"\w+ \w+ \w+"):
        pcam.Explainer(data[:-cut])


@pytest.mark.slow
def test_damaged_anywhere(small_cnn: onnx.ModelProto) -> None:
    """Whatever byte is wrong: a result, or an error of ours."""
    data, random = bytearray(small_cnn.SerializeToString()), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(data)
        broken[random.integers(len(data))] = random.integers(256)
        try:
            load(bytes(broken))
            doctor(bytes(broken))
        except pcam.Error:
            refused += 1
    assert 0 < refused < 60, "bytes of weights change no structure, others do"


@pytest.mark.parametrize(
    "dims", [[4, 2**40, 3, 3], [4, 2**63 - 1, 3, 3], [4, 4, 3, -3], [-4, -4, 3, 3], [4, 3, 3, 3], []]
)
@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_that_claims_other_dimensions(make_model: Any, dims: list[int], raw: bool) -> None:
    weights = np.ones((4, 4, 3, 3), np.float32)
    model = make_model(
        "y = Conv<pads = [1, 1, 1, 1]>(x, w)", {"w": weights}, x="float[N,4,8,8] x", y="float[N,4,8,8] y"
    )
    tensor = model.graph.initializer[0]
    if not raw:
        tensor.ClearField("raw_data")
        tensor.float_data.extend(weights.reshape(-1))
    load(model.SerializeToString())
    del tensor.dims[:]
    tensor.dims.extend(dims)
    for reader in READERS:
        with pytest.raises(
            ModelError, match=r"is damaged: tensor 'w' (of the dimensions .* needs \d+ \w+ and has|has the dim)"
        ):
            reader(model.SerializeToString())


@pytest.mark.parametrize(
    ("dtype", "count"), [(t, n) for t in onnx.TensorProto.DataType.values() if t for n in (0, 3, 4)]
)
def test_every_type_is_read_as_it_is_stored(dtype: int, count: int) -> None:
    values = [b"text"] * count if dtype == onnx.TensorProto.STRING else [1.0] * count
    tensor = onnx.helper.make_tensor("w", dtype, [count], values)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    info = onnx.helper.make_tensor_value_info("y", dtype, [count])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [info], [tensor]))
    assert load(model).graph.initializers["w"].const_value.shape.numpy() == (count,)


@pytest.mark.parametrize("kind", [0, -1, 99])
@pytest.mark.parametrize("reader", READERS)
def test_a_weight_of_no_type(make_model: Any, reader: Any, kind: int, tmp_path: Path) -> None:
    model = make_model("y = Conv(x, w)", {"w": np.ones((5, 3, 8, 8), np.float32)}, y="float[N,5,1,1] y")
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    stored.graph.initializer[0].data_type = kind
    path.write_bytes(stored.SerializeToString())
    with pytest.raises(ModelError, match=r"tensor 'w' has no known type"):
        reader(path)


def test_nothing_to_explain_in_empty_maps(make_model: Any) -> None:
    """Layers without places are no candidates, and picking from an empty axis has no gradient."""
    ends = {"i": np.array([0], np.int64), "z": np.array([0], np.int64), "one": np.array([2], np.int64)}
    empty = make_model("e = Slice(x, z, z, one) p = GlobalAveragePool(e) y = Flatten(p)", ends, y="float[N,3] y")
    assert list_layers(empty) == []
    gather = make_model(
        "e = Slice(x, z, z, one) g = Gather<axis = 2>(e, i) y = ReduceMean<axes = [2, 3], keepdims = 0>(g)",
        ends,
        y="float[N,3] y",
    )
    with pytest.raises(ModelError, match=r"Gather node .* picks from axis 2 of 'e', which is empty"):
        build_explanation(gather, ("gradient",))


def test_an_attribute_that_no_shape_fits(make_model: Any) -> None:
    model = make_model("c = Concat<axis = 9>(x, x) y = GlobalAveragePool(c)", {}, y="float[N,3,1,1] y", opset=21)
    with pytest.raises(ModelError, match=r"what Concat node .* computes has no type: its inputs and attributes"):
        build_explanation(model, ("gradient",), output="y")


def test_shapes_that_no_operator_has(make_model: Any) -> None:
    model = make_model("c = Concat<axis = 2>(x, x) y = GlobalAveragePool(c)", {}, y="float[N,3,1,1] y", opset=21)
    normal = normalize(model)
    normal.graph[0].outputs[0].shape = None
    normal.graph.inputs[0].shape = ir.Shape([2, 3])
    builder = Builder(normal.graph)
    (pool,) = (node for node in normal.graph if node.op_type == "GlobalAveragePool")
    with pytest.raises(ModelError, match=r"Concat node .* contradict each other .*: no gradient can be written"):
        backward(normal.graph, builder, {pool.outputs[0]: pool.outputs[0]}, [normal.graph.inputs[0]])


def test_a_name_without_end(make_model: Any) -> None:
    model = make_model("y = GlobalAveragePool(x)", {}, y="float[N,3,1,1] y")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N" * 5000
    with pytest.raises(ModelError, match="has a name of 5000 characters, 'NNNN"):
        load(model)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model .*absent\.onnx: No such file"):
        pcam.Explainer(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"is a folder; give the \.onnx file inside it"):
        pcam.Explainer(tmp_path)
    with pytest.raises(ModelError, match=r"model= takes str \| Path \| bytes \| .*, not 3"):
        pcam.Explainer(3)  # type: ignore[arg-type]


@pytest.fixture
def external(small_cnn: onnx.ModelProto, tmp_path: Path) -> Path:
    """The small model, its weights in ``weights.bin`` beside it."""
    model = onnx.ModelProto()
    model.CopyFrom(small_cnn)
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_external_data_beside_the_model(external: Path, explainer: pcam.Explainer) -> None:
    np.testing.assert_array_equal(pcam.Explainer(external)(X).scores, explainer(X).scores)


def test_external_data_missing(external: Path) -> None:
    (external.parent / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match=r"tensor '\w+' .*'weights.bin'\) is missing: put the file into"):
        pcam.Explainer(external)


def test_external_data_truncated(external: Path) -> None:
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ExternalDataError, match=r"is truncated: \d+ bytes expected, 100 there"):
        pcam.Explainer(external)


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "device"])
def test_external_data_outside_the_folder(external: Path, kind: str) -> None:
    outside = external.parent.parent / "secret.bin"
    outside.write_bytes((external.parent / "weights.bin").read_bytes())
    location = {"parent": "../secret.bin", "absolute": str(outside), "link": "link.bin", "device": "/dev/zero"}[kind]
    if kind == "link":
        os.symlink(outside, external.parent / "link.bin")
    relocate(external, location)
    with pytest.raises(ExternalDataError, match=r"lies outside the model's folder, and is not read: put the file"):
        pcam.Explainer(external)


def test_external_data_of_bytes_and_objects(external: Path) -> None:
    with pytest.raises(ExternalDataError, match="stored outside the given bytes: give the path of the model"):
        pcam.Explainer(external.read_bytes())
    with pytest.raises(ExternalDataError, match="stored outside the given ModelProto: give the path of the model"):
        pcam.Explainer(onnx.load(external, load_external_data=False))


def hide(path: Path, where: str, location: str) -> None:
    """Let a Constant inside a function's body or a branch point to a file."""
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    constant = onnx.helper.make_node("Constant", [], ["h"], value=tensor)
    add = onnx.helper.make_node("Add", ["v", "h"], ["w"])
    last = model.graph.node[-1]
    last.output[0] = "before"
    if where == "function":
        function = onnx.helper.make_function(
            "local", "Shift", ["v"], ["w"], [constant, add], [onnx.helper.make_opsetid("", 17)]
        )
        model.functions.append(function)
        model.opset_import.append(onnx.helper.make_opsetid("local", 1))
        model.graph.node.append(onnx.helper.make_node("Shift", ["before"], ["y"], domain="local"))
    else:
        add.input[0], add.output[0] = "before", "y"
        model.graph.node.extend([constant, add])
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["function", "attribute"])
def test_external_data_hidden_in_the_graph(external: Path, where: str) -> None:
    outside = external.parent.parent / "secret.bin"
    outside.write_bytes(np.float32(42).tobytes())
    hide(external, where, "../secret.bin")
    with pytest.raises(ExternalDataError):
        pcam.Explainer(external)
    with pytest.raises(ExternalDataError):
        pcam.Explainer(external.read_bytes())


def test_no_image_input(make_model: Any) -> None:
    model = make_model("y = Gemm(x, w)", {"w": np.ones((3, 5), np.float32)}, "float[N,3] x")
    with pytest.raises(InputError, match=r"has no image input \(four dimensions\); its inputs are 'x' FLOAT\[N,3\]"):
        pcam.Explainer(model)
    body = "s = Add(x, z) p = GlobalAveragePool(s) y = Flatten(p)"
    model = make_model(body, {}, "float[N,3,8,8] x, float[N,3,8,8] z", "float[N,3] y")
    with pytest.raises(InputError, match=r"has several image inputs; its inputs are 'x' .*, 'z'"):
        pcam.Explainer(model)


def test_no_scores(make_model: Any) -> None:
    model = make_model("y = Relu(x)", {}, y="float[N,3,8,8] y")
    with pytest.raises(TargetError, match=r"none of the model's outputs is a vector of scores .*'y'.* with output="):
        pcam.Explainer(model)


def test_unknown_operator(make_model: Any) -> None:
    with pytest.raises(ModelError, match=r"operator Frobnicate does not exist in ONNX opset 17"):
        pcam.Explainer(make_model("y = Frobnicate(x)", {}))
    foreign = make_model("f = Flatten(x) y = Gemm(f, w)", {"w": np.ones((192, 5), np.float32)})
    foreign.graph.node[0].domain = "com.example"
    foreign.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example::Flatten"):
        pcam.Explainer(foreign, ("gradient",))


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 8, 8), (2, 3, 9, 8), (2, 8, 8, 3), (0, 3, 8, 8), ()])
def test_wrong_shape(explainer: pcam.Explainer, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"input 'x' (must have shape \(any, 3, 8, 8\), not|is empty: shape)"):
        explainer(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(explainer: pcam.Explainer, value: float) -> None:
    x = X.copy()
    x[1, 2, 3, 4] = value
    with pytest.raises(InputError, match="input 'x' holds NaN or infinite values: check the image"):
        explainer(x)


def test_wrong_type(explainer: pcam.Explainer) -> None:
    with pytest.raises(InputError, match="input 'x' must be float32, not complex64"):
        explainer(X.astype(np.complex64))
    for wrong, what in (
        (X.astype(str), "an array of <U"),
        (np.array([[None]]), "an array of object"),
        (["a.jpg", "b.jpg"], "a list of str"),
        ("a.jpg", "str"),
        ([Path("a.jpg")], "a list of PosixPath"),
    ):
        with pytest.raises(InputError, match=f"input 'x' holds {what}.*, not numbers: .* portable_cam.explain"):
            explainer(wrong)
    with pytest.raises(InputError, match="x"):
        explainer([[1.0], [2.0, 3.0]])


def test_wrong_names(explainer: pcam.Explainer) -> None:
    with pytest.raises(InputError, match="input 'x' is missing: give a dict of all inputs"):
        explainer({"image": X})
    with pytest.raises(InputError, match="the model has no input 'z'; its inputs are x"):
        explainer({"x": X, "z": X})


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (5, "target 5 is out of range: the model has 5 classes, 0 to 4"),
        ([[0, 1], [2, 9]], "target 9 is out of range"),
        (-1, "target -1 is negative: classes count from 0"),
        (np.uint64(2**63 + 3), "target"),
        (1.5, "targets are integers, not float64; names need labels="),
        ([True, False], "targets are integers, not bool"),
        ([0, 1, 2], r"targets have shape \(N,\) or \(N, K\) with N = 2 images, not \(3,\)"),
        (np.zeros((2, 0), int), "no target is given: leave out targets="),
        (np.zeros((2, 1, 1), int), "targets have shape"),
        ([[1], [2, 3]], "targets"),
    ],
)
def test_wrong_target(explainer: pcam.Explainer, targets: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        explainer(X, targets)


def test_target_out_of_range_where_the_classes_are_unknown(make_model: Any) -> None:
    body = "r = Relu(x) p = GlobalAveragePool(r) f = Flatten(p) y = Concat<axis = 1>(f, f)"
    explainer = pcam.Explainer(make_model(body, {}, "float[N,C,H,W] x", "float[N,D] y"))
    assert explainer.classes is None
    assert explainer(X, 5).scores.shape == (2, 1)
    with pytest.raises(TargetError, match="target 6 is out of range: the model has fewer classes"):
        explainer(X, 6)


def test_wrong_layer(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(
        LayerError, match=r"layer 'r3' is neither .*`portable_cam\.export\.list_layers\(model\)` .*near it: r2"
    ):
        pcam.Explainer(small_cnn, layer="r3")
    with pytest.raises(LayerError, match=r"layer 'f' has shape \[N,6\]: a map needs \(N, C, height, width\)"):
        pcam.Explainer(small_cnn, layer="f")
    with pytest.raises(LayerError, match="empty"):
        pcam.Explainer(small_cnn, layer=[])
    with pytest.raises(TargetError, match=r"the scores 'c1' have shape \[N,4,8,8\]: a class needs one score"):
        pcam.Explainer(small_cnn, layer="r2", output="c1")


def test_a_layer_behind_the_scores(make_model: Any) -> None:
    body = "p = GlobalAveragePool(x) y = Flatten(p) side = Relu(x)"
    model = make_model(body, {}, y="float[N,3] y, float[N,3,8,8] side")
    with pytest.raises(LayerError, match="layer 'side' does not lead to the scores 'y'"):
        pcam.Explainer(model, layer="side", output="y")


def test_wrong_output(small_cnn: onnx.ModelProto) -> None:
    with pytest.raises(TargetError, match=r"output='logits' is no tensor of the model; outputs: y"):
        pcam.Explainer(small_cnn, output="logits")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("methods", ("gradcamm",), "method 'gradcamm' does not exist; the methods are cam, gradcam"),
        ("methods", (), "no method was given; the methods are"),
        ("profile", "torchcam", "profile= is one of paper, pytorch_grad_cam, captum, not 'torchcam'"),
        ("sign", "both", "sign= is one of positive, negative, not 'both'"),
        ("relu_policy", "silu", "relu_policy= is one of relu"),
        ("precision", "float8", "precision= is one of model, float32, not 'float8'"),
    ],
)
def test_wrong_option(small_cnn: onnx.ModelProto, option: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pcam.Explainer(small_cnn, **{option: value})


# -- labels and images -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos() -> PhotoExplainer:
    return PhotoExplainer(assets.model())


def test_unknown_label(photos: PhotoExplainer) -> None:
    with pytest.raises(LabelError, match="called 'expresso'; close to it are: espresso"):
        photos(assets.photo(), "expresso")
    with pytest.raises(TargetError, match="target 1000 is out of range: the model has 1000 classes"):
        photos(assets.photo(), 1000)
    with pytest.raises(TargetError, match="top17: between 1 and 16"):
        photos(assets.photo(), "top17")
    with pytest.raises(TargetError, match="top0"):
        photos(assets.photo(), "top0")


def test_labels_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    with pytest.raises(LabelError, match=r"names\.txt names 2 classes, but the model has 1000"):
        PhotoExplainer(assets.model(), labels=path)


def bomb() -> bytes:
    """A PNG of a hundred bytes that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"no image at all", "is not an image"),
        (lambda: assets.photo("coffee.jpg").read_bytes()[:4000], "is truncated or damaged"),
        (bomb, "pixels"),
    ],
)
def test_bad_image(photos: PhotoExplainer, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content())
    with pytest.raises(ImageError, match=rf"picture\.png.*{message}"):
        photos(path)


def test_nan_pixels_in_a_photo(photos: PhotoExplainer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    pixels[3, 3] = np.nan
    Image.fromarray(pixels).save(tmp_path / "deep.tiff")
    with pytest.raises(ImageError, match=r"deep\.tiff holds NaN or infinite pixels"):
        photos(tmp_path / "deep.tiff")


def test_a_bad_image_leaves_the_explainer_sound(photos: PhotoExplainer, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        photos(tmp_path / "absent.png")
    assert photos(assets.photo(), 281).result.targets.tolist() == [[281]]
