"""GPU time: the steps between gradient and heat map.

Arrays in, arrays out: this room knows nothing of models. Each step is a Triton function (``jit/``), a launcher that
turns arrays into a grid and arguments (``cam``, ``upsample``, ``guided``, ``overlay``, ``moments``) and a slow, obvious
numpy twin (``reference``). Who runs a kernel is a :class:`~portable_cam.kernels.launch.Device`.
"""

from portable_cam.kernels import cam, guided, moments, overlay, reference, upsample
from portable_cam.kernels.array import Array, of_torch
from portable_cam.kernels.launch import Device, TorchDevice

__all__ = ["Array", "Device", "TorchDevice", "cam", "guided", "moments", "of_torch", "overlay", "reference", "upsample"]
