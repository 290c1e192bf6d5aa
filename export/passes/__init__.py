"""Graph passes: any ONNX model to the one form that everything else is written for.

A pass is called as those of onnx-ir are: it takes an ``ir.Model``, changes it in place or makes another, and returns a
``PassResult`` with the model and whether it changed. :mod:`portable_cam.export.passes.normalize` has the list.
"""
