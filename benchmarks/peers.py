"""The other libraries on the same models: each a function from a torch module to something that runs one batch."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Run = Callable[[], Any]


def captum_gradcam(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: list[int]) -> Run:
    from captum.attr import LayerAttribution, LayerGradCam

    explainer = LayerGradCam(module, layer)

    def run() -> Any:
        maps = explainer.attribute(x, target=targets, relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear").detach().numpy()

    return run


def captum_guided_gradcam(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: list[int]) -> Run:
    from captum.attr import GuidedGradCam

    explainer = GuidedGradCam(module, layer)
    return lambda: explainer.attribute(x, target=targets, interpolate_mode="bilinear").detach().numpy()


def captum_guided_backprop(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: list[int]) -> Run:
    from captum.attr import GuidedBackprop

    explainer = GuidedBackprop(module)
    return lambda: explainer.attribute(x, target=targets).detach().numpy()


def torchcam_gradcam(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: list[int]) -> Run:
    from torchcam.methods import GradCAM

    def run() -> Any:
        with GradCAM(module, layer) as extractor:
            maps = extractor(targets, module(x.requires_grad_(True)))[0]
        size = tuple(x.shape[2:])
        return nn.functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False).detach().numpy()

    return run


#: method -> implementation -> maker
PEERS: dict[str, dict[str, Callable[[nn.Module, nn.Module, torch.Tensor, list[int]], Run]]] = {
    "Grad-CAM": {"Captum": captum_gradcam, "torch-cam": torchcam_gradcam},
    "Guided Backpropagation": {"Captum": captum_guided_backprop},
    "Guided Grad-CAM": {"Captum": captum_guided_gradcam},
}


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """onnx2torch imports torchvision for detection operators that none of these models has."""
    if "torchvision" in sys.modules:
        yield
        return
    stub, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    stub.ops = ops  # type: ignore[attr-defined]
    for name in ("roi_align", "nms", "deform_conv2d"):
        setattr(ops, name, None)
    sys.modules.update({"torchvision": stub, "torchvision.ops": ops})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]


def torch_module(path: Path, layer: str) -> tuple[nn.Module, nn.Module]:
    """An ONNX file as a torch module without its softmax, and its submodule by the name onnx2torch gives it."""
    with _without_torchvision():
        import onnx2torch

        module = onnx2torch.convert(str(path)).eval()
    for name, child in module.named_children():
        if type(child).__name__ == "OnnxSoftmaxV13" or "softmax" in name:
            setattr(module, name, nn.Identity())
    return module, module.get_submodule(layer)


def quiet() -> None:
    """Captum warns of its hooks on every call."""
    warnings.filterwarnings("ignore")


def pixels(batch: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
