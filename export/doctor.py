"""Says before anything is built whether a model can be explained, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from portable_cam.errors import Error, LayerError
from portable_cam.export.autodiff import depends_on, path_to
from portable_cam.export.batch import free_batch
from portable_cam.export.builder import FLOATS, OPSET, reads, subgraphs
from portable_cam.export.cam import find_cam_end
from portable_cam.export.guided import guided_nodes
from portable_cam.export.layers import candidates, channel_axis, image_input
from portable_cam.export.load import ModelLike, load
from portable_cam.export.methods import INPUT_METHODS, METHODS
from portable_cam.export.normalize import normalize
from portable_cam.export.quantized.ranges import activations
from portable_cam.export.refusals import refusal
from portable_cam.export.rules import has_no_gradient, rule_for
from portable_cam.export.scores import find_scores
from portable_cam.export.subgraph import captures


@dataclass(frozen=True)
class Obstacle:
    """A node without a gradient rule on the path from the picture to the scores; ``why``, if there is a reason."""

    node: str
    operator: str
    path: str
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What a model is and which methods it allows.

    ``problems`` are reasons why nothing can be explained; ``obstacles`` nodes that stand between the picture and the
    scores: layers behind the last of them can still be explained. ``methods`` says for each method ``"yes"`` or why
    not.
    """

    producer: str
    opset: int
    normalized_opset: int
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
    obstacles: list[Obstacle]
    methods: dict[str, str]
    quantized: dict[str, int]
    problems: list[str]

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
        obstacles = find_obstacles(graph, image, score)
    return Report(
        producer=f"{original.producer_name or 'unknown'} {original.producer_version or ''}".strip(),
        opset=opset, normalized_opset=OPSET, nodes=original.graph.num_nodes(),
        inputs=[_text(v) for v in graph.inputs], outputs=[_text(v) for v in graph.outputs],
        image=None if image is None else str(image.name),
        layout=None if image is None else ("NCHW" if channel_axis(image) == 1 else "NHWC"),
        batch=batch, scores=None if score is None else str(score.name), cut=cut,
        layers=[str(v.name) for v in layers[:5]],
        guided={policy: len(guided_nodes(graph, policy)) for policy in ("relu", "relu+clip", "all")},
        quantized=_quantized(graph), obstacles=obstacles,
        methods=_methods(graph, image, score, layers, obstacles, problems), problems=problems,
    )  # fmt: skip


def _quantized(graph: ir.Graph) -> dict[str, int]:
    """How many tensors are quantised, and how many ReLU and ReLU6 (``Clip``) vanished into their ranges."""
    count = sum(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear"} for node in graph)
    found = Counter(activations(list(graph)).values())
    return {"tensors": count, **found} if count else {}


def find_obstacles(graph: ir.Graph, image: ir.Value, score: ir.Value) -> list[Obstacle]:
    """The nodes without a rule on a path from the picture to the scores, in the graph's order; those in a loop's body
    or in a branch too."""
    return _in_the_way(list(graph), [image], [score], "")


def _in_the_way(
    nodes: Sequence[ir.Node], sources: Sequence[ir.Value], ends: Iterable[ir.Value], before: str
) -> list[Obstacle]:
    affected = depends_on(nodes, sources)
    behind = set(ends)
    found: list[Obstacle] = []
    for node in reversed(nodes):
        if not any(output in behind for output in node.outputs) or not any(v in affected for v in reads(node)):
            continue
        if has_no_gradient(node):
            continue
        behind.update(reads(node))
        path = before + " -> ".join(path_to(node, nodes, sources))
        if rule_for(node) is None:
            operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            found.append(Obstacle(str(node.name), operator, path, refusal(node) or ""))
            continue
        for graph in subgraphs(node):
            outside = [value for value in captures(node) if value in affected]
            inner = [*(value for value in graph.inputs if value.dtype in FLOATS), *outside]
            found += reversed(_in_the_way(list(graph), inner, graph.outputs, f"{path} -> "))
    return list(reversed(found))


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
