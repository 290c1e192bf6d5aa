"""Says before anything is built whether a model can be explained, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, get_args

import onnx_ir as ir

from portable_cam.errors import Error, LayerError
from portable_cam.export.autodiff import depends_on
from portable_cam.export.batch import free_batch
from portable_cam.export.builder import OPSET
from portable_cam.export.cam import find_cam_end
from portable_cam.export.cost import Cost, estimate
from portable_cam.export.element_types import ElementTypes, element_types
from portable_cam.export.guided import ReluPolicy, guided_nodes
from portable_cam.export.layers import candidates, channel_axis, image_input
from portable_cam.export.load import ModelLike, load
from portable_cam.export.methods import INPUT_METHODS, METHODS
from portable_cam.export.normalize import normalize
from portable_cam.export.obstacles import Obstacle, find_obstacles, obstacles_with_ways_out
from portable_cam.export.quantized.ranges import activations
from portable_cam.export.scores import find_scores


@dataclass(frozen=True)
class Report:
    """What a model is and which methods it allows.

    ``problems`` are reasons why nothing can be explained; ``obstacles`` nodes that stand between the picture and the
    scores: layers behind the last of them can still be explained, and each has its ways out. ``methods`` says for each
    method ``"yes"`` or why not. ``precision`` is that of the file as it was exported. ``guided`` and ``guided_nodes``
    count and name the ReLU-like nodes that guided methods use under each policy. ``cost`` is an estimate
    (:mod:`portable_cam.export.cost`), None where sizes cannot be inferred.
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

    @property
    def explainable(self) -> bool:
        """Whether at least one method works."""
        return any(answer == "yes" for answer in self.methods.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "explainable": self.explainable}


def doctor(model: ModelLike, output: str | None = None) -> Report:
    """Examine a model without building anything.

    Raises:
        ModelError: The file cannot be read at all.
    """
    original = load(model)
    opset = original.opset_imports.get("", 0)
    normal = normalize(model)
    graph = normal.graph
    problems: list[str] = []
    score: ir.Value | None = None
    image: ir.Value | None = None
    cut: str | None = None
    try:
        image = image_input(graph)
        found = find_scores(graph, output)
        score, cut = found.value, found.cut
    except Error as error:
        problems.append(str(error))
    fixed = None if image is None or image.shape is None else image.shape[0]
    batch = None
    if image is not None:
        freed = isinstance(fixed, int) and free_batch(normal)
        batch = "symbolic" if not isinstance(fixed, int) else f"fixed at {fixed}" + (
            ", made symbolic" if freed else ", run one by one"
        )  # fmt: skip
    layers: list[ir.Value] = []
    obstacles: list[Obstacle] = []
    if image is not None and score is not None:
        layers = [value for value, _ in candidates(graph, score)]
        obstacles = obstacles_with_ways_out(graph, image, score, layers)
    methods = _methods(graph, image, score, layers, obstacles, problems)
    guided = {policy: [str(node.name) for node in guided_nodes(graph, policy)] for policy in get_args(ReluPolicy)}
    return Report(
        producer=f"{original.producer_name or 'unknown'} {original.producer_version or ''}".strip(),
        opset=opset, normalized_opset=OPSET, precision=element_types(original),
        nodes=original.graph.num_nodes(),
        inputs=[_text(v) for v in graph.inputs], outputs=[_text(v) for v in graph.outputs],
        image=None if image is None else str(image.name),
        layout=None if image is None else ("NCHW" if channel_axis(image) == 1 else "NHWC"),
        batch=batch, scores=None if score is None else str(score.name), cut=cut,
        layers=[str(v.name) for v in layers[:5]],
        guided={policy: len(found) for policy, found in guided.items()}, guided_nodes=guided,
        quantized=_quantized(graph), obstacles=obstacles,
        methods=methods, problems=problems,
        cost=estimate(
            normal, None if image is None else str(image.name), None if score is None else str(score.name),
            str(layers[0].name) if layers else None, [name for name, answer in methods.items() if answer == "yes"],
            (1, 2) if image is not None and channel_axis(image) == 3 else (2, 3),
        ),
    )  # fmt: skip


def _quantized(graph: ir.Graph) -> dict[str, int]:
    """How many tensors are quantised, and how many ReLU and ReLU6 (``Clip``) vanished into their ranges."""
    count = sum(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear"} for node in graph)
    found = Counter(activations(list(graph)).values())
    return {"tensors": count, **found} if count else {}


def _methods(
    graph: ir.Graph, image: ir.Value | None, score: ir.Value | None, layers: list[ir.Value],
    obstacles: list[Obstacle], problems: list[str],
) -> dict[str, str]:  # fmt: skip
    if image is None or score is None:
        return dict.fromkeys(METHODS, problems[0] if problems else "no image input")
    reached = score in depends_on(list(graph), [image])
    to_image = "yes"
    if obstacles:
        to_image = f"{len(obstacles)} nodes without a rule stand between the picture and the scores"
    elif not reached:
        to_image = "no differentiable path leads from the picture to the scores"
    gradcam = "no layer keeps the two dimensions of a picture"
    if layers:
        gradcam = "yes" if score in depends_on(list(graph), layers[:1]) else "no differentiable path"
        if find_obstacles(graph, layers[0], score):
            gradcam = f"nodes without a rule stand between '{layers[0].name}' and the scores"
    try:
        find_cam_end(score)
        cam = "yes"
    except LayerError as error:
        cam = str(error)
    both = to_image if to_image != "yes" else gradcam
    answers = {"cam": cam, "guided_gradcam": both, **dict.fromkeys(INPUT_METHODS, to_image)}
    return {name: answers.get(name, gradcam) for name in METHODS}


def _text(value: ir.Value) -> str:
    return f"{value.name} {value.dtype}{value.shape if value.shape is not None else '[?]'}"
