"""How maps are drawn over photos: what a user chooses of it, and what the peers of the parity profiles do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib

from portable_cam.errors import OptionError

#: Perceptually uniform, like magma and viridis: equal steps of the map look equally large, and lightness only rises (it
#: survives grey print and colour blindness), where jet and turbo draw edges that are not in the data. Of these, inferno
#: has the widest range of lightness.
COLORMAP = "inferno"


@dataclass(frozen=True)
class Look:
    """How a map is drawn over a photo.

    Attributes:
        colormap: One of matplotlib's.
        opacity: How opaque the map is where it is 1; 0 to 1.
        rising: The opacity grows with the value, so that the photo keeps its brightness where there is no evidence;
            else it is the same everywhere.
        gray: The photo below is grey (its luma): then every colour is evidence, also on a red parrot.
        contours: Values, 0 to 1, along which a line is drawn.
        max_size: The longer side of pictures of whole photos, in pixels; 0 for the photo's own.

    Raises:
        OptionError: A field has an impossible value.
    """

    colormap: str = COLORMAP
    opacity: float = 0.8
    rising: bool = True
    gray: bool = True
    contours: tuple[float, ...] = ()
    max_size: int = 2048

    def __post_init__(self) -> None:
        if not isinstance(self.colormap, str) or self.colormap not in matplotlib.colormaps:
            near = difflib.get_close_matches(str(self.colormap), list(matplotlib.colormaps), 3, 0.5)
            meant = f"; did you mean {' or '.join(near)}?" if near else ": choose one of matplotlib's, as viridis"
            raise OptionError(f"there is no colour map '{self.colormap}'{meant}")
        if not _number(self.opacity) or not 0 <= self.opacity <= 1:
            raise OptionError(f"opacity {self.opacity} is not between 0 and 1")
        object.__setattr__(self, "contours", tuple(self.contours))
        for level in self.contours:
            if not _number(level) or not 0 < level < 1:
                raise OptionError(f"contour {level} is not between 0 and 1, the range of a map")
        if type(self.max_size) is not int or self.max_size < 0:
            raise OptionError(f"max_size {self.max_size!r} is not a number of pixels; 0 is the photo's own size")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


#: What is drawn where nothing else is chosen.
DEFAULT = Look()
#: Those of the parity profiles look as their peers draw them: pytorch-grad-cam's ``show_cam_on_image`` (without its
#: last step, which divides by the brightest value) and Captum's ``visualize_image_attr`` as ``blended_heat_map``.
PEERS: Mapping[str, Look] = {
    "pytorch_grad_cam": Look("jet", 0.5, rising=False, gray=False),
    "captum": Look("Greens", 0.5, rising=False, gray=True),
}


def look_of(profile: str) -> Look:
    """How explanations of a profile are drawn unless a user chooses otherwise."""
    return PEERS.get(profile, DEFAULT)
