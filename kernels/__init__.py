"""GPU time: the steps between gradient and heat map.

For now the numpy twins that the Triton kernels will be tested against, and that the ONNX heads are tested against
today. Arrays in, arrays out: this room knows nothing of models.
"""

from portable_cam.kernels import reference

__all__ = ["reference"]
