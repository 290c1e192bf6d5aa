# SPDX-License-Identifier: Apache-2.0
"""Detection, segmentation, contrasts and embeddings on real models and photos, from the photo to the map."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_but
from PIL import Image

import portable_cam as pcam
from portable_cam import assets, targets
from portable_cam.cli import main
from portable_cam.errors import LabelError, OptionError, TargetError
from portable_cam.image.decode import read_image
from portable_cam.kernels import reference
from portable_cam.tasks.classify import PhotoExplainer
from portable_cam.tasks.detect import Head
from portable_cam.tasks.detect.explainer import DetectExplainer
from portable_cam.tasks.detect.head import grid
from portable_cam.tasks.raw_outputs import raw_session
from portable_cam.tasks.segment import SegmentExplainer

YOLOX, NANODET = "det_yolox_nano_coco_416", "det_nanodet_m_coco_416"
FASTESTDET, ULTRAFACE = "det_fastestdet_coco_352", "det_ultraface_ssd_rfb320"
DEEPLAB = "seg_deeplabv3_mnv2_voc_fp32_logits"
BOTH = "pgc_both.png"
DOG, CAT = (77, 12, 165, 148), (49, 118, 199, 224)  # the manifest's boxes


@cache
def detector(zoo: Path, name: str) -> DetectExplainer:
    return DetectExplainer(zoo / "models" / f"{name}.onnx", ("layercam", "gradcam"))


@cache
def segmenter(zoo: Path, name: str = DEEPLAB) -> SegmentExplainer:
    return SegmentExplainer(zoo / "models" / f"{name}.onnx", ("layercam", "gradcam"), preprocessing=given(name))


def given(name: str) -> dict[str, Any]:
    return {} if "qdq" in name else {"scale": 1.0, "mean": 128.0, "std": 128.0, "resize": "stretch"}


def photo(zoo: Path, name: str) -> Path:
    return assets.photo(name) if name in assets.PHOTOS else zoo / "images" / name


def positive(explained: pcam.Explanation, method: str, k: int) -> np.ndarray:
    """The positive map over the layers at the input's size: the sum of each layer's, as the mean of them that is shown,
    but without the normalisation, which would lift the background."""
    raw = [v[0, k] for name, v in explained.result.raw.items() if name.split(".")[0] == method]
    wide = [reference.upsample_bilinear(v, explained.view.shape[:2]) for v in raw]
    return np.sum([w / w.max() for w in wide if w.max() > 0], axis=0)


def share(explained: pcam.Explanation, method: str, k: int) -> float:
    """How much of the positive map lies in the box."""
    values = positive(explained, method, k)
    box = explained.marks[k].box
    assert box is not None
    x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
    return float(values[y0:y1, x0:x1].sum() / values.sum())


def overlap(a: Any, b: Any) -> float:
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


# -- detection ---------------------------------------------------------------------------------------------------------

# model, photo, label, least score, box in the photo where the manifest states one
OBJECTS = [
    (YOLOX, BOTH, "dog", 0.88, DOG), (YOLOX, BOTH, "cat", 0.7, CAT), (NANODET, BOTH, "cat", 0.8, CAT),
    (NANODET, BOTH, "dog", 0.75, DOG), (FASTESTDET, BOTH, "dog", 0.85, DOG), (FASTESTDET, BOTH, "cat", 0.7, CAT),
    (YOLOX, "astronaut.jpg", "person", 0.9, None), (YOLOX, "coffee.jpg", "cup", 0.88, None),
    (ULTRAFACE, "astronaut.jpg", "class 0", 0.99, (180, 62, 268, 174)),
    (ULTRAFACE, "coral_grace_hopper.bmp", "class 0", 0.99, None),
]  # fmt: skip


@pytest.mark.parametrize(("model", "name", "label", "least", "place"), slow_but([NANODET], OBJECTS))
def test_objects_are_found_and_their_maps_lie_in_their_boxes(
    zoo: Path, model: str, name: str, label: str, least: float, place: Any
) -> None:
    explained = detector(zoo, model)(photo(zoo, name))
    k = explained.labels[0].index(label)
    fact = explained.details[k]
    assert fact.detection >= least
    if place is not None:
        assert overlap(fact.box, place) > 0.6
    assert share(explained, "layercam", k) >= 0.60
    # plain Grad-CAM, known for it, spreads over the picture; the figures are in docs/tasks.md
    assert share(explained, "layercam", k) > share(explained, "gradcam", k)


@pytest.mark.parametrize("model", slow_but([NANODET], [YOLOX, NANODET, FASTESTDET]))
def test_two_objects_have_different_maps(zoo: Path, model: str) -> None:
    explained = detector(zoo, model)(photo(zoo, BOTH), ["dog", "cat"])
    labels = explained.labels[0]
    maps = {name: positive(explained, "layercam", labels.index(name)) for name in ("dog", "cat")}
    for name, other in (("dog", "cat"), ("cat", "dog")):
        x0, y0, x1, y1 = (max(0, round(edge)) for edge in explained.marks[labels.index(name)].box)
        inside = {which: values[y0:y1, x0:x1].sum() / values.sum() for which, values in maps.items()}
        assert inside[name] > inside[other] + 0.25


@pytest.mark.slow
def test_layers_are_where_the_scales_leave_the_backbone(zoo: Path) -> None:
    assert detector(zoo, YOLOX).explainer.layer == ["781", "841", "890"]  # dark3, dark4 and the reduced dark5
    path = zoo / "models" / f"{YOLOX}.onnx"
    shapes = {layer.name: layer.shape for layer in pcam.export.list_layers(path, "output")}
    assert [shapes[name][2] for name in detector(zoo, YOLOX).explainer.layer] == [52, 26, 13]


@pytest.mark.slow
def test_the_familys_preprocessing_is_the_default(zoo: Path) -> None:
    assert detector(zoo, YOLOX).preprocessing.resize == "letterbox"
    assert detector(zoo, NANODET).preprocessing.color == "bgr"
    assert not detector(zoo, YOLOX).preprocessing.guessed


@pytest.mark.slow
def test_missed_object(zoo: Path) -> None:
    explained = detector(zoo, YOLOX)(photo(zoo, BOTH), "bird,dog")
    assert explained.labels[0] == ["bird (not found)", "dog"]
    assert explained.details[0].found is False
    assert explained.details[0].detection < 0.05
    assert explained.counterpart is not None
    assert "layercam" in explained.result
    assert "layercam" in explained.counterpart
    for_it, against = explained.result.raw["layercam.890"][0, 0], explained.counterpart.raw["layercam.890"][0, 0]
    assert against.max() > 0
    assert np.abs(for_it - against).max() > 0.1 * against.max()


@pytest.mark.slow
def test_parts_of_a_score(zoo: Path) -> None:
    path = zoo / "models" / f"{YOLOX}.onnx"
    whole = detector(zoo, YOLOX)(photo(zoo, BOTH), "dog").result.scores[0, 0]
    logits = {p: DetectExplainer(path, part=p)(photo(zoo, BOTH), "dog") for p in ("class", "objectness", "left")}
    odds = np.exp([logits[part].result.scores[0, 0] for part in ("class", "objectness")])
    np.testing.assert_allclose(np.prod(odds / (1 + odds)), whole, rtol=1e-5)
    assert np.abs(logits["left"].result["layercam"] - logits["class"].result["layercam"]).max() > 0.3


@pytest.mark.slow
def test_contrast_in_a_box(zoo: Path) -> None:
    explainer = DetectExplainer(zoo / "models" / f"{YOLOX}.onnx", part="class", rather_than="dog")
    explained = explainer(photo(zoo, BOTH), "cat")
    assert explained.labels == [["cat rather than dog"]]
    boxes, scores = explainer.detect(explainer.preprocessing(explained.image))
    raw = int(explained.result.targets[0, 0]) // 80
    outputs = next(iter(explained.result.outputs.values()))[0]
    cat, dog = (np.log(p) - np.log1p(-p) for p in outputs[raw, 5 + 15 : 5 + 17].astype(np.float64))
    np.testing.assert_allclose(explained.result.scores[0, 0], cat - dog, rtol=1e-3)
    assert boxes.shape == (3549, 4)
    assert scores.shape == (3549, 80)


@pytest.mark.slow
def test_region(zoo: Path) -> None:
    explained = detector(zoo, YOLOX)(photo(zoo, BOTH), region=DOG)
    assert explained.labels == [["dog"]]
    cat = detector(zoo, YOLOX)(photo(zoo, BOTH), region=CAT)
    assert cat.labels == [["cat"]]


@pytest.mark.slow
def test_a_head_of_ones_own(zoo: Path) -> None:
    """UltraFace in JSON and by a Python function: the same boxes as by recognition."""
    path = zoo / "models" / f"{ULTRAFACE}.onnx"
    described = {
        "classes": {"tensor": "scores", "start": 1},
        "boxes": {"tensor": "boxes"},
        "unit": "fraction",
        "preset": "ultraface",
        "threshold": 0.6,
        "overlap": 0.3,
    }
    face = photo(zoo, "astronaut.jpg")
    expected = detector(zoo, ULTRAFACE)(face).details[0].box
    assert DetectExplainer(path, head=described)(face).details[0].box == expected

    def decode(outputs: Any, size: tuple[int, int]) -> Any:
        return outputs["boxes"][0] * np.array([320, 240, 320, 240]), outputs["scores"][0, :, 1:]

    head = Head("mine", targets.Boxes((targets.Columns("scores", 1),)), decode, "ultraface", 0.6, 0.3, ("boxes",))
    assert DetectExplainer(path, head=head)(face).details[0].box == expected


@pytest.mark.slow
def test_suppression_inside_the_model(zoo: Path) -> None:
    """YOLOX with its decoding and non-maximum suppression in the graph: the boxes are traced back to the same scores,
    and their maps are the same."""
    model = onnx.load(zoo / "models" / f"{YOLOX}.onnx")
    explainer = detector(zoo, YOLOX)
    places, strides = (value[None] for value in grid((416, 416), (8, 16, 32)))
    weights = {
        "places": places,
        "strides": strides,
        "parts": np.array([2, 2, 1, 80]),
        "most": np.array([100]),
        "iou": np.array([0.45], np.float32),
        "least": np.array([0.35], np.float32),
    }
    node = onnx.helper.make_node
    model.graph.node.extend(
        [
            node("Split", ["output", "parts"], ["c", "s", "o", "k"], axis=2),
            node("Add", ["c", "places"], ["c1"]),
            node("Mul", ["c1", "strides"], ["c2"]),
            node("Exp", ["s"], ["s1"]),
            node("Mul", ["s1", "strides"], ["s2"]),
            node("Concat", ["c2", "s2"], ["boxes"], axis=2),
            node("Mul", ["o", "k"], ["product"]),
            node("Transpose", ["product"], ["by_class"], perm=[0, 2, 1]),
            node("NonMaxSuppression", ["boxes", "by_class", "most", "iou", "least"], ["chosen"], center_point_box=1),
        ]
    )
    model.opset_import[0].version = 13
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    model.graph.output.pop()
    model.graph.output.append(onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.INT64, [None, 3]))
    inside = DetectExplainer(model, preprocessing="yolox")
    assert inside.head.family == "inner_nms"
    ours, theirs = inside(photo(zoo, BOTH)), explainer(photo(zoo, BOTH))
    assert ours.labels == theirs.labels == [["dog", "cat"]]
    np.testing.assert_allclose(ours.result.scores, theirs.result.scores, rtol=1e-5)
    np.testing.assert_allclose([d.box for d in ours.details], [d.box for d in theirs.details], atol=0.2)
    np.testing.assert_allclose(ours.result["layercam"], theirs.result["layercam"], atol=1e-3)
    assert len(ours.result.outputs["chosen"]) == 2


# -- segmentation ------------------------------------------------------------------------------------------------------

MASKED = [("bird", "coral_bird_segmentation", False), ("dog", "coral_dog_segmentation", True)]


def mask_of(zoo: Path, name: str, inverse: bool) -> np.ndarray:
    values = np.asarray(Image.open(zoo / "images" / f"{name}_mask.bmp").convert("L"))
    return values == 0 if inverse else values > 0


@pytest.mark.parametrize(
    "model",
    slow_but(
        ["seg_deeplabv3_mnv2_dm05_voc_fp32_logits"],
        [
            DEEPLAB,
            "seg_deeplabv3_mnv2_dm05_voc_fp32_logits",
            "seg_deeplabv3_mnv2_voc_qdq_logits",
            "seg_deeplabv3_mnv2_voc_qdq_argmax",
        ],
    ),
)
@pytest.mark.parametrize(("label", "name", "inverse"), slow_but(["bird"], MASKED))
def test_segmentation_lies_in_the_true_mask(zoo: Path, model: str, label: str, name: str, inverse: bool) -> None:
    explained = segmenter(zoo, model)(photo(zoo, f"{name}.bmp"))
    assert explained.labels[0][0] == label
    mask = np.asarray(Image.fromarray(mask_of(zoo, name, inverse)).resize((513, 513)))
    values = positive(explained, "layercam", 0)
    assert values[mask].sum() / values.sum() > 0.85
    mark = explained.marks[0].mask
    assert mark is not None
    assert (mark & mask).sum() / (mark | mask).sum() > 0.8


@pytest.mark.slow
def test_pixel_region_and_mask(zoo: Path) -> None:
    explainer, picture = segmenter(zoo), photo(zoo, "coral_dog_segmentation.bmp")
    height, width = np.asarray(Image.open(picture)).shape[:2]
    mask = mask_of(zoo, "coral_dog_segmentation", True)
    assert mask.shape == (height, width)
    by_mask = explainer(picture, mask=mask)
    assert by_mask.labels == [["dog"]]
    corner = explainer(picture, region=(0, 0, 10, 10))
    assert corner.labels == [["background"]]
    row, column = np.argwhere(mask).mean(axis=0).astype(int)
    one = explainer(picture, pixel=(column, row))
    assert one.labels == [["dog"]]
    logits = explainer.logits(explainer.preprocessing(one.image))
    i, j = int((row + 0.5) / height * 513), int((column + 0.5) / width * 513)
    np.testing.assert_allclose(one.result.scores[0, 0], logits[12, i, j], rtol=1e-5)
    assert one.details[0].share == pytest.approx(1 / 513**2)


@pytest.mark.slow
def test_a_class_that_is_nowhere(zoo: Path) -> None:
    explained = segmenter(zoo)(photo(zoo, "coral_bird_segmentation.bmp"), "train")
    assert explained.labels == [["train (not found)"]]
    assert explained.counterpart is not None
    assert explained.counterpart["layercam"].max() > 0


@pytest.mark.slow
def test_why_dog_rather_than_cat(zoo: Path) -> None:
    explainer = SegmentExplainer(zoo / "models" / f"{DEEPLAB}.onnx", preprocessing=given(DEEPLAB), rather_than="cat")
    explained = explainer(photo(zoo, BOTH), "dog")
    assert explained.labels == [["dog rather than cat"]]
    logits = explainer.logits(explainer.preprocessing(explained.image))
    mine = logits.argmax(axis=0) == 12
    np.testing.assert_allclose(explained.result.scores[0, 0], (logits[12] - logits[8])[mine].sum(), rtol=1e-4)


# -- classes and embeddings --------------------------------------------------------------------------------------------


def test_contrast_of_classes(zoo: Path) -> None:
    options = {"preprocessing": {"scale": 1.0, "mean": 127.0, "std": 128.0, "color": "rgb", "resize": "stretch"}}
    path = zoo / "models" / "cls_efficientnet_lite0_fp32.onnx"
    explained = PhotoExplainer(path, rather_than="tabby", **options)(photo(zoo, BOTH), "bull mastiff")
    assert explained.labels == [["bull mastiff rather than tabby"]]
    (logits,) = explained.result.outputs.values()
    np.testing.assert_allclose(explained.result.scores[0, 0], logits[0, 243] - logits[0, 281], rtol=1e-4)
    wide = reference.upsample_bilinear(explained.result.raw["gradcam"][0, 0], (224, 224))
    x0, y0, x1, y1 = DOG
    assert wide[y0:y1, x0:x1].sum() / wide.sum() > 0.5
    assert np.unravel_index(wide.argmax(), wide.shape)[0] < y1


@pytest.mark.slow
def test_sets_of_classes() -> None:
    explainer = PhotoExplainer(assets.model(), sets={"cat": ["tabby", "tiger cat", 285], "cup": ["espresso"]})
    explained = explainer(assets.photo(), "cat,cup")
    assert explained.labels == [["cat", "cup"]]
    plain = PhotoExplainer(assets.model())(assets.photo(), [281, 282, 285, 967])
    np.testing.assert_allclose(
        explained.result.scores[0], [plain.result.scores[0, :3].sum(), plain.result.scores[0, 3]], rtol=1e-4
    )


@pytest.mark.slow
def test_similarity_to_another_photo() -> None:
    """The scores of the bundled model as embedding: a photo of two things, compared with photos of each alone."""
    prepare = PhotoExplainer(assets.model()).preprocessing
    both, cat, cup = (prepare(read_image(assets.photo(n))) for n in (assets.PHOTOS[0], "chelsea.png", "coffee.jpg"))
    explainer = pcam.Explainer(assets.model(), target=targets.Similarity())
    logits = raw_session(assets.model(), [explainer.metadata["portable_cam.scores"]])
    (image,) = logits.inputs
    vectors = [next(iter(logits.run({image: x}).values())).reshape(1, 1, -1) for x in (cat, cup)]
    result = explainer(both, embedding=np.concatenate(vectors, axis=1))
    np.testing.assert_allclose(explainer(cat, embedding=vectors[0]).scores, 1, rtol=1e-5)
    maps = result.raw["gradcam"][0]
    half = maps.shape[2] // 2
    left, right = maps[:, :, :half].sum(axis=(1, 2)), maps[:, :, -half:].sum(axis=(1, 2))
    assert left[0] > 1.5 * right[0]  # the cat is on the left, the cup on the right
    assert right[1] > 1.5 * left[1]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bad_input_for_a_detector(zoo: Path) -> None:
    explainer, both = detector(zoo, YOLOX), photo(zoo, BOTH)
    with pytest.raises(TargetError, match="lies outside the photo of 224 x 224 pixels"):
        explainer(both, region=(300, 300, 400, 400))
    with pytest.raises(TargetError, match=r"the region \(5, 5, 5, 9\) is empty"):
        explainer(both, region=(5, 5, 5, 9))
    with pytest.raises(LabelError, match=r"no class of .* is called 'unicorn'"):
        explainer(both, "unicorn")
    with pytest.raises(TargetError, match="class 80 is out of range: the model has 80 classes"):
        explainer(both, 80)
    with pytest.raises(OptionError, match="takes region=, but no pixel="):
        explainer(both, pixel=(1, 1))
    grey = explainer(np.full((200, 200, 3), 114, np.uint8))
    assert (grey.found, grey.labels, grey["layercam"].shape) == (False, [[]], (1, 0, 416, 416))
    assert "no box scores 0.35 or more" in grey.nothing_found
    with pytest.raises(OptionError, match="threshold= is between 0 and 1, not 7"):
        DetectExplainer(zoo / "models" / f"{YOLOX}.onnx", threshold=7)
    with pytest.raises(TargetError, match="are not those of a detector known here"):
        DetectExplainer(assets.model())


@pytest.mark.slow
def test_bad_input_for_a_segmentation(zoo: Path) -> None:
    explainer, dog = segmenter(zoo), photo(zoo, "coral_dog_segmentation.bmp")
    with pytest.raises(TargetError, match="the mask is empty"):
        explainer(dog, mask=np.zeros((128, 128), bool))
    with pytest.raises(TargetError, match="the mask is 5 x 4, the photo 128 x 128"):
        explainer(dog, mask=np.ones((4, 5), bool))
    with pytest.raises(TargetError, match=r"pixel \(900, 3\) lies outside the photo"):
        explainer(dog, pixel=(900, 3))
    with pytest.raises(OptionError, match="one of them, not mask, region"):
        explainer(dog, mask=np.ones((128, 128)), region=(0, 0, 5, 5))
    with pytest.raises(TargetError, match="class 99 is out of range: the model has 21 classes"):
        explainer(dog, 99)
    with pytest.raises(TargetError, match="none of the model's outputs holds a score per class and pixel"):
        SegmentExplainer(assets.model())
    grey = explainer(np.full((64, 64, 3), 128, np.uint8))
    assert not grey.found
    assert "nothing but background" in grey.nothing_found
    assert grey["layercam"].shape == (1, 0, 513, 513)


# -- the command line --------------------------------------------------------------------------------------------------


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["portable-cam", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    text = capsys.readouterr()
    return code, text.out, text.err


@pytest.mark.slow
def test_detect_on_the_command_line(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo / "models" / f"{YOLOX}.onnx"
    code, out, err = run(
        capsys,
        monkeypatch,
        "explain",
        model,
        photo(zoo, BOTH),
        "--task",
        "detect",
        "-o",
        tmp_path,
        "--format",
        "png,json",
    )
    assert code == 0
    assert out.splitlines()[0].startswith("pgc_both.png: dog (16) 0.8969 at 77, 12, 166, 149")
    assert "letterboxed on 114" in err
    assert {p.name for p in tmp_path.iterdir()} == {
        "pgc_both.sheet.png",
        "pgc_both.dog.layercam.png",
        "pgc_both.cat.layercam.png",
        "pgc_both.json",
    }
    record = json.loads((tmp_path / "pgc_both.json").read_text())
    assert overlap(record["explained"][0]["box"], DOG) > 0.8
    code, out, err = run(capsys, monkeypatch, "explain", model, photo(zoo, BOTH), "--task", "detect", "--pixel", "3,4")
    assert code == 2
    assert "the task detect takes no --pixel" in err


@pytest.mark.slow
def test_segment_and_contrast_on_the_command_line(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(
        capsys,
        monkeypatch,
        "explain",
        zoo / "models" / f"{DEEPLAB}.onnx",
        photo(zoo, "coral_dog_segmentation.bmp"),
        "--task",
        "segment",
        "--preset",
        "tf",
        "-o",
        tmp_path,
    )
    assert (code, out) == (0, "coral_dog_segmentation.bmp: dog (12) on 51.0 % of the photo\n")
    code, out, _ = run(
        capsys,
        monkeypatch,
        "explain",
        assets.model(),
        assets.photo(),
        "--why",
        "tabby",
        "--rather-than",
        "espresso",
        "-o",
        tmp_path,
    )
    assert code == 0
    assert out.startswith("cat_and_coffee.png: tabby rather than espresso (281)")
    code, out, err = run(
        capsys, monkeypatch, "explain", assets.model(), assets.photo(), "--set", "cats", "-o", tmp_path
    )
    assert code == 2
    assert "--set is NAME=CLASS,CLASS" in err
