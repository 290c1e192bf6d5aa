# SPDX-License-Identifier: Apache-2.0

"""Gradient rules on random shapes and attributes, and on small random graphs: the outputs of the model stay as they
were, and along a random direction the gradient graph agrees with finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from portable_cam.errors import InputError, ModelError, UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp, node_model

few = settings(suppress_health_check=list(HealthCheck))
size = st.integers(1, 3)


def check(
    op: str,
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    *,
    dynamic: bool = False,
    order: list[str] | None = None,
    wrt: list[str] | None = None,
    **attributes: Any,
) -> None:
    names = order or [*feeds, *(constants or {})]
    dims = (
        {k: [f"{k}{a}" for a in range(v.ndim)] for k, v in feeds.items() if v.dtype == np.float32} if dynamic else None
    )
    model = node_model([onnx.helper.make_node(op, names, ["y"], **attributes)], feeds, ["y"], constants, dims=dims)
    try:
        shape = Session(model, threads=1).run(feeds)["y"].shape
    except (ModelError, InputError):
        assume(False)
    # onnx infers another size than ONNX Runtime computes where the last window of ceil_mode lies in the padding
    declared = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assume(all(d in (0, s) for d, s in zip(declared, shape, strict=True)))
    wide_same = (
        op == "Conv"
        and str(attributes.get("auto_pad")).startswith("SAME")
        and any(s - k > 2 for s, k in zip(attributes["strides"], attributes["kernel_shape"], strict=True))
    )
    if wide_same:  # refused where the stride steps over 3 elements or more, never wrong
        try:
            differentiate(model, "y", list(feeds))
        except UnsupportedOperatorError as error:
            assert "explicit pads" in str(error)  # noqa: PT017
            return
    check_vjp(model, feeds, wrt=wrt)


def apart(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """No two alike, and none near 0: no maximum and no sign changes within a step."""
    count = math.prod(shape)
    return (
        ((np.random.default_rng(seed).permutation(count) - count // 2) * 0.3 + 0.15).reshape(shape).astype(np.float32)
    )


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def windows(draw: Any, rank: int) -> dict[str, Any]:
    """Attributes of a convolution or pooling."""
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    attributes = {"kernel_shape": kernel, "strides": draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))}
    padding = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if padding == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes["dilations"] = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    else:
        attributes["auto_pad"] = padding
    return attributes


@few
@given(st.data(), st.integers(1, 3), st.booleans())
def test_conv(data: Any, rank: int, dynamic: bool) -> None:
    attributes, group = data.draw(windows(rank)), data.draw(size)
    per_group, filters = data.draw(size), data.draw(size)
    shape = (data.draw(size), group * per_group, *(data.draw(st.integers(4, 9)) for _ in range(rank)))
    weight = normal((group * filters, per_group, *attributes["kernel_shape"]), 1)
    if dynamic:
        check("Conv", {"x": normal(shape, 0)}, {"w": weight}, dynamic=True, group=group, **attributes)
    else:
        check("Conv", {"x": normal(shape, 0), "w": weight}, group=group, **attributes)


@few
@given(st.data(), st.integers(1, 3), st.booleans())
def test_conv_transpose(data: Any, rank: int, dynamic: bool) -> None:
    attributes, group = data.draw(windows(rank)), data.draw(size)
    if "auto_pad" in attributes:
        dynamic = dynamic and attributes["auto_pad"] == "VALID"
    else:
        attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in attributes["strides"]]
    per_group, filters = data.draw(size), data.draw(size)
    shape = (data.draw(size), group * per_group, *(data.draw(st.integers(2, 5)) for _ in range(rank)))
    weight = normal((group * per_group, filters, *attributes["kernel_shape"]), 1)
    feeds, constants = (
        ({"x": normal(shape, 0)}, {"w": weight}) if dynamic else ({"x": normal(shape, 0), "w": weight}, {})
    )
    check("ConvTranspose", feeds, constants, dynamic=dynamic, group=group, **attributes)


@few
@given(
    st.data(),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["MaxPool", "AveragePool", "LpPool"]),
    st.integers(0, 1),
)
def test_pooling(data: Any, rank: int, dynamic: bool, op: str, ceil: int) -> None:
    attributes = data.draw(windows(rank))
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    if op == "LpPool":
        attributes["p"] = data.draw(st.integers(1, 3))
    shape = (data.draw(size), data.draw(size), *(data.draw(st.integers(4, 9)) for _ in range(rank)))
    check(op, {"x": apart(shape, 0)}, dynamic=dynamic, ceil_mode=ceil, **attributes)


@few
@given(st.data(), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_slice(data: Any, shape: list[int], dynamic: bool, late: bool) -> None:
    axes = data.draw(
        st.lists(st.sampled_from(range(-len(shape), len(shape))), min_size=1, unique_by=lambda a: a % len(shape))
    )
    bound = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63) + 1, 2**31 - 1]))
    steps = [data.draw(st.sampled_from([1, 1, 2, 3, 9, -1, -2, -3])) for _ in axes]
    bounds = {"s": np.array([data.draw(bound) for _ in axes]), "e": np.array([data.draw(bound) for _ in axes])}
    # ONNX Runtime takes the largest number for "to the end" even where the step is negative, against the standard
    assume(all(step > 0 or end < 2**31 - 1 for end, step in zip(bounds["e"], steps, strict=True)))
    rest = {"a": np.array(axes), "p": np.array(steps)}
    feeds = {"x": normal(tuple(shape), 0), **(bounds if late else {})}
    constants = rest if late else {**bounds, **rest}
    check("Slice", feeds, constants, dynamic=dynamic, order=["x", "s", "e", "a", "p"])


@few
@given(
    st.data(),
    st.lists(st.integers(3, 5), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(["constant", "edge", "reflect", "wrap"]),
)
def test_pad(data: Any, shape: list[int], dynamic: bool, mode: str) -> None:
    low = -1 if mode == "constant" else 0
    pads = np.array([data.draw(st.integers(low, 2)) for _ in shape * 2])
    check("Pad", {"x": normal(tuple(shape), 0)}, {"p": pads}, dynamic=dynamic, mode=mode)


@few
@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_gather(data: Any, shape: list[int], dynamic: bool, late: bool) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = data.draw(st.lists(st.integers(1, 3), max_size=2))
    n = shape[axis]
    flat = [data.draw(st.integers(-n, n - 1)) for _ in range(math.prod(index_shape))]
    indices = {"i": np.array(flat).reshape(index_shape)}
    feeds = {"x": normal(tuple(shape), 0), **(indices if late else {})}
    check("Gather", feeds, {} if late else indices, dynamic=dynamic, order=["x", "i"], axis=axis)


@few
@given(st.data(), st.sampled_from(["nearest", "linear", "cubic"]), st.booleans(), st.booleans(), st.booleans())
def test_resize(data: Any, mode: str, dynamic: bool, by_scale: bool, late: bool) -> None:
    shape = (data.draw(size), data.draw(size), data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6)))
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": data.draw(
            st.sampled_from(["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"])
        ),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(
            st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        )
    if mode == "cubic":
        attributes |= {
            "exclude_outside": data.draw(st.integers(0, 1)),
            "cubic_coeff_a": data.draw(st.sampled_from([-0.5, -0.75])),
        }
    if mode != "nearest" and data.draw(st.booleans()):
        attributes["antialias"] = 1
    if by_scale:
        to = {
            "to": np.array(
                [1, 1, *(data.draw(st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.0, 2.5])) for _ in "hw")], np.float32
            )
        }
    else:
        to = {"to": np.array([*shape[:2], *(data.draw(st.integers(1, 9)) for _ in "hw")])}
    feeds = {"x": normal(shape, 0), **(to if late else {})}
    order = ["x", "", "to"] if by_scale else ["x", "", "", "to"]
    check("Resize", feeds, {} if late else to, dynamic=dynamic, order=order, wrt=["x"], **attributes)


@few
@given(st.data(), st.booleans())
def test_matmul(data: Any, dynamic: bool) -> None:
    inner = data.draw(size)
    batch = data.draw(st.lists(size, max_size=2))

    def sides(rows: int, columns: int, may_drop: int) -> tuple[int, ...]:
        keep = data.draw(st.integers(0, len(batch)))
        mine = [1 if data.draw(st.booleans()) else b for b in batch[len(batch) - keep :]]
        matrix = [rows, columns]
        if not mine and data.draw(st.booleans()):
            del matrix[may_drop]
        return (*mine, *matrix)

    left, right = sides(data.draw(size), inner, 0), sides(inner, data.draw(size), 1)
    check("MatMul", {"a": normal(left, 0), "b": normal(right, 1)}, dynamic=dynamic)


@few
@given(st.data(), st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"]), st.booleans())
def test_broadcasting(data: Any, op: str, dynamic: bool) -> None:
    full = data.draw(st.lists(st.integers(1, 3), max_size=4))

    def part() -> tuple[int, ...]:
        keep = data.draw(st.integers(0, len(full)))
        return tuple(1 if data.draw(st.booleans()) else d for d in full[len(full) - keep :])

    b = apart(part(), 1) * 0.7 + (0 if op in {"Max", "Min"} else np.float32(20))  # far from 0, and from a tie
    check(op, {"a": apart(part(), 0), "b": b.astype(np.float32) + np.float32(0.03)}, dynamic=dynamic)


UNARY = ["Sin", "Tanh", "Sigmoid", "Erf", "Softplus", "Neg", "Gelu"]
BINARY = ["Add", "Mul", "Sub", "Sum"]


@few
@given(st.data(), st.booleans())
def test_graphs_with_shared_values(data: Any, dynamic: bool) -> None:
    """Every value may be read by several nodes, one node may read a value twice, and some are read by none."""
    helper, values, nodes = onnx.helper, ["x", "z"], []
    for i in range(data.draw(st.integers(2, 9))):
        pick = st.sampled_from(values)
        kind = data.draw(st.sampled_from(["unary", "binary", "binary", "matmul", "concat", "softmax", "mean"]))
        out = f"v{i}"
        if kind == "unary":
            nodes.append(helper.make_node(data.draw(st.sampled_from(UNARY)), [data.draw(pick)], [out]))
        elif kind == "binary":
            nodes.append(
                helper.make_node(data.draw(st.sampled_from(BINARY)), [data.draw(pick), data.draw(pick)], [out])
            )
        elif kind == "matmul":
            nodes.append(helper.make_node("MatMul", [data.draw(pick), "w"], [out]))
        elif kind == "concat":  # both halves of two values, side by side
            first, second = data.draw(pick), data.draw(pick)
            nodes.append(helper.make_node("Concat", [first, second], [f"{out}c"], axis=-1))
            nodes.append(helper.make_node("Split", [f"{out}c"], [out, f"{out}r"], axis=-1, num_outputs=2))
            values.append(f"{out}r")
        elif kind == "softmax":
            nodes.append(helper.make_node("Softmax", [data.draw(pick)], [out], axis=data.draw(st.integers(-2, 1))))
        else:  # a mean that is broadcast back
            nodes.append(helper.make_node("ReduceMean", [data.draw(pick)], [f"{out}m"], keepdims=1))
            nodes.append(helper.make_node("Sub", [data.draw(pick), f"{out}m"], [out]))
        values.append(out)
    nodes.append(helper.make_node("Sum", [values[-1], values[-2], "x", "z"], ["y"]))
    feeds = {"x": normal((2, 4), 0), "z": normal((2, 4), 1)}
    dims = {"x": ["n", None], "z": [None, 4]} if dynamic else None
    check_vjp(node_model(nodes, feeds, ["y"], {"w": normal((4, 4), 2) / 2}, dims=dims), feeds)
