# SPDX-License-Identifier: Apache-2.0
"""What a method is: a record that everything else iterates over.

Shapes: A (N, C, h, w) the activation of the explained layer, g its gradient for one target, maps (N, h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.export.autodiff.backward import ReluRule
from portable_cam.export.graph.builder import Builder

#: (builder, g, A), in the model's float types -> a weight for each channel (N, C) in float32.
ChannelWeights: TypeAlias = Callable[[Builder, ir.Value, ir.Value], ir.Value]
#: (builder, g, A), in the model's float types -> the map before the ReLU (N, h, w) in float32.
PixelMap: TypeAlias = Callable[[Builder, ir.Value, ir.Value], ir.Value]
#: (builder, A), in the model's float types -> the map before the ReLU (N, h, w) in float32, whatever the target.
ActivationMap: TypeAlias = Callable[[Builder, ir.Value], ir.Value]
Dependence: TypeAlias = Literal["linear", "homogeneous", "nonlinear"]


@dataclass(frozen=True)
class Method:
    """A method and how the graph computes it, in exactly one of six ways: ``classifier``, ``channel_weights``,
    ``pixel_map``, ``activation_map``, ``relu_rule`` or ``factors``.

    Attributes:
        name: In options, outputs and files.
        title: In pictures and tables.
        summary: One line for help texts and documents.
        paper: Authors, year, and where to read it.
        classifier: The map is read from the weights of the classifier behind a global average pool; no gradient.
        channel_weights: The map is sum_c w_c A_c; this gives w.
        pixel_map: The map is computed elementwise from g and A.
        activation_map: The map is computed from A alone, and is the same for every target.
        relu_rule: The result is the gradient of the input, with this rule at ReLU-like nodes.
        times_input: What ``relu_rule`` gives is multiplied with the input.
        factors: The result is an input gradient times an upsampled map: the names of the two methods.
        in_gradient: How the result depends on the gradient: ``linear``; ``homogeneous``, where a positive factor of the
            gradient is one of the result, so that a loss scale can be undone behind it; or ``nonlinear``.
        kernel: The method of :func:`portable_cam.kernels.cam.weighted_sum` that computes the same map from g and A;
            None where no kernel is needed or there is none.
    """

    name: str
    title: str
    summary: str
    paper: str
    classifier: bool = False
    channel_weights: ChannelWeights | None = None
    pixel_map: PixelMap | None = None
    activation_map: ActivationMap | None = None
    relu_rule: ReluRule | None = None
    times_input: bool = False
    factors: tuple[str, str] | None = None
    in_gradient: Dependence = "linear"
    kernel: str | None = None

    def __post_init__(self) -> None:
        of_layer = (self.channel_weights, self.pixel_map, self.activation_map)
        ways = (self.classifier or None, *of_layer, self.relu_rule, self.factors)
        if sum(way is not None for way in ways) != 1:
            raise AssertionError(f"method '{self.name}' must be computed in exactly one way")

    def __str__(self) -> str:
        return self.name

    @property
    def is_heat_map(self) -> bool:
        """The result is a map (N, K, H, W), and not in the shape of the input."""
        return self.relu_rule is None and self.factors is None

    @property
    def uses_layer(self) -> bool:
        """It reads the gradient of a layer, itself and not one of its factors."""
        return self.channel_weights is not None or self.pixel_map is not None

    @property
    def shows_layer(self) -> bool:
        """Its map is that of a layer, which is chosen where none is named."""
        return self.uses_layer or self.activation_map is not None

    @property
    def uses_relu_rule(self) -> bool:
        """It replaces the derivative of ReLU-like nodes."""
        return self.relu_rule not in {None, "standard"}

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads: of ``classifier weights``, ``layer`` (its activation alone), ``activation`` and ``gradient``
        (both of the layer), and ``input gradient``."""
        if self.classifier:
            return ("classifier weights", "activation")
        if self.activation_map is not None:
            return ("layer",)
        if self.relu_rule is not None:
            return ("input gradient",)
        return ("activation", "gradient") if self.factors is None else ("activation", "gradient", "input gradient")
