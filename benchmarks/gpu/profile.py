# SPDX-License-Identifier: Apache-2.0
"""Where the time of an explanation goes on a GPU, by kernel: ``python -m benchmarks.gpu.profile``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.networks import NETWORKS, settled
from portable_cam import Explainer
from portable_cam.export import from_torch
from portable_cam.runtime.gpu import Cuda


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.profile", description=(__doc__ or "").split(":")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("profile.txt"))
    parser.add_argument("--model", default="ResNet-50", choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    module = settled(NETWORKS[arguments.model].make(), 224)
    proto = from_torch(module, torch.zeros(2, 3, 224, 224))
    explainer = Explainer(proto, ("gradcam", "guided_gradcam"), device=Cuda(precision="tf32", heads="kernels"))
    x, targets = torch.randn(arguments.batch, 3, 224, 224, device="cuda"), np.arange(arguments.batch) % 10
    for _ in range(3):
        explainer.on_device(x, targets)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(3):
            explainer.on_device(x, targets)
        torch.cuda.synchronize()
    table = found.key_averages().table(sort_by="cuda_time_total", row_limit=45, max_name_column_width=90)
    arguments.output.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
