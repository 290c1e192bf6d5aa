"""Says before anything is built whether a model can be explained, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import onnx_ir as ir

from portable_cam.checked import checked
from portable_cam.errors import Error, LayerError, OptionError
from portable_cam.export.assemble.at_size import at_size
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.quantized_ranges import dropped_activations
from portable_cam.export.autodiff.relu_policy import ReluPolicy, guided_nodes
from portable_cam.export.diagnose.cost import Cost, estimate
from portable_cam.export.diagnose.declared import declared_model
from portable_cam.export.diagnose.element_types import ElementTypes, element_types
from portable_cam.export.diagnose.obstacles import Obstacle, find_obstacles, obstacles_with_ways_out
from portable_cam.export.graph.operators import ONNX_DOMAINS, OPSET
from portable_cam.export.layers.branches import default_layers
from portable_cam.export.layers.candidates import candidates, image_input
from portable_cam.export.layers.input_layout import channel_axis
from portable_cam.export.methods.cam import cam_axes, cam_end
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.options import Options
from portable_cam.export.passes.dynamic_batch import make_batch_dynamic
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel
from portable_cam.export.targets import Class, Target


@dataclass(frozen=True)
class DoctorReport:
    """What a model is and which methods it allows.

    ``problems`` are reasons why nothing can be explained; ``obstacles`` nodes that stand between the image and the
    scores: layers behind the last of them can still be explained, and each has its ways out. ``methods`` says for each
    method ``"yes"`` or why not. ``precision`` is that of the file as it was exported. ``guided`` and ``guided_nodes``
    count and name the ReLU-like nodes that guided methods use under each policy. ``cost`` is an estimate
    (:mod:`portable_cam.export.diagnose.cost`), None where sizes cannot be inferred. ``custom`` names operators of the
    file that neither the standard nor ONNX Runtime defines, each with a node: nothing runs them without their library.
    """

    producer: str
    opset: int
    normalized_opset: int
    precision: ElementTypes
    nodes: int
    inputs: list[str]
    outputs: list[str]
    image: str | None
    layout: str | None
    batch: str | None
    target: str
    scores: str | None
    cut: str | None
    layers: list[str]
    guided: dict[str, int]
    guided_nodes: dict[str, list[str]]
    obstacles: list[Obstacle]
    methods: dict[str, str]
    quantized: dict[str, int]
    problems: list[str]
    cost: Cost | None
    custom: list[str] = field(default_factory=list)

    @property
    def explainable(self) -> bool:
        """Whether at least one method works that says something of the scores."""
        of_scores = [name for name, method in METHODS.items() if method.activation_map is None]
        return any(self.methods.get(name) == "yes" for name in of_scores)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "explainable": self.explainable}


@checked
def doctor(
    model: AnyModel,
    output: str | None = None,
    target: Target | None = None,
    axes: Mapping[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> DoctorReport:
    """Examine a model, before anything is run or written.

    Args:
        model: The model.
        output: The tensor that holds the scores, if it is to be another than the model's own.
        target: What would be explained; None for a class.
        axes: What a person declares of axes, as ``{"x": "NHWC"}``.
        size: Height and width of the image, where the model leaves them open.

    Raises:
        ModelError: The file cannot be read at all.
        OptionError: The model takes images of another size.
    """
    source = at_size(declared_model(model, axes), size)
    original, normal = source.original(), source.copy()
    opset = original.opset_imports.get("", 0)
    graph = normal.graph
    problems: list[str] = []
    target = target or Class()
    scores: list[ir.Value] = []
    image: ir.Value | None = None
    cut: str | None = None
    try:
        image = image_input(graph)
        found = target.tensors(graph, output)
        scores, cut = [f.value for f in found], ", ".join(dict.fromkeys(f.cut for f in found if f.cut)) or None
    except Error as error:
        problems.append(str(error))
    fixed = None if image is None or image.shape is None else image.shape[0]
    batch = None
    if image is not None:
        freed = isinstance(fixed, int) and make_batch_dynamic(normal).modified
        batch = (
            "symbolic"
            if not isinstance(fixed, int)
            else f"fixed at {fixed}" + (", made symbolic" if freed else ", run one by one")
        )
    layers: list[ir.Value] = []
    obstacles: list[Obstacle] = []
    chosen: list[ir.Value] = []
    if image is not None and scores:
        layers = [value for value, _ in candidates(graph, *scores)]
        chosen = target.layers(graph, scores) or (default_layers(graph, *scores) if layers else [])
        obstacles = obstacles_with_ways_out(graph, image, scores, layers)
    methods = _methods(graph, image, target, scores, chosen, obstacles, problems)
    methods = _tried(source, output, target, methods)
    guided = {policy: [str(node.name) for node in guided_nodes(graph, policy)] for policy in get_args(ReluPolicy)}
    return DoctorReport(
        producer=f"{original.producer_name or 'unknown'} {original.producer_version or ''}".strip(),
        opset=opset,
        normalized_opset=OPSET,
        precision=element_types(original),
        nodes=original.graph.num_nodes(),
        inputs=[_text(v) for v in graph.inputs],
        outputs=[_text(v) for v in graph.outputs],
        image=None if image is None else str(image.name),
        layout=None if image is None else ("NCHW" if channel_axis(image) == 1 else "NHWC"),
        batch=batch,
        target=target.name,
        scores=", ".join(str(v.name) for v in scores) or None,
        cut=cut,
        layers=[str(v.name) for v in [*chosen, *(v for v in layers if v not in chosen)][:5]],
        guided={policy: len(found) for policy, found in guided.items()},
        guided_nodes=guided,
        quantized=_quantized(graph),
        obstacles=obstacles,
        methods=methods,
        problems=problems,
        custom=_custom(original),
        cost=estimate(
            normal,
            None if image is None else str(image.name),
            [str(score.name) for score in scores],
            [str(layer.name) for layer in chosen],
            [name for name, answer in methods.items() if answer == "yes"],
            (1, 2) if image is not None and channel_axis(image) == 3 else (2, 3),
        ),
    )


def _custom(model: ir.Model) -> list[str]:
    """Operators of domains that are neither the standard's, nor ONNX Runtime's, nor functions of the file."""
    functions = {(key[0], key[1]) for key in model.functions}
    found: dict[str, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        known = node.domain in ONNX_DOMAINS or node.domain.startswith(("com.microsoft", "ai.onnx"))
        if not known and (node.domain, node.op_type) not in functions:
            found.setdefault(f"{node.domain}::{node.op_type}", str(node.name))
    return [f"{operator} (node '{name}')" for operator, name in found.items()]


def _quantized(graph: ir.Graph) -> dict[str, int]:
    """How many tensors are quantised, and how many ReLU and ReLU6 (``Clip``) vanished into their ranges."""
    count = sum(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear"} for node in graph)
    found = Counter(dropped_activations(list(graph)).values())
    return {"tensors": count, **found} if count else {}


def _methods(
    graph: ir.Graph,
    image: ir.Value | None,
    target: Target,
    scores: list[ir.Value],
    layers: list[ir.Value],
    obstacles: list[Obstacle],
    problems: list[str],
) -> dict[str, str]:
    """For each method "yes" or why not; ``layers`` are those that would be explained."""
    if image is None or not scores:
        return dict.fromkeys(METHODS, problems[0] if problems else "no image input")
    nodes = list(graph)
    to_image = "yes"
    if obstacles:
        to_image = f"{len(obstacles)} nodes without a rule stand between the image and the scores"
    elif not set(scores) & depends_on(nodes, [image]):
        to_image = "no differentiable path leads from the image to the scores"
    to_layer = "no layer keeps the two spatial axes of the image"
    if layers:
        to_layer = "yes" if set(scores) & depends_on(nodes, layers) else "no differentiable path"
        blocked = next((layer for layer in layers if find_obstacles(graph, layer, scores)), None)
        if blocked is not None:
            to_layer = f"nodes without a rule stand between '{blocked.name}' and the scores"
    try:
        cam_axes(graph, cam_end(target, scores))
        classifier = "yes"
    except (LayerError, OptionError) as error:
        classifier = str(error)
    layer = "yes" if layers else to_layer
    answers = {"classifier weights": classifier, "layer": layer, "gradient": to_layer, "input gradient": to_image}
    return {
        name: next((answers[need] for need in method.needs if answers.get(need, "yes") != "yes"), "yes")
        for name, method in METHODS.items()
    }


def _tried(model: NormalizedModel, output: str | None, target: Target, methods: dict[str, str]) -> dict[str, str]:
    """What a rule refuses about its node (training mode, say) shows when it is asked: for each kind of gradient, one
    method that needs no other is built."""
    found = dict(methods)
    for need in ("gradient", "input gradient"):
        simple = next(n for n, m in METHODS.items() if need in m.needs and m.factors is None)
        if methods[simple] == "yes":
            try:
                explanation_model(model, Options((simple,), target=target, output=output), targets_per_image=1)
            except Error as error:
                found |= {name: str(error) for name, method in METHODS.items() if need in method.needs}
    return found


def _text(value: ir.Value) -> str:
    return f"{value.name} {value.dtype}{value.shape if value.shape is not None else '[?]'}"
