# SPDX-License-Identifier: Apache-2.0
"""Small networks, each with the pattern that makes its family hard to explain, in plain torch with random weights.

``ARCHITECTURES`` lists them by name. A network has a few channels and takes pictures of 32 to 64 pixels, so that one is
exported, differentiated and checked in a second or two. Weights are drawn so that nothing is vacuous: what a family
initialises with zeros (LayerScale, the last scale of a residual branch, position embeddings, biases) is random here.
``benchmarks/models.py`` has networks of real size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.architectures import attention, convolutional, dense


@dataclass(frozen=True)
class Architecture:
    """How to make a network, the size of its pictures, and where its heat map belongs.

    ``layer`` is the submodule whose output a person would explain: the last one in which the places of the picture
    still matter to the scores. Its output is (N, C, h, w), or (N, h, w, C) if ``channels_last``, or tokens (N, T, C) if
    ``grid`` gives their rows and columns, the first ``prefix`` of them being class tokens and the like.
    """

    make: Callable[[], nn.Module]
    layer: str
    size: tuple[int, int] = (32, 32)
    channels_last: bool = False
    grid: tuple[int, int] | None = None
    prefix: int = 0

    def build(self, seed: int = 0) -> nn.Module:
        """The network in evaluation mode, every parameter and every running statistic random."""
        torch.manual_seed(seed)
        module = self.make()
        _randomise(module)
        return module.eval()

    def to_picture(self, value: torch.Tensor) -> torch.Tensor:
        """A value of the layer, or its gradient, as (N, C, h, w): what pytorch-grad-cam calls ``reshape_transform``."""
        if self.grid is not None:
            value = value[:, self.prefix :].reshape(len(value), *self.grid, value.shape[2])
            return value.permute(0, 3, 1, 2)
        return value.permute(0, 3, 1, 2) if self.channels_last else value


def _randomise(module: nn.Module) -> None:
    """Fan-in scaling for weights of several dimensions, values about 1 for scales, small ones for the rest."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, (2 / fan_in) ** 0.5)
            elif name.endswith(("weight", "scale")):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.2)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet": Architecture(convolutional.ResNet, "stages.2"),
    "densenet": Architecture(convolutional.DenseNet, "last"),
    "inception": Architecture(convolutional.Inception, "mixed.2"),
    "vgg_lrn": Architecture(convolutional.VggLrn, "features.6"),
    "mobilenetv3": Architecture(convolutional.MobileNetV3, "last"),
    "convnext": Architecture(convolutional.ConvNeXt, "stages.3"),
    "shufflenet": Architecture(convolutional.ShuffleNet, "last"),
    "involution": Architecture(convolutional.InvolutionNet, "last"),
    "groupnorm": Architecture(convolutional.GroupNormNet, "last"),
    "unet": Architecture(dense.UNet, "last"),
    "hrnet": Architecture(dense.HRNet, "last"),
    "focus_spp": Architecture(dense.FocusSpp, "last"),
    "vit": Architecture(attention.ViT, "blocks.1.norm1", (32, 48), grid=(4, 6), prefix=1),
    "vit_gap": Architecture(lambda: attention.ViT(tokens=0), "norm", (32, 48), grid=(4, 6)),
    "deit": Architecture(lambda: attention.ViT(tokens=2), "blocks.1.norm1", (32, 48), grid=(4, 6), prefix=2),
    "vit_registers": Architecture(
        lambda: attention.ViT(registers=3), "blocks.1.norm1", (32, 48), grid=(4, 6), prefix=4
    ),
    "swin": Architecture(attention.Swin, "norm", channels_last=True),
    "swin_tokens": Architecture(lambda: attention.Swin(flat=True), "norm", grid=(4, 4)),
    "hybrid": Architecture(attention.Hybrid, "norm", grid=(4, 4)),
}
