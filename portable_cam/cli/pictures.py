"""How the command line says what pictures look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from portable_cam.cli.common import numbers

if TYPE_CHECKING:
    from portable_cam.image.look import Look

_PICTURES = "Pictures"  # the heading in --help
ColormapOption = Annotated[
    str | None,
    typer.Option("--colormap", help="One of matplotlib's: inferno, viridis, jet …", rich_help_panel=_PICTURES),
]
OpacityOption = Annotated[
    float | None, typer.Option("--opacity", help="Of a map where it is strongest, 0 to 1.", rich_help_panel=_PICTURES)
]
ContoursOption = Annotated[
    str | None,
    typer.Option("--contours", help="Lines at these values of a map, by comma: 0.5,0.8", rich_help_panel=_PICTURES),
]
MaxSizeOption = Annotated[
    int | None,
    typer.Option(
        "--max-size",
        help="The longer side of a picture in pixels; 0: the photo's own. [default: 2048]",
        rich_help_panel=_PICTURES,
    ),
]


def look_as_asked(
    base: Look, colormap: str | None, opacity: float | None, contours: str | None, max_size: int | None
) -> Look:
    """A look with what was asked for on the command line changed."""
    from dataclasses import replace

    levels = numbers("--contours", contours)
    asked: dict[str, Any] = {"colormap": colormap, "opacity": opacity, "contours": levels, "max_size": max_size}
    return replace(base, **{name: value for name, value in asked.items() if value is not None})
