# SPDX-License-Identifier: Apache-2.0
"""The other libraries on the same device, to the same product: a normalised map at the picture's size for each image.

Captum and torch-cam leave theirs on the GPU, as we do; pytorch-grad-cam's are made on the host. Guided Grad-CAM is
signed and not normalised by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Run = Callable[[], Any]


def _finished(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    wide = functional.interpolate(maps.detach(), size, mode="bilinear", align_corners=False).float()
    low, high = wide.amin((2, 3), keepdim=True), wide.amax((2, 3), keepdim=True)
    return ((wide - low) / (high - low).clamp_min(1e-12))[:, 0]


def _size(x: torch.Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def captum(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> Run:
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(module, layer)
    return lambda: _finished(explainer.attribute(x, target=list(targets), relu_attributions=True), _size(x))


def torchcam(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> Run:
    from torchcam.methods import GradCAM

    pixels = x.clone().requires_grad_(True)

    def run() -> torch.Tensor:
        with GradCAM(module, layer) as extractor:
            return _finished(extractor(list(targets), module(pixels), normalized=False)[0][:, None], _size(x))

    return run


def pytorch_grad_cam(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    wanted = [ClassifierOutputTarget(target) for target in targets]

    def run() -> torch.Tensor:
        with GradCAM(model=module, target_layers=[layer]) as explainer:
            return torch.from_numpy(explainer(input_tensor=x, targets=wanted))

    return run


def captum_guided(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> Run:
    from captum.attr import GuidedGradCam

    explainer = GuidedGradCam(module, layer)
    return lambda: explainer.attribute(x, target=list(targets), interpolate_mode="bilinear").detach()


def pytorch_grad_cam_guided(module: nn.Module, layer: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> Run:
    from pytorch_grad_cam import GuidedBackpropReLUModel

    maps = pytorch_grad_cam(module, layer, x, targets)

    def run() -> torch.Tensor:
        explainer = GuidedBackpropReLUModel(model=module, device=x.device)
        wide = maps()
        rows = [explainer(x[i : i + 1], target_category=target) for i, target in enumerate(targets)]
        return torch.stack([torch.from_numpy(row).movedim(-1, 0) * w for row, w in zip(rows, wide, strict=True)])

    return run


#: method -> library -> maker
PEERS: dict[str, dict[str, Callable[..., Run]]] = {
    "Grad-CAM": {"Captum": captum, "torch-cam": torchcam, "pytorch-grad-cam": pytorch_grad_cam},
    "Guided Grad-CAM": {"Captum": captum_guided, "pytorch-grad-cam": pytorch_grad_cam_guided},
}
