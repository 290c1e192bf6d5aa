# SPDX-License-Identifier: Apache-2.0
"""What can be chosen about a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from portable_cam.errors import OptionError

Precision: TypeAlias = Literal["float32", "tf32", "float16"]
Heads: TypeAlias = Literal["auto", "kernels", "graph"]
ConvSearch: TypeAlias = Literal["heuristic", "exhaustive", "default"]
Placement: TypeAlias = Literal["report", "error"]
#: Powers of two: a batch is filled up to the next of them, so that convolutions are planned for few sizes.
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Common:
    """What every device has."""

    precision: Precision = "float32"
    """``tf32`` lets convolutions and matrix products round their inputs to 10 bits; ``float16`` converts the model,
    the heat maps stay float32."""
    heads: Heads = "auto"
    """Who makes the maps: ``kernels``, the ``graph`` itself, or ``auto``: kernels if Triton or compiled kernels are
    there."""
    buckets: tuple[int, ...] | None = BUCKETS
    """Batch sizes that smaller batches are filled up to; larger ones and, with None, all run as they are."""
    shapes_kept: int = 16
    """How many combinations of input shapes keep their buffers; the one that was not used for longest goes first."""
    placement: Placement = "report"
    """What is done about a node that did not get the device: a warning, or a ``DeviceError``."""

    def __post_init__(self) -> None:
        for name, allowed in (("precision", Precision), ("heads", Heads), ("placement", Placement)):
            if getattr(self, name) not in get_args(allowed):
                raise OptionError(f"{name} is one of {', '.join(get_args(allowed))}, not {getattr(self, name)!r}")
        if self.buckets is not None and (list(self.buckets) != sorted(set(self.buckets)) or min(self.buckets) < 1):
            raise OptionError(f"buckets are batch sizes in ascending order, not {self.buckets}")
        if self.shapes_kept < 1:
            raise OptionError(f"shapes_kept is at least 1, not {self.shapes_kept}")


@dataclass(frozen=True)
class Cuda(Common):
    """An NVIDIA GPU.

    Raises:
        OptionError: An option has a value that is not one of those allowed.
    """

    index: int = 0
    """Which GPU."""
    stream: int | None = None
    """The address of a CUDA stream to run on (``torch.cuda.current_stream().cuda_stream``); None for one that all
    explainers on this GPU share. Explainers of one process should not run on different streams at the same time: they
    share an allocator."""
    cuda_graphs: bool = False
    """Record the graph's kernels once for each batch size and replay them; for one target per image and models
    without control flow or nodes on the host: any other runs without, which is a warning."""
    nhwc: bool = False
    """Let ONNX Runtime lay images out channels last inside the graph."""
    conv_search: ConvSearch = "heuristic"
    """How cuDNN's convolution algorithms are chosen; ``exhaustive`` times them for each new size."""
    max_workspace: bool = True
    """Whether that choice may use any amount of memory."""
    memory_limit: int | None = None
    """Bytes that ONNX Runtime's allocator may take."""
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of ONNX Runtime's CUDA provider, which come last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_search not in get_args(ConvSearch):
            raise OptionError(f"conv_search is one of {', '.join(get_args(ConvSearch))}, not {self.conv_search!r}")
        if self.cuda_graphs and self.stream in {0, 1}:
            raise OptionError("CUDA graphs cannot be recorded on the default stream: name another, or none")

    def provider(self, stream: int | None = None, *, cuda_graphs: bool = False) -> tuple[str, dict[str, Any]]:
        """The execution provider as ONNX Runtime takes it; without a stream it makes one of its own."""
        options = {
            "device_id": str(self.index),
            # by this option ONNX Runtime also bars tensor cores from float16 convolutions
            "use_tf32": str(int(self.precision != "float32")),
            "prefer_nhwc": str(int(self.nhwc)),
            "cudnn_conv_algo_search": self.conv_search.upper(),
            "cudnn_conv_use_max_workspace": str(int(self.max_workspace)),
            "enable_cuda_graph": str(int(cuda_graphs)),
        }
        if stream is not None:
            options["user_compute_stream"] = str(stream)
        if self.memory_limit is not None:
            options["gpu_mem_limit"] = str(self.memory_limit)
        return "CUDAExecutionProvider", {**options, **self.provider_options}


@dataclass(frozen=True)
class Host(Common):
    """The same pipeline on the CPU provider, kernels under Triton's interpreter: slow, and for tests."""
