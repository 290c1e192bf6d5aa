# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of README.md and docs/ again: ``python docs/images/make.py ZOO``, which has ``models/``.

``before.jpg`` shows how pictures looked before they were designed anew, and is not made again.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from portable_cam import assets

HERE = Path(__file__).parent
TRAINED = HERE.parents[1] / "benchmarks" / "train" / "models"
COFFEE, ASTRONAUT, CHELSEA = (assets.path(name) for name in ("coffee.jpg", "astronaut.jpg", "chelsea.png"))
CAPTION = ("--decoder", TRAINED / "caption_lstm_decoder.onnx", "--vocabulary", TRAINED / "caption_words.txt")
QUESTION = ("--question", "What color is the shape?", "--target", "top2")
WORDS = ("--vocabulary", TRAINED / "vqa_words.txt", "--labels", TRAINED / "vqa_answers.txt")
LINE = ("--task", "ctc", "--preset", "raw", "--color", "bgr", "--size", "60x160", "--resize", "stretch")
#: Name: width of the picture, then model, photo and options; a word is looked for in the zoo, ``{}`` in the folder of
#: what is drawn here.
SHEETS = {
    "contrast.jpg": (922, assets.model(), assets.photo(), "--why", "coffee mug", "--rather-than", "tiger cat",
                     "--methods", "gradcam,layercam"),
    "detect.jpg": (922, "models/det_yolox_nano_coco_416", COFFEE, "--task", "detect", "--methods", "layercam,gradcam"),
    "missed.jpg": (922, "models/det_yolox_nano_coco_416", COFFEE, "--task", "detect", "--target", "spoon"),
    "segment.jpg": (652, "models/seg_deeplabv3_mnv2_voc_fp32_logits", ASTRONAUT, "--task", "segment", "--preset", "tf"),
    "caption.jpg": (922, TRAINED / "caption_encoder.onnx", "{}/scene.png", "--task", "caption", *CAPTION),
    "vqa.jpg": (652, TRAINED / "vqa_recurrent.onnx", "{}/shape.png", "--task", "vqa", *QUESTION, *WORDS),
    "ctc.jpg": (922, "brought/ctc_captcha_crnn_timefirst", "images/drawn_captcha_X7K9P.png", *LINE,
                "--vocabulary", "{}/characters.txt"),
    "crop.jpg": (522, "models/cls_efficientnet_lite0_fp32", "images/coral_parrot.jpg", "--target", "top2", "--contours",
                 "0.5"),
    "guided.jpg": (922, assets.model(), CHELSEA, "--methods", "gradcam,guided_backprop,gradient,guided_gradcam"),
    "nine.jpg": (922, assets.model(), COFFEE, "--preset", "imagenet", "--target", "top9"),
}  # fmt: skip
SHOWN_TOGETHER_ONLY = {"nine.jpg", "guided.jpg"}
#: What ``after.jpg`` shows, in columns.
TOGETHER = (
    ("crop.jpg", "missed.jpg", "ctc.jpg", "guided.jpg"),
    ("detect.jpg", "contrast.jpg", "vqa.jpg"),
    ("segment.jpg", "nine.jpg", "caption.jpg"),
)


def main(zoo: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder)
        run("demo", "-o", folder)
        save(folder / "demo.png", HERE / "demo.png", 1120)
        for name, (width, *command) in SHEETS.items():
            sheet = (folder / name).with_suffix(".png")
            run("explain", *(found(word, zoo, folder) for word in command), "-o", sheet)
            if name not in SHOWN_TOGETHER_ONLY:
                save(sheet, HERE / name, width)
        together = [[(folder / name).with_suffix(".png") for name in column] for column in TOGETHER]
        contact(together).save(HERE / "after.jpg", quality=80)


def run(*command: object) -> None:
    main = "from portable_cam.cli import main; main()"
    subprocess.run([sys.executable, "-c", main, *map(str, command)], check=True)


def found(word: object, zoo: Path, folder: Path) -> object:
    if isinstance(word, str) and word.startswith(("models/", "brought/")):
        return zoo / f"{word}.onnx"
    if isinstance(word, str) and word.startswith("images/"):
        return zoo / word
    return str(word).replace("{}", str(folder))


def draw(folder: Path) -> None:
    """Scenes for the models of ``benchmarks/train``."""
    scene = Image.new("RGB", (96, 96), (225, 225, 220))
    pen = ImageDraw.Draw(scene)
    pen.polygon([(30, 40), (48, 8), (66, 40)], fill=(210, 40, 40))
    pen.polygon([(30, 86), (48, 54), (66, 86)], fill=(230, 200, 40))
    scene.save(folder / "scene.png")
    shape = Image.new("RGB", (64, 64), (235, 235, 235))
    ImageDraw.Draw(shape).rectangle((18, 20, 46, 44), fill=(230, 200, 40))
    shape.save(folder / "shape.png")
    (folder / "characters.txt").write_text("\n".join("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


def contact(columns: list[list[Path]], width: int = 460, gap: int = 10) -> Image.Image:
    """Pictures in columns, on grey."""
    scaled = [[scale(Image.open(path).convert("RGB"), width) for path in column] for column in columns]
    height = max(sum(image.height + gap for image in column) for column in scaled) + gap
    sheet = Image.new("RGB", (len(columns) * (width + gap) + gap, height), (150, 150, 150))
    for c, column in enumerate(scaled):
        y = gap
        for image in column:
            sheet.paste(image, (gap + c * (width + gap), y))
            y += image.height + gap
    return sheet


def scale(image: Image.Image, width: int) -> Image.Image:
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def save(sheet: Path, to: Path, width: int) -> None:
    scale(Image.open(sheet).convert("RGB"), width).save(to, quality=86, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
