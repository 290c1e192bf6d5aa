# SPDX-License-Identifier: Apache-2.0
"""The checks of an explanation that may be spoilt before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from portable_cam.export.assemble.explanation import explanation_model
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import normalized
from portable_cam.runtime.session import Session
from portable_cam.verify.check import Check
from portable_cam.verify.checks import check_explanation

X = np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)


def run_checks(
    model: onnx.ModelProto,
    targets: tuple[int, ...] = (1,),
    spoil: Callable[[dict[str, Any]], None] | None = None,
    x: np.ndarray = X,
    extra: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> dict[str, Check]:
    """The checks by name, of an explanation of one image.

    Args:
        model: The model.
        targets: What is explained.
        spoil: Changes what the explanation gave.
        x: The image.
        extra: What the target takes beside, (1, K, ...).
        **options: Of the explanation.
    """
    known, chosen = normalized(model), Options.of(options)
    built = explanation_model(known, chosen, targets_per_image=None if len(targets) > 1 else 1)
    metadata = ExplanationMetadata.read(built.metadata_props)
    feeds = {metadata.image: x, "targets": np.array([targets], np.int64), **(extra or {})}
    values = Session(built).run(feeds)
    if spoil is not None:
        spoil(values)
    return {check.name: check for check in check_explanation(known, chosen, metadata, feeds, values)}
