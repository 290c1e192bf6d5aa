"""Finds which units a peer's run put on the other side of a ReLU's kink than exact arithmetic does.

    python -m tests.kinks.find        # needs torch and onnx2torch; a minute; writes deeplab.npz beside this file

A unit whose input lies within float32 rounding of a kink (0, and 6 for ReLU6) may pass or stop the gradient, and each
decision moves the peer's input gradient by a known map: what flows back through that unit alone. So the difference
between the peer's gradient and the one in float64 is a sum of such maps, each once or not at all. Candidates are found
by the derivative of their input along the difference, which for all units at once is one forward pass, and kept where
least squares gives them a share of one. The rest must vanish, or something else than rounding makes the difference.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad

from benchmarks.peers import torch_module

SHARED = Path(__file__).parents[3] / "shared"
CASE = "deeplab__pgc_both__segment12__Relu__94"
NEAR = 1e-6  # of the layer's largest input; torch's float32 inputs lie within 3e-7 of those in float64
_LEFT = 1e-5  # of the gradient may stay unexplained: float32 rounding


def main() -> None:
    case = dict(np.load(SHARED / "golden" / f"{CASE}.npz"))
    meta = json.loads(str(case["meta"]))
    network = torch_module(SHARED / "zoo" / "models" / meta["model"], "")[0].double()
    relus = {name: m for name, m in network.named_modules() if isinstance(m, nn.ReLU | nn.ReLU6)}
    image = torch.tensor(case["input"], dtype=torch.float64, requires_grad=True)
    inputs, outputs, scores = run(network, relus, image)
    dense = scores.movedim(tuple(scores.shape).index(21), 0)[meta["target"]["segment"]]
    score = (dense * torch.tensor(case["mask"])).sum()
    exact, *upstream = torch.autograd.grad(score, [image, *outputs.values()], retain_graph=True)
    flowing = dict(zip(outputs, upstream, strict=True))
    difference = case["captum.gradient"] - exact.numpy()

    found: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    rest = difference
    for step in count(1):
        new = strongest(network, relus, image, inputs, flowing, rest, found)
        for unit, sign in new:
            seed = torch.zeros_like(inputs[unit[0]])
            seed[unit[1]] = sign * flowing[unit[0]][unit[1]]
            (alone,) = torch.autograd.grad(inputs[unit[0]], image, seed, retain_graph=True)
            flipped = alone.numpy().ravel()
            if flipped @ rest.ravel() > 0.5 * (flipped @ flipped):
                found[unit] = flipped
        maps = np.stack(list(found.values()), 1)
        shares = np.linalg.lstsq(maps.T @ maps, maps.T @ difference.ravel())[0]
        before, rest = rest, difference - (maps @ shares).reshape(difference.shape)
        left = np.linalg.norm(rest) / np.linalg.norm(exact)
        spread = f"{shares.min():.3f} to {shares.max():.3f}"
        print(f"step {step}: {len(found)} units, {left:.1e} of the gradient left, shares {spread}")
        if np.linalg.norm(rest) > 0.5 * np.linalg.norm(before):
            break
    if left > _LEFT or np.abs(shares - 1).max() > 0.05:
        raise SystemExit("rounding beside kinks does not explain the difference")
    save(relus, inputs, set(found))


def run(
    network: nn.Module, relus: dict[str, nn.Module], image: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """The inputs and outputs of the ReLUs by name, and the scores."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
            inputs[name], outputs[name] = given[0], made

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in relus.items()]
    scores = network(image)
    for hook in hooks:
        hook.remove()
    return inputs, outputs, scores


def kinks(module: nn.Module) -> tuple[int, ...]:
    return (0, 6) if isinstance(module, nn.ReLU6) else (0,)


def near(x: torch.Tensor, kink: int) -> list[tuple[int, ...]]:
    return [tuple(i) for i in torch.nonzero((x - kink).abs() < NEAR * x.abs().max()).tolist()]


def strongest(
    network: nn.Module,
    relus: dict[str, nn.Module],
    image: torch.Tensor,
    inputs: dict[str, torch.Tensor],
    flowing: dict[str, torch.Tensor],
    rest: np.ndarray,
    found: Any,
) -> list[tuple[tuple[str, tuple[int, ...]], int]]:
    """The 40 units whose flip would go furthest along the rest, with the sign of the flip."""
    with torch.no_grad(), forward_ad.dual_level():
        along = run(network, relus, forward_ad.make_dual(image.detach(), torch.tensor(rest)))[0]
        slopes = {name: forward_ad.unpack_dual(x).tangent for name, x in along.items()}
    ranked = []
    for name, module in relus.items():
        for kink in kinks(module):
            for i in near(inputs[name].detach(), kink):
                passes = bool(inputs[name][i] > kink) == (kink == 0)
                sign = -1 if passes else 1
                ranked.append((float(sign * flowing[name][i] * slopes[name][i]), (name, i), sign))
    ranked.sort(key=lambda r: -r[0])
    return [(unit, sign) for _, unit, sign in ranked[:40] if unit not in found]


def save(
    relus: dict[str, nn.Module], inputs: dict[str, torch.Tensor], flipped: set[tuple[str, tuple[int, ...]]]
) -> None:
    """For each ReLU: the indices of the units near a kink, the kink, and whether the peer had them above it."""
    arrays = {}
    for name, module in relus.items():
        rows = [
            (*i, kink, bool(inputs[name][i] > kink) != ((name, i) in flipped))
            for kink in kinks(module)
            for i in near(inputs[name].detach(), kink)
        ]
        if rows:
            arrays[name] = np.array(rows, np.int16)
    path = Path(__file__).with_name("deeplab.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {sum(map(len, arrays.values()))} units near a kink, {len(flipped)} of them on the other side")


if __name__ == "__main__":
    main()
