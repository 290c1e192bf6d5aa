# SPDX-License-Identifier: Apache-2.0
"""(b) Images per second and memory of whole explanations, next to the peers, and (c) next to plain inference."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from benchmarks import models
from benchmarks.gpu import roofline
from benchmarks.gpu.measure import Bench, Row, median_and_spread, timed
from benchmarks.gpu.peers import PEERS
from portable_cam import Explainer
from portable_cam.export import build_explanation, from_torch
from portable_cam.runtime.gpu import Cuda, Host
from portable_cam.runtime.gpu.binding import BoundSession, from_dlpack
from portable_cam.runtime.gpu.device import open_device
from portable_cam.runtime.gpu.float16 import to_float16
from portable_cam.runtime.gpu.options import Common
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import plain_model, ratio

METHODS = {"Grad-CAM": ("gradcam",), "Guided Grad-CAM": ("guided_gradcam",)}


@dataclass(frozen=True)
class Network:
    """A network, its small stand-in for dry runs, and the submodule whose output is explained."""

    make: Callable[[], nn.Module]
    tiny: Callable[[], nn.Module]
    layer: str


NETWORKS = {
    "ResNet-50": Network(models.resnet50, lambda: models.ResNet50(10, blocks=(1, 1, 1, 1), width=4), "layer4"),
    "VGG-16": Network(models.vgg16, lambda: models.VGG16(10, 4, 16), "features.30"),
    "EfficientNet-B0": Network(models.efficientnet_b0, lambda: models.EfficientNetB0(10, 3), "head"),
    "ConvNeXt-T": Network(models.convnext_t, lambda: models.ConvNeXtT(10, (1, 1, 1, 1), 8), "stages"),
}
#: Options that are tried on the first network only.
FURTHER: dict[str, dict[str, Any]] = {
    "portable_cam, heads in the graph": {"heads": "graph"},
    "portable_cam, CUDA graphs": {"cuda_graphs": True},
    "portable_cam, NHWC": {"nhwc": True},
    "portable_cam, exhaustive search": {"conv_search": "exhaustive"},
}


def run(bench: Bench, names: list[str], precisions: list[str], batches: list[int], rates: dict[str, Any]) -> None:
    """Measure networks, precisions and batch sizes, as far as time allows; what fails is noted."""
    side = 64 if bench.tiny else 224
    for name in names:
        if bench.late:
            bench.note(f"{name}: not measured, time is up")
            continue
        network = NETWORKS[name]
        torch.manual_seed(0)
        module = settled((network.tiny if bench.tiny else network.make)(), side)
        proto = from_torch(module, torch.zeros(2, 3, side, side))
        module.to(bench.device)
        for precision in precisions:
            # once for all explainers: a model whose floats are all half needs no conversion any more
            given = to_float16(proto) if precision == "float16" else proto
            peer = module.half() if precision == "float16" else module.float()
            for method in METHODS:
                if bench.late:
                    bench.note(f"{name} {precision} {method}: not measured, time is up")
                    continue
                with bench.noting(f"{name} {precision} {method}"), _torch_precision(precision):
                    _one(bench, name, peer, given, precision, method, batches, side)
                _free(bench)
        with bench.noting(f"{name} roofline"):
            _rooflines(bench, name, proto, precisions, rates)
        bench.keep()


def _free(bench: Bench) -> None:
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()


def _rooflines(bench: Bench, name: str, proto: onnx.ModelProto, precisions: list[str], rates: dict[str, Any]) -> None:
    """The bounds of each graph, which is counted once for all precisions."""
    graphs = {
        f"{method}: portable_cam": build_explanation(proto, METHODS[method], targets_per_image=1) for method in METHODS
    } | {"inference": ir.to_proto(plain_model(proto))}
    for what, graph in graphs.items():
        counted = _without_batch(graph)
        for precision in precisions:
            roofline.add(bench, name, what, counted, precision, rates["copy"], rates[precision])


def settled(module: nn.Module, side: int) -> nn.Module:
    """Activations of a plausible size: He initialisation, and the batch statistics of random pictures. With torch's own
    initialisation they fade away in a deep network, and with them any map in float16."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the plain mean over what it sees
            part.reset_running_stats()
    with torch.no_grad():
        module.train()(torch.randn(4, 3, side, side))
    return module.eval()


def _options(bench: Bench, precision: str, **further: Any) -> Common:
    """Of a model that is in half precision already, where that is the precision: tensor cores as for TF32."""
    kind = "tf32" if precision == "float16" else precision
    if not bench.on_gpu:
        return Host(precision=kind, heads=further.get("heads", "kernels"), buckets=None)  # type: ignore[arg-type]
    same = {"arena_extend_strategy": "kSameAsRequested"}
    return Cuda(precision=kind, provider_options=same, **{"heads": "kernels", **further})  # type: ignore[arg-type]


def _one(
    bench: Bench,
    name: str,
    module: nn.Module,
    proto: onnx.ModelProto,
    precision: str,
    method: str,
    batches: list[int],
    side: int,
) -> None:
    """One method on one network in one precision. Its sessions live no longer: ONNX Runtime's arenas never shrink."""
    layer = module.get_submodule(NETWORKS[name].layer)
    dtype = torch.float16 if precision == "float16" else torch.float32
    inference = _inference(bench, proto, precision)
    ours = {"portable_cam": Explainer(proto, METHODS[method], device=_options(bench, precision))}
    if name == next(iter(NETWORKS)) and method == "Grad-CAM":
        for label, further in FURTHER.items():
            with bench.noting(f"{name} {precision} {label}"):
                ours[label] = Explainer(proto, METHODS[method], device=_options(bench, precision, **further))
    held: dict[str, float] = {}  # megabytes that the arenas of our sessions took at smaller batches
    for batch in batches:
        if bench.late:
            bench.note(f"{name} {precision} batch {batch} {method}: not measured, time is up")
            continue
        generator = torch.Generator().manual_seed(batch)
        x = torch.randn(batch, 3, side, side, generator=generator).to(bench.device)
        targets = np.arange(batch) % 10
        runs: dict[str, Callable[[], Any]] = {"inference": lambda x=x: inference(x)}
        runs |= {label: lambda e=e, x=x, t=targets: e.on_device(x, t) for label, e in ours.items()}
        if method == "Grad-CAM":
            runs["portable_cam, heads alone"] = _heads_alone(ours["portable_cam"], x, targets)
        for peer, make in PEERS[method].items():
            if peer == "pytorch-grad-cam" and method == "Guided Grad-CAM" and batch > 8:
                continue  # a loop over single images: its rate does not change with the batch
            try:
                runs[peer] = make(module, layer, x.to(dtype), targets.tolist())
            except ImportError as error:
                bench.note(f"{peer} is not installed ({error}): not measured")
        grown = _first_runs(bench, runs, f"{name} {precision} batch {batch} {method}")
        for label in {"inference", *ours} & grown.keys():
            held[label] = held.get(label, 0) + (grown[label] or 0)
        if batch == batches[0]:
            _check(bench, f"{name} {method}", runs, METHODS[method][0])
        if "inference" not in runs:
            continue
        times = bench.time(runs, minimum=3)
        for label, found in times.items():
            what = label if label == "inference" else f"{method}: {label}"
            memory = held.get(label, grown.get(label)) if bench.on_gpu else None
            bench.add(
                Row(
                    "model",
                    name,
                    what,
                    batch,
                    f"{side}x{side}",
                    precision,
                    images_per_second=round(batch / median_and_spread(found)[0], 1),
                    share=round(ratio(found, times["inference"]), 4),
                    memory_mb=None if memory is None else round(memory, 1),
                    **timed(found),
                )
            )
        bench.keep()


def _inference(bench: Bench, proto: onnx.ModelProto, precision: str) -> Callable[[torch.Tensor], Any]:
    """The plain model on the same device and buffers."""
    options = _options(bench, precision)
    device = open_device(options)
    session = Session(plain_model(proto), providers=device.providers())
    image = next(iter(session.inputs))
    bound = BoundSession(session, device, image, options.buckets)

    def run(x: torch.Tensor) -> Any:
        device.enter()
        return bound.run({image: from_dlpack(image, x, device)})

    return run


def _heads_alone(explainer: Explainer, x: torch.Tensor, targets: np.ndarray) -> Callable[[], Any]:
    """The chain after the gradient: the kernels on what the graph gave once, at the first call."""
    pipeline, values = explainer.pipeline(), {}

    def run() -> Any:
        if not values:
            values.update(
                pipeline.bound.run(
                    {
                        explainer.image_name: pipeline.take(explainer.image_name, x),
                        "targets": targets[:, None].astype(np.int64),
                    }
                )
            )
        assert pipeline.heads is not None
        return pipeline.heads(values, (x.shape[2], x.shape[3]))

    return run


def _first_runs(bench: Bench, runs: dict[str, Callable[[], Any]], what: str) -> dict[str, float | None]:
    """Run each once, and see how the used memory grows; what runs out of memory or does not work is left out."""
    grown: dict[str, float | None] = {}
    for label in list(runs):
        if bench.on_gpu:
            torch.cuda.empty_cache()
        before = bench.used_memory()
        try:
            runs[label]()
            bench.synchronize()
        except Exception as error:  # of ONNX Runtime, of torch, of a peer
            text = str(error).strip().splitlines()
            bench.note(f"{what}, {label}: cannot run: {text[0] if text else type(error).__name__}")
            del runs[label]
            continue
        after = bench.used_memory()
        grown[label] = round(after - before, 1) if before is not None and after is not None else None
    return grown


def _check(bench: Bench, what: str, runs: dict[str, Callable[[], Any]], method: str) -> None:
    """Our maps against each peer's, before anything is timed."""
    if "portable_cam" not in runs:
        return
    ours = torch.from_dlpack(runs["portable_cam"]()[method]).double().cpu().flatten(1)
    for peer in ("Captum", "torch-cam", "pytorch-grad-cam"):
        if peer not in runs or (peer == "pytorch-grad-cam" and method == "guided_gradcam"):
            continue  # its product is with the normalised map
        theirs = torch.as_tensor(runs[peer]()).double().cpu().flatten(1)
        lengths = ours.norm(dim=1) * theirs.norm(dim=1)
        both_empty = (ours.norm(dim=1) == 0) & (theirs.norm(dim=1) == 0)  # nothing speaks for the class
        cosine = torch.where(both_empty, 1, (ours * theirs).sum(1) / lengths).min().item()
        if not cosine > 0.99:
            bench.note(f"{what}: our map and that of {peer} differ, cosine {cosine:.4f}")


def _without_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """For counting: the batch, and the targets per image, are 1."""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    return model


@contextmanager
def _torch_precision(precision: str) -> Iterator[None]:
    """The peers in the same precision."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
