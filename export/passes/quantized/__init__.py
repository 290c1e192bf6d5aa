"""Quantised models in the one form that the gradient rules know.

``qoperator`` rewrites quantised operators as QuantizeLinear and DequantizeLinear around float operators, with the
``rewriter``; ``unsigned`` turns int8 tensors into uint8. What an integer tensor represents, and what its range does to
a value, is read in :mod:`portable_cam.export.autodiff.dequantized` and
:mod:`portable_cam.export.autodiff.quantized_ranges`.
"""
