"""Puts it together: model, layer, target and methods to one explanation graph."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import ModelError, OptionError
from portable_cam.export import format
from portable_cam.export.assemble.choose_layers import choose_layers, guided_on_path
from portable_cam.export.assemble.plan import Plan
from portable_cam.export.assemble.write import write
from portable_cam.export.autodiff.dequantized import input_quantization
from portable_cam.export.autodiff.relu_policy import guided_nodes
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.layers.candidates import image_input, layer_axes
from portable_cam.export.layers.frames import Pieces
from portable_cam.export.layers.input_layout import channel_axis, declare_axes
from portable_cam.export.layers.placement import Placement, ViewPlacement
from portable_cam.export.layers.relation import Relation
from portable_cam.export.methods.cam import cam_end
from portable_cam.export.methods.registry import uses_relu_rule
from portable_cam.export.methods.tokens import embeddings
from portable_cam.export.options import Options
from portable_cam.export.passes.dynamic_batch import make_batch_dynamic
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.passes.precision import float_types, to_float32
from portable_cam.export.read.inside import name_model
from portable_cam.export.targets.protocol import scores_of
from portable_cam.export.targets.scores import scores_to_explain
from portable_cam.spelling import option


def explanation_model(
    model: AnyModel,
    options: Options | None = None,
    *,
    targets_per_image: int | None = None,
    heads_in_graph: bool = True,
    preprocessing: str | None = None,
    free_batch: bool = True,
) -> ir.Model:
    """The graph of an explanation as ONNX Runtime runs it here, with weights that are still the source's: mapped from
    its files, or shared. :mod:`portable_cam.export.assemble.files` makes a file of it.

    Args:
        model: The model.
        options: The choices; None for the defaults.
        targets_per_image: How many targets the graph takes per image; None for any number, by a Scan.
        heads_in_graph: False for a graph that stops where kernels go on. Instead of the methods' maps it gives
            ``activations.<layer>`` (N, C, h, w) and ``weights.<layer>`` (N, K, C) where a gradient is the same
            everywhere, else ``gradients.<layer>`` (N, K, C, h, w); for CAM ``weights.cam`` (N, K, C), or ``sums.cam``
            (N, K, h, w) before sign and ReLU; and input gradients. Floats stay what they are in the model.
        preprocessing: JSON to store in the metadata.
        free_batch: Whether a fixed batch is made symbolic where the operators prove that images do not mix.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model.
    """
    options = options or Options()
    if targets_per_image is not None and targets_per_image < 1:
        raise OptionError(f"targets_per_image is a number from 1 on, or None (any number), not {targets_per_image}")
    source = normalized(model)
    normal = source.copy()
    if options.precision == "float32":
        to_float32(normal)
    fixed = _has_fixed_batch(normal.graph)
    freed = free_batch and make_batch_dynamic(normal).modified and fixed
    graph, target = normal.graph, options.explained
    declare_axes(graph, options.axes)
    types = float_types(graph)
    found = scores_of(target, graph, options.output, as_is=options.as_is)
    scores = scores_to_explain(graph, found)
    image = image_input(graph)
    target.count(scores)
    layers = choose_layers(graph, scores, options)
    own_inputs, own_outputs = list(graph.inputs), list(graph.outputs)
    layer_names = [str(value.name) for value in layers]
    score_names = ", ".join(str(tensor.value.name) for tensor in found)
    renamed = _free_our_names(graph, [extra.name for extra in target.inputs(scores)])
    plan = Plan(
        graph=graph,
        builder=Builder(graph),
        options=options,
        layers=layers,
        axes=layer_axes(graph, layers),
        scores=scores,
        image=image,
        guided=guided_nodes(graph, options.relu_policy),
        tokens=embeddings(graph) if options.words else {},
        for_kernels=not heads_in_graph,
    )
    if plan.for_kernels and any([*plan.places, *(plan.cam.places if plan.cam is not None else ())]):
        raise OptionError(
            "the kernels stretch maps over the image, but this layer does not look at all of it, or "
            f"{option('alignment', 'field')} was asked for: make the maps in the graph"
        )
    without = [m.name for m in options.computed if m.is_heat_map and m.kernel is None]
    if plan.for_kernels and without:
        raise OptionError(f"there is no kernel for {', '.join(without)}: make the maps in the graph")
    graph.outputs.clear()
    asked = write(plan, targets_per_image)
    graph.outputs.extend(own_outputs)
    passes.RemoveUnusedNodesPass()(normal)
    apply_ort_workarounds(graph)
    guided = guided_on_path(graph, scores, plan.guided) if uses_relu_rule(options.methods) else []
    ExplanationMetadata(
        options=options,
        version=_version(),
        source_sha256=source.sha256,
        layer=layer_names,
        target=target.describe(),
        guided_nodes=[str(node.name) for node in guided],
        scores=score_names,
        inputs={extra.name: extra.what for extra in target.inputs(scores)},
        output=", ".join(dict.fromkeys(tensor.output for tensor in found)),
        image=str(image.name),
        channel_axis=channel_axis(image),
        float_types=types,
        classes=target.count(scores),
        cut=", ".join(dict.fromkeys(tensor.cut for tensor in found if tensor.cut)) or None,
        batch="freed" if freed else "ranged" if any(n.op_type == "DynamicQuantizeLinear" for n in graph) else None,
        input_quantization=input_quantization(image),
        preprocessing=preprocessing,
        renamed=renamed or None,
        kernels=_for_kernels(plan) if plan.for_kernels else None,
        axes=dict(options.axes) if options.axes else None,
        shared=target.shared(scores) or None,
        probability=target.probability(found),
        as_is=options.as_is or None,
        row=options.row,
        rows=target.rows(scores),
        unseen=_unseen(layer_names, plan.places),
        placed=_placed(plan),
        ranked=asked.ranked or None,
    ).write(normal)
    name_model(normal, own_inputs, own_outputs)
    return normal


def _unseen(layers: Sequence[str], where: Sequence[Placement | ViewPlacement | None]) -> dict[str, float] | None:
    """The share of the image that each layer did not see; None if all see all of it."""
    shares = {name: there.unseen for name, there in zip(layers, where, strict=True) if there is not None}
    return {name: round(share, 6) for name, share in shares.items() if share} or None


def _placed(plan: Plan) -> dict[str, list[list[Any] | None]] | None:
    """Where the cells of the low-resolution maps lie, of those that are not stretched over the image."""
    found = {}
    for method in plan.options.computed:
        of_layers = plan.places if method.shows_layer else []
        where = plan.cam.places if method.classifier and plan.cam is not None else of_layers
        for there, layer in zip(where, plan.layers if len(where) > 1 else [None], strict=True) if where else ():
            if isinstance(there, Placement) and plan.shown(method):
                name = method.name if layer is None else f"{method.name}.{layer.name}"
                found[name] = [_written(along.relation) for along in (there.rows, there.columns)]
    return found or None


def _written(relation: Relation | None) -> list[Any] | None:
    if relation is None:
        return None
    pieces = relation.frame.pieces if isinstance(relation.frame, Pieces) else None
    more = [] if pieces is None else [[[count, _written(piece)] for count, piece in pieces]]
    return [relation.step, relation.offset, *more]


def _for_kernels(plan: Plan) -> dict[str, Any]:
    """Which activations the kernels find under which name: in the order of the layers, and CAM's."""
    of_classifier = any(method.classifier for method in plan.options.computed)
    end = cam_end(plan.target, plan.scores) if of_classifier else None
    cam_layer = end.activation.name if end is not None and end.weights is not None else None
    return {"layers": [layer.name for layer in plan.layers], "cam": cam_layer}


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
        if not format.is_ours(name) and name not in inputs:
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


def _has_fixed_batch(graph: ir.Graph) -> bool:
    return any(isinstance(dim, int) for v in graph.inputs if v.shape is not None for dim in v.shape.dims[:1])


def _version() -> str:
    try:
        return version("portable-cam")
    except PackageNotFoundError:
        return "unknown"
