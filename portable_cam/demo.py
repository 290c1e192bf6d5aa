"""The bundled model and photo: four methods for two classes in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portable_cam import assets
from portable_cam.report.sheet import sheet
from portable_cam.report.write import rows_of
from portable_cam.tasks.classify import PhotoExplainer

_METHODS = ("cam", "gradcam", "guided_backprop", "guided_gradcam")
_CLASSES = ("tiger cat", "coffee mug")  # the two that the model finds most likely


@dataclass(frozen=True)
class Demo:
    """What the demo did: a line that says what was explained, the lines after it, the picture."""

    summary: str
    lines: list[str]
    picture: Path


def run_demo(folder: str | Path) -> Demo:
    """Explain the bundled photo and write ``demo.png`` into ``folder``."""
    explainer = PhotoExplainer(assets.model(), _METHODS)
    explained = explainer(assets.photo(), _CLASSES)
    result = explained.result
    names = " and ".join(result.labels[0])
    photo = assets.photo().name
    summary = (
        f"Explained why SqueezeNet 1.1 sees {names} in {photo}: layer {result.layer}, four methods, from ONNX alone"
    )
    path = sheet(
        explained.view,
        rows_of(explained),
        Path(folder) / "demo.png",
        heading=f"Why does SqueezeNet 1.1 see {names} here?",
        top=explained.top,
        scale=explained.scale,
    )
    lines = [f"{label}: score {score:.2f}" for label, score in zip(result.labels[0], result.scores[0], strict=True)]
    lines += [f"preprocessing: {explainer.preprocessing.describe()}", f"written: {path}"]
    return Demo(summary, lines, path)
