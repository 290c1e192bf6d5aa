# SPDX-License-Identifier: Apache-2.0
"""Gradients of the input: plain, or with another rule at ReLU-like nodes.

:mod:`portable_cam.export.autodiff.relu_policy` says which nodes those are.
"""

from __future__ import annotations

from portable_cam.export.methods.method import Method

gradient = Method(
    "gradient",
    title="gradient",
    summary="the plain gradient of the input",
    paper="Simonyan et al. 2014, arXiv 1312.6034",
    relu_rule="standard",
)
input_x_gradient = Method(
    "input_x_gradient",
    title="input x gradient",
    summary="the plain gradient of the input times the input",
    paper="Shrikumar et al. 2016, arXiv 1605.01713",
    relu_rule="standard",
    times_input=True,
)
guided_backprop = Method(
    "guided_backprop",
    title="Guided Backprop",
    summary="the gradient of the input, passed at each ReLU only where it is positive",
    paper="Springenberg et al. 2015, arXiv 1412.6806",
    relu_rule="guided",
    in_gradient="homogeneous",
)
deconvnet = Method(
    "deconvnet",
    title="DeconvNet",
    summary="the gradient of the input, with the deconvnet's rule at each ReLU",
    paper="Zeiler and Fergus 2014, arXiv 1311.2901",
    relu_rule="deconvnet",
    in_gradient="homogeneous",
)
