# SPDX-License-Identifier: Apache-2.0
"""(d) What the hardware allows: operations and bytes of a graph, at the rates measured on the same device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
import torch

from benchmarks.gpu.measure import Bench, Row, median_and_spread, timed

_FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Constant", "Shape"})


@dataclass(frozen=True)
class Cost:
    """Of one image: floating-point operations of convolutions and matrix products, the bytes if each node reads its
    inputs and writes its outputs, and those if only convolutions and matrix products did (all else fused)."""

    operations: float
    bytes_unfused: float
    bytes_fused: float


def cost(model: onnx.ModelProto, item_size: int) -> Cost:
    """Count a graph whose shapes are known but for the batch, which counts as 1; weights are left out, as a large
    batch shares them."""
    model = onnx.shape_inference.infer_shapes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    operations = unfused = fused = 0.0
    for node in model.graph.node:
        touched = [name for name in [*node.input, *node.output] if name in shapes and name not in weights]
        size = sum(math.prod(shapes[name]) for name in touched) * item_size
        if node.op_type not in _FREE:
            unfused += size
        products = _products(node, shapes)
        if products:
            operations += 2 * products
            fused += size
    return Cost(operations, unfused, fused)


def _products(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> float:
    """Multiplications of a node."""
    if node.op_type == "Conv" and node.input[1] in shapes:
        return math.prod(shapes.get(node.output[0], [0])) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose" and node.input[1] in shapes:
        return math.prod(shapes.get(node.input[0], [0])) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in {"Gemm", "MatMul"} and node.input[0] in shapes:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(shapes.get(node.output[0], [0])) * shapes[node.input[0]][-2 if transposed else -1]
    return 0.0


def matmul_rates(bench: Bench) -> dict[str, float]:
    """TFLOP/s of a large matrix product in each precision, on random numbers."""
    side = 32 if bench.tiny else 8192
    found = {}
    for precision in ("float32", "tf32", "float16"):
        dtype = torch.float16 if precision == "float16" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        times = bench.time({precision: lambda a=a, b=b: a @ b})[precision]
        found[precision] = 2 * side**3 / median_and_spread(times)[0] / 1e12
        bench.add(
            Row(
                "matmul",
                "matmul",
                "torch",
                size=f"{side}x{side}x{side}",
                precision=precision,
                teraflops=round(found[precision], 2),
                **timed(times),
            )
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    return found


def add(
    bench: Bench, name: str, method: str, graph: onnx.ModelProto, precision: str, bandwidth: float, teraflops: float
) -> None:
    """The bounds of a graph, and how near to the unfused one the fastest measured batch comes."""
    counted = cost(graph, 2 if precision == "float16" else 4)
    bounds = {
        "compute bound": teraflops * 1e12 / counted.operations if counted.operations else math.inf,
        "memory bound, every node": bandwidth * 1e9 / counted.bytes_unfused,
        "memory bound, convolutions and products only": bandwidth * 1e9 / max(counted.bytes_fused, 1),
    }
    rates = [
        row.images_per_second
        for row in bench.rows
        if (row.part, row.subject, row.implementation, row.precision) == ("model", name, method, precision)
        and row.images_per_second is not None
    ]
    for kind, bound in bounds.items():
        bench.add(
            Row(
                "roofline",
                name,
                method,
                precision=precision,
                images_per_second=round(bound, 1),
                note=kind,
                share=round(max(rates) / bound, 4) if rates else None,
            )
        )
