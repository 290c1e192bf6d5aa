# SPDX-License-Identifier: Apache-2.0
"""The methods of many passes there are: a row each."""

from __future__ import annotations

from collections.abc import Iterable

from portable_cam.export.methods.registry import METHODS
from portable_cam.methods.ablationcam import ablationcam, reciprocam
from portable_cam.methods.fullgrad import fullgrad
from portable_cam.methods.gradient_cams import finer_cam, smooth_gradcam_plus_plus
from portable_cam.methods.input_attributions import integrated_gradients, smoothgrad, smoothgrad_squared, vargrad
from portable_cam.methods.kernel_shap import kernel_shap
from portable_cam.methods.method import PassMethod
from portable_cam.methods.occlusion import occlusion
from portable_cam.methods.rise import rise
from portable_cam.methods.scorecam import scorecam
from portable_cam.methods.shapley_cam import shapley_cam

#: By name, in the order in which they are listed.
PASS_METHODS: dict[str, PassMethod] = {
    method.name: method
    for method in (
        scorecam,
        ablationcam,
        reciprocam,
        smooth_gradcam_plus_plus,
        finer_cam,
        shapley_cam,
        fullgrad,
        integrated_gradients,
        smoothgrad,
        smoothgrad_squared,
        vargrad,
        occlusion,
        rise,
        kernel_shap,
    )
}


def signed_methods(names: Iterable[str]) -> list[str]:
    """Those methods, of either kind, that can show what speaks against a target."""
    found = []
    for name in names:
        passing = PASS_METHODS.get(name)
        if passing.signed if passing is not None else METHODS[name].activation_map is None:
            found.append(name)
    return found
