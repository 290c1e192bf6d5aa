"""``portable-cam demo``: the bundled model and photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portable_cam.cli.common import say


def run(
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where the picture goes.")] = Path("portable_cam_demo"),
) -> None:
    """The bundled model and photo: the four methods for two classes, in one picture."""
    from portable_cam.demo import run_demo

    outcome = run_demo(folder)
    say(outcome.summary)
    for line in outcome.lines:
        say(line)
