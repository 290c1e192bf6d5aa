"""The graph proves itself: its forward outputs against the original model, its gradients against finite differences."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from portable_cam.errors import ModelError
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.format import ExplanationMetadata, raw_output
from portable_cam.export.graph.values import dtype_of, producer_of
from portable_cam.export.layers.candidates import layer_axes
from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.export.passes.precision import Precision, to_float32
from portable_cam.export.targets import Class, Target
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import random_feeds

_STEPS = (1e-2, 3e-3, 1e-3, 3e-4)  # relative to the image's size; the best counts: kinks and rounding err opposite ways
_POINTS = 32  # where the gradient is taken on the way between the two images, should it have kinks
_TOLERANCE = 0.05  # a wrong rule is off by tens of per cent; kinks on the way cost a few


@dataclass(frozen=True)
class Proof:
    """``forward``: greatest difference of the model's outputs, relative to their greatest value. ``analytic`` and
    ``numeric``: the derivative of the top class's score along a random direction; None if the image has no
    gradient, or half precision, whose three digits cannot tell it by differences. ``maps``: for each Grad-CAM map in
    the file, its peak and what finite differences say it should be. ``quantized``: the forward pass rounds to integers,
    a staircase, of which finite differences say nothing; its outputs alone were checked."""

    forward: float
    analytic: float | None
    numeric: float | None
    passed: bool
    maps: dict[str, tuple[float, float]] = field(default_factory=dict)
    quantized: bool = False

    def describe(self) -> str:
        """One line for a person."""
        verdict = "passed" if self.passed else "FAILED"
        gradient = "the image's gradient was not checked"
        if self.quantized:
            gradient = "a quantised model is a staircase, whose gradient finite differences cannot check"
        if self.analytic is not None and self.numeric is not None:
            gradient = f"directional derivative {self.analytic:.5g}, by finite differences {self.numeric:.5g}"
        peaks = "".join(
            f", peak of {name} {a:.5g}, by finite differences {n:.5g}" for name, (a, n) in self.maps.items()
        )
        return f"{verdict}: forward outputs differ by {self.forward:.1e}, {gradient}{peaks}"


def self_check(
    model: AnyModel,
    explanation: onnx.ModelProto | ir.Model,
    output: str | None = None,
    target: Target | None = None,
    seed: int = 0,
) -> Proof:
    """Run the explanation next to the original on random pixels.

    Args:
        model: The original.
        explanation: What ``build_explanation`` or ``explanation_model`` made of it.
        output: As given to ``build_explanation``.
        target: Likewise; None for a class. The maps' peaks are checked for classes alone.
        seed: Of the random direction.

    Raises:
        ModelError: It is not what ``build_explanation`` makes.
    """
    model = normalized(model)
    if isinstance(explanation, onnx.ModelProto):
        explanation = ir.from_proto(explanation)
    quantized = any(node.op_type in {"QuantizeLinear", "DynamicQuantizeLinear"} for node in explanation.graph)
    metadata = ExplanationMetadata.read(explanation.metadata_props)
    forward, explained, feeds, ours = _forward(model, explanation, metadata)
    if quantized and forward:
        # which operators ONNX Runtime fuses to integer kernels alone moves the logits of an int8 model by several
        # steps: then node by node, as both graphs are written, they must agree
        forward = min(forward, _forward(model, explanation, metadata, as_written=True)[0])
    feeds["targets"] = ours["explained"]
    if quantized:
        return Proof(forward, None, None, forward < 1e-3, quantized=True)
    analytic, numeric = _directional(
        model, explained, metadata.image, feeds, output, target, seed, metadata.options.precision
    )
    maps = _peaks(model, metadata, feeds, ours) if target is None or target.name == Class.name else {}
    slopes = [*maps.values()] + ([] if analytic is None or numeric is None else [(analytic, numeric)])
    half = _is_half(model)  # three digits: a map's peak can be told by them, a slope not
    agrees = all(_close(a, n, 4 * _TOLERANCE if half else _TOLERANCE) for a, n in slopes)
    return Proof(forward, analytic, numeric, forward < (2e-2 if half else 1e-3) and agrees, maps)


def _forward(
    model: NormalizedModel, explanation: ir.Model, metadata: ExplanationMetadata, *, as_written: bool = False
) -> tuple[float, Session, dict[str, Any], dict[str, Any]]:
    """How far the model's outputs differ, relative to their greatest value, on random pixels; then the explanation's
    session, what it was fed and what it gave."""
    original, explained = _original(model, as_written=as_written), Session(explanation, as_written=as_written)
    sizes = [session.inputs[metadata.image].shape[0] for session in (explained, original)]
    batch = next((size for size in sizes if isinstance(size, int)), 1)
    asked = {**explained.inputs, **explained.optional}["targets"].shape[1]
    count = asked if isinstance(asked, int) else 1
    feeds = random_feeds(explained, batch) | {"targets": np.full((batch, count), -1, np.int64)}
    ours = explained.run(feeds)
    theirs = original.run({name: feeds[name].astype(original.dtype(name)) for name in original.inputs})
    renamed = {old: new for new, old in (metadata.renamed or {}).items()}
    pairs = [(ours[renamed.get(name, name)].astype(np.float64), value) for name, value in theirs.items()]
    forward = max((float(np.abs(o - t).max() / (np.abs(t).max() + 1e-12)) for o, t in pairs), default=0.0)
    return forward, explained, feeds, ours


def _original(model: NormalizedModel, *, as_written: bool) -> Session:
    """The model as it is, or normalised where ONNX Runtime has no kernels for its types (bfloat16, float64)."""
    try:
        return Session(model.original(), as_written=as_written)
    except ModelError:
        return Session(_normalized(model, "float32"))


def _is_half(model: NormalizedModel) -> bool:
    return any(value.dtype == ir.DataType.FLOAT16 for value in model.original().graph.inputs)


def _normalized(model: NormalizedModel, precision: str) -> ir.Model:
    normal = model.copy()
    if precision == "float32":
        to_float32(normal)
    return normal


def record(explanation: ir.Model, proof: Proof) -> None:
    """Write the outcome into the file's metadata, under ``portable_cam.self_check``."""
    explanation.metadata_props["portable_cam.self_check"] = json.dumps(asdict(proof))


def _peaks(
    model: NormalizedModel, metadata: ExplanationMetadata, feeds: dict[str, Any], ours: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """The greatest value of each Grad-CAM map in the file, and the same by finite differences of the model alone.

    A map's value at a position is the score's derivative along A's channels there, each spread over its mean:
    sum_c mean(g_c) A_c[p] = d score(A + t D) / dt with D_c = A_c[p] / (h w) at every position.
    """
    found = {}
    for name in metadata.layer:
        raw = next((ours[n] for n in (raw_output("gradcam", name), raw_output("gradcam")) if n in ours), None)
        if raw is None or raw.ndim > 4 or not raw[0, 0].max() > 0:
            continue
        nudged, axes = _nudged(model, name, metadata)
        session = Session(nudged)
        given = {k: v for k, v in feeds.items() if k != "targets"}
        still = np.zeros([1] * (len(axes.axes) + 2), session.dtype("nudge"))
        a = session.run({**given, "nudge": still}, ["nudge/layer"])["nudge/layer"]
        direction, area = _towards(a, axes, int(raw[0, 0].argmax()))

        def score(step: float) -> float:
            nudge = (step * direction).astype(direction.dtype)  # noqa: B023 - called in this round only
            values = session.run({**given, "nudge": nudge}, ["nudge/scores"])["nudge/scores"]  # noqa: B023
            return float(values.reshape(len(values), -1)[0, int(feeds["targets"][0, 0])])

        sign = -1 if metadata.options.negated else 1
        slopes = [sign * (score(e) - score(-e)) / (2 * e * area) for e in _STEPS]
        peak = float(raw[0, 0].max())
        found[name] = (peak, min(slopes, key=lambda n: abs(n - peak)))
    return found


def _towards(a: NDArray[Any], axes: SpatialAxes, position: int) -> tuple[NDArray[Any], int]:
    """The channels of one position of the first image, at every position, in the layer's own layout; and how many
    positions there are."""
    order = (axes.batch, axes.channels, *axes.axes)
    maps = a.transpose(order)[:1]
    flat = maps.reshape(1, maps.shape[1], -1)
    cells = slice(axes.prefix, flat.shape[2] - axes.suffix)
    direction = np.zeros_like(flat)
    cell = axes.token(position)
    direction[:, :, cells] = flat[:, :, cells][:, :, cell : cell + 1]
    return direction.reshape(maps.shape).transpose(np.argsort(order)), direction[:, :, cells].shape[2]


def _nudged(model: NormalizedModel, layer: str, metadata: ExplanationMetadata) -> tuple[ir.Model, SpatialAxes]:
    """The model with ``nudge`` added to a layer for all that read it, and the layer's axes."""
    normal = _normalized(model, metadata.options.precision)
    graph = normal.graph
    declare_axes(graph, metadata.axes)
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    value, score = values[layer], values[metadata.scores]
    (axes,) = layer_axes(graph, [value])
    nudge = ir.Value(name="nudge", type=ir.TensorType(dtype_of(value)), shape=ir.Shape([None] * (len(axes.axes) + 2)))
    readers = list(value.uses())
    add = ir.node("Add", [value, nudge], name="nudge/add")
    add.outputs[0].name, add.outputs[0].type = "nudge/layer", value.type
    for reader, index in readers:
        reader.replace_input_with(index, add.outputs[0])
    graph.insert_after(producer_of(value), add)
    end = ir.node("Identity", [score], name="nudge/end")
    end.outputs[0].name, end.outputs[0].type = "nudge/scores", score.type
    graph.append(end)
    graph.inputs.append(nudge)
    graph.outputs.clear()
    graph.outputs.extend([add.outputs[0], end.outputs[0]])
    passes.RemoveUnusedNodesPass()(normal)
    return normal, axes


def _directional(
    model: NormalizedModel,
    explained: Session,
    image: str,
    feeds: dict[str, Any],
    output: str | None,
    target: Target | None,
    seed: int,
    precision: Precision,
) -> tuple[float | None, float | None]:
    """The score's derivative along a random direction: by the input gradient, and by central differences."""
    try:  # the file's own gradient, where it has one
        plain = (
            explained
            if "gradient" in explained.outputs
            else Session(
                explanation_model(
                    model,
                    Options(("gradient",), target=target, output=output, precision=precision),
                    targets_per_image=1,
                )
            )
        )
    except ModelError:  # the image has no gradient (an integer input, an operator without a rule before the layer)
        return None, None
    x = feeds[image]
    if x.dtype == np.float16:
        return None, None
    direction = np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype)

    first = {**feeds, "targets": feeds["targets"][:, :1]} if plain is not explained else feeds

    def slope(pixels: Any) -> float:
        gradient = plain.run({**first, image: pixels.astype(x.dtype)})["gradient"][0, 0]
        return float((gradient.astype(np.float64) * direction[0]).sum())

    def score(pixels: Any) -> float:
        return float(explained.run({**feeds, image: pixels.astype(x.dtype)}, ["scores"])["scores"][0, 0])

    numbers = [(score(x + e * direction) - score(x - e * direction)) / (2 * e) for e in _STEPS]
    analytic = slope(x)
    numeric = min(numbers, key=lambda n: abs(n - analytic))
    if _close(analytic, numeric):
        return analytic, numeric
    # a image beside a kink (a ReLU at zero, a tie in a pool): the mean slope of the way is what the ends differ by
    e = _STEPS[2]
    way = (np.arange(_POINTS) + 0.5) / _POINTS * 2 - 1
    return float(np.mean([slope(x + t * e * direction) for t in way])), numbers[2]


def _close(analytic: float, numeric: float, tolerance: float = _TOLERANCE) -> bool:
    return abs(analytic - numeric) <= tolerance * max(abs(analytic), abs(numeric))
