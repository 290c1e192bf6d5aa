"""What is done to a model: each mutation is a function of the model and a random generator, in a table by name.

They change the model in place, or not at all where it has nothing of their kind. Mutations of the serialised bytes come
last, when a model has been serialised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

Random: TypeAlias = np.random.Generator
Mutation: TypeAlias = Callable[[onnx.ModelProto, Random], None]

_SIZES = (0, 1, 2, 3, 5, 1023, 65537, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**31), -(2**63))
_FLOATS = (0.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"))
_NAMES = (
    "",
    " ",
    "x",
    "y",
    "targets",
    "scores",
    "pcam/constant_0",
    "heatmap.gradcam",
    "a" * 70_000,
    "\0",
    "né",
    "../..",
)
_OPS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))
MODEL: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    MODEL[function.__name__] = function
    return function


def pick(random: Random, things: Sequence[Any]) -> Any:
    return things[int(random.integers(len(things)))]


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph and all inside it."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH]
    return [graph, *(g for part in inner for g in graphs(part))]


def any_node(model: onnx.ModelProto, random: Random) -> tuple[onnx.GraphProto, int] | None:
    places = [(graph, i) for graph in graphs(model.graph) for i in range(len(graph.node))]
    return pick(random, places) if places else None


def names(graph: onnx.GraphProto) -> list[str]:
    found = (
        [v.name for v in graph.input]
        + [t.name for t in graph.initializer]
        + [o for node in graph.node for o in node.output]
    )
    return [*found, ""]


# -- nodes -------------------------------------------------------------------------------------------------------------


@mutation
def drop_node(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        del place[0].node[place[1]]


@mutation
def repeat_node(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        place[0].node.insert(int(random.integers(len(place[0].node))), place[0].node[place[1]])


@mutation
def swap_nodes(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        graph, i = place
        nodes = list(graph.node)
        j = int(random.integers(len(nodes)))
        nodes[i], nodes[j] = nodes[j], nodes[i]
        del graph.node[:]
        graph.node.extend(nodes)


@mutation
def rewire(model: onnx.ModelProto, random: Random) -> None:
    """Any input becomes any tensor: cycles, wrong ranks, wrong types."""
    if place := any_node(model, random):
        node = place[0].node[place[1]]
        if node.input:
            node.input[int(random.integers(len(node.input)))] = pick(random, names(place[0]))


@mutation
def cycle(model: onnx.ModelProto, random: Random) -> None:
    if (place := any_node(model, random)) and place[0].node[place[1]].input:
        node = place[0].node[place[1]]
        later = place[0].node[int(random.integers(place[1], len(place[0].node)))]
        if later.output:
            node.input[0] = later.output[0]


@mutation
def rename_output(model: onnx.ModelProto, random: Random) -> None:
    """Two producers of one name, or a name that nobody expects."""
    if (place := any_node(model, random)) and place[0].node[place[1]].output:
        output = place[0].node[place[1]].output
        output[int(random.integers(len(output)))] = pick(random, [*names(place[0]), *_NAMES])


@mutation
def add_inputs(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        node = place[0].node[place[1]]
        node.input.extend(pick(random, names(place[0])) for _ in range(int(random.integers(1, 5))))


@mutation
def drop_inputs(model: onnx.ModelProto, random: Random) -> None:
    if (place := any_node(model, random)) and place[0].node[place[1]].input:
        node = place[0].node[place[1]]
        del node.input[int(random.integers(len(node.input))) :]


@mutation
def add_outputs(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        place[0].node[place[1]].output.extend(["extra_1", "extra_2"][: int(random.integers(1, 3))])


@mutation
def drop_outputs(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        del place[0].node[place[1]].output[:]


@mutation
def change_operator(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        place[0].node[place[1]].op_type = pick(random, [*_OPS, "", "Frobnicate"])


@mutation
def change_domain(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        place[0].node[place[1]].domain = pick(
            random, ["ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "org.x", "\0"]
        )


@mutation
def deep_chain(model: onnx.ModelProto, random: Random) -> None:
    """A thousand nodes in a row behind the last one: nothing may recurse over them."""
    graph = model.graph
    if not graph.node or not graph.node[-1].output:
        return
    previous, last = "deep_0", graph.node[-1]
    end, last.output[0] = last.output[0], "deep_0"
    count = int(random.integers(600, 1500))
    for i in range(1, count):
        graph.node.append(onnx.helper.make_node("Neg", [previous], [f"deep_{i}"]))
        previous = f"deep_{i}"
    graph.node.append(onnx.helper.make_node("Neg", [previous], [end]))


@mutation
def doubling(model: onnx.ModelProto, random: Random) -> None:
    """A concatenation of a tensor with itself, again and again: sizes that double with each node."""
    graph = model.graph
    if not graph.node or not graph.node[-1].output:
        return
    last = graph.node[-1]
    end, last.output[0] = last.output[0], "twice_0"
    count = int(random.integers(10, 70))
    axis = int(random.integers(2))
    for i in range(1, count):
        graph.node.append(onnx.helper.make_node("Concat", [f"twice_{i - 1}"] * 2, [f"twice_{i}"], axis=axis))
    graph.node.append(onnx.helper.make_node("Identity", [f"twice_{count - 1}"], [end]))


# -- attributes --------------------------------------------------------------------------------------------------------


@mutation
def change_attribute(model: onnx.ModelProto, random: Random) -> None:
    places = [a for g in graphs(model.graph) for node in g.node for a in node.attribute]
    if not places:
        return
    attribute = pick(random, places)
    if attribute.type == AttributeProto.INT:
        attribute.i = pick(random, _SIZES)
    elif attribute.type == AttributeProto.INTS:
        values = list(attribute.ints) or [0]
        values[int(random.integers(len(values)))] = pick(random, _SIZES)
        del attribute.ints[:]
        attribute.ints.extend(values[: int(random.integers(len(values) + 1))] if random.random() < 0.3 else values)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = pick(random, _FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = bytes(random.integers(0, 256, int(random.integers(12))).astype(np.uint8))


@mutation
def drop_attribute(model: onnx.ModelProto, random: Random) -> None:
    if (place := any_node(model, random)) and place[0].node[place[1]].attribute:
        attributes = place[0].node[place[1]].attribute
        del attributes[int(random.integers(len(attributes)))]


@mutation
def retype_attribute(model: onnx.ModelProto, random: Random) -> None:
    places = [a for g in graphs(model.graph) for node in g.node for a in node.attribute]
    if places:
        pick(random, places).type = int(random.integers(0, 15))


@mutation
def invent_attribute(model: onnx.ModelProto, random: Random) -> None:
    if place := any_node(model, random):
        name = pick(random, ["axis", "axes", "perm", "pads", "kernel_shape", "group", "to", "mode", "alpha", "body"])
        value = pick(random, [2**62, -7, 0.5, "linear", [1, 2**40], [-1, -1], [0.5], ["a"], float("nan")])
        place[0].node[place[1]].attribute.append(onnx.helper.make_attribute(name, value))


# -- weights -----------------------------------------------------------------------------------------------------------


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    found = [t for g in graphs(model.graph) for t in g.initializer]
    return found + [
        a.t for g in graphs(model.graph) for n in g.node for a in n.attribute if a.type == AttributeProto.TENSOR
    ]


@mutation
def claim_dims(model: onnx.ModelProto, random: Random) -> None:
    """Dimensions that the content does not have, up to those that no machine can hold."""
    if found := tensors(model):
        tensor = pick(random, found)
        dims = list(tensor.dims) or [1]
        dims[int(random.integers(len(dims)))] = pick(random, _SIZES)
        del tensor.dims[:]
        tensor.dims.extend(dims)


@mutation
def add_dims(model: onnx.ModelProto, random: Random) -> None:
    if found := tensors(model):
        pick(random, found).dims.extend([1] * int(random.integers(1, 70)))


@mutation
def cut_content(model: onnx.ModelProto, random: Random) -> None:
    if found := tensors(model):
        tensor = pick(random, found)
        tensor.raw_data = tensor.raw_data[: int(random.integers(len(tensor.raw_data) + 1))]


@mutation
def change_element_type(model: onnx.ModelProto, random: Random) -> None:
    if found := tensors(model):
        pick(random, found).data_type = int(random.integers(-1, 27))


@mutation
def change_integers(model: onnx.ModelProto, random: Random) -> None:
    """Shapes, axes, sizes and indices that are weights."""
    found = [t for t in tensors(model) if t.data_type in {TensorProto.INT64, TensorProto.INT32} and t.raw_data]
    if found:
        tensor = pick(random, found)
        width = 8 if tensor.data_type == TensorProto.INT64 else 4
        values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // width * width], f"<i{width}").copy()
        if values.size:
            limits = np.iinfo(values.dtype)
            values[int(random.integers(values.size))] = np.clip(pick(random, _SIZES), limits.min, limits.max)
            tensor.raw_data = values.tobytes()


@mutation
def not_numbers(model: onnx.ModelProto, random: Random) -> None:
    found = [t for t in tensors(model) if t.data_type == TensorProto.FLOAT and len(t.raw_data) >= 4]
    if found:
        tensor = pick(random, found)
        values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 4 * 4], "<f4").copy()
        values[int(random.integers(values.size))] = pick(random, _FLOATS)
        tensor.raw_data = values.tobytes()


@mutation
def drop_weight(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[int(random.integers(len(model.graph.initializer)))]


@mutation
def repeat_weight(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.initializer:
        model.graph.initializer.append(pick(random, list(model.graph.initializer)))
        model.graph.initializer[-1].dims.append(int(random.integers(3)))


@mutation
def sparse_weight(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.initializer:
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(pick(random, list(model.graph.initializer)))
        sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([pick(random, _SIZES)], np.int64), "i"))
        sparse.dims.append(pick(random, _SIZES))


@mutation
def large_fill(model: onnx.ModelProto, random: Random) -> None:
    """A few bytes that compute a tensor of many gigabytes, which is added to the picture."""
    graph = model.graph
    size = int(2 ** random.integers(20, 62))
    shape = onnx.numpy_helper.from_array(
        np.array([size] if random.random() < 0.5 else [size, 1, 1, 1], np.int64), "big"
    )
    graph.initializer.append(shape)
    graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["big"], ["filled"]))
    graph.node.insert(1, onnx.helper.make_node("ReduceSum", ["filled"], ["summed"], keepdims=0))
    for node in graph.node[2:]:
        if node.input and graph.input and node.input[0] == graph.input[0].name:
            graph.node.insert(2, onnx.helper.make_node("Add", [graph.input[0].name, "summed"], ["with_sum"]))
            node.input[0] = "with_sum"
            break


# -- declarations ------------------------------------------------------------------------------------------------------


@mutation
def change_declared_shape(model: onnx.ModelProto, random: Random) -> None:
    values = [
        v for v in (*model.graph.input, *model.graph.output, *model.graph.value_info) if v.type.tensor_type.shape.dim
    ]
    if values:
        dims = pick(random, values).type.tensor_type.shape.dim
        what = int(random.integers(4))
        if what == 0:
            dims[int(random.integers(len(dims)))].dim_value = pick(random, _SIZES)
        elif what == 1:
            dims[int(random.integers(len(dims)))].dim_param = pick(random, ["N", "", "a b", "é", "N" * 5000])
        elif what == 2:
            del dims[int(random.integers(len(dims)))]
        else:
            dims.add().dim_value = pick(random, _SIZES)


@mutation
def change_declared_type(model: onnx.ModelProto, random: Random) -> None:
    if values := [*model.graph.input, *model.graph.output]:
        value = pick(random, values)
        what = int(random.integers(5))
        if what < 2:
            value.type.tensor_type.elem_type = int(random.integers(-1, 27))
        elif what == 2:
            value.ClearField("type")
        elif what == 3:
            value.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
        else:
            value.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


@mutation
def lie_about_shapes(model: onnx.ModelProto, random: Random) -> None:
    """Shapes of inner tensors that the operators do not make."""
    outputs = [o for node in model.graph.node for o in node.output if o]
    if outputs:
        dims = [pick(random, (*_SIZES, "N", None)) for _ in range(int(random.integers(0, 6)))]
        kind = pick(random, [TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL])
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(pick(random, outputs), kind, dims))


@mutation
def change_opset(model: onnx.ModelProto, random: Random) -> None:
    if model.opset_import:
        model.opset_import[0].version = pick(
            random, [0, 1, 5, 6, 8, 10, 12, 13, 15, 18, 20, 22, 26, 27, 999, 2**62, -3]
        )


@mutation
def repeat_opset(model: onnx.ModelProto, random: Random) -> None:
    model.opset_import.append(onnx.helper.make_opsetid(pick(random, ["", "ai.onnx", "com.microsoft"]), 11))


@mutation
def drop_opset(model: onnx.ModelProto, random: Random) -> None:
    del model.opset_import[:]


@mutation
def change_ir_version(model: onnx.ModelProto, random: Random) -> None:
    model.ir_version = pick(random, _SIZES)


@mutation
def drop_declared(model: onnx.ModelProto, random: Random) -> None:
    side = pick(random, [model.graph.input, model.graph.output])
    if side:
        del side[int(random.integers(len(side)))]


@mutation
def repeat_declared(model: onnx.ModelProto, random: Random) -> None:
    side = pick(random, [model.graph.input, model.graph.output])
    if side:
        side.append(side[0])


@mutation
def output_of_an_input(model: onnx.ModelProto, random: Random) -> None:
    if model.graph.input:
        model.graph.output.append(model.graph.input[0])


# -- control flow and functions ----------------------------------------------------------------------------------------


@mutation
def endless_loop(model: onnx.ModelProto, random: Random) -> None:
    """The last tensor goes through a loop that does not end."""
    graph = model.graph
    if not graph.node or not graph.node[-1].output:
        return
    last = graph.node[-1]
    end, last.output[0] = last.output[0], "before_loop"
    helper, info = onnx.helper, onnx.helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Abs", ["h"], ["k"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("h", TensorProto.FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("k", TensorProto.FLOAT, None)],
    )
    count = pick(random, [2**31, 2**62, 2**63 - 1])
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(count, np.int64), "count"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    inputs = [pick(random, ["count", ""]), pick(random, ["always", ""]), "before_loop"]
    graph.node.append(helper.make_node("Loop", inputs, [end], body=body))


@mutation
def growing_loop(model: onnx.ModelProto, random: Random) -> None:
    """A loop whose state doubles in each round."""
    endless_loop(model, random)
    loop = model.graph.node[-1] if model.graph.node else None
    if loop is not None and loop.op_type == "Loop" and loop.attribute:
        body = loop.attribute[0].g
        if len(body.node) > 1:
            body.node[1].CopyFrom(onnx.helper.make_node("Concat", ["h", "h"], ["k"], axis=0))


@mutation
def empty_branch(model: onnx.ModelProto, random: Random) -> None:
    inner = graphs(model.graph)[1:]
    if inner:
        graph = pick(random, inner)
        del pick(random, [graph.node, graph.output, graph.input])[:]


@mutation
def nested_branches(model: onnx.ModelProto, random: Random) -> None:
    """Branches within branches, as deep as protobuf can still write."""
    graph = model.graph
    if not graph.node or not graph.node[-1].output:
        return
    last = graph.node[-1]
    end, last.output[0] = last.output[0], "before_if"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always_true"))
    helper = onnx.helper
    branch = helper.make_graph(
        [helper.make_node("Neg", ["before_if"], ["n_0"])],
        "leaf",
        [],
        [helper.make_tensor_value_info("n_0", TensorProto.FLOAT, None)],
    )
    for i in range(1, int(random.integers(2, 22))):  # protobuf's own limit in writing is near
        node = helper.make_node(
            "If", ["always_true"], [f"n_{i}"], then_branch=branch, else_branch=branch if i < 7 else None
        )
        branch = helper.make_graph(
            [node], f"level_{i}", [], [helper.make_tensor_value_info(f"n_{i}", TensorProto.FLOAT, None)]
        )
    graph.node.append(helper.make_node("If", ["always_true"], [end], then_branch=branch, else_branch=branch))


@mutation
def recursive_function(model: onnx.ModelProto, random: Random) -> None:
    """A function that calls itself, or two that call each other."""
    helper = onnx.helper
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("endless", 1)]
    other = pick(random, ["A", "B"])
    for name, called in (("A", other), ("B", "A")):
        body = [helper.make_node(called, ["a"], ["b"], domain="endless"), helper.make_node("Relu", ["b"], ["c"])]
        model.functions.append(helper.make_function("endless", name, ["a"], ["c"], body, imports))
    model.opset_import.append(helper.make_opsetid("endless", 1))
    if place := any_node(model, random):
        node = place[0].node[place[1]]
        node.op_type, node.domain = "A", "endless"
        del node.input[1:]
        del node.output[1:]


@mutation
def exploding_function(model: onnx.ModelProto, random: Random) -> None:
    """Each function calls the next one twice: a few lines that inline to 2^n nodes."""
    helper = onnx.helper
    depth = int(pick(random, [3, 5, 8, 18, 30, 60]))  # those between are neither refused nor quick
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("many", 1)]
    for i in range(depth):
        inner = ("Relu", "") if i == depth - 1 else (f"F{i + 1}", "many")
        body = [
            helper.make_node(inner[0], ["a"], ["b"], domain=inner[1]),
            helper.make_node(inner[0], ["b"], ["c"], domain=inner[1]),
        ]
        model.functions.append(helper.make_function("many", f"F{i}", ["a"], ["c"], body, imports))
    model.opset_import.append(helper.make_opsetid("many", 1))
    if place := any_node(model, random):
        node = place[0].node[place[1]]
        node.op_type, node.domain = "F0", "many"
        del node.input[1:], node.output[1:], node.attribute[:]


@mutation
def shadow_standard_operator(model: onnx.ModelProto, random: Random) -> None:
    """A model-local function under the name of a standard operator."""
    helper = onnx.helper
    if model.graph.node:
        op_type = pick(random, [node.op_type for node in model.graph.node])
        body = [helper.make_node(pick(random, ["Relu", op_type]), ["a"], ["c"])]
        model.functions.append(helper.make_function("", op_type, ["a"], ["c"], body, [helper.make_opsetid("", 17)]))


# -- external data -----------------------------------------------------------------------------------------------------

_LOCATIONS = (
    "/dev/zero",
    "/dev/stdin",
    "/etc/passwd",
    "../secret.bin",
    "weights.bin",
    ".",
    "",
    "a" * 5000,
    "nul\0byte",
    "pipe",
    "link.bin",
    "loop.bin",
    "file:///etc/passwd",
    "model.onnx",
    "folder/../weights.bin",
)


@mutation
def external_data(model: onnx.ModelProto, random: Random) -> None:
    if found := tensors(model):
        tensor = pick(random, found)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = {
            "location": pick(random, _LOCATIONS),
            "offset": pick(random, ["0", "4096", "-1", "x", str(2**62), "1e3", ""]),
            "length": pick(random, ["4", "64", "-4", "x", str(2**62), "0", ""]),
        }
        for key, value in entries.items():
            if random.random() < 0.9:
                tensor.external_data.add(key=key, value=value)


def external_files(folder: Path) -> None:
    """What the locations point to; none of it may hang a reader."""
    import os

    (folder / "weights.bin").write_bytes(bytes(4096))
    (folder.parent / "secret.bin").write_bytes(bytes(4096))
    for name, target in (("link.bin", "../secret.bin"), ("loop.bin", "loop.bin")):
        if not (folder / name).is_symlink():
            os.symlink(target, folder / name)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir(exist_ok=True)


# -- bytes -------------------------------------------------------------------------------------------------------------


def flip_bytes(data: bytearray, random: Random) -> bytearray:
    for _ in range(int(random.integers(1, 9))):
        if data:
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return data


def overwrite_bytes(data: bytearray, random: Random) -> bytearray:
    at, count = int(random.integers(len(data) + 1)), int(random.integers(1, 65))
    data[at : at + count] = bytes(random.integers(0, 256, count).astype(np.uint8))
    return data


def truncate(data: bytearray, random: Random) -> bytearray:
    return data[: int(random.integers(len(data) + 1))]


def delete_bytes(data: bytearray, random: Random) -> bytearray:
    at = int(random.integers(len(data) + 1))
    del data[at : at + int(random.integers(1, 200))]
    return data


def insert_bytes(data: bytearray, random: Random) -> bytearray:
    at = int(random.integers(len(data) + 1))
    data[at:at] = bytes(random.integers(0, 256, int(random.integers(1, 65))).astype(np.uint8))
    return data


def repeat_bytes(data: bytearray, random: Random) -> bytearray:
    at = int(random.integers(len(data) + 1))
    part = data[at : at + int(random.integers(1, 500))]
    data[at:at] = part
    return data


BYTES = (flip_bytes, flip_bytes, overwrite_bytes, truncate, delete_bytes, insert_bytes, repeat_bytes)


def mutate(data: bytes, seed: int) -> tuple[bytes, list[str]]:
    """One to three mutations of a model. Returns what was made of it, and the names of what was done."""
    random = np.random.default_rng(seed)
    done = []
    if random.random() < 0.75:
        model = onnx.load_model_from_string(data)
        for _ in range(int(random.choice([1, 1, 1, 2, 2, 3]))):
            name = pick(random, list(MODEL))
            MODEL[name](model, random)
            done.append(name)
        data = model.SerializeToString()
    if not done or random.random() < 0.1:
        function = pick(random, BYTES)
        data = bytes(function(bytearray(data), random))
        done.append(function.__name__)
    return data, done
