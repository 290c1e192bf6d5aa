"""Which layer to explain: the tensors that keep the picture's two dimensions, best first."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import InputError, LayerError
from portable_cam.export.autodiff import depends_on
from portable_cam.export.builder import FLOATS, known_dims, reads
from portable_cam.export.load import ModelLike
from portable_cam.export.normalize import normalize
from portable_cam.export.quantized.tensors import as_run, moves, quantizer_of
from portable_cam.export.scores import find_scores

#: Operators whose output says nothing new: the tensor before is listed instead.
_NOT_A_LAYER = frozenset({"Identity", "Dropout", "Reshape", "Pad", "Cast", "Slice"})


@dataclass(frozen=True)
class Layer:
    """A candidate: the tensor's name, its shape (None where symbolic), the operator that makes it, how many input
    pixels one of its cells steps over (None if unknown), and why it stands where it stands."""

    name: str
    shape: tuple[int | None, ...]
    operator: str
    stride: float | None
    why: str


def list_layers(model: ModelLike, output: str | None = None) -> list[Layer]:
    """The candidates of a model, best first.

    First come the tensors that every path from the picture to the scores passes, from the last one back: what the
    classifier reads is all there. Then those on only some of the paths.
    """
    graph = normalize(model).graph
    return [layer for _, layer in candidates(graph, find_scores(graph, output).value)]


def image_input(graph: ir.Graph) -> ir.Value:
    """The input that holds the picture: the only one with four dimensions.

    Raises:
        InputError: There is none, or there are several.
    """
    pictures = [value for value in graph.inputs if value.shape is not None and len(value.shape) == 4]
    if len(pictures) == 1:
        return pictures[0]
    listing = ", ".join(f"'{v.name}' {v.dtype}{v.shape if v.shape is not None else '[?]'}" for v in graph.inputs)
    what = "has no image input (four dimensions)" if not pictures else "has several image inputs"
    raise InputError(f"the model {what}; its inputs are {listing or 'none'}")


def channel_axis(image: ir.Value) -> int:
    """1 for (N, C, H, W), 3 for (N, H, W, C)."""
    dims = known_dims(image)
    assert dims is not None
    if (dims[1] in {1, 3, 4}) != (dims[3] in {1, 3, 4}):
        return 1 if dims[1] in {1, 3, 4} else 3
    first = next(iter(image.uses()), None)
    if first is not None and first.node.op_type == "Transpose":
        perm = first.node.attributes.get_ints("perm", None)
        return 3 if perm is not None and list(perm) == [0, 3, 1, 2] else 1
    return 1


def candidates(graph: ir.Graph, *scores: ir.Value) -> list[tuple[ir.Value, Layer]]:
    """The candidates of a normalised graph, best first: those that every path to any of the scores passes, then those
    on only some of the paths."""
    image = image_input(graph)
    nodes = list(graph)
    affected = depends_on(nodes, [image])
    mixed = depends_on(nodes, [value for value in graph.inputs if value is not image])
    position = {node: i for i, node in enumerate(nodes)}
    wanted = set(scores)
    path: list[ir.Node] = []
    for node in reversed(nodes):
        if any(output in wanted for output in node.outputs) and any(v in affected for v in reads(node)):
            path.append(node)
            wanted.update(v for v in reads(node) if v in affected)
    path.reverse()
    last_use = {value: position[node] for node in path for value in reads(node) if value in affected}
    last_use.update(dict.fromkeys(scores, len(nodes)))
    sole: list[ir.Value] = []
    shared: list[ir.Value] = []
    open_values: set[ir.Value] = {image}
    for node in path:
        open_values.update(o for o in node.outputs if o in last_use)
        open_values = {v for v in open_values if last_use[v] > position[node]}
        for output in node.outputs:
            if output in wanted and _is_feature_map(output) and (output not in mixed or _keeps_aspect(output, image)):
                (sole if open_values == {output} else shared).append(output)
    ordered = [(v, "every path to the scores passes it") for v in reversed(sole)]
    ordered += [(v, "on some of the paths to the scores") for v in reversed(shared)]
    return [(value, _describe(value, image, why)) for value, why in ordered]


def _is_feature_map(value: ir.Value) -> bool:
    dims, node = known_dims(value), value.producer()
    if dims is None or len(dims) != 4 or node is None or value.dtype not in FLOATS or node.op_type in _NOT_A_LAYER:
        return False
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", None)
        if perm is None or list(perm) != [0, 3, 1, 2]:
            return False  # channels went last: no longer a map per channel
    if node.op_type.startswith("Global") or quantizer_of(value) is not None:
        return False  # the tensor behind QuantizeLinear and DequantizeLinear is the layer, as the model runs
    return dims[2] != 1 and dims[3] != 1


def _keeps_aspect(value: ir.Value, image: ir.Value) -> bool:
    """Whether the last two axes are the picture's, reduced alike: where a question or a caption comes in, they may just
    as well be its words."""
    dims, size = known_dims(value) or [], known_dims(image) or []
    height, width = size[2:] if channel_axis(image) == 1 else size[1:3]
    if None in {height, width, dims[2], dims[3]}:
        return False
    return dims[2] * width == dims[3] * height  # type: ignore[operator]


def _describe(value: ir.Value, image: ir.Value, why: str) -> Layer:
    dims, source, node = known_dims(value), known_dims(image), value.producer()
    assert dims is not None
    assert source is not None
    assert node is not None
    height = source[2 if channel_axis(image) == 1 else 1]
    stride = None if height is None or dims[2] is None else height / dims[2]
    return Layer(str(value.name), tuple(dims), _operator(node), stride, why)


def _operator(node: ir.Node) -> str:
    """The operator that computes what a node gives, whether its result is quantised or moved or not."""
    while node.op_type in {"DequantizeLinear", "QuantizeLinear"} or moves(node):
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if source is None:
            break
        node = source
    return node.op_type


def find_layers(graph: ir.Graph, score: ir.Value, layer: str | Sequence[str] | None) -> list[ir.Value]:
    """The tensors to explain: named by tensor or node, or the best candidate.

    Raises:
        LayerError: There is no such tensor or node, it has no two dimensions of a picture, or no candidate exists.
    """
    if layer is None:
        found = candidates(graph, score)
        if not found:
            raise LayerError(
                f"no tensor between the image and the scores '{score.name}' keeps the two dimensions of a picture "
                "(four axes, height and width above 1): this model has no layer for CAM or Grad-CAM"
            )
        return [found[0][0]]
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    by_node = {node.name: node.outputs[0] for node in graph if node.name}
    chosen = []
    for name in [layer] if isinstance(layer, str) else layer:
        value = values.get(name, by_node.get(name))
        if value is None:
            close = difflib.get_close_matches(name, [str(v.name) for v, _ in candidates(graph, score)], n=3, cutoff=0.3)
            raise LayerError(
                f"layer '{name}' is neither a tensor nor a node of the model; `portable-cam layers MODEL` lists the "
                f"candidates{', near it: ' + ', '.join(close) if close else ''}"
            )
        dims = known_dims(value)
        if dims is None or len(dims) != 4:
            raise LayerError(f"layer '{name}' has shape {value.shape}: a map needs (N, C, height, width)")
        value = as_run(value)
        if value.dtype not in FLOATS:
            raise LayerError(f"layer '{name}' is of type {value.dtype}, not floating point")
        if score not in depends_on(list(graph), [value]):
            raise LayerError(
                f"layer '{name}' does not lead to the scores '{score.name}' in a differentiable way: choose one that "
                "does, `portable-cam layers MODEL` lists them"
            )
        chosen.append(value)
    if not chosen:
        raise LayerError("the list of layers is empty")
    return chosen
