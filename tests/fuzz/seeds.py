"""The models that are mutated: a small one for each family of operators, and the zoo's smallest files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

_HEAD = "p = GlobalAveragePool(z) f = Flatten(p) y = Gemm<transB = 1>(f, w_head)"  # z (N, 4, h, w) to five scores
_IMAGE = "float[N,3,8,8] x"
_BRANCH = "<float[N,4,8,8] {name}> {{ {name} = {op}(c) }}"

#: The nodes, and what differs from a float image (N, 3, 8, 8) and five scores.
_BODIES: dict[str, tuple[str, dict[str, str]]] = {
    "conv": (
        "c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Relu(c) "
        "z = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(r, w2)", {},
    ),
    "residual": (
        "c = Conv<pads = [1, 1, 1, 1]>(x, w1) n = BatchNormalization(c, s4, b4, m4, v4) r = Relu(n) "
        "d = Conv<pads = [1, 1, 1, 1]>(r, w2) a = Add(d, r) z = Relu(a)", {},
    ),
    "pool": (
        "c = Conv(x, w0) a = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(c) "
        "b = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(a) l = LRN<size = 3>(b) z = Relu(l)", {},
    ),
    "norm": (
        "c = Conv(x, w0) i = InstanceNormalization(c, s4, b4) t = Transpose<perm = [0, 2, 3, 1]>(i) "
        "l = LayerNormalization(t, s4, b4) u = Transpose<perm = [0, 3, 1, 2]>(l) z = Elu(u)", {},
    ),
    "elementwise": (
        "c = Conv(x, w0) a = Sigmoid(c) b = Mul(c, a) d = Tanh(b) e = Exp(d) g = Div(d, e) h = Pow(g, two) "
        "i = Sqrt(e) j = Sub(h, i) k = Clip(j, zero, six) l = LeakyRelu(k) m = PRelu(l, s411) "
        "o = Erf(m) z = Abs(o)", {},
    ),
    "attention": (
        "c = Conv(x, w0) t = Reshape(c, to_tokens) u = Transpose<perm = [0, 2, 1]>(t) q = MatMul(u, w44) "
        "k = MatMul(u, w44) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt) a = Softmax<axis = -1>(s) "
        "v = MatMul(a, u) vt = Transpose<perm = [0, 2, 1]>(v) z = Reshape(vt, to_grid)", {},
    ),
    "resize": (
        "c = Conv(x, w0) a = Resize<mode = \"linear\">(c, , scales) b = Pad<mode = \"reflect\">(a, pads) "
        "d = DepthToSpace<blocksize = 2>(b) e = SpaceToDepth<blocksize = 2>(d) z = Relu(e)", {},
    ),
    "shape": (
        "c = Conv(x, w0) s = Shape(c) n = Gather(s, i0) m = Unsqueeze(n, i0v) k = Concat<axis = 0>(m, i4, im1) "
        "r = Reshape(c, k) t = Concat<axis = 2>(r, r) e = Expand(t, i111) h, g = Split<axis = 2>(e, i6464) "
        "u = Add(h, g) z = Reshape(u, to_grid)", {},
    ),
    "index": (
        "c = Conv(x, w0) a = Slice(c, i0v, i4, i1v) b = Gather<axis = 1>(a, perm) t = Tile(b, i1111) "
        "v, i = TopK<axis = 1>(t, i4) q = Where(mask, v, b) z = Relu(q)", {},
    ),
    "reduce": (
        "c = Conv(x, w0) a = ReduceMean<axes = [2, 3]>(c) m = ReduceMax<axes = [1]>(c) s = ReduceSum(c, i1v) "
        "l = ReduceL2<axes = [1]>(c) d = Mul(a, m) e = Add(d, s) g = Add(e, l) z = Mul(c, g)", {},
    ),
    "transposed": ("c = ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, wt) z = Relu(c)", {}),
    "einsum": ("c = Conv(x, w0) e = Einsum<equation = \"nchw,cd->ndhw\">(c, w44) z = Relu(e)", {}),
    "qdq": (
        "q = QuantizeLinear(x, scale, point) d = DequantizeLinear(q, scale, point) c = Conv(d, w0) "
        "r = QuantizeLinear(c, scale, point) z = DequantizeLinear(r, scale, point)", {},
    ),
    "qoperator": (
        "q = QuantizeLinear(x, scale, point) c = QLinearConv(q, scale, point, wq, scale, wpoint, scale, point) "
        "z = DequantizeLinear(c, scale, point)", {},
    ),
    "if": (
        "c = Conv(x, w0) z = If(yes) <then_branch = yes_graph () => (float[N,4,8,8] a) { a = Relu(c) }, "
        "else_branch = no_graph () => (float[N,4,8,8] b) { b = Neg(c) }>", {},
    ),
    "loop": (
        "c = Conv(x, w0) z = Loop(three, yes, c) <body = step (int64 i, bool go, float[N,4,8,8] h) => "
        "(bool on, float[N,4,8,8] k) { on = Identity(go) t = Mul(h, half) k = Relu(t) }>", {},
    ),
    "scan": (
        "c = Conv(x, w0) t = Transpose<perm = [2, 0, 1, 3]>(c) s, u = Scan<num_scan_inputs = 1, body = step "
        "(float[N,4,8] h, float[N,4,8] e) => (float[N,4,8] k, float[N,4,8] o) { k = Add(h, e) o = Tanh(k) }>"
        "(start, t) z = Transpose<perm = [1, 2, 0, 3]>(u)", {},
    ),
    "recurrent": (
        "c = Conv(x, w0) t = Reshape(c, to_steps) s, h = GRU<hidden_size = 4>(t, wg, rg) r = Reshape(s, to_rows) "
        "z = Relu(r)", {"x": "float[1,3,8,8] x", "y": "float[M,5] y"},
    ),
    "channels last": (
        "t = Transpose<perm = [0, 3, 1, 2]>(x) c = Conv<auto_pad = \"SAME_UPPER\", strides = [2, 2]>(t, w0) "
        "z = Relu(c)",
        {"x": "float[1,8,8,3] x", "y": "float[1,5] y"},
    ),
    "sequence": (
        "c = Conv(x, w0) s = SequenceConstruct(c, c) a = ConcatFromSequence<axis = 1>(s) "
        "b, d = Split<axis = 1>(a, i44) z = Add(b, d)", {},
    ),
}  # fmt: skip


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    return {
        "w0": normal(4, 3, 1, 1),
        "w1": normal(4, 3, 3, 3),
        "b1": normal(4),
        "w2": normal(4, 4, 3, 3),
        "wt": normal(3, 4, 3, 3),
        "w44": normal(4, 4),
        "w_head": normal(5, 4),
        "s4": normal(4),
        "b4": normal(4),
        "m4": normal(4),
        "v4": np.abs(normal(4)),
        "s411": normal(4, 1, 1),
        "two": np.float32(2),
        "zero": np.float32(0),
        "six": np.float32(6),
        "half": np.float32(0.5),
        "to_tokens": ints(0, 4, 64),
        "to_grid": ints(0, 4, 8, 8),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": ints(0, 0, 1, 1, 0, 0, 1, 1),
        "i0": np.int64(0),
        "i0v": ints(0),
        "i1v": ints(1),
        "i4": ints(4),
        "im1": ints(-1),
        "i111": ints(1, 1, 1),
        "i1111": ints(1, 1, 1, 1),
        "i44": ints(4, 4),
        "i6464": ints(64, 64),
        "perm": ints(3, 1, 2, 0),
        "mask": np.array([True, False] * 4),
        "scale": np.float32(0.1),
        "point": np.uint8(128),
        "wpoint": np.uint8(128),
        "wq": random.integers(0, 255, (4, 3, 1, 1)).astype(np.uint8),
        "yes": np.bool_(True),
        "three": np.int64(3),
        "start": np.zeros((1, 4, 8), np.float32),
        "to_steps": ints(8, 1, 32),
        "to_rows": ints(8, 4, 1, 1),
        "wg": normal(1, 12, 32),
        "rg": normal(1, 12, 4),
    }


def _small(name: str) -> onnx.ModelProto:
    body, differs = _BODIES[name]
    x, y = differs.get("x", _IMAGE), differs.get("y", "float[N,5] y")
    text = f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> small ({x}) => ({y}) {{ {body} {_HEAD} }}'
    model = onnx.parser.parse_model(text)
    used = {i for node in _all_nodes(model.graph.node) for i in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in _weights().items() if key in used
    )
    return model


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    inside = [_all_nodes(a.g.node) for node in nodes for a in node.attribute if a.HasField("g")]
    return [*nodes, *(node for part in inside for node in part)]


def _local_function() -> onnx.ModelProto:
    """A model-local function, which the mutations may let call itself."""
    model = _small("conv")
    body = [onnx.helper.make_node("Relu", ["a"], ["b"]), onnx.helper.make_node("Tanh", ["b"], ["c"])]
    imports = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("local", "Act", ["a"], ["c"], body, imports))
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Act", "local"
    return model


def _contrib() -> onnx.ModelProto:
    model = _small("conv")
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Gelu", "com.microsoft"
    return model


def _half() -> onnx.ModelProto:
    model = _small("conv")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


def _old() -> onnx.ModelProto:
    """Opset 7, its initialisers among the inputs."""
    model = _small("residual")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 7))
    model.ir_version = 3
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    gemm = model.graph.node[-1]
    gemm.input.append("c5")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(5, np.float32), "c5"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("c5", onnx.TensorProto.FLOAT, [5]))
    return model


#: The zoo's smallest files of different producers.
ZOO_FILES = ("cls_mnist_cntk_opset8", "cls_person_vww96_mobilenetv1_int8_qdq", "cls_text_orientation_ppocr_mobilenetv3")


def seed_models(zoo: Path | None) -> Mapping[str, bytes]:
    """Every seed by name, serialised. Those of the zoo only where it is there."""
    models = {name: _small(name) for name in _BODIES}
    models |= {"function": _local_function(), "contrib": _contrib(), "half": _half(), "old": _old()}
    seeds = {name: model.SerializeToString(deterministic=True) for name, model in models.items()}
    for name in ZOO_FILES if zoo is not None else ():
        assert zoo is not None
        seeds[name] = (zoo / "models" / f"{name}.onnx").read_bytes()
    return seeds
