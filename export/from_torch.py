"""torch.nn.Module to ONNX; the only file of this room that imports torch, and only when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from portable_cam.errors import ModelError

if TYPE_CHECKING:
    import torch


def from_torch(module: torch.nn.Module, example_inputs: Any, *, dynamic_batch: bool = True) -> onnx.ModelProto:
    """The forward pass of a module as ONNX, in evaluation mode, parameters included.

    Args:
        module: Put into evaluation mode for the export, and back afterwards.
        example_inputs: A tensor or a tuple of tensors, as the module takes them.
        dynamic_batch: Leave the first dimension of each input open.

    Raises:
        ModelError: torch is not installed, or cannot export the module; the message is torch's.
    """
    try:
        import torch
    except ImportError:
        raise ModelError('exporting from torch needs torch: pip install "portable-cam[torch]"') from None
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs) if dynamic_batch else None
    was_training = module.training
    module.eval()
    try:
        if dynamic_batch:  # a batch of one would be taken for a constant
            inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in inputs)
        program = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    except Exception as error:
        raise ModelError(f"torch cannot export this module: {str(error).strip().splitlines()[0]}") from error
    finally:
        module.train(was_training)
    if program is None:
        raise ModelError("torch's exporter returned nothing")
    return program.model_proto
