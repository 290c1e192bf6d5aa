# SPDX-License-Identifier: Apache-2.0
"""On the GPU: from a preprocessed batch to finished maps without a copy to the host.

ONNX Runtime's CUDA provider runs the explanation graph up to activations, weights and gradients; the kernels of
:mod:`portable_cam.kernels` make the maps, on the same stream. ``docs/gpu.md`` says how to use and to measure it.

=============  ===================================================================================================
``options``    what a user chooses: :class:`Cuda`
``protocol``   what the pipeline needs of a device
``device``     where memory lies and kernels run: a CUDA device, or the host with interpreted kernels, for tests
``binding``    a session whose inputs and outputs are buffers of a device
``heads``      the steps between gradient and map, by kernels, in each profile
``pipeline``   all of it behind the interface of a session, for :class:`~portable_cam.explainer.Explainer`
``result``     arrays of a device, and the result made of them
``float16``    a model in half precision
``placement``  which nodes did not get the device
=============  ===================================================================================================
"""

from portable_cam.runtime.gpu.options import Cuda, Host

__all__ = ["Cuda", "Host"]
