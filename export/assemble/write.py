"""Writes the nodes of an explanation: from the targets over scores and gradients to the finished maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export.assemble.differentiate import add_output
from portable_cam.export.assemble.per_target import scan_targets, single_target
from portable_cam.export.autodiff.backward import Saturation, backward
from portable_cam.export.autodiff.loss_scale import loss_scale, scaled_seed, unscale
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.candidates import channel_axis
from portable_cam.export.layers.spatial import SpatialAxes, map_dims, to_map
from portable_cam.export.methods import heat_map as heads
from portable_cam.export.methods.cam import CamEnd, cam_maps, cam_weights, find_cam_end
from portable_cam.export.methods.heat_map import Profile
from portable_cam.export.methods.registry import INPUT_METHODS, PIXEL_METHODS, wants_layers
from portable_cam.export.methods.tokens import token_attribution
from portable_cam.export.targets import Class, Extra, Target

_TOP = 16  # how far down the ranking a negative target can point


@dataclass
class Plan:
    """Everything that is decided before nodes are written."""

    graph: ir.Graph
    builder: Builder
    methods: tuple[str, ...]
    layers: list[ir.Value]
    places: list[SpatialAxes]
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
        self.pictures = [to_map(self.builder, layer, layer, places) for layer, places in pairs]


def write(plan: Plan, targets_per_image: int | None) -> None:
    """Append everything from the targets to the finished maps."""
    graph, b = plan.graph, plan.builder
    batch = plan.image.shape[0] if plan.image.shape is not None else None
    targets = ir.Value(
        name="targets",
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([batch, "K" if targets_per_image is None else targets_per_image]),
    )
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


def _add_input(plan: Plan, targets: ir.Value, extra: Extra) -> ir.Value:
    assert targets.shape is not None
    value = ir.Value(
        name=extra.name, type=ir.TensorType(extra.dtype), shape=ir.Shape([*targets.shape.dims, *extra.dims])
    )
    plan.graph.inputs.append(value)
    return value


def _each(extras: Sequence[Extra]) -> list[str]:
    return ["target", *(f"{extra.name}/each" for extra in extras)]


def _resolve(plan: Plan, targets: ir.Value) -> ir.Value:
    """Negative targets, -1 the top class, replaced by what they point to in the image's ranking."""
    b, count = plan.builder, plan.target.count(plan.scores)
    ranking = plan.target.ranking(b, plan.scores)
    if ranking is None:
        return targets
    depth = (
        b.ints([min(_TOP, count)])
        if count is not None
        else b.op("Min", b.ints([_TOP]), b.op("Shape", ranking, start=1))
    )
    _, order = b.op_multi("TopK", [ranking, depth], 2, axis=1)
    order.dtype = ir.DataType.INT64
    place = b.op("Max", b.op("Sub", b.op("Neg", targets), 1), 0)
    return b.op("Where", b.op("Less", targets, 0), b.op("GatherElements", order, place, axis=1), targets)


def _per_target(plan: Plan, index: ir.Value, further: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
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
    scale = loss_scale(graph, score, [*plain, *inputs])
    seed = scaled_seed(b, score, scale)
    gradients = backward(graph, b, {score: seed}, plain, saturation=plan.saturation) if plain else []

    def finished(gradient: ir.Value, rank: int) -> ir.Value:
        raw = plan.bare and scale is None
        return heads.for_kernels(b, gradient) if raw else unscale(b, heads.as_float32(b, gradient), scale, rank)

    for i, source in enumerate(sources):
        gradient = to_map(b, gradients[i], source, plan.places[i])
        same_everywhere = gradient.meta.get("spread") and not set(PIXEL_METHODS) & set(plan.methods)
        if same_everywhere if plan.bare else by_channel:
            values[f"weights.{i}"] = unscale(b, heads.channel_weights(b, gradient), scale, 2)
        if plan.details or (plan.bare and not same_everywhere):
            values[f"gradients.{i}"] = finished(gradient, 4)
        for name in () if plan.bare else PIXEL_METHODS:
            if name in plan.methods:
                pixels = heads.pixel_map(b, name, gradient, plan.pictures[i], plan.sign)
                values[f"{name}.{i}"] = unscale(b, pixels, scale, 3)
    for (name, embedding), gradient in zip(plan.words.items(), gradients[len(sources) :], strict=False):
        scores = heads.as_float32(b, token_attribution(b, gradient, embedding))
        values[f"token_attribution.{name}"] = unscale(b, scores, scale, 2)
    rank = len(known_dims(plan.image) or [])
    if "standard" in wanted:
        values["gradient"] = finished(gradients[-1], rank)
    for name, rule in INPUT_METHODS.items():
        if rule in wanted and rule != "standard":
            (gradient,) = backward(graph, b, {score: seed}, [plan.image], rule, plan.guided, plan.saturation)
            values[name] = finished(gradient, rank)
    return values


def _finish(plan: Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
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
        end = cam_end(plan.target, plan.scores)
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
            dims = map_dims(layer, plan.places[i])[1:]
            _emit(plan, f"activations.{layer.name}", activations[i], dims, per_target=False)
            if f"gradients.{i}" in values:
                _emit(plan, f"gradients.{layer.name}", values[f"gradients.{i}"], dims)


def _emit_words(plan: Plan, values: dict[str, ir.Value]) -> None:
    for name, embedding in plan.words.items():
        _emit(
            plan,
            f"token_attribution.{name}",
            values[f"token_attribution.{name}"],
            (known_dims(embedding) or [None] * 3)[1:2],
        )


def _stop_before_heads(plan: Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
    """The outputs of a graph whose heads are kernels."""
    b = plan.builder
    maps = dict(zip(plan.layers, plan.pictures, strict=True))
    if "cam" in plan.methods:
        end = cam_end(plan.target, plan.scores)
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


def _maps(plan: Plan, method: str, signed: list[ir.Value], size: ir.Value, *, shown: bool) -> ir.Value:
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
        small = [(known_dims(cam_end(plan.target, plan.scores).activation) or [None] * 4)[2:]]
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


def _emit(plan: Plan, name: str, value: ir.Value, dims: Sequence[int | None], *, per_target: bool = True) -> None:
    """Make ``value`` an output, (N, K, dims) or (N, dims)."""
    targets = next(v for v in plan.graph.inputs if v.name == "targets")
    assert targets.shape is not None
    first = targets.shape.dims if per_target else targets.shape.dims[:1]
    add_output(plan.graph, plan.builder, value, name, ir.Shape([*first, *dims]))


def cam_end(target: Target, scores: Sequence[ir.Value]) -> CamEnd:
    """The end of a classifier that CAM reads its weights from.

    Raises:
        OptionError: The target is no class.
        LayerError: The model has no such end.
    """
    if target.name != Class.name:
        raise OptionError(f"the method cam explains the classes of a classifier, not the target '{target.name}'")
    return find_cam_end(scores[0])
