"""Puts it together: model, layer, target and methods to one explanation graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import LayerError, ModelError, OptionError
from portable_cam.export import heads
from portable_cam.export.autodiff import Saturation, backward, check_saturation
from portable_cam.export.batch import free_batch
from portable_cam.export.builder import Builder, known_dims
from portable_cam.export.cam import CamEnd, cam_maps, cam_weights, find_cam_end
from portable_cam.export.differentiate import add_output
from portable_cam.export.guided import ReluPolicy, guided_nodes
from portable_cam.export.heads import Profile
from portable_cam.export.infer import infer_shapes
from portable_cam.export.layers import channel_axis, find_layers, image_input, layer_places
from portable_cam.export.load import ModelLike, fingerprint
from portable_cam.export.methods import (
    INPUT_METHODS,
    METHODS,
    PIXEL_METHODS,
    check_options,
    wants_guided,
    wants_layers,
)  # fmt: skip
from portable_cam.export.normalize import normalize
from portable_cam.export.per_target import scan_targets, single_target
from portable_cam.export.places import Places, picture_dims, to_picture
from portable_cam.export.precision import Precision, float_types, to_float32
from portable_cam.export.quantized.shield import shield_int8
from portable_cam.export.quantized.tensors import input_quantization
from portable_cam.export.seed import SEED_SCALE, seed_of, seed_scale, unscaled
from portable_cam.export.targets import Class, Extra, Target
from portable_cam.export.words import embeddings, word_scores

_OUR_NAMES = frozenset({"targets", "target", "scores", "explained", SEED_SCALE, *METHODS})
_OUR_PREFIXES = ("heatmap.", "raw.", "range.", "activations.", "gradients.", "weights.", "sums.", "word_scores.")
_TOP = 16  # how far down the ranking a negative target can point


@dataclass
class _Plan:
    """Everything that is decided before nodes are written."""

    graph: ir.Graph
    builder: Builder
    methods: tuple[str, ...]
    layers: list[ir.Value]
    places: list[Places]
    target: Target
    scores: list[ir.Value]
    image: ir.Value
    profile: Profile
    sign: int
    guided: list[ir.Node]
    saturation: Saturation
    details: bool
    words: dict[str, ir.Value]
    bare: bool
    pictures: list[ir.Value] = field(init=False)

    def __post_init__(self) -> None:
        """The activations of the layers as maps (N, C, h, w), whatever layout the model has."""
        pairs = zip(self.layers, self.places, strict=True)
        self.pictures = [to_picture(self.builder, layer, layer, places) for layer, places in pairs]


def build_explanation(
    model: ModelLike,
    methods: Sequence[str] = ("gradcam",),
    layer: str | Sequence[str] | None = None,
    target: Target | None = None,
    *,
    output: str | Sequence[str] | None = None,
    profile: Profile = "paper",
    relu_policy: ReluPolicy = "relu",
    saturation: Saturation = "pass",
    sign: str = "positive",
    targets_per_image: int | None = None,
    details: bool = False,
    words: bool = False,
    heads_in_graph: bool = True,
    preprocessing: str | None = None,
    precision: Precision = "model",
) -> onnx.ModelProto:
    """The portable explainer: one ONNX file of standard operators that computes scores, maps and the model's outputs.

    Args:
        model: A path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        methods: Any of ``cam``, ``gradcam``, ``layercam``, ``hirescam``, ``guided_backprop``, ``guided_gradcam``,
            ``gradient``, ``deconvnet``.
        layer: Tensor or node name, a list of them, or None for the best of ``list_layers``.
        target: What is explained; None for :class:`~portable_cam.export.targets.Class`.
        output: The tensor that holds the scores (for some targets, several), taken as it is; None for the model's
            scores cut before a softmax.
        profile: ``paper``, ``pytorch_grad_cam`` or ``captum``.
        relu_policy: ``relu``, ``relu+clip`` or ``all``: the nodes that guided methods treat as a ReLU.
        saturation: ``pass``: in a quantised model the gradient goes straight through where a range cuts a value off;
            ``mask``: none there; see ``docs/quantised.md``.
        sign: ``positive``, or ``negative`` for the regions that speak against the target.
        targets_per_image: 1 for a graph without a Scan that takes one target per image; None for any number.
        details: Also give ``activations.<layer>`` (N, C, h, w) and ``gradients.<layer>`` (N, K, C, h, w).
        words: Also give ``word_scores.<input>`` (N, K, T) for each input of token ids (N, T) that a Gather embeds: what
            each word adds, gradient times embedding.
        heads_in_graph: False for a graph that stops where the kernels go on. Instead of the methods' maps it gives
            ``activations.<layer>`` (N, C, h, w) and ``weights.<layer>`` (N, K, C) where a gradient is the same
            everywhere, else ``gradients.<layer>`` (N, K, C, h, w); for CAM ``weights.cam`` (N, K, C), or ``sums.cam``
            (N, K, h, w) before sign and ReLU; and input gradients. Floats stay what they are in the model.
        preprocessing: JSON to store in the metadata.
        precision: ``model`` for the types of the model, or ``float32`` for a float16 or float64 model computed in
            float32, inputs and outputs included. A bfloat16 model always is.

    Returns:
        A model with the inputs of the original, ``targets`` int64 (N, K), and those that the target brings (a mask,
        say), each (N, K, ...); a negative target -r means the class in place r of that image's ranking, up to 16, for
        targets that have one. Outputs: ``scores`` (N, K), ``explained`` int64 (N, K) the targets
        with negative ones resolved, for each method of maps ``heatmap.<method>`` (N, K, H, W), ``raw.<method>``
        (N, K, h, w) and ``range.<method>`` (N, K, 2) (least and greatest value before the ReLU), for the others one
        output of their name (N, K, C, H, W) in the picture's own layout; then the model's own outputs.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model.
    """
    check_saturation(saturation)
    chosen = check_options(methods, profile, sign, targets_per_image, precision)
    normal = normalize(model)
    if precision == "float32":
        to_float32(normal)
    free_batch(normal)
    graph = normal.graph
    types = float_types(graph)
    target = target or Class()
    found = target.tensors(graph, output)
    scores = [tensor.value for tensor in found]
    image = image_input(graph)
    target.count(scores)
    layers = _choose_layers(graph, target, scores, chosen, layer)
    guided = guided_nodes(graph, relu_policy)
    own_outputs = list(graph.outputs)
    names = {"layer": [value.name for value in layers], "scores": ", ".join(str(value.name) for value in scores)}
    renamed = _free_our_names(graph, [extra.name for extra in target.inputs(scores)])
    plan = _Plan(
        graph, Builder(graph), chosen, layers, layer_places(graph, layers), target, scores, image, profile,
        -1 if sign == "negative" else 1, guided, saturation, details, embeddings(graph) if words else {},
        not heads_in_graph,
    )  # fmt: skip
    graph.outputs.clear()
    _write(plan, targets_per_image)
    graph.outputs.extend(own_outputs)
    passes.RemoveUnusedNodesPass()(normal)
    shield_int8(graph)
    _describe(
        normal,
        {
            "version": _version(),
            "source_sha256": fingerprint(model),
            "layer": names["layer"],
            "target": target.describe(),
            "methods": chosen,
            "profile": profile,
            "sign": sign,
            "relu_policy": relu_policy,
            "saturation": saturation,
            "guided_nodes": [node.name for node in _guided_on_path(plan)] if wants_guided(chosen) else [],
            "scores": names["scores"],
            "classes": target.count(scores),
            "inputs": {extra.name: extra.what for extra in target.inputs(scores)},
            "output": ", ".join(dict.fromkeys(tensor.output for tensor in found)),
            "cut": ", ".join(dict.fromkeys(tensor.cut for tensor in found if tensor.cut)) or None,
            "image": image.name,
            "channel_axis": channel_axis(image),
            "input_quantization": input_quantization(image),
            "preprocessing": preprocessing,
            "precision": precision,
            "float_types": types,
            "renamed": renamed or None,
            "kernels": _for_kernels(plan) if plan.bare else None,
        },
    )
    return ir.to_proto(normal)


def _choose_layers(
    graph: ir.Graph, target: Target, scores: Sequence[ir.Value], methods: Sequence[str],
    layer: str | Sequence[str] | None,
) -> list[ir.Value]:  # fmt: skip
    """The layers of the maps; none if no map is asked for. CAM has its layer in the graph's structure."""
    cam_layer = [_cam_end(target, scores).activation] if "cam" in methods else []
    if not wants_layers(methods):
        if cam_layer and layer is not None and find_layers(graph, scores[0], layer) != cam_layer:
            raise LayerError(f"CAM explains the layer before the global average pool, '{cam_layer[0].name}'")
        return cam_layer
    if layer is None:
        return target.layers(graph, scores) or find_layers(graph, scores[0], None)
    names = [layer] if isinstance(layer, str) else list(layer)
    if len(scores) == 1 or not names:
        return find_layers(graph, scores[0], names)
    return [_layer_of_any(graph, scores, name) for name in names]


def _layer_of_any(graph: ir.Graph, scores: Sequence[ir.Value], name: str) -> ir.Value:
    """The layer of this name, which leads to at least one of the tensors with scores."""
    for score in scores[:-1]:
        try:
            return find_layers(graph, score, name)[0]
        except LayerError:
            continue
    return find_layers(graph, scores[-1], name)[0]


def _cam_end(target: Target, scores: Sequence[ir.Value]) -> CamEnd:
    if target.name != Class.name:
        raise OptionError(f"the method cam explains the classes of a classifier, not the target '{target.name}'")
    return find_cam_end(scores[0])


def _write(plan: _Plan, targets_per_image: int | None) -> None:
    """Append everything from the targets to the finished maps."""
    graph, b = plan.graph, plan.builder
    batch = plan.image.shape[0] if plan.image.shape is not None else None
    targets = ir.Value(
        name="targets", type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([batch, "K" if targets_per_image is None else targets_per_image]),
    )  # fmt: skip
    graph.inputs.append(targets)
    resolved = _resolve(plan, targets)
    extras = plan.target.inputs(plan.scores)
    given = [resolved, *(_add_input(plan, targets, extra) for extra in extras)]
    if targets_per_image == 1:
        each = [b.op("Squeeze", value, b.ints([1])) for value in given]
    else:
        each = [ir.Value(name=name, type=value.type) for name, value in zip(_each(extras), given, strict=True)]
    for value, extra in zip(each, (None, *extras), strict=True):
        value.shape = ir.Shape([batch, *(extra.dims if extra is not None else ())])
    further = {extra.name: value for extra, value in zip(extras, each[1:], strict=True)}
    per_target = _per_target(plan, each[0], further)
    names, values = list(per_target), list(per_target.values())
    if targets_per_image == 1:
        stacked = single_target(b, values)
    else:
        stacked = scan_targets(graph, list(zip(given, each, strict=True)), values)
    everything = dict(zip(names, stacked, strict=True))
    _emit(plan, "scores", everything.pop("scores"), [])
    _emit(plan, "explained", resolved, [])
    _finish(plan, resolved, everything)


def _add_input(plan: _Plan, targets: ir.Value, extra: Extra) -> ir.Value:
    assert targets.shape is not None
    value = ir.Value(
        name=extra.name, type=ir.TensorType(extra.dtype), shape=ir.Shape([*targets.shape.dims, *extra.dims])
    )
    plan.graph.inputs.append(value)
    return value


def _each(extras: Sequence[Extra]) -> list[str]:
    return ["target", *(f"{extra.name}/each" for extra in extras)]


def _resolve(plan: _Plan, targets: ir.Value) -> ir.Value:
    """Negative targets, -1 the top class, replaced by what they point to in the image's ranking."""
    b, count = plan.builder, plan.target.count(plan.scores)
    ranking = plan.target.ranking(b, plan.scores)
    if ranking is None:
        return targets
    depth = b.ints([min(_TOP, count)]) if count is not None else b.op(
        "Min", b.ints([_TOP]), b.op("Shape", ranking, start=1)
    )  # fmt: skip
    _, order = b.op_multi("TopK", [ranking, depth], 2, axis=1)
    order.dtype = ir.DataType.INT64
    place = b.op("Max", b.op("Sub", b.op("Neg", targets), 1), 0)
    return b.op("Where", b.op("Less", targets, 0), b.op("GatherElements", order, place, axis=1), targets)


def _per_target(plan: _Plan, index: ir.Value, further: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """What one target per image needs: the score, a weight per channel, the gradients; each (N, ...)."""
    b, graph = plan.builder, plan.graph
    before = len(graph)
    score = plan.target.score(b, plan.scores, index, further)
    infer_shapes(list(graph)[before:])
    score.shape = ir.Shape([plan.image.shape[0] if plan.image.shape is not None else None])
    values = {"scores": heads.as_float32(b, score)}
    wanted = {rule for name, rule in INPUT_METHODS.items() if name in plan.methods}
    if "guided_gradcam" in plan.methods:
        wanted.add("guided")
    by_channel = bool({"gradcam", "guided_gradcam"} & set(plan.methods))
    sources = list(plan.layers) if wants_layers(plan.methods) or plan.details else []
    # the plain gradient of the layers, and of the picture if asked for, in one walk
    plain = [*sources, *plan.words.values(), *([plan.image] if "standard" in wanted else [])]
    inputs = [plan.image] if wanted else []
    scale = seed_scale(graph, score, [*plain, *inputs])
    seed = seed_of(b, score, scale)
    gradients = backward(graph, b, {score: seed}, plain, saturation=plan.saturation) if plain else []

    def finished(gradient: ir.Value, rank: int) -> ir.Value:
        raw = plan.bare and scale is None
        return heads.for_kernels(b, gradient) if raw else unscaled(b, heads.as_float32(b, gradient), scale, rank)

    for i, source in enumerate(sources):
        gradient = to_picture(b, gradients[i], source, plan.places[i])
        same_everywhere = gradient.meta.get("spread") and not set(PIXEL_METHODS) & set(plan.methods)
        if same_everywhere if plan.bare else by_channel:
            values[f"weights.{i}"] = unscaled(b, heads.channel_weights(b, gradient), scale, 2)
        if plan.details or (plan.bare and not same_everywhere):
            values[f"gradients.{i}"] = finished(gradient, 4)
        for name in () if plan.bare else PIXEL_METHODS:
            if name in plan.methods:
                pixels = heads.pixel_map(b, name, gradient, plan.pictures[i], plan.sign)
                values[f"{name}.{i}"] = unscaled(b, pixels, scale, 3)
    for (name, embedding), gradient in zip(plan.words.items(), gradients[len(sources) :], strict=False):
        scores = heads.as_float32(b, word_scores(b, gradient, embedding))
        values[f"word_scores.{name}"] = unscaled(b, scores, scale, 2)
    rank = len(known_dims(plan.image) or [])
    if "standard" in wanted:
        values["gradient"] = finished(gradients[-1], rank)
    for name, rule in INPUT_METHODS.items():
        if rule in wanted and rule != "standard":
            (gradient,) = backward(graph, b, {score: seed}, [plan.image], rule, plan.guided, plan.saturation)
            values[name] = finished(gradient, rank)
    return values


def _finish(plan: _Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
    """From weights and gradients for all targets to the named outputs."""
    if plan.bare:
        _stop_before_heads(plan, targets, values)
        return
    b, axis = plan.builder, channel_axis(plan.image)
    size = heads.picture_size(b, plan.image, axis)
    activations = [heads.as_float32(b, picture) for picture in plan.pictures]
    wide: ir.Value | None = None
    if {"gradcam", "guided_gradcam"} & set(plan.methods):
        signed = [heads.weighted_sum(b, values[f"weights.{i}"], a, plan.sign) for i, a in enumerate(activations)]
        wide = _maps(plan, "gradcam", signed, size, shown="gradcam" in plan.methods)
    for name in PIXEL_METHODS:
        if name in plan.methods:
            _maps(plan, name, [values[f"{name}.{i}"] for i in range(len(plan.layers))], size, shown=True)
    if "cam" in plan.methods:
        end = _cam_end(plan.target, plan.scores)
        maps = heads.as_float32(b, cam_maps(b, end, targets))
        _maps(plan, "cam", [maps if plan.sign > 0 else b.op("Neg", maps)], size, shown=True)
    picture = known_dims(plan.image) or []
    for name in INPUT_METHODS:
        if name in plan.methods:
            _emit(plan, name, values[name], picture[1:])
    if "guided_gradcam" in plan.methods:
        assert wide is not None
        _emit(plan, "guided_gradcam", heads.guided_product(b, values["guided_backprop"], wide, axis), picture[1:])
    _emit_words(plan, values)
    if plan.details:
        for i, layer in enumerate(plan.layers):
            dims = picture_dims(layer, plan.places[i])[1:]
            _emit(plan, f"activations.{layer.name}", activations[i], dims, per_target=False)
            if f"gradients.{i}" in values:
                _emit(plan, f"gradients.{layer.name}", values[f"gradients.{i}"], dims)


def _emit_words(plan: _Plan, values: dict[str, ir.Value]) -> None:
    for name, embedding in plan.words.items():
        _emit(plan, f"word_scores.{name}", values[f"word_scores.{name}"], (known_dims(embedding) or [None] * 3)[1:2])


def _stop_before_heads(plan: _Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
    """The outputs of a graph whose heads are kernels."""
    b = plan.builder
    maps = dict(zip(plan.layers, plan.pictures, strict=True))
    if "cam" in plan.methods:
        end = _cam_end(plan.target, plan.scores)
        dims = known_dims(end.activation) or [None] * 4
        rows = cam_weights(b, end, targets)
        if rows is None:
            _emit(plan, "sums.cam", heads.for_kernels(b, cam_maps(b, end, targets)), dims[2:])
        else:
            _emit(plan, "weights.cam", heads.as_float32(b, rows), dims[1:2])
            maps.setdefault(end.activation, end.activation)
    for i, (layer, picture) in enumerate(maps.items()):
        dims = (known_dims(picture) or [None] * 4)[1:]
        _emit(plan, f"activations.{layer.name}", heads.for_kernels(b, picture), dims, per_target=False)
        for kind, size in (("weights", dims[:1]), ("gradients", dims)):
            if f"{kind}.{i}" in values:
                _emit(plan, f"{kind}.{layer.name}", values[f"{kind}.{i}"], size)
    for name in (name for name in INPUT_METHODS if name in values):
        _emit(plan, name, values[name], (known_dims(plan.image) or [])[1:])
    _emit_words(plan, values)


def _for_kernels(plan: _Plan) -> dict[str, Any]:
    """Which activations the kernels find under which name: in the order of the layers, and CAM's."""
    end = _cam_end(plan.target, plan.scores) if "cam" in plan.methods else None
    cam_layer = end.activation.name if end is not None and end.weights is not None else None
    return {"layers": [layer.name for layer in plan.layers], "cam": cam_layer}


def _maps(plan: _Plan, method: str, signed: list[ir.Value], size: ir.Value, *, shown: bool) -> ir.Value:
    """Write the outputs of one method of maps; returns the map that the guided product multiplies with."""
    b = plan.builder
    raw = signed if plan.profile == "captum" else [b.op("Relu", maps) for maps in signed]
    if plan.profile == "captum" and len(raw) > 1:
        raise OptionError("the profile captum gives a map per layer: explain one layer at a time")
    final, wide = heads.heat_map(b, raw, size, plan.profile)
    if not shown:
        return wide
    small = [list(places.size) for places in plan.places]
    if method == "cam":
        small = [(known_dims(_cam_end(plan.target, plan.scores).activation) or [None] * 4)[2:]]
    picture, axis = known_dims(plan.image) or [None] * 4, channel_axis(plan.image)
    shape = small[0] if plan.profile == "captum" else picture[2:] if axis == 1 else picture[1:3]
    _emit(plan, f"heatmap.{method}", final, shape)
    for i, maps in enumerate(raw):
        suffix = method if len(raw) == 1 else f"{method}.{plan.layers[i].name}"
        _emit(plan, f"raw.{suffix}", maps, small[i])
    _emit(plan, f"range.{method}", heads.range_of(b, signed[0] if len(signed) == 1 else final), [2])
    if method == "cam":
        _emit(plan, "cam", final, shape)
    return wide


def _emit(plan: _Plan, name: str, value: ir.Value, dims: Sequence[int | None], *, per_target: bool = True) -> None:
    """Make ``value`` an output, (N, K, dims) or (N, dims)."""
    targets = next(v for v in plan.graph.inputs if v.name == "targets")
    assert targets.shape is not None
    first = targets.shape.dims if per_target else targets.shape.dims[:1]
    add_output(plan.graph, plan.builder, value, name, ir.Shape([*first, *dims]))


def _free_our_names(graph: ir.Graph, inputs: Sequence[str]) -> dict[str, str]:
    """Rename the model's tensors that have the name of an input or output of an explanation, as many a model has an
    output ``scores``: to ``model.scores``. Returns the old names by the new ones.

    Raises:
        ModelError: It is an input, whose name is part of how the model is called.
    """
    renamed: dict[str, str] = {}
    taken = {value.name for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs}
    taken.update(value.name for value in (*graph.inputs, *graph.initializers.values()))
    for name in sorted(str(n) for n in taken):
        if name not in _OUR_NAMES and name not in inputs and not name.startswith(_OUR_PREFIXES):
            continue
        value = ir.convenience.create_value_mapping(graph, include_subgraphs=False).get(name)
        if value is None:
            continue
        if any(value is given for given in graph.inputs):
            raise ModelError(
                f"the model's input '{name}' has the name of an input or output of the explanation: rename it"
            )
        new = f"model.{name}"
        while new in taken:
            new += "_"
        value.name = new
        renamed[new] = name
    return renamed


def _guided_on_path(plan: _Plan) -> list[ir.Node]:
    """The guided nodes that the backward pass met: those still in the graph with both the picture behind them and
    the scores before them."""
    behind = set(plan.scores)
    met = []
    special = set(plan.guided)
    for node in reversed(list(plan.graph)):
        if any(output in behind for output in node.outputs):
            behind.update(v for v in node.inputs if v is not None)
            if node in special:
                met.append(node)
    return list(reversed(met))


def _describe(model: ir.Model, facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        if value is not None:
            model.metadata_props[f"portable_cam.{key}"] = value if isinstance(value, str) else json.dumps(value)


def _version() -> str:
    try:
        return version("portable-cam")
    except PackageNotFoundError:
        return "unknown"
