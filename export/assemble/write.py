"""Writes the nodes of an explanation: from the targets over scores and gradients to the finished maps.

What is written for a method is read from its record (:mod:`portable_cam.export.methods.method`); no method has a name
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export import format
from portable_cam.export.assemble.differentiate import add_output
from portable_cam.export.assemble.per_target import scan_targets, single_target
from portable_cam.export.autodiff.backward import backward
from portable_cam.export.autodiff.loss_scale import loss_scale, scaled_seed, unscale
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32, as_kernel_float
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.layers.placement import Placement, placement
from portable_cam.export.layers.spatial import SpatialAxes, map_dims, to_map
from portable_cam.export.methods import profiles
from portable_cam.export.methods.cam import CamLayer, cam_axes, cam_end, cam_maps, cam_weights
from portable_cam.export.methods.gradcam import channel_weights, weighted_sum
from portable_cam.export.methods.guided_gradcam import product
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.tokens import token_attribution
from portable_cam.export.options import Options
from portable_cam.export.targets import Extra, Target


@dataclass
class Plan:
    """Everything that is decided before nodes are written.

    Attributes:
        graph: The normalised graph, without outputs.
        builder: Writes into it.
        options: The choices.
        layers: The tensors whose maps are made.
        axes: The spatial axes of each.
        scores: The tensors that hold the scores.
        image: The input explained.
        guided: The ReLU-like nodes that guided methods treat so.
        tokens: Of each input of token ids its embedding, where tokens are scored.
        for_kernels: The graph stops before the maps.
        maps: The activations of the layers as (N, C, h, w), whatever layout the model has.
        places: Where the maps of each layer go in the image; None for stretched over it.
        cam: The end of the classifier, the axes of CAM's layer, its activation as a map, and where that goes; None
            where CAM is not asked for.
    """

    graph: ir.Graph
    builder: Builder
    options: Options
    layers: list[ir.Value]
    axes: list[SpatialAxes]
    scores: list[ir.Value]
    image: ir.Value
    guided: list[ir.Node]
    tokens: dict[str, ir.Value]
    for_kernels: bool
    maps: list[ir.Value] = field(init=False)
    places: list[Placement | None] = field(init=False)
    cam: CamLayer | None = field(init=False)

    def __post_init__(self) -> None:
        self.places, self.cam = self._places(self.axes), None
        if any(method.classifier for method in self.options.computed):
            end = cam_end(self.target, self.scores)
            axes = cam_axes(self.graph, end)
            self.cam = CamLayer(
                end, axes, to_map(self.builder, end.activation, end.activation, axes), self._places([axes])
            )
        pairs = zip(self.layers, self.axes, strict=True)
        self.maps = [to_map(self.builder, layer, layer, axes) for layer, axes in pairs]

    @property
    def target(self) -> Target:
        return self.options.explained

    @property
    def batch(self) -> int | ir.SymbolicDim | None:
        """The first dimension of the image."""
        return self.image.shape[0] if self.image.shape is not None else None

    @property
    def image_size(self) -> list[int | None]:
        """Height and width of the image, None where they are open."""
        dims = known_dims(self.image) or [None] * 4
        return dims[2:] if channel_axis(self.image) == 1 else dims[1:3]

    def _places(self, axes: Sequence[SpatialAxes]) -> list[Placement | None]:
        return [placement(each, self.image_size, self.options.alignment) for each in axes]

    def shown(self, method: Method) -> bool:
        """The method was asked for, and is not only a factor of another."""
        return method.name in self.options.methods


def write(plan: Plan, targets_per_image: int | None) -> None:
    """Append everything from the targets to the finished maps."""
    graph, b = plan.graph, plan.builder
    targets = ir.Value(
        name=format.TARGETS,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape([plan.batch, "K" if targets_per_image is None else targets_per_image]),
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
        value.shape = ir.Shape([plan.batch, *(extra.dims if extra is not None else ())])
    further = {extra.name: value for extra, value in zip(extras, each[1:], strict=True)}
    per_target = _per_target(plan, each[0], further)
    names, values = list(per_target), list(per_target.values())
    if targets_per_image == 1:
        stacked = single_target(b, values)
    else:
        stacked = scan_targets(graph, list(zip(given, each, strict=True)), values)
    everything = dict(zip(names, stacked, strict=True))
    _emit(plan, format.SCORES, everything.pop(format.SCORES), [])
    _emit(plan, format.EXPLAINED, resolved, [])
    if plan.for_kernels:
        _stop_before_maps(plan, resolved, everything)
    else:
        _finish(plan, resolved, everything)


def _add_input(plan: Plan, targets: ir.Value, extra: Extra) -> ir.Value:
    dims = targets.shape.dims if targets.shape is not None else ()
    value = ir.Value(name=extra.name, type=ir.TensorType(extra.dtype), shape=ir.Shape([*dims, *extra.dims]))
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
    if count is not None:
        depth = b.ints([min(format.MOST_RANKS, count)])
    else:
        depth = b.op("Min", b.ints([format.MOST_RANKS]), b.op("Shape", ranking, start=1))
    _, order = b.op_multi("TopK", [ranking, depth], 2, axis=1)
    order.dtype = ir.DataType.INT64
    rank = b.op("Max", b.op("Sub", b.op("Neg", targets), 1), 0)
    return b.op("Where", b.op("Less", targets, 0), b.op("GatherElements", order, rank, axis=1), targets)


# -- once for each target ------------------------------------------------------------------------------------------


def _per_target(plan: Plan, index: ir.Value, further: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """What one target per image needs: the score, weights of channels, maps, gradients; each (N, ...)."""
    b, graph, methods = plan.builder, plan.graph, plan.options.computed
    before = len(graph)
    score = plan.target.score(b, plan.scores, index, further)
    infer_shapes(list(graph)[before:])
    score.shape = ir.Shape([plan.batch])
    values = {format.SCORES: as_float32(b, score)}
    sources = list(plan.layers) if any(m.uses_layer for m in methods) or plan.options.details else []
    rules = [method.relu_rule for method in methods if method.relu_rule is not None]
    # the plain gradient of the layers, and of the image if asked for, in one walk
    plain = [*sources, *plan.tokens.values(), *([plan.image] if "standard" in rules else [])]
    scale = loss_scale(graph, score, [*plain, *([plan.image] if rules else [])])
    seed = scaled_seed(b, score, scale)
    if plan.target.shared(plan.scores):  # every image has the score of all of them
        seed = b.op("Div", seed, b.op("Cast", b.op("Squeeze", b.dim(plan.image, 0)), to=int(dtype_of(seed))))
    saturation = plan.options.saturation
    gradients = backward(graph, b, {score: seed}, plain, saturation=saturation) if plain else []

    for i, source in enumerate(sources):
        gradient = to_map(b, gradients[i], source, plan.axes[i])
        if plan.for_kernels:
            values |= _for_kernels(plan, i, gradient, scale)
            continue
        if plan.options.details:
            values[f"{format.GRADIENTS}{i}"] = _gradient(plan, gradient, scale, 4)
        for method in methods:
            values |= _of_layer(plan, method, i, gradient, scale)
    for (name, embedding), gradient in zip(plan.tokens.items(), gradients[len(sources) :], strict=False):
        attributed = as_float32(b, token_attribution(b, gradient, embedding))
        values[f"{format.TOKEN_ATTRIBUTION}{name}"] = unscale(b, attributed, scale, 2)
    rank = len(known_dims(plan.image) or [])
    for method in methods:
        if method.relu_rule is None:
            continue
        found = gradients
        if method.relu_rule != "standard":
            found = backward(graph, b, {score: seed}, [plan.image], method.relu_rule, plan.guided, saturation)
        values[method.name] = _gradient(plan, found[-1], scale, rank, shown=plan.shown(method))
    return values


def _of_layer(plan: Plan, method: Method, i: int, gradient: ir.Value, scale: ir.Value | None) -> dict[str, ir.Value]:
    """What a method makes of the gradient of the i-th layer, (N, C, h, w): weights of its channels, or its map."""
    compute = method.channel_weights or method.pixel_map
    if compute is None:
        return {}
    b, linear = plan.builder, method.in_gradient == "linear"
    if method.in_gradient == "nonlinear":
        gradient, scale = unscale(b, as_float32(b, gradient), scale, 4), None
    if plan.options.negated and not linear:
        gradient = b.op("Neg", gradient)
    made = compute(b, gradient, plan.maps[i])
    if plan.options.negated and linear:
        made = b.op("Neg", made)
    return {f"{method.name}.{i}": unscale(b, made, scale, 2 if method.channel_weights else 3)}


def _for_kernels(plan: Plan, i: int, gradient: ir.Value, scale: ir.Value | None) -> dict[str, ir.Value]:
    """What kernels need of the gradient of the i-th layer: only the weights of its channels where it is the same
    everywhere and no method asks for more."""
    b, values = plan.builder, {}
    methods = [method for method in plan.options.computed if method.uses_layer]
    weights = bool(gradient.meta.get("spread")) and all(m.channel_weights is channel_weights for m in methods)
    if weights:
        values[f"{format.WEIGHTS}{i}"] = unscale(b, channel_weights(b, gradient), scale, 2)
    if plan.options.details or not weights:
        values[f"{format.GRADIENTS}{i}"] = _gradient(plan, gradient, scale, 4, shown=plan.options.details)
    return values


def _gradient(plan: Plan, gradient: ir.Value, scale: ir.Value | None, rank: int, *, shown: bool = True) -> ir.Value:
    """A gradient as it leaves the graph: float32 and without the loss scale; or in its own type, where it is for
    kernels alone."""
    if plan.for_kernels and scale is None and not shown:
        return as_kernel_float(plan.builder, gradient)
    return unscale(plan.builder, as_float32(plan.builder, gradient), scale, rank)


# -- for all targets at once ---------------------------------------------------------------------------------------


def _finish(plan: Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
    """From weights, maps and gradients for all targets to the named outputs."""
    b, axis = plan.builder, channel_axis(plan.image)
    size = profiles.image_size(b, plan.image, axis)
    activations = [as_float32(b, activation) for activation in plan.maps]
    dims = (known_dims(plan.image) or [])[1:]
    wide: dict[str, ir.Value] = {}
    for method in plan.options.computed:
        signed: list[ir.Value] = []
        if method.classifier and plan.cam is not None:
            maps = as_float32(b, cam_maps(b, plan.cam.end, plan.cam.map, targets))
            signed = [b.op("Neg", maps) if plan.options.negated else maps]
        elif method.channel_weights is not None:
            signed = [weighted_sum(b, values[f"{method.name}.{i}"], a) for i, a in enumerate(activations)]
        elif method.pixel_map is not None:
            signed = [values[f"{method.name}.{i}"] for i in range(len(plan.layers))]
        if signed:
            wide[method.name] = _heat_maps(plan, method, signed, size)
        elif method.factors is not None:
            of_input, of_layer = method.factors
            _emit(plan, method.name, product(b, values[of_input], wide[of_layer], axis), dims)
        elif plan.shown(method):
            _emit(plan, method.name, values[method.name], dims)
    _emit_tokens(plan, values)
    if plan.options.details:
        for i, layer in enumerate(plan.layers):
            of_map = map_dims(layer, plan.axes[i])[1:]
            _emit(plan, f"{format.ACTIVATIONS}{layer.name}", activations[i], of_map, per_target=False)
            if f"{format.GRADIENTS}{i}" in values:
                _emit(plan, f"{format.GRADIENTS}{layer.name}", values[f"{format.GRADIENTS}{i}"], of_map)


def _heat_maps(plan: Plan, method: Method, signed: list[ir.Value], size: ir.Value) -> ir.Value:
    """Write the outputs of one method of maps; returns the map that a product multiplies with."""
    b, profile = plan.builder, plan.options.profile
    if profile == "captum" and len(signed) > 1:
        names = ", ".join(str(layer.name) for layer in plan.layers)
        raise OptionError(f"the profile captum gives a map per layer, not one of {names}: explain one layer at a time")
    raw = signed if profile == "captum" else [b.op("Relu", maps) for maps in signed]
    cam = plan.cam if method.classifier else None
    final, wide = profiles.heat_map(b, raw, size, profile, plan.places if cam is None else cam.places)
    if not plan.shown(method):
        return wide
    small = [list(axes.size) for axes in (plan.axes if cam is None else [cam.axes])]
    shape = small[0] if profile == "captum" else plan.image_size
    _emit(plan, format.output_of(method.name), final, shape)
    for i, maps in enumerate(raw):
        layer = None if len(raw) == 1 else str(plan.layers[i].name)
        _emit(plan, format.raw_output(method.name, layer), maps, small[i])
    one = signed[0] if len(signed) == 1 else final
    _emit(plan, f"{format.RANGE}{method.name}", profiles.value_range(b, one), [2])
    if method.classifier:
        _emit(plan, format.CAM, final, shape)
    return wide


def _stop_before_maps(plan: Plan, targets: ir.Value, values: dict[str, ir.Value]) -> None:
    """The outputs of a graph whose maps are made by kernels."""
    b = plan.builder
    maps = dict(zip(plan.layers, plan.maps, strict=True))
    for method in plan.options.computed:
        if not method.classifier or plan.cam is None:
            continue
        end, dims = plan.cam.end, map_dims(plan.cam.end.activation, plan.cam.axes)
        rows = cam_weights(b, end, targets)
        if rows is None:
            sums = as_kernel_float(b, cam_maps(b, end, plan.cam.map, targets))
            _emit(plan, f"{format.SUMS}{method.name}", sums, dims[2:])
        else:
            _emit(plan, f"{format.WEIGHTS}{method.name}", as_float32(b, rows), dims[1:2])
            maps.setdefault(end.activation, plan.cam.map)
    for i, (layer, activation) in enumerate(maps.items()):
        dims = (known_dims(activation) or [None] * 4)[1:]
        made = as_float32(b, activation) if plan.options.details else as_kernel_float(b, activation)
        _emit(plan, f"{format.ACTIVATIONS}{layer.name}", made, dims, per_target=False)
        for prefix, size in ((format.WEIGHTS, dims[:1]), (format.GRADIENTS, dims)):
            if f"{prefix}{i}" in values:
                _emit(plan, f"{prefix}{layer.name}", values[f"{prefix}{i}"], size)
    for method in plan.options.computed:
        if method.relu_rule is not None:
            _emit(plan, method.name, values[method.name], (known_dims(plan.image) or [])[1:])
    _emit_tokens(plan, values)


def _emit_tokens(plan: Plan, values: dict[str, ir.Value]) -> None:
    for name, embedding in plan.tokens.items():
        output, dims = f"{format.TOKEN_ATTRIBUTION}{name}", known_dims(embedding) or [None] * 3
        _emit(plan, output, values[output], dims[1:2])


def _emit(plan: Plan, name: str, value: ir.Value, dims: Sequence[int | None], *, per_target: bool = True) -> None:
    """Make ``value`` an output, (N, K, dims) or (N, dims)."""
    targets = next(v for v in plan.graph.inputs if v.name == format.TARGETS)
    shape = targets.shape.dims if targets.shape is not None else ()
    add_output(plan.graph, plan.builder, value, name, ir.Shape([*(shape if per_target else shape[:1]), *dims]))
