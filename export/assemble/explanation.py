"""Puts it together: model, layer, target and methods to one explanation graph."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import LayerError, ModelError
from portable_cam.export.assemble.write import Plan, cam_end, write
from portable_cam.export.autodiff.backward import Saturation, check_saturation
from portable_cam.export.autodiff.dequantized import input_quantization
from portable_cam.export.autodiff.loss_scale import LOSS_SCALE
from portable_cam.export.autodiff.relu_policy import ReluPolicy, guided_nodes
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.deploy.strip_shapes import strip_inner_shapes
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.layers.candidates import channel_axis, find_layers, image_input, layer_axes, layer_names
from portable_cam.export.methods.heat_map import Profile
from portable_cam.export.methods.registry import METHODS, check_options, wants_guided, wants_layers
from portable_cam.export.methods.tokens import embeddings
from portable_cam.export.passes.dynamic_batch import make_batch_dynamic
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.passes.precision import Precision, float_types, to_float32
from portable_cam.export.read.weights import save_model, to_proto
from portable_cam.export.targets import Class, Target

_OUR_NAMES = frozenset({"targets", "target", "scores", "explained", LOSS_SCALE, *METHODS})
_OUR_PREFIXES = ("heatmap.", "raw.", "range.", "activations.", "gradients.", "weights.", "sums.", "token_attribution.")


def build_explanation(
    model: AnyModel,
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
        words: Also give ``token_attribution.<input>`` (N, K, T) for each input of token ids (N, T) a Gather embeds:
            what each word adds, gradient times embedding.
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
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model, or the
            explanation is larger than one protobuf can be: see :func:`save_explanation`.
    """
    built = explanation_model(
        model,
        methods,
        layer,
        target,
        output=output,
        profile=profile,
        relu_policy=relu_policy,
        saturation=saturation,
        sign=sign,
        targets_per_image=targets_per_image,
        details=details,
        words=words,
        heads_in_graph=heads_in_graph,
        preprocessing=preprocessing,
        precision=precision,
    )
    strip_inner_shapes(built)
    return to_proto(built)


def save_explanation(path: str | Path, model: AnyModel, *args: Any, **options: Any) -> list[Path]:
    """Build an explanation and write it, whatever its size: to ``path``, and where it is larger than the 2 GiB of one
    protobuf its weights to ``path`` with ``.data`` added, which has to stay beside it. The weights are streamed from
    the model's own files.

    Args:
        path: The file to write.
        model: As for :func:`build_explanation`, as are the others.
        *args: Methods, layer and target.
        **options: As there.

    Returns:
        The files written.

    Raises:
        OptionError, LayerError, TargetError, InputError, ModelError: What was asked for does not fit the model.
    """
    built = explanation_model(model, *args, **options)
    strip_inner_shapes(built)
    return save_model(built, Path(path))


def explanation_model(
    model: AnyModel,
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
) -> ir.Model:
    """As :func:`build_explanation`, with weights that are still the source's: mapped from its files, or shared."""
    check_saturation(saturation)
    chosen = check_options(methods, profile, sign, targets_per_image, precision, words=words)
    source = normalized(model)
    normal = source.copy()
    if precision == "float32":
        to_float32(normal)
    fixed = _has_fixed_batch(normal.graph)
    freed = make_batch_dynamic(normal).modified and fixed
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
    explained, score_names = [str(value.name) for value in layers], ", ".join(str(value.name) for value in scores)
    renamed = _free_our_names(graph, [extra.name for extra in target.inputs(scores)])
    plan = Plan(
        graph,
        Builder(graph),
        chosen,
        layers,
        layer_axes(graph, layers),
        target,
        scores,
        image,
        profile,
        -1 if sign == "negative" else 1,
        guided,
        saturation,
        details,
        embeddings(graph) if words else {},
        not heads_in_graph,
    )
    graph.outputs.clear()
    write(plan, targets_per_image)
    graph.outputs.extend(own_outputs)
    passes.RemoveUnusedNodesPass()(normal)
    apply_ort_workarounds(graph)
    ExplanationMetadata(
        version=_version(),
        source_sha256=source.sha256,
        layer=explained,
        target=target.describe(),
        methods=list(chosen),
        profile=profile,
        sign=sign,
        relu_policy=relu_policy,
        saturation=saturation,
        guided_nodes=[str(node.name) for node in _guided_on_path(plan)] if wants_guided(chosen) else [],
        scores=score_names,
        inputs={extra.name: extra.what for extra in target.inputs(scores)},
        output=", ".join(dict.fromkeys(tensor.output for tensor in found)),
        image=str(image.name),
        channel_axis=channel_axis(image),
        precision=precision,
        float_types=types,
        classes=target.count(scores),
        cut=", ".join(dict.fromkeys(tensor.cut for tensor in found if tensor.cut)) or None,
        batch="freed" if freed else None,
        input_quantization=input_quantization(image),
        preprocessing=preprocessing,
        renamed=renamed or None,
        kernels=_for_kernels(plan) if plan.bare else None,
    ).write(normal)
    return normal


def _choose_layers(
    graph: ir.Graph,
    target: Target,
    scores: Sequence[ir.Value],
    methods: Sequence[str],
    layer: str | Sequence[str] | None,
) -> list[ir.Value]:
    """The layers of the maps; none if no map is asked for. CAM has its layer in the graph's structure."""
    cam_layer = [cam_end(target, scores).activation] if "cam" in methods else []
    if not wants_layers(methods):
        if cam_layer and layer is not None and find_layers(graph, scores[0], layer) != cam_layer:
            raise LayerError(f"CAM explains the layer before the global average pool, '{cam_layer[0].name}'")
        return cam_layer
    if layer is None:
        return target.layers(graph, scores) or find_layers(graph, scores[0], None)
    names = layer_names(layer)
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


def _for_kernels(plan: Plan) -> dict[str, Any]:
    """Which activations the kernels find under which name: in the order of the layers, and CAM's."""
    end = cam_end(plan.target, plan.scores) if "cam" in plan.methods else None
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


def _guided_on_path(plan: Plan) -> list[ir.Node]:
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


def _has_fixed_batch(graph: ir.Graph) -> bool:
    return any(isinstance(dim, int) for v in graph.inputs if v.shape is not None for dim in v.shape.dims[:1])


def _version() -> str:
    try:
        return version("portable-cam")
    except PackageNotFoundError:
        return "unknown"
