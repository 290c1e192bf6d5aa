"""Writes the nodes of an explanation: from the targets over scores and gradients to the finished maps.

What is written for a method is read from its record (:mod:`portable_cam.export.methods.method`); no method has a name
here.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export import format
from portable_cam.export.assemble.asked import Asked, ask
from portable_cam.export.assemble.heat_maps import heat_maps, put_back
from portable_cam.export.assemble.per_target import all_targets, one_target
from portable_cam.export.assemble.plan import Plan, emit
from portable_cam.export.autodiff.backward import backward
from portable_cam.export.autodiff.dequantized import input_quantization
from portable_cam.export.autodiff.loss_scale import loss_scale, scaled_seed, unscale
from portable_cam.export.graph.casts import as_float32, as_kernel_float
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import dtype_of, known_dims
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.layers.spatial import map_dims, to_map
from portable_cam.export.methods import profiles
from portable_cam.export.methods.cam import cam_maps, cam_weights
from portable_cam.export.methods.gradcam import channel_weights, weighted_sum
from portable_cam.export.methods.guided_gradcam import product
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.tokens import token_attribution
from portable_cam.spelling import option


def write(plan: Plan, targets_per_image: int | None) -> Asked:
    """Append everything from the targets to the finished maps. Returns what says the targets."""
    b, asked = plan.builder, ask(plan.builder, plan.target, plan.scores, plan.batch, targets_per_image)
    given = [asked.targets, *(value for _, value in asked.extras)]
    each = one_target(b, given, ["target", *(f"{extra.name}/each" for extra, _ in asked.extras)], targets_per_image)
    for value, dims in zip(each, ((), *(extra.dims for extra, _ in asked.extras)), strict=True):
        value.shape = ir.Shape([plan.batch, *dims])
    further = {extra.name: value for (extra, _), value in zip(asked.extras, each[1:], strict=True)}
    per_target = _per_target(plan, each[0], further)
    names, values = list(per_target), list(per_target.values())
    stacked = all_targets(b, list(zip(given, each, strict=True)), values, targets_per_image)
    everything = dict(zip(names, stacked, strict=True))
    emit(plan, format.SCORES, everything.pop(format.SCORES), [])
    emit(plan, format.EXPLAINED, asked.targets, [])
    emit(plan, format.CLAMPED, asked.clamped, [])
    if plan.for_kernels:
        _stop_before_maps(plan, asked.targets, everything)
    else:
        _finish(plan, asked.targets, everything)
    return asked


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
    if scale is not None and any(axes.several for axes in plan.axes):
        needed = option("precision", "float32")
        raise OptionError(f"a layer of several views of an image has no gradient in float16: add {needed}")
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
        if method.times_input:
            values[method.name] = b.op("Mul", as_float32(b, values[method.name]), _input_values(plan))
    return values


def _input_values(plan: Plan) -> ir.Value:
    """What the image's numbers stand for, in float32: those of an integer image dequantised as the model does it."""
    b, quantization = plan.builder, input_quantization(plan.image)
    values = as_float32(b, plan.image)
    if quantization is None:
        return values
    scale, zero = quantization
    return b.op("Mul", b.op("Sub", values, float(zero)), float(scale))


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
    views = put_back(plan, size)
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
        elif method.activation_map is not None:
            signed = [_for_every_target(plan, method.activation_map(b, a), targets) for a in activations]
        if signed:
            wide[method.name] = heat_maps(plan, method, signed, size, views)
        elif method.factors is not None:
            of_input, of_layer = method.factors
            emit(plan, method.name, product(b, values[of_input], wide[of_layer], axis), dims)
        elif plan.shown(method):
            emit(plan, method.name, values[method.name], dims)
    _emit_tokens(plan, values)
    if plan.options.details:
        for i, layer in enumerate(plan.layers):
            of_map, name = map_dims(layer, plan.axes[i])[1:], f"{format.ACTIVATIONS}{layer.name}"
            several = plan.axes[i].several
            emit(plan, name, activations[i], of_map, per_target=False, of_images=not several)
            name = f"{format.GRADIENTS}{layer.name}"
            if f"{format.GRADIENTS}{i}" in values:
                emit(plan, name, values[f"{format.GRADIENTS}{i}"], of_map, of_images=not several)


def _for_every_target(plan: Plan, maps: ir.Value, targets: ir.Value) -> ir.Value:
    """Maps that do not depend on the target, (N, h, w) -> (N, K, h, w); N counts views where an image has several."""
    b, dims = plan.builder, known_dims(maps)
    every = b.op("Concat", b.ints([1]), b.op("Shape", targets, start=1), b.ints([1, 1]), axis=0)
    spread = b.op("Expand", b.op("Unsqueeze", maps, b.ints([1])), every)
    spread.shape = None if dims is None else ir.Shape([dims[0], None, *dims[1:]])
    return spread


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
            emit(plan, f"{format.SUMS}{method.name}", sums, dims[2:])
        else:
            emit(plan, f"{format.WEIGHTS}{method.name}", as_float32(b, rows), dims[1:2])
            maps.setdefault(end.activation, plan.cam.map)
    for i, (layer, activation) in enumerate(maps.items()):
        dims = (known_dims(activation) or [None] * 4)[1:]
        made = as_float32(b, activation) if plan.options.details else as_kernel_float(b, activation)
        emit(plan, f"{format.ACTIVATIONS}{layer.name}", made, dims, per_target=False)
        for prefix, size in ((format.WEIGHTS, dims[:1]), (format.GRADIENTS, dims)):
            if f"{prefix}{i}" in values:
                emit(plan, f"{prefix}{layer.name}", values[f"{prefix}{i}"], size)
    for method in plan.options.computed:
        if method.relu_rule is not None:
            emit(plan, method.name, values[method.name], (known_dims(plan.image) or [])[1:])
    _emit_tokens(plan, values)


def _emit_tokens(plan: Plan, values: dict[str, ir.Value]) -> None:
    for name, embedding in plan.tokens.items():
        output, dims = f"{format.TOKEN_ATTRIBUTION}{name}", known_dims(embedding) or [None] * 3
        emit(plan, output, values[output], dims[1:2])
