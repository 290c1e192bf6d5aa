"""Quantised models: what an integer tensor stands for, and the one form that the gradient rules see.

``qoperator`` rewrites quantised operators as QuantizeLinear and DequantizeLinear around float operators; ``ranges``
reads what a quantisation range does to a value (which end of it is a ReLU); ``tensors`` says what an integer tensor
stands for; ``apply_ort_workarounds`` keeps ONNX Runtime from what breaks such graphs.
"""
