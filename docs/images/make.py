# SPDX-License-Identifier: Apache-2.0
"""Makes the sheets of README.md and docs/tasks.md again: ``python docs/images/make.py ZOO``, which has ``models/``.

The strips of words, questions and text lines come from ``benchmarks/train`` and docs/language.md.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from portable_cam import assets

HERE = Path(__file__).parent
COFFEE, ASTRONAUT = assets.path("coffee.jpg"), assets.path("astronaut.jpg")
#: Name: width of the picture, then the command; the model's first word is looked for in the zoo.
SHEETS = {
    "contrast.jpg": (
        922,
        assets.model(),
        assets.photo(),
        "--why",
        "coffee mug",
        "--rather-than",
        "tiger cat",
        "--methods",
        "gradcam,layercam",
    ),
    "detect.jpg": (922, "det_yolox_nano_coco_416", COFFEE, "--task", "detect", "--methods", "layercam,gradcam"),
    "missed.jpg": (922, "det_yolox_nano_coco_416", COFFEE, "--task", "detect", "--target", "spoon"),
    "segment.jpg": (652, "seg_deeplabv3_mnv2_voc_fp32_logits", ASTRONAUT, "--task", "segment", "--preset", "tf"),
}


def main(zoo: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["portable-cam", "demo", "-o", folder], check=True)
        save(Path(folder) / "demo.png", HERE / "demo.png", 1120)
        for name, (width, model, photo, *options) in SHEETS.items():
            path = model if isinstance(model, Path) else zoo / "models" / f"{model}.onnx"
            out = Path(folder) / name
            subprocess.run(["portable-cam", "explain", path, photo, "-o", out, *options], check=True)
            save(next(out.glob("*.sheet.png")), HERE / name, width)


def save(sheet: Path, to: Path, width: int) -> None:
    image = Image.open(sheet).convert("RGB")
    image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS).save(to, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
