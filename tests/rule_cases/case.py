# SPDX-License-Identifier: Apache-2.0
"""What a case of a gradient rule is made of, and the model of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from portable_cam.runtime.session import Session
from portable_cam.testing import node_model

Sampler = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class In:
    """One input. Role ``x``: differentiated for, a graph input always; ``w``: differentiated for, a constant in most
    forms; ``c``: a constant; ``r``: known only at run time, not differentiated for; ``-``: absent."""

    role: str
    sample: Sampler


def normal(shape: Sequence[int]) -> Sampler:
    return lambda rng: rng.standard_normal(shape)


def uniform(low: float, high: float) -> Callable[[Sequence[int]], Sampler]:
    return lambda shape: lambda rng: rng.uniform(low, high, shape)


def spaced(shape: Sequence[int]) -> Sampler:
    """All different by at least 0.2, none nearer to 0 than 0.1: no ties, no kinks at 0 within a step's reach."""

    def sample(rng: np.random.Generator) -> np.ndarray:
        count = math.prod(shape)
        return ((rng.permutation(count) - count // 2) * 0.2 + 0.1).reshape(shape)

    return sample


def away_from(*kinks: float) -> Callable[[Sequence[int]], Sampler]:
    """Normal numbers, those nearer than 0.2 to a kink moved away from it."""

    def make(shape: Sequence[int]) -> Sampler:
        def sample(rng: np.random.Generator) -> np.ndarray:
            x = 2 * rng.standard_normal(shape)
            for kink in kinks:
                x = np.where(abs(x - kink) < 0.2, kink + np.where(x >= kink, 0.2, -0.2), x)
            return x

        return sample

    return make


def x(*shape: int, draw: Callable[[Sequence[int]], Sampler] = normal) -> In:
    sample = draw(shape)
    return In("x", lambda rng: np.asarray(sample(rng), np.float32))


def at(values: Any) -> In:
    """Differentiated for, at exactly these values."""
    return In("x", lambda rng: np.asarray(values, np.float32))


def w(*shape: int, draw: Callable[[Sequence[int]], Sampler] = normal) -> In:
    return In("w", x(*shape, draw=draw).sample)


def const(values: Any, dtype: Any = np.int64) -> In:
    return In("c", lambda rng: np.asarray(values, dtype))


def late(values: Any, dtype: Any = np.int64) -> In:
    return In("r", lambda rng: np.asarray(values, dtype))


positive, inside_one = uniform(0.3, 2.0), uniform(-0.8, 0.8)

NONE = In("-", lambda rng: np.zeros(0))


@dataclass(frozen=True)
class Case:
    """One operator with attributes, as a record.

    ``torch`` takes a tensor for each input and returns the output that is differentiated. ``linear``: the inputs in
    which the operator is linear or affine. ``fd``: False at a kink, where only torch can say what the convention is.
    ``dynamic``: ``all`` dimensions unknown, all but the ``channels``, or ``no`` with ``why``: a part of the message
    with which the rule refuses, never a wrong number.
    """

    op: str
    inputs: Sequence[In]
    attributes: dict[str, Any] = field(default_factory=dict)
    torch: Callable[..., Any] | None = None
    linear: Sequence[int] = ()
    fd: bool = True
    dynamic: str = "all"
    why: str = ""
    outputs: int = 1
    of: int = 0
    tolerance: float = 1e-5
    note: str = ""

    def __str__(self) -> str:
        shapes = [
            ("x".join(map(str, i.sample(np.random.default_rng(0)).shape)) or "s") for i in self.inputs if i.role != "-"
        ]
        attributes = ",".join(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())
        return "-".join(
            p for p in (self.op, "_".join(shapes), attributes, f"out{self.of}" * (self.of > 0), self.note) if p
        )


def elementwise(op: str, function: Any, draw: Any = normal, **attributes: Any) -> Case:
    return Case(op, [x(2, 3, 4, draw=draw)], attributes, function)


DTYPES = {np.float32: onnx.TensorProto.FLOAT, np.float16: onnx.TensorProto.FLOAT16, np.float64: onnx.TensorProto.DOUBLE}


@dataclass
class Prepared:
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    arrays: list[np.ndarray | None]
    wrt: list[int]
    of: str

    @cached_property
    def session(self) -> Session:
        return Session(self.model, threads=1)


def prepare(case: Case, form: str, dtype: Any = np.float32) -> Prepared:
    rng = np.random.default_rng(7)
    arrays: list[np.ndarray | None] = []
    feeds, constants, dims = {}, {}, {}
    names = []
    for i, given in enumerate(case.inputs):
        array = given.sample(rng)
        if given.role == "-":
            arrays.append(None)
            names.append("")
            continue
        keep = case.op == "Resize" and i == 2
        array = np.asarray(array, dtype) if array.dtype == np.float32 and not keep else array
        arrays.append(array)
        names.append(f"i{i}")
        if given.role in "xr" or (given.role == "w" and form == "inputs"):
            feeds[f"i{i}"] = array
            if form in {"symbolic", "unnamed"} and given.role == "x":
                fixed = {1} if case.dynamic == "channels" else set()
                name = (lambda a, i=i: f"d{i}_{a}") if form == "symbolic" else (lambda a: None)
                dims[f"i{i}"] = [s if a in fixed else name(a) for a, s in enumerate(array.shape)]
        else:
            constants[f"i{i}"] = array
    wrt = [i for i, given in enumerate(case.inputs) if given.role == "x" or (given.role == "w" and form == "inputs")]
    outputs = [f"o{i}" for i in range(case.outputs)]
    node = onnx.helper.make_node(case.op, names, outputs, name="node", **case.attributes)
    model = node_model([node], feeds, [outputs[case.of]], constants, dims=dims)
    if case.op == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = case.attributes["to"]
    return Prepared(model, feeds, arrays, wrt, outputs[case.of])
