"""Where the maps of detectors and segmentations lie: the table of ``docs/tasks.md``, as Markdown on stdout.

``python -m benchmarks.localisation`` needs the zoo of real models (``PORTABLE_CAM_ZOO``, else ``../shared/zoo``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from portable_cam import assets
from portable_cam.explanation import Explanation
from portable_cam.export.layers.placement import Alignment, Along, weights_of
from portable_cam.export.layers.relation import Relation
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.segment import SegmentExplainer

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
METHODS = ("layercam", "hirescam", "gradcam")
ALIGNMENTS: tuple[Alignment, ...] = ("stretch", "field")
DETECTORS = (
    ("det_yolox_nano_coco_416", ("pgc_both.png", "astronaut.jpg", "coffee.jpg")),
    ("det_nanodet_m_coco_416", ("pgc_both.png", "coral_pets.jpg")),
    ("det_fastestdet_coco_352", ("pgc_both.png", "coral_cat.bmp")),
    ("det_ultraface_ssd_rfb320", ("astronaut.jpg", "coral_grace_hopper.bmp")),
)
SEGMENTATIONS = (
    "seg_deeplabv3_mnv2_voc_fp32_logits",
    "seg_deeplabv3_mnv2_dm05_voc_fp32_logits",
    "seg_deeplabv3_mnv2_voc_qdq_logits",
    "seg_deeplabv3_mnv2_voc_qdq_argmax",
)
MASKS = (("bird", "coral_bird_segmentation", False), ("dog", "coral_dog_segmentation", True))


def positive(explained: Explanation, method: str, k: int) -> NDArray[np.float64]:
    """The positive map at the input's size, the layers each divided by their greatest value and summed."""
    raw = {name: v[0, k] for name, v in explained.result.raw.items() if name.split(".")[0] == method}
    wide = [_on_image(v, explained, name) for name, v in raw.items()]
    total: NDArray[np.float64] = np.sum([w / w.max() for w in wide if w.max() > 0] or [np.zeros_like(wide[0])], axis=0)
    return total


def _on_image(values: NDArray[np.float32], explained: Explanation, name: str) -> NDArray[np.float64]:
    """A low-resolution map at the input's size, where its alignment puts it."""
    weights = []
    placed = explained.result.placed.get(name, (None, None))
    for cells, pixels, given in zip(values.shape, explained.view.shape[:2], placed, strict=True):
        along = Along(None if given is None else Relation(given[0], given[1], abs(given[0])), cells, pixels).index()
        assert along is not None
        weights.append(weights_of(along, cells, pixels))
    return np.asarray(weights[0] @ values.astype(np.float64) @ weights[1].T)


def shares(explained: Explanation, k: int, inside: NDArray[np.bool_]) -> str:
    """The share of each method's map inside, as cells of a table."""
    maps = [positive(explained, method, k) for method in METHODS]
    return " | ".join(f"{m[inside].sum() / m.sum():.2f}" if m.sum() > 0 else "no map" for m in maps)


def detections(model: str, photos: Sequence[str], alignment: Alignment) -> None:
    """A row for each of the three best boxes of each photo."""
    explainer = DetectExplainer(ZOO / "models" / f"{model}.onnx", METHODS, most=3, alignment=alignment)
    for photo in photos:
        explained = explainer(assets.photo(photo) if photo in assets.PHOTOS else ZOO / "images" / photo)
        for k, label in enumerate(explained.labels[0]):
            box = explained.marks[k].box
            assert box is not None
            inside = np.zeros(explained.view.shape[:2], bool)
            x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
            inside[y0:y1, x0:x1] = True
            detail = explained.details[k]
            print(
                f"| {model} | {photo} | {alignment} | {label} {detail.detection:.2f} | {inside.mean():.2f} | "
                f"{shares(explained, k, inside)} |"
            )


def segmentations(model: str, alignment: Alignment) -> None:
    """A row for each photo whose true mask is known."""
    given = {} if "qdq" in model else {"scale": 1.0, "mean": 128.0, "std": 128.0, "resize": "stretch"}
    explainer = SegmentExplainer(ZOO / "models" / f"{model}.onnx", METHODS, preprocessing=given, alignment=alignment)
    for label, name, inverse in MASKS:
        explained = explainer(ZOO / "images" / f"{name}.bmp", label)
        mask = Image.open(ZOO / "images" / f"{name}_mask.bmp").convert("L").resize(explained.view.shape[1::-1], 0)
        inside = (np.asarray(mask) == 0) if inverse else (np.asarray(mask) > 0)
        print(
            f"| {model} | {name}.bmp | {alignment} | {label} | {inside.mean():.2f} | {shares(explained, 0, inside)} |"
        )


def main() -> None:
    """All rows."""
    print(f"| model | photo | alignment | object | size | {' | '.join(METHODS)} |\n|{'---|' * (5 + len(METHODS))}")
    for alignment in ALIGNMENTS:
        for model, photos in DETECTORS:
            detections(model, photos, alignment)
        for model in SEGMENTATIONS:
            segmentations(model, alignment)


if __name__ == "__main__":
    main()
