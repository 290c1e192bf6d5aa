"""Which layer to explain: the tensors that keep the spatial of the image, best first.

Maps (N, C, h, w), maps with the channels last, and the tokens of vision transformers (N, T, C) are layers alike; see
:mod:`portable_cam.export.layers.spatial`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from portable_cam.errors import InputError, LayerError
from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.dequantized import as_run, moves, quantizer_of
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import known_dims, reads
from portable_cam.export.layers.attention import without_features
from portable_cam.export.layers.axes import holds
from portable_cam.export.layers.axis_rules import AxesOf
from portable_cam.export.layers.class_tokens import only_prefix
from portable_cam.export.layers.derive import declared_axes, derive, spatial_axes, why_not
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.layers.spatial import KnownAxes, SpatialAxes, is_feature_map
from portable_cam.spelling import command, option

#: Why a candidate stands where it stands.
EVERY, SOME = "every path to the scores passes it", "on some of the paths to the scores"
LAST_READ = "the last one of whose tokens the scores read more than the class token"
#: Operators whose output says nothing new: the tensor before is listed instead.
_NOT_A_LAYER = frozenset({"Identity", "Dropout", "Reshape", "Pad", "Cast", "Slice", "Transpose"})


@dataclass(frozen=True)
class Layer:
    """A candidate: the tensor's name, its shape (None where symbolic), the operator that makes it, how many input
    pixels one of its cells steps over (None if unknown), why it stands where it stands, what its axes are (N images, C
    channels, H rows, W columns, T tokens), and how many rows and columns its map has."""

    name: str
    shape: tuple[int | None, ...]
    operator: str
    stride: float | None
    why: str
    layout: str = "NCHW"
    grid: tuple[int | None, int | None] = (None, None)

    @property
    def channels(self) -> int | None:
        return self.shape[self.layout.index("C")]


def image_input(graph: ir.Graph) -> ir.Value:
    """The input that holds the image: the only one with four dimensions.

    Raises:
        InputError: There is none, or there are several.
    """
    pictures = [value for value in graph.inputs if value.shape is not None and len(value.shape) == 4]
    if len(pictures) == 1:
        return pictures[0]
    listing = ", ".join(f"'{v.name}' {v.dtype}{v.shape if v.shape is not None else '[?]'}" for v in graph.inputs)
    what = "has no image input (four dimensions)" if not pictures else "has several image inputs"
    raise InputError(f"the model {what}; its inputs are {listing or 'none'}")


def candidates(graph: ir.Graph, *scores: ir.Value) -> list[tuple[ir.Value, Layer]]:
    """The candidates of a normalised graph, best first: those that every path to any of the scores passes, then those
    on only some of the paths."""
    image = image_input(graph)
    path = _path(graph, image, scores)
    derived = derived_axes(graph)
    found = _ordered(path, derived, image, scores)
    return [(value, _describe(value, spatial, image, why)) for value, spatial, why in found]


def find_axes(graph: ir.Graph) -> KnownAxes:
    """Where each tensor of a normalised graph has the rows and columns of its image, as far as the table of rules
    tells."""
    return _spatial(derived_axes(graph))


def derived_axes(graph: ir.Graph) -> AxesOf:
    """What is known of the axes of each tensor of a normalised graph that varies with its inputs."""
    image = image_input(graph)
    return derive(graph, image, channel_axis(image))


def _spatial(derived: AxesOf) -> KnownAxes:
    found = {value: axes for value, known in derived.items() if (axes := spatial_axes(value, known)) is not None}
    declared = {value: axes for value in derived if value.producer() and (axes := declared_axes(value)) is not None}
    for value in without_features(derived).keys() & found.keys():
        found[value] = replace(found[value], features=False)
    return found | declared


def layer_axes(graph: ir.Graph, layers: Sequence[ir.Value]) -> list[SpatialAxes]:
    """The spatial axes of each of the layers.

    Raises:
        LayerError: A layer is no map and no tokens of the image; the message says which axes are not known, and which
            operator lost them.
    """
    derived = derived_axes(graph)
    known = _spatial(derived)
    return [_axes_of_layer(value, known, derived) for value in layers]


def _axes_of_layer(value: ir.Value, known: KnownAxes, derived: AxesOf) -> SpatialAxes:
    spatial = known.get(value)
    if spatial is None or not is_feature_map(value, replace(spatial, size=(None, None))):
        dims = known_dims(value)
        hint = (
            f"; if it is a map, declare its axes: {option('axes', {value.name: 'NCHW'})}"
            if dims and len(dims) == 4
            else ""
        )
        raise LayerError(
            f"layer '{value.name}' has shape {value.shape}: a map needs (N, C, height, width), (N, height, width, C) "
            f"or tokens (N, T, C) whose rows and columns the graph tells, but {_why_not(value, derived)}"
            f"{hint}; `{command('layers')}` lists them"
        )
    axes = derived[value].axes if value in derived else None
    if axes is not None and not spatial.entries and holds(axes[spatial.batch], "view"):
        raise LayerError(
            f"layer '{value.name}' was declared to have the images along axis {spatial.batch}, which has several views "
            "of each: leave the declaration out, or choose a layer before them"
        )
    return spatial


def _why_not(value: ir.Value, derived: AxesOf) -> str:
    instead = without_features(derived).get(value)
    return why_not(value, derived.get(value)) if instead is None else f"it holds {instead}, no features"


def _path(graph: ir.Graph, image: ir.Value, scores: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes on a differentiable path from the image to the scores, in the graph's order."""
    nodes = list(graph)
    affected = depends_on(nodes, [image])
    wanted = set(scores)
    path: list[ir.Node] = []
    for node in reversed(nodes):
        if any(output in wanted for output in node.outputs) and any(v in affected for v in reads(node)):
            path.append(node)
            wanted.update(v for v in reads(node) if v in affected)
    return path[::-1]


def _ordered(
    path: Sequence[ir.Node], derived: AxesOf, image: ir.Value, scores: Sequence[ir.Value]
) -> list[tuple[ir.Value, SpatialAxes, str]]:
    """Feature maps with their spatial and the reason for their rank, best first: from the last one back those that
    every path passes, then those on some paths."""
    known = _spatial(derived)
    last_use, class_tokens = _last_use(path, known, derived, scores)
    # an attention's queries, keys and values side by side are passed by every path too, but are no sequence of tokens:
    # what comes before the class token's way must have as many channels as what comes on it
    widths = {_channels(v, known[v]) for v in class_tokens if is_feature_map(v, known[v])}
    sole: list[ir.Value] = []
    shared: list[ir.Value] = []
    open_values: set[ir.Value] = {image}
    for i, node in enumerate(path):
        open_values.update(o for o in node.outputs if o in last_use)
        open_values = {v for v in open_values if last_use[v] > i}
        for output in node.outputs:
            if output in last_use and output in known and _is_candidate(output, known[output]):
                alone = open_values == {output} and (not widths or _channels(output, known[output]) in widths)
                (sole if alone else shared).append(output)
    ordered = [(v, EVERY) for v in reversed(sole)]
    if ordered and widths:
        # a class token of another branch, which has read other tokens, goes on beside it
        if apart(path, ordered[0][0], shared):
            ordered = [(v, SOME if apart(path, v, shared) else EVERY) for v, _ in ordered]
        ordered[0] = (ordered[0][0], f"{ordered[0][1]}; {LAST_READ}")
    ordered += [(v, SOME) for v in reversed(shared)]
    return [(value, known[value], why) for value, why in ordered]


def apart(nodes: Sequence[ir.Node], value: ir.Value, others: Sequence[ir.Value]) -> list[ir.Value]:
    """Those that neither lead to a tensor nor depend on it."""
    after, before = depends_on(nodes, [value]), {value}
    for node in reversed(nodes):
        if any(output in before for output in node.outputs):
            before.update(reads(node))
    return [other for other in others if other not in after and other not in before]


def _last_use(
    path: Sequence[ir.Node], known: KnownAxes, derived: AxesOf, scores: Sequence[ir.Value]
) -> tuple[dict[ir.Value, int], list[ir.Value]]:
    """For each tensor, the last node on the path that reads it; and apart from them, from the last one back, tokens of
    which only the class token and its like are read any more.

    Behind the last attention a class token goes its own way: the tokens of the image are still there, but nothing
    reads them, and their gradient is zero.
    """
    last_use = dict.fromkeys(scores, len(path))
    passed: dict[ir.Value, None] = {}
    for i in range(len(path) - 1, -1, -1):
        node = path[i]
        if not any(output in last_use or output in passed for output in node.outputs):
            continue
        prefix_only = not any(output in last_use for output in node.outputs)
        inputs = list(node.inputs)
        for value in reads(node):
            positions = [k for k, given in enumerate(inputs) if given is value]
            if positions and all(only_prefix(node, k, known, derived, prefix_only=prefix_only) for k in positions):
                passed.setdefault(value)
            else:
                last_use.setdefault(value, i)
    return last_use, [value for value in passed if value not in last_use]


def _channels(value: ir.Value, spatial: SpatialAxes) -> int | None:
    dims = known_dims(value)
    return None if dims is None else dims[spatial.channels]


def _is_candidate(value: ir.Value, spatial: SpatialAxes) -> bool:
    node = value.producer()
    if node is None or value.dtype not in FLOATS or node.op_type in _NOT_A_LAYER:
        return False
    if quantizer_of(value) is not None:
        return False  # the tensor behind QuantizeLinear and DequantizeLinear is the layer, as the model runs
    return is_feature_map(value, spatial)


def _size(image: ir.Value) -> tuple[int | None, int | None]:
    """Height and width of the image."""
    dims = known_dims(image)
    assert dims is not None
    return (dims[2], dims[3]) if channel_axis(image) == 1 else (dims[1], dims[2])


def _describe(value: ir.Value, spatial: SpatialAxes, image: ir.Value, why: str) -> Layer:
    dims, node = known_dims(value), value.producer()
    assert dims is not None
    assert node is not None
    height, rows = _size(image)[0], spatial.size[0]
    stride = None if height is None or rows is None else height / rows
    return Layer(str(value.name), tuple(dims), _operator(node), stride, why, spatial.layout, spatial.size)


def _operator(node: ir.Node) -> str:
    """The operator that computes what a node gives, whether its result is quantised or moved or not."""
    while node.op_type in {"DequantizeLinear", "QuantizeLinear"} or moves(node):
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if source is None:
            break
        node = source
    return node.op_type


def layer_names(layer: str | Sequence[str]) -> list[str]:
    """The names that a user gave.

    Raises:
        LayerError: They are something else.
    """
    if not isinstance(layer, str | Sequence) or not all(isinstance(name, str) for name in layer):
        raise LayerError(f"a layer is the name of a tensor or node, or a list of them, not {layer!r}")
    return [layer] if isinstance(layer, str) else list(layer)


def find_layers(graph: ir.Graph, score: ir.Value, layer: str | Sequence[str]) -> list[ir.Value]:
    """The tensors to explain, named by tensor or node.

    Raises:
        LayerError: There is no such tensor or node, or it has no rows and columns of the image.
    """
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    by_node = {node.name: node.outputs[0] for node in graph if node.name}
    chosen = []
    for name in layer_names(layer):
        value = values.get(name, by_node.get(name))
        if value is None:
            close = difflib.get_close_matches(name, [str(v.name) for v, _ in candidates(graph, score)], n=3, cutoff=0.3)
            raise LayerError(
                f"layer '{name}' is neither a tensor nor a node of the model; `{command('layers')}` lists the "
                f"candidates{', near it: ' + ', '.join(close) if close else ''}"
            )
        derived = derived_axes(graph)
        known = _spatial(derived)
        _axes_of_layer(value, known, derived)
        value = as_run(value)
        if value.dtype not in FLOATS:
            raise LayerError(f"layer '{name}' is of type {value.dtype}, not floating point")
        if score not in depends_on(list(graph), [value]):
            raise LayerError(
                f"layer '{name}' does not lead to the scores '{score.name}' in a differentiable way: choose one that "
                f"does, `{command('layers')}` lists them"
            )
        if value in _last_use(_path(graph, image_input(graph), [score]), known, derived, [score])[1]:
            raise LayerError(
                f"of the tokens of layer '{name}' the scores '{score.name}' read only those before the image's (the "
                "class token): its map would be zero everywhere. Choose a layer before the last attention, as "
                f"`{command('layers')}` lists them"
            )
        chosen.append(value)
    if not chosen:
        raise LayerError("the list of layers is empty")
    return chosen
