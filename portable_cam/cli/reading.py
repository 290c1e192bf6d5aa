# SPDX-License-Identifier: Apache-2.0
"""How a command reads its model: what the user says of it comes before what the file and the JSON beside it say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from portable_cam.cli.common import at_given_size

if TYPE_CHECKING:
    from portable_cam.export.passes.normalized import NormalizedModel


def read_model(
    model: Path,
    *,
    axes: Mapping[str, str] | None = None,
    size: str | None = None,
    image: Path | None = None,
    head: Path | None = None,
    channels: str | None = None,
) -> NormalizedModel:
    """The model as the options of a command say that it is to be read.

    Args:
        model: Its file.
        axes: ``--axes``, as pairs.
        size: ``--size``, as it was typed.
        image: An image whose size an open one is, where ``size`` says nothing.
        head: ``--head``: a file that says what a detector's outputs mean.
        channels: ``--channels``, of a segmentation.

    Raises:
        Error: A subclass that names what does not fit.
    """
    from portable_cam.export.diagnose.declared import declared_model
    from portable_cam.tasks.detect.described import content_of

    known = at_given_size(declared_model(model, axes), size, image)
    return known.saying({"head": None if head is None else content_of(head), "channels": channels})
