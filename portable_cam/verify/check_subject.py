"""An explanation under examination: the sessions that several checks need, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from portable_cam.errors import ModelError
from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.format import TARGETS, ExplanationMetadata
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.layers.input_layout import declare_axes
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import NormalizedModel
from portable_cam.export.passes.precision import to_float32
from portable_cam.export.targets.protocol import scores_of
from portable_cam.export.targets.scores import scores_to_explain
from portable_cam.runtime.session import Session
from portable_cam.verify.check_rounding import rounds, without_steps

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Subject:
    """An explanation under examination; what several checks need is made once."""

    def __init__(
        self,
        model: NormalizedModel,
        options: Options,
        metadata: ExplanationMetadata,
        feeds: dict[str, NDArray[Any]],
        values: Arrays,
        native: Mapping[str, Any] | None = None,
        *,
        as_written: bool = False,
    ) -> None:
        """An explanation of one image, or of all those that have one score together.

        Args:
            model: The model.
            options: As the explanation was built with.
            metadata: Of the explanation graph.
            feeds: What it was run on.
            values: What it gave.
            native: Options of ONNX Runtime's own for every session.
            as_written: It was run node by node, without ONNX Runtime's optimisations.
        """
        self._native = dict(native or {})
        self.model, self.options, self.metadata = model, options, metadata
        self._as_written = as_written
        self.feeds, self.values = feeds, values
        self.targets: NDArray[np.int64] = feeds[TARGETS]
        types = set(metadata.float_types)
        self.half = options.precision != "float32" and bool(types & {"float16", "bfloat16"})
        self.quantized = any(rounds(node) for node in model.graph)
        self._sessions: dict[str, Session] = {}
        self._original: dict[str, NDArray[Any]] | None = None
        self._gradients: dict[int, dict[str, NDArray[Any]]] = {}

    @cached_property
    def exact(self) -> Subject:
        """Itself; of a model in half precision the same in float32, whose scores have digits enough for differences."""
        if not self.half:
            return self
        feeds = {name: v.astype(np.float32) if v.dtype == np.float16 else v for name, v in self.feeds.items()}
        options = replace(self.options, precision="float32")
        written, native = self._as_written, self._native
        return Subject(self.model, options, self.metadata, feeds, self.values, native, as_written=written)

    @property
    def image(self) -> NDArray[Any]:
        return self.feeds[self.metadata.image]

    @property
    def own(self) -> list[str]:
        """The inputs of the model itself."""
        return [str(value.name) for value in self.model.graph.inputs]

    def _session(self, name: str, build: Callable[[], ir.Model]) -> Session:
        if name not in self._sessions:
            self._sessions[name] = Session(build(), as_written=self._as_written, **self._native)
        return self._sessions[name]

    def original_session(self) -> Session:
        """Of the model's own file, or of the normalised model where ONNX Runtime has no kernels for its types."""
        try:
            return self._session("original", self.model.original)
        except ModelError:
            return self._session("original", self.normal)

    def original(self) -> dict[str, NDArray[Any]]:
        """The outputs of the model's own file."""
        if self._original is None:
            session = self.original_session()
            self._original = session.run({n: self.feeds[n].astype(session.dtype(n)) for n in session.inputs})
        return self._original

    def own_output(self, name: str) -> NDArray[Any] | None:
        """What the explanation has as an output of the model."""
        renamed = {old: new for new, old in (self.metadata.renamed or {}).items()}
        return self.values.get(renamed.get(name, name))

    def of_images(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Of (N, K, ...) what the score of the first image depends on, for the first target: (1, ...), or (N, ...)
        where all images have one score together."""
        found: NDArray[np.float64] = values[: None if self.metadata.shared else 1, 0].astype(np.float64)
        return found

    def of_layer(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Of a layer's entries what the score of the first image depends on: all of a single image's, which may have
        several views, and of images that have one score together."""
        alone = len(self.image) == 1 or bool(self.metadata.shared)
        found: NDArray[np.float64] = values[: None if alone else 1].astype(np.float64)
        return found

    @cached_property
    def scores(self) -> list[ir.Value]:
        """The tensors of the score, in a copy of the model to look at."""
        graph = self.model.copy().graph
        declare_axes(graph, self.options.axes)
        self._looked_at = graph  # which its values do not keep
        found = scores_of(self.options.explained, graph, self.options.output, as_is=self.options.as_is)
        return [tensor.value for tensor in found]

    def original_tensors(self, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
        """Tensors of the model's own file, whether they are its outputs or not; None where it has not all of them."""
        values = self.original() if names else {}
        if all(name in values for name in names):
            return values
        model = self.model.original()
        inside = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        if any(name not in inside for name in names):
            return None
        model.graph.outputs.extend(inside[name] for name in names if name not in values)
        session = self._session("original tensors", lambda: model)
        given = {name: self.feeds[name] for name in session.inputs}
        return session.run({name: value.astype(session.dtype(name)) for name, value in given.items()})

    def normal(self) -> ir.Model:
        """The normalised model in the types that the explanation computes in."""
        copy = self.model.copy()
        if self.options.precision == "float32":
            to_float32(copy)
        return copy

    def gradients(self, k: int, image: NDArray[Any] | None = None) -> dict[str, NDArray[Any]]:
        """What a graph of plain gradients gives for the k-th target: of the input, and of the layers with their
        activations, as far as the model has them.

        Args:
            k: Which target.
            image: In place of the image explained.
        """
        if image is None and k in self._gradients:
            return self._gradients[k]
        feeds = {name: self.feeds[name] for name in self.own}
        feeds |= {name: self.feeds[name][:, k : k + 1] for name in (TARGETS, *self.metadata.inputs)}
        if image is not None:
            return self._probe().run({**feeds, self.metadata.image: image})
        self._gradients[k] = self._probe().run(feeds)
        return self._gradients[k]

    def _probe(self) -> Session:
        if "probe" not in self._sessions:
            layer = self.metadata.layer or None
            of_layer = LAYER_METHOD if any(method.uses_layer for method in self.options.computed) else ()
            for methods in dict.fromkeys(((*INPUT_METHOD, *of_layer), of_layer or INPUT_METHOD)):
                options = replace(
                    self.options, methods=methods, layer=layer, details=True, words=False, sign="positive"
                )
                try:
                    built = explanation_model(self.model, options, targets_per_image=1)
                except ModelError:
                    if methods == (of_layer or INPUT_METHOD):
                        raise
                    continue  # an operator before the layer has no gradient
                return self._session("probe", lambda built=built: built)  # type: ignore[misc]
        return self._sessions["probe"]

    def score(
        self,
        k: int,
        image: NDArray[Any] | None = None,
        nudges: Mapping[str, NDArray[Any]] | None = None,
        target: int | None = None,
        *,
        frozen: bool = False,
    ) -> float:
        """The score of the k-th target, or of another, by the forward pass alone: of the first image.

        Args:
            k: Which target.
            image: In place of the image explained.
            nudges: Added to layers, each in its own layout.
            target: In place of the k-th.
            frozen: Of a quantised model, with the errors of rounding held at those of the image explained.
        """
        layers, frozen = self.metadata.layer, frozen and self.quantized
        at = {n: self.feeds[n] for n in self.own} if frozen else None
        name = "smooth score" if frozen else "score"
        session = self._session(name, lambda: scored_model(self.normal(), self.options, layers, at))
        feeds = {name: self.feeds[name] for name in self.own}
        feeds |= {name: self.feeds[name][:, k] for name in self.metadata.inputs}
        feeds[_INDEX] = self.targets[:, k] if target is None else np.full(len(self.targets), target, np.int64)
        if image is not None:
            feeds[self.metadata.image] = image.astype(self.image.dtype)
        for name in layers:
            key = _NUDGE + name
            if key in session.inputs:
                zero = np.zeros([1] * len(session.inputs[key].shape))
                feeds[key] = np.asarray((nudges or {}).get(name, zero), session.dtype(key))
        return float(session.run({n: v for n, v in feeds.items() if n in session.inputs}, [_SCORE])[_SCORE][0])


_INDEX = "check/index"
_NUDGE = "check/nudge/"
_SCORE = "check/score"

#: The method whose graph gives the plain gradient of the input, and one that gives the gradient of the layer.
INPUT_METHOD = (next(name for name, method in METHODS.items() if method.relu_rule == "standard"),)
LAYER_METHOD = (next(name for name, method in METHODS.items() if method.uses_layer),)


def scored_model(model: ir.Model, options: Options, layers: Sequence[str], frozen_at: Arrays | None = None) -> ir.Model:
    """The forward pass up to the score of one target, ``check/index`` int64 (N,), with an input ``check/nudge/<layer>``
    added to each layer.

    Args:
        model: A normalised model, which is changed.
        options: What is explained.
        layers: Which layers are nudged.
        frozen_at: Inputs for whose roundings a quantised model has those errors everywhere.
    """
    graph, target = model.graph, options.explained
    declare_axes(graph, options.axes)
    scores = scores_to_explain(graph, scores_of(target, graph, options.output, as_is=options.as_is))
    target.count(scores)  # reads the axes, which the nudges below would change
    index = ir.Value(name=_INDEX, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([None]))
    extras = {
        extra.name: ir.Value(name=extra.name, type=ir.TensorType(extra.dtype), shape=ir.Shape([None, *extra.dims]))
        for extra in target.inputs(scores)
    }
    b = Builder(graph)
    score = b.op("Identity", as_float32(b, target.score(b, scores, index, extras)))
    score.name = _SCORE
    graph.inputs.extend([index, *extras.values()])
    graph.outputs.clear()
    graph.outputs.append(score)
    if frozen_at is not None:
        without_steps(model, frozen_at, options.saturation)
    graph.inputs.extend([_nudge(graph, name) for name in layers])
    passes.RemoveUnusedNodesPass()(model)
    apply_ort_workarounds(graph)
    return model


def _nudge(graph: ir.Graph, layer: str) -> ir.Value:
    """A new tensor, added to a layer for all that read it."""
    value = ir.convenience.create_value_mapping(graph, include_subgraphs=False)[layer]
    rank = len(value.shape) if value.shape is not None else 0
    nudge = ir.Value(name=_NUDGE + layer, type=value.type, shape=ir.Shape([None] * rank))
    readers, producer = list(value.uses()), value.producer()
    if producer is None:
        raise ModelError(f"layer '{layer}' is an input of the model")
    add = ir.node("Add", [value, nudge], name=f"{_NUDGE}{layer}/add")
    add.outputs[0].name, add.outputs[0].type, add.outputs[0].shape = add.name, value.type, value.shape
    for reader, at in readers:
        reader.replace_input_with(at, add.outputs[0])
    graph.insert_after(producer, add)
    return nudge
