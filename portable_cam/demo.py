"""The bundled model and photo: four methods for two classes in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portable_cam import assets
from portable_cam.report.figures import sheet_of
from portable_cam.report.files import save_figure
from portable_cam.tasks.classify import PhotoExplainer

_METHODS = ("cam", "gradcam", "guided_backprop", "guided_gradcam")
_CLASSES = ("tiger cat", "coffee mug")  # the two that the model finds most likely


@dataclass(frozen=True)
class Demo:
    """The outcome of the demo: a summary of what was explained, the lines below it, the picture's file."""

    summary: str
    lines: list[str]
    picture: Path


def run_demo(folder: str | Path) -> Demo:
    """Explain the bundled photo and write ``demo.png`` into ``folder``."""
    explainer = PhotoExplainer(assets.model(), _METHODS)
    explained = explainer(assets.photo(), _CLASSES)
    labels = explained.labels[0]
    names, photo = " and ".join(labels), assets.photo().name
    summary = (
        f"Explained why SqueezeNet 1.1 sees {names} in {photo}: layer {explained.layer}, four methods, from ONNX alone"
    )
    figure = sheet_of(explained, f"Why does SqueezeNet 1.1 see {names} here?")
    path = save_figure(figure, Path(folder) / "demo.png")
    lines = [f"{label}: score {score:.2f}" for label, score in zip(labels, explained.scores[0], strict=True)]
    lines += [f"preprocessing: {explainer.preprocessing.describe()}", f"written: {path}"]
    return Demo(summary, lines, path)
