# SPDX-License-Identifier: Apache-2.0
"""(a) Each kernel next to the measured copy bandwidth, eager torch and torch.compile; and what a launch costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.measure import Bench, Row, median_and_spread, timed
from portable_cam.kernels import cam, guided, moments, of_torch, overlay, upsample
from portable_cam.kernels.launch import Device, TorchDevice
from portable_cam.kernels.upsample import Upsampling

BATCHES = (64, 1, 1024)


@dataclass(frozen=True)
class Case:
    """A kernel on inputs of one size: ours, the same in torch, and the bytes that must move."""

    name: str
    size: str
    precision: str
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    ours: Callable[..., Any]
    theirs: Callable[..., torch.Tensor]
    tolerance: float = 1e-4


def _minmax(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low)


def _wide(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def _overlay(m: torch.Tensor, p: torch.Tensor, a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    step = (m * 255).round().long()
    weight = a[step][..., None]
    return ((1 - weight) * x[:, None] + weight * p[step]).round().to(torch.uint8)


def _gradcam(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    weights = g.float().mean((3, 4))
    return torch.einsum("nkc,nchw->nkhw", weights, a.float()).relu()


def _weighted(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nkc,nchw->nkhw", w, a.float()).relu()


def _layercam(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return (g.float().relu() * a.float()[:, None]).sum(2).relu()


def cases(bench: Bench, device: Device) -> Iterator[Case]:
    """Layers of ResNet-50 (2048 x 7 x 7 and 256 x 56 x 56) and pictures of 224 x 224, over batch sizes: the size that
    says most first, with every kernel."""
    for n in (1,) if bench.tiny else BATCHES:
        yield from _of_batch(bench, device, n)


def _of_batch(bench: Bench, device: Device, n: int) -> Iterator[Case]:
    layers = ((8, 3, 3),) if bench.tiny else ((2048, 7, 7), (256, 56, 56))
    side = 12 if bench.tiny else 224
    half = torch.float16

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, device=bench.device).to(dtype)

    for (c, h, w), dtype in itertools.product(layers, (torch.float32, half)):
        if n * c * h * w > 2**28:  # a gigabyte in float32, and as much for the gradient
            continue
        size, precision = f"{n}x{c}x{h}x{w}", str(dtype).removeprefix("torch.")

        def pair(n: int = n, c: int = c, h: int = h, w: int = w, dtype: Any = dtype) -> tuple[torch.Tensor, ...]:
            return make(n, c, h, w, dtype=dtype), make(n, 1, c, h, w, dtype=dtype)

        def weights(n: int = n, c: int = c, h: int = h, w: int = w, dtype: Any = dtype) -> tuple[torch.Tensor, ...]:
            return make(n, c, h, w, dtype=dtype), make(n, 1, c)

        for method, inputs, theirs in (
            ("gradcam", pair, _gradcam),
            ("weights", weights, _weighted),
            ("layercam", pair, _layercam),
        ):

            def ours(a: torch.Tensor, g: torch.Tensor, method: str = method) -> Any:
                return cam.weighted_sum(device, of_torch(a), of_torch(g), method=method)[0]

            yield Case(f"weighted_sum.{method}", size, precision, inputs, ours, theirs)
    small = (4, 4) if bench.tiny else (7, 7)

    def maps(n: int = n, small: tuple[int, int] = small) -> tuple[torch.Tensor, ...]:
        return (make(n, 1, *small),)

    def normalised(m: torch.Tensor) -> Any:
        return upsample.upsample(device, Upsampling(of_torch(m), (side, side)))[0]

    yield Case(
        "upsample.minmax", f"{n}x{side}x{side}", "float32", maps, normalised, lambda m: _minmax(_wide(m, (side, side)))
    )
    for dtype in (torch.float32, half):

        def product(n: int = n, dtype: Any = dtype, small: tuple[int, int] = small) -> tuple[torch.Tensor, ...]:
            return make(n, 1, 3, side, side, dtype=dtype), make(n, 1, *small)

        yield Case(
            "guided_product",
            f"{n}x3x{side}x{side}",
            str(dtype).removeprefix("torch."),
            product,
            lambda g, m: guided.guided_product(device, of_torch(g), Upsampling(of_torch(m), (side, side))),
            lambda g, m: g.float() * _wide(m, (side, side))[:, :, None],
        )

    def pictures(n: int = n) -> tuple[torch.Tensor, ...]:
        return (
            torch.rand(n, 1, side, side, device=bench.device),
            torch.randint(0, 256, (257, 3), device=bench.device, dtype=torch.uint8),
            torch.rand(257, device=bench.device),
            torch.randint(0, 256, (n, side, side, 3), device=bench.device, dtype=torch.uint8),
        )

    yield Case(
        "overlay",
        f"{n}x{side}x{side}x3",
        "uint8",
        pictures,
        lambda m, p, a, x: overlay.overlay(device, *map(of_torch, (m, p, a, x)), gray=False),
        _overlay,
        tolerance=1.0,
    )

    def rows(n: int = n) -> tuple[torch.Tensor, ...]:
        return (make(n, 3 * side * side),)

    yield Case(
        "row_statistics",
        f"{n}x{3 * side * side}",
        "float32",
        rows,
        lambda x: moments.row_statistics(device, of_torch(x)),
        lambda x: torch.stack([x.mean(1), x.var(1, correction=0), x.amin(1), x.amax(1)], 1),
    )


def copy_bandwidth(bench: Bench) -> float:
    """Gigabytes a second of a large copy within the device, bytes read and written."""
    source = torch.randn(2**12 if bench.tiny else 2**28, device=bench.device)
    target = torch.empty_like(source)
    times = bench.replay({"copy": [lambda: target.copy_(source)]})["copy"]
    found = 2 * source.nbytes / median_and_spread(times)[0] / 1e9
    bench.add(
        Row(
            "copy", "copy", "torch", size=f"{source.nbytes} bytes", gigabytes_per_second=round(found, 1), **timed(times)
        )
    )
    return found


def run(bench: Bench, bandwidth: float, device: Device) -> None:
    """Measure every case, checked before it is timed. torch.compile is measured at the first batch size alone, for it
    takes seconds to compile each."""
    for case in cases(bench, device):
        if bench.late:
            bench.note(f"kernel {case.name} {case.size} {case.precision}: not measured, time is up")
            continue
        with bench.noting(f"kernel {case.name} {case.size} {case.precision}"):
            _measure(bench, case, bandwidth)
        bench.keep()


def _measure(bench: Bench, case: Case, bandwidth: float) -> None:
    sets = [case.inputs()]
    out = case.ours(*sets[0]).owner
    expected = case.theirs(*sets[0])
    off = (out.double() - expected.double()).abs().max().item() / max(1.0, expected.double().abs().max().item())
    if not off <= case.tolerance:
        raise AssertionError(f"differs from torch by {off:.2e} of the greatest value, and is not timed")
    moved = sum(t.nbytes for t in sets[0]) + out.nbytes
    # one buffer over and over would measure the cache: rotate among as many as it cannot hold
    sets += [case.inputs() for _ in range(0 if bench.tiny else min(31, int(3e8 // moved)))]
    runs = {"portable_cam": _on_each(case.ours, sets), "torch": _on_each(case.theirs, sets)}
    batch = int(case.size.split("x")[0])
    if bench.on_gpu and batch == BATCHES[0]:
        with bench.noting(f"torch.compile, {case.name}"):
            torch.compiler.reset()
            fused = torch.compile(case.theirs)
            fused(*sets[0])
            runs["torch.compile"] = _on_each(fused, sets)
    cached = ", in the cache" if len(sets) * moved < 1e8 else ""
    for name, times in bench.replay(runs).items():
        rate = moved / median_and_spread(times)[0] / 1e9
        bench.add(
            Row(
                "kernel",
                case.name,
                name,
                batch,
                case.size,
                case.precision,
                gigabytes_per_second=round(rate, 1),
                share=round(rate / bandwidth, 3),
                note=f"bytes in and out, each once{cached}",
                **timed(times),
            )
        )


def _on_each(function: Callable[..., Any], sets: list[tuple[torch.Tensor, ...]]) -> list[Callable[[], Any]]:
    return [partial(function, *given) for given in sets]


def launches(bench: Bench, device: Device) -> None:
    """The host's time for one launch of a small kernel: by the driver, by Triton's launcher, and of an operator of
    torch."""
    maps = torch.randn(1, 1, 4, 4, device=bench.device)
    ways: dict[str, Device] = {"driver": device} if bench.on_gpu else {}
    try:
        ways["Triton"] = TorchDevice(bench.device)
        cam.finish(ways["Triton"], of_torch(maps))
    except Exception as error:  # a Triton that does not know this GPU
        bench.note(f"Triton's launcher cannot run here: {str(error).splitlines()[0]}")
        del ways["Triton"]
    runs: dict[str, Callable[[], Any]] = {name: _launch(way, maps) for name, way in ways.items()}
    runs["torch operator"] = maps.relu
    for name, times in bench.time(runs).items():
        bench.add(
            Row("launch", "finish_maps", name, 1, "4x4", "float32", note="as fast as the host can", **timed(times))
        )


def _launch(device: Device, maps: torch.Tensor) -> Callable[[], Any]:
    """A launch with its memory already there: what is timed is the launch."""
    from portable_cam.kernels.array import Array
    from portable_cam.kernels.launch import Variant

    raw, ranges = of_torch(torch.empty_like(maps)), of_torch(maps.new_empty(1, 1, 2))
    arguments: list[Array | int | float] = [of_torch(maps), raw, ranges, 1, 16, 1.0]
    variant = Variant(
        "cam.finish_maps", ("*fp32", "*fp32", "*fp32", "i32", "i32", "fp32"), (("RELU", True), ("BLOCK_P", 256))
    )
    return lambda: device.launch(variant, (1,), arguments)
