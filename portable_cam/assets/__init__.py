"""What is bundled: a model, its preprocessing and labels, and photos. Sources and licences: NOTICE."""

from importlib.resources import as_file, files
from pathlib import Path


def path(name: str) -> Path:
    """The path of a bundled file; the package is never run from a zip file."""
    with as_file(files(__name__) / name) as found:
        return found


def model() -> Path:
    """SqueezeNet 1.1, trained on ImageNet."""
    return path("squeezenet1.1.onnx")


def photo() -> Path:
    """A cat and a cup of coffee side by side."""
    return path("cat_and_coffee.jpg")


def imagenet_labels() -> Path:
    """The names of ImageNet's 1000 classes, a line each."""
    return path("imagenet_labels.txt")
