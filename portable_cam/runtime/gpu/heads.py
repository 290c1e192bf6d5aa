# SPDX-License-Identifier: Apache-2.0
"""The steps between gradient and map, by kernels: what ``export/methods/heat_map.py`` writes into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portable_cam.errors import OptionError
from portable_cam.export.methods.heat_map import Profile
from portable_cam.export.methods.registry import INPUT_METHODS, MAP_METHODS
from portable_cam.kernels import cam, guided, moments
from portable_cam.kernels.array import Array, dense_strides
from portable_cam.kernels.launch import Device
from portable_cam.kernels.upsample import Normalisation, Upsampling, find_range, upsample


@dataclass(frozen=True)
class _Wide:
    """The map that the guided product multiplies with, not yet computed."""

    of: Upsampling
    norm: Normalisation = "none"
    ranges: Array | None = None


@dataclass(frozen=True)
class KernelHeads:
    """Makes maps from the outputs of a graph without heads.

    Attributes:
        device: Where the arrays are.
        methods: What is asked for.
        profile: As for the graph.
        layers: The names of the layers, as in ``activations.<layer>``.
        cam_layer: The layer of the method ``cam``; None where it has a channel per class.
        sign: 1, or -1 for counterfactual maps.
        channels_last: The layout of the picture.
        details: Also give the layers' activations and gradients.
    """

    device: Device
    methods: tuple[str, ...]
    profile: Profile
    layers: tuple[str, ...]
    cam_layer: str | None = None
    sign: int = 1
    channels_last: bool = False
    details: bool = False

    def __post_init__(self) -> None:
        if self.profile == "captum" and len(self.layers) > 1:
            raise OptionError("the profile captum gives a map per layer: explain one layer at a time")

    def __call__(self, values: Mapping[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """The maps.

        Args:
            values: The graph's outputs.
            size: The picture's (H, W).

        Returns:
            ``heatmap.<method>``, ``raw.<method>`` and ``range.<method>`` as the graph with heads gives them, the
            methods with the picture's own shape as float32, and for each map ``extent.<method>`` float32 (N, K, 2 or
            4), the last two its least and greatest value.
        """
        made: dict[str, Array] = {}
        wide = None
        for method in dict.fromkeys(["gradcam" if m == "guided_gradcam" else m for m in self.methods]):
            if method in MAP_METHODS:
                raw, ranges = zip(*self._sums(method, values), strict=True)
                found, wide_here = self._maps(method, raw, ranges, size)
                made |= found if method in self.methods else {}
                wide = wide_here if method == "gradcam" else wide
        for method in INPUT_METHODS:
            if method in self.methods:
                made[method] = self._float32(values[method])
        if "guided_gradcam" in self.methods:
            assert wide is not None
            made["guided_gradcam"] = guided.guided_product(
                self.device,
                values["guided_backprop"],
                wide.of,
                wide.norm,
                ranges=wide.ranges,
                channels_last=self.channels_last,
            )
        for method in self.methods:
            if method not in MAP_METHODS:
                made[f"extent.{method}"] = self._statistics(made[method])
        for layer in self.layers if self.details else ():
            made[f"activations.{layer}"] = cam.finish(self.device, values[f"activations.{layer}"], relu=False)[0]
            if f"gradients.{layer}" in values:
                made[f"gradients.{layer}"] = self._float32(values[f"gradients.{layer}"])
        return made

    def gives(self, name: str) -> bool:
        """Whether an output of the graph is one of the result as it is."""
        return not name.startswith(("activations.", "gradients.")) and name not in INPUT_METHODS

    def _sums(self, method: str, values: Mapping[str, Array]) -> list[tuple[Array, Array]]:
        """For each layer the low-resolution map and its range before the ReLU."""
        relu = self.profile != "captum"
        if method == "cam" and self.cam_layer is None:
            return [cam.finish(self.device, values["sums.cam"], scale=self.sign, relu=relu)]
        if method == "cam":
            a, w = values[f"activations.{self.cam_layer}"], values["weights.cam"]
            return [cam.weighted_sum(self.device, a, w, method="weights", scale=self.sign, relu=relu)]
        found = []
        for layer in self.layers:
            weights = values.get(f"weights.{layer}")
            given = method == "gradcam" and weights is not None
            found.append(
                cam.weighted_sum(
                    self.device,
                    values[f"activations.{layer}"],
                    weights if weights is not None and given else values[f"gradients.{layer}"],
                    method="weights" if given else method,
                    scale=self.sign,
                    relu=relu,
                )
            )
        return found

    def _maps(
        self, method: str, raw: Sequence[Array], ranges: Sequence[Array], size: tuple[int, int]
    ) -> tuple[dict[str, Array], _Wide]:
        device, several = self.device, len(raw) > 1
        made = {
            f"raw.{method}" + (f".{layer}" if several else ""): maps
            for maps, layer in zip(raw, self.layers if several else ("",), strict=True)
        }
        if self.profile == "captum":
            positive, _ = cam.finish(device, raw[0])
            made |= {f"heatmap.{method}": raw[0], f"range.{method}": ranges[0], f"extent.{method}": ranges[0]}
            return made, _Wide(Upsampling(positive, size, nearest=True))
        norm: Normalisation = "minmax" if self.profile == "paper" else "pytorch_grad_cam"
        of = [
            Upsampling(maps, size, scale_by=limits if norm == "pytorch_grad_cam" else None)
            for maps, limits in zip(raw, ranges, strict=True)
        ]
        whole = of[0]
        if several:
            total: Array | None = None
            for each in of:  # pytorch-grad-cam scales before it upsamples, we do after
                total, _ = upsample(
                    device, each, "minmax" if norm == "minmax" else "none", factor=1 / len(of), add_to=total
                )
            assert total is not None
            whole = Upsampling(total, size)
        limits = find_range(device, whole)
        final, extent = upsample(device, whole, norm, ranges=limits)
        made |= {
            f"heatmap.{method}": final,
            f"extent.{method}": extent,
            f"range.{method}": extent if several else ranges[0],
        }
        return made, _Wide(whole, "none") if norm == "minmax" else _Wide(whole, norm, limits)

    def _float32(self, gradient: Array) -> Array:
        """A gradient in float32."""
        if gradient.dtype == "float32":
            return gradient
        n, k, rows = gradient.shape[:3]
        length = gradient.size // (n * k * rows)
        flat = (n, k * rows, 1, length)
        maps = Array(gradient.pointer, flat, gradient.dtype, dense_strides(flat), gradient.owner)
        wide, _ = cam.finish(self.device, maps, relu=False)
        return Array(wide.pointer, gradient.shape, "float32", dense_strides(gradient.shape), wide.owner)

    def _statistics(self, maps: Array) -> Array:
        """(N, K, 4): mean, variance, least and greatest, from one pass over the maps."""
        n, k = maps.shape[:2]
        length = maps.size // (n * k)
        rows = Array(maps.pointer, (n * k, length), maps.dtype, (length, 1), maps.owner)
        found = moments.row_statistics(self.device, rows)
        return Array(found.pointer, (n, k, 4), found.dtype, dense_strides((n, k, 4)), found.owner)
