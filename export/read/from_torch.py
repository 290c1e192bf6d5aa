"""torch.nn.Module to ONNX; the only file of this room that imports torch, and only when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from portable_cam.errors import ModelError

if TYPE_CHECKING:
    import torch


def from_torch(
    module: torch.nn.Module, example_inputs: Any, *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> onnx.ModelProto:
    """The forward pass of a module as ONNX, in evaluation mode, parameters included.

    Args:
        module: Put into evaluation mode for the export, and back afterwards.
        example_inputs: A tensor or a tuple of tensors, as the module takes them.
        dynamic_batch: Leave the first dimension of each input open.
        dynamic_size: Leave height and width of each input of four dimensions open, which are those of the example
            otherwise.

    Raises:
        ModelError: torch is not installed, or cannot export the module; the message is torch's.
    """
    try:
        import torch
    except ImportError:
        raise ModelError("exporting from torch needs torch: pip install torch onnxscript") from None
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    open_axes = [[0] * dynamic_batch + _size_axes(x) * dynamic_size for x in inputs]
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in open_axes) if any(open_axes) else None
    was_training = module.training
    module.eval()
    try:
        if dynamic_batch:  # a batch of one would be taken for a constant
            inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in inputs)
        program = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    except Exception as error:
        raise ModelError(f"torch cannot export this module: {str(error).strip().splitlines()[0]}") from error
    finally:
        module.train(was_training)
    if program is None:
        raise ModelError("torch's exporter returned nothing")
    return program.model_proto


def _size_axes(x: torch.Tensor) -> list[int]:
    """The axes of height and width of an image, channels first or last."""
    if x.ndim != 4:
        return []
    return [1, 2] if x.shape[3] in {1, 3, 4} and x.shape[1] not in {1, 3, 4} else [2, 3]
