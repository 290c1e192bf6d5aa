# SPDX-License-Identifier: Apache-2.0
"""How an encoder and a decoder are called, and greedy decoding with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import InputError, LabelError, ModelError
from portable_cam.export.compose.link import link, match
from portable_cam.export.compose.unroll import unroll
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import known_dims
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.runtime.session import Session
from portable_cam.tasks.base import finite
from portable_cam.tasks.language.vocabulary import Vocabulary

#: How many words a caption may have where neither the decoder nor the user says.
LONGEST = 40


@dataclass(frozen=True)
class Roles:
    """What the inputs and outputs of a decoder are.

    Attributes:
        image: The image input: of the encoder, or of the one model that is both.
        tokens: The decoder's input of token ids, (N, T), or (N, 1) for one step.
        logits: Its output of scores, (N, T, V), or (N, V) for one step.
        memory: From each output of the encoder to the decoder's input that takes it; empty where there is one model.
        state: From each output of the decoder that holds its state to the input that takes it at the next step.
        longest: T, where it is fixed.
        vocabulary: V, where it is known.
    """

    image: str
    tokens: str
    logits: str
    memory: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    longest: int | None = None
    vocabulary: int | None = None


class Pair:
    """A decoder and, unless one model is both, its encoder.

    Args:
        model: The encoder; or the whole, from image and token ids to scores.
        decoder: None for a whole.
        mapping: From outputs of the encoder to inputs of the decoder; None to find them, see
            :func:`~portable_cam.export.compose.link.link`.
        threads: CPU threads within an operator.
        **native: What is handed through to ONNX Runtime, as :class:`~portable_cam.runtime.session.Session` takes it.

    Raises:
        ModelError: The decoder does not fit the encoder, or has inputs whose role is not clear.
    """

    def __init__(
        self,
        model: AnyModel,
        decoder: AnyModel | None = None,
        mapping: Mapping[str, str] | None = None,
        *,
        threads: int | None = None,
        **native: Any,
    ) -> None:
        self._encoder = normalized(model)
        self._decoder = normalized(decoder) if decoder is not None else None
        self.roles = _roles(self._encoder.graph, None if self._decoder is None else self._decoder.graph, mapping)
        models = [self._encoder] if self._decoder is None else [self._encoder, self._decoder]
        self._sessions = [Session(model.copy(), threads=threads, **native) for model in models]
        self._linked: dict[int, NormalizedModel] = {}

    def linked(self, steps: int) -> NormalizedModel:
        """One model from image and token ids (N, T) to scores (N, T, V), for captions of ``steps`` tokens; the same
        for every number unless the decoder takes one step at a time."""
        key = steps if self.roles.state else 0
        if key not in self._linked:
            decoder = self._decoder or self._encoder
            if self._decoder is None:
                whole = self._encoder.copy()
            else:
                if self.roles.state:
                    roles = self.roles
                    steps_joined = unroll(decoder, steps, tokens=roles.tokens, logits=roles.logits, state=roles.state)
                    decoder = normalized(steps_joined)
                given = set(self.roles.memory.values())
                keep = [name for name in self.roles.state.values() if name not in given]
                whole = ir.from_proto(link(self._encoder, decoder, self.roles.memory, keep=keep))
            # link renames outputs of one name, and keeps the decoder's in their order before all others
            index = [output.name for output in decoder.graph.outputs].index(self.roles.logits)
            scores = whole.graph.outputs[index]
            whole.graph.outputs.clear()
            whole.graph.outputs.append(scores)
            self._linked[key] = normalized(whole)
        return self._linked[key]

    def _linked_names(self) -> dict[str, str]:
        """The inputs of the decoder that are left, and their names in :meth:`linked`."""
        whole = next(iter(self._linked.values()))
        decoder, given = self._decoder or self._encoder, set(self.roles.memory.values())
        left = [str(value.name) for value in decoder.graph.inputs if value.name not in given]
        names = [str(value.name) for value in whole.graph.inputs]
        return dict(zip(left, names[len(names) - len(left) :], strict=True))

    def feeds(self, image: NDArray[np.generic], tokens: Sequence[int], pad: int) -> dict[str, NDArray[np.generic]]:
        """All inputs of :meth:`linked`, called before, for one image; tokens are filled up where the decoder's length
        is fixed.

        Raises:
            InputError: There are more tokens than the decoder takes.
        """
        given, names = set(self.roles.memory.values()), self._linked_names()
        state = [name for name in self.roles.state.values() if name not in given]
        return {
            self.roles.image: image,
            names[self.roles.tokens]: self._fill(tokens, pad),
            **{names[name]: _zeros(self._sessions[-1], name) for name in state},
        }

    def greedy(self, image: NDArray[np.generic], vocabulary: Vocabulary, longest: int | None = None) -> list[int]:
        """The most likely token at each step, for one image, without the one that starts and the one that ends.

        Args:
            image: (1, C, H, W) or (1, H, W, C), as the model takes it.
            vocabulary: Says which tokens start and end.
            longest: At most so many tokens.

        Raises:
            LabelError: The vocabulary does not say which token starts, or which ends.
        """
        if vocabulary.start is None or vocabulary.end is None:
            missing = "start" if vocabulary.start is None else "end"
            raise LabelError(f"{vocabulary.source} has no word that marks the {missing} of a caption, as <{missing}>")
        limit = longest or LONGEST
        if self.roles.longest is not None and not self.roles.state:
            limit = min(limit, self.roles.longest)
        memory = self._see(image)
        state = {name: memory.get(name, _zeros(self._sessions[-1], name)) for name in self.roles.state.values()}
        pad = vocabulary.end if vocabulary.pad is None else vocabulary.pad
        found: list[int] = [vocabulary.start]
        while len(found) <= limit:
            if self.roles.state:
                tokens, step = np.array([found[-1:]]), -1
            else:
                tokens, step = self._fill(found, pad), len(found) - 1
            try:
                results = self._sessions[-1].run({**memory, **state, self.roles.tokens: self._typed(tokens)})
            except InputError:
                if len(found) == 1:
                    raise
                break  # as long as the decoder's table of positions
            scores = finite(results[self.roles.logits][0], "the scores of words")
            token = int((scores if scores.ndim == 1 else scores[step]).argmax())
            if token == vocabulary.end:
                break
            found.append(token)
            state = {target: results[source] for source, target in self.roles.state.items()}
        return found[1:]

    def _see(self, image: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        if len(self._sessions) == 1:
            return {self.roles.image: image}
        seen = self._sessions[0].run({self.roles.image: image})
        return {target: seen[source] for source, target in self.roles.memory.items()}

    def _fill(self, tokens: Sequence[int], pad: int) -> NDArray[np.generic]:
        if self.roles.longest is None or self.roles.state:
            return self._typed(np.array([tokens]))
        if len(tokens) > self.roles.longest:
            raise InputError(
                f"the caption has {len(tokens)} words with the one that starts it; the decoder takes at most "
                f"{self.roles.longest}: shorten it"
            )
        return self._typed(np.array([[*tokens, *[pad] * (self.roles.longest - len(tokens))]]))

    def _typed(self, tokens: NDArray[np.generic]) -> NDArray[np.generic]:
        return tokens.astype(self._sessions[-1].dtype(self.roles.tokens))


def _roles(first: ir.Graph, second: ir.Graph | None, mapping: Mapping[str, str] | None) -> Roles:
    """Read the roles from names, types and shapes; graphs are normalised."""
    decoder = second if second is not None else first
    images = [v for v in first.inputs if v.shape is not None and len(v.shape) == 4]
    if len(images) != 1:
        raise ModelError(
            f"the {'encoder' if second is not None else 'model'} needs one input with a picture (four "
            f"dimensions); its inputs are {_listing(first.inputs)}"
        )
    memory = match(first, second, mapping) if second is not None else {}
    given = set(memory.values())
    ids = [v for v in decoder.inputs if v.dtype in {ir.DataType.INT64, ir.DataType.INT32} and len(v.shape or ()) == 2]
    if len(ids) != 1:
        raise ModelError(
            f"a decoder needs one input of token ids (N, T), of integers; its inputs are {_listing(decoder.inputs)}"
        )
    state = _state(decoder, given, keep={ids[0], *([] if second is not None else images)})
    rest = [v for v in decoder.outputs if v.dtype in FLOATS and v.name not in state]
    scores = [v for v in rest if len(v.shape or ()) == 3] or [v for v in rest if len(v.shape or ()) == 2 and state]
    if len(scores) != 1:
        raise ModelError(f"a decoder needs one output of scores (N, T, V); its outputs are {_listing(decoder.outputs)}")
    if state and second is None:
        raise ModelError(
            "a decoder that takes one step at a time needs its encoder in a file of its own: otherwise the picture "
            "would be read anew at each word"
        )
    length = (known_dims(ids[0]) or [None, None])[1]
    return Roles(
        str(images[0].name),
        str(ids[0].name),
        str(scores[0].name),
        memory,
        state,
        length,
        (known_dims(scores[0]) or [None])[-1],
    )


def _state(decoder: ir.Graph, given: set[str], keep: set[ir.Value]) -> dict[str, str]:
    """The outputs that go back into inputs: those inputs that nothing else fills, in order, and outputs that fit."""
    inputs = [v for v in decoder.inputs if v not in keep and v.name not in given]
    for value in inputs:
        if value.dtype not in FLOATS:
            raise ModelError(f"nothing says what input '{value.name}' {value.dtype}{value.shape} of the decoder takes")
    # a state that the encoder begins is filled by it, and still goes back
    also = [v for v in decoder.inputs if v.name in given and any(_same(v, o) for o in decoder.outputs)]
    state: dict[str, str] = {}
    for value in sorted([*inputs, *also], key=list(decoder.inputs).index):
        fitting = [o for o in decoder.outputs if _same(value, o) and o.name not in state]
        if not fitting and value in inputs:
            raise ModelError(
                f"the decoder's input '{value.name}' {value.dtype}{value.shape} is left open: neither an output of the "
                "encoder nor a state of the decoder goes there; give a mapping"
            )
        if fitting:
            state[str(fitting[0].name)] = str(value.name)
    return state


def _same(value: ir.Value, output: ir.Value) -> bool:
    mine, theirs = known_dims(value), known_dims(output)
    if value.dtype != output.dtype or mine is None or theirs is None or len(mine) != len(theirs):
        return False
    return all(a is None or b is None or a == b for a, b in zip(mine, theirs, strict=True)) and mine[-1] == theirs[-1]


def _zeros(session: Session, name: str) -> NDArray[np.generic]:
    """A first state for one image: zeros, with 1 for a dimension that is open."""
    shape = [d if isinstance(d, int) else 1 for d in session.inputs[name].shape]
    return np.zeros(shape, session.dtype(name))


def _listing(values: Sequence[ir.Value]) -> str:
    return ", ".join(f"'{v.name}' {v.dtype}{v.shape if v.shape is not None else '[?]'}" for v in values)
