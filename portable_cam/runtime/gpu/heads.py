# SPDX-License-Identifier: Apache-2.0
"""The steps between gradient and map, by kernels: what ``export/assemble/write.py`` writes into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portable_cam.errors import OptionError
from portable_cam.export.format import ACTIVATIONS, EXTENT, GRADIENTS, RANGE, SUMS, WEIGHTS, output_of, raw_output
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.registry import METHODS
from portable_cam.export.options import Options
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
    """Makes maps from the outputs of a graph that stops before them.

    Attributes:
        device: Where the arrays are.
        options: The choices that the graph was built with.
        layers: The names of the layers, as in ``activations.<layer>``.
        cam_layer: The layer of the method ``cam``; None where it has a channel per class.
        channels_last: The layout of the image.
        details: Also give the layers' activations and gradients.
    """

    device: Device
    options: Options
    layers: tuple[str, ...]
    cam_layer: str | None = None
    channels_last: bool = False
    details: bool = False

    def __post_init__(self) -> None:
        if self.options.profile == "captum" and len(self.layers) > 1:
            raise OptionError("the profile captum gives a map per layer: explain one layer at a time")

    def __call__(self, values: Mapping[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """The maps.

        Args:
            values: The graph's outputs.
            size: The image's (H, W).

        Returns:
            ``heatmap.<method>``, ``raw.<method>`` and ``range.<method>`` as the graph with heads gives them, the
            methods with the image's own shape, and for each heat map ``extent.<method>`` float32 (N, K, 2), its least
            and greatest value.
        """
        made: dict[str, Array] = {}
        wide: dict[str, _Wide] = {}
        for method in self.options.computed:
            shown = method.name in self.options.methods
            if method.is_heat_map:
                raw, ranges = zip(*self._sums(method, values), strict=True)
                found, wide[method.name] = self._maps(method.name, raw, ranges, size)
                made |= found if shown else {}
                continue
            if method.factors is not None:
                of_input, of_layer = method.factors
                of = wide[of_layer]
                made[method.name] = guided.guided_product(
                    self.device, values[of_input], of.of, of.norm, ranges=of.ranges, channels_last=self.channels_last
                )
            elif shown:
                made[method.name] = values[method.name]
        for layer in self.layers if self.details else ():
            a, g = f"{ACTIVATIONS}{layer}", f"{GRADIENTS}{layer}"
            made |= {name: values[name] for name in (a, g) if name in values}
        return made

    def gives(self, name: str) -> bool:
        """An output of the graph is one of the result as it is."""
        return not name.startswith((ACTIVATIONS, GRADIENTS)) and name not in METHODS

    def _sums(self, method: Method, values: Mapping[str, Array]) -> list[tuple[Array, Array]]:
        """For each layer the low-resolution map and its range before the ReLU."""
        relu, scale = self.options.profile != "captum", -1 if self.options.negated else 1
        if method.classifier and self.cam_layer is None:
            return [cam.finish(self.device, values[f"{SUMS}{method.name}"], scale=scale, relu=relu)]
        kernel = method.kernel
        if kernel is None:
            raise OptionError(f"the method {method.name} has no kernel: choose heads='graph'")
        found = []
        for layer in (self.cam_layer,) if method.classifier else self.layers:
            second, name = values[f"{WEIGHTS}{method.name}"] if method.classifier else None, kernel
            if second is None and kernel == "gradcam" and f"{WEIGHTS}{layer}" in values:
                second, name = values[f"{WEIGHTS}{layer}"], "weights"
            if second is None:
                second = values[f"{GRADIENTS}{layer}"]
            a = values[f"{ACTIVATIONS}{layer}"]
            found.append(cam.weighted_sum(self.device, a, second, method=name, scale=scale, relu=relu))
        return found

    def _maps(
        self, method: str, raw: Sequence[Array], ranges: Sequence[Array], size: tuple[int, int]
    ) -> tuple[dict[str, Array], _Wide]:
        device, several = self.device, len(raw) > 1
        made = {
            raw_output(method, layer): maps
            for maps, layer in zip(raw, self.layers if several else (None,), strict=True)
        }
        if self.options.profile == "captum":
            positive, _ = cam.finish(device, raw[0])
            made |= {output_of(method): raw[0], f"{RANGE}{method}": ranges[0], f"{EXTENT}{method}": ranges[0]}
            return made, _Wide(Upsampling(positive, size, nearest=True))
        norm: Normalisation = "minmax" if self.options.profile == "paper" else "pytorch_grad_cam"
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
            output_of(method): final,
            f"{EXTENT}{method}": extent,
            f"{RANGE}{method}": extent if several else ranges[0],
        }
        return made, _Wide(whole, "none") if norm == "minmax" else _Wide(whole, norm, limits)

    def statistics(self, maps: Array) -> Array:
        """(N, K, 4): mean, variance, least and greatest, from one pass over maps (N, K, ...)."""
        n, k = maps.shape[:2]
        length = maps.size // (n * k)
        rows = Array(maps.pointer, (n * k, length), maps.dtype, (length, 1), maps.owner)
        found = moments.row_statistics(self.device, rows)
        return Array(found.pointer, (n, k, 4), found.dtype, dense_strides((n, k, 4)), found.owner)
