# SPDX-License-Identifier: Apache-2.0
"""The bundled example: a real classifier, photos it knows, and the names of its classes.

Sources and licences of each file are in the top-level ``NOTICE``. The functions give real paths: ONNX Runtime and
Pillow read files, and packages are installed unzipped.
"""

from importlib.resources import files
from pathlib import Path

from portable_cam.errors import OptionError

PHOTOS = ("cat_and_coffee.png", "chelsea.png", "coffee.jpg", "astronaut.jpg", "rocket.jpg")
"""The bundled photos; the first holds two objects side by side, so that maps of two classes can be seen to differ."""


def path(name: str) -> Path:
    """The path of a bundled file."""
    return Path(str(files(__name__).joinpath(name)))


def model() -> Path:
    """SqueezeNet 1.1, trained on ImageNet: BGR (N, 3, 227, 227) float32 in, (N, 1000) probabilities out.

    Beside it lies ``squeezenet1.1.preprocess.json``, so that nothing about its input has to be guessed.
    """
    return path("squeezenet1.1.onnx")


def photo(name: str = PHOTOS[0]) -> Path:
    """Path of a bundled photo, by its name in :data:`PHOTOS`.

    Raises:
        OptionError: there is no such photo.
    """
    if name not in PHOTOS:
        raise OptionError(f"no bundled photo {name!r}: choose one of {', '.join(PHOTOS)}")
    return path(name)


def imagenet_labels() -> Path:
    """The 1000 ImageNet class names, one a line in class order, synonyms separated by commas."""
    return path("imagenet_classes.txt")


def coco_labels() -> Path:
    """The 80 class names of COCO's detectors, one a line in class order."""
    return path("coco_classes.txt")


def voc_labels() -> Path:
    """The 21 class names of Pascal VOC's segmentation, the background first."""
    return path("voc_classes.txt")
