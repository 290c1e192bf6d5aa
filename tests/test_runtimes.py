"""Exported files on other engines: values, not only that they load.

An engine that is not installed is skipped, with the reason; ``docs/runtimes.md`` says how each is installed.
"""

from pathlib import Path

import pytest

from benchmarks.runtimes.cases import GROUPS, MODELS, PHOTO, case, difference
from benchmarks.runtimes.engines import ENGINES, Engine, EngineError

pytestmark = pytest.mark.slow

#: How far values may be apart, relative to the greatest of each output.
TOLERANCE = 5e-4
#: Further where a value within rounding of a step falls to its other side: a ReLU's mask turns for a pixel of a guided
#: map, an overlay takes the next colour of the palette; and for half precision, whose sums each engine rounds its way.
LOOSER = {
    ("guided", None): 2e-2,
    (PHOTO, None): 2e-2,
    ("Grad-CAM", "float16"): 1e-2,
    ("LayerCAM", "float16"): 1e-2,
    # its layers lie before ReLUs, and one input of these, of 46,464, is 2.5e-7: all but ONNX Runtime's CPU provider
    # round it to zero
    ("Grad-CAM", "detector, FastestDet"): 5e-2,
}
#: What does not hold, with the reason: the file is refused with an error, or half precision turns masks.
FAILS = {
    **{
        ("onnxruntime-1.16", "float16", group): "it writes Softmax out in the form of an older opset"
        for group in ("Grad-CAM", "LayerCAM", "guided")
    },
    ("opencv", "int8", "guided"): "OpenCV takes a MaxPool behind DequantizeLinear for one of integers, and refuses it",
    **{("opencv", model, PHOTO): "OpenCV has no arithmetic on integers" for model in MODELS},
}
#: What is wrong without an error, by a fault of the engine that comes and goes: docs/runtimes.md.
UNSOUND = {("opencv", "segmenter"): "OpenCV 5.0.0 reads memory that it has not written"}
#: Guided maps of a float16 model on engines that compute in another precision than ONNX Runtime does.
HALF = {"tract", "onnxruntime-web"}
KINDS = ("float32", "ViT")


def tolerance(group: str, model: str) -> float:
    return LOOSER.get((group, model), LOOSER.get((group, None), TOLERANCE))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_values_are_ours(engine: Engine, model: str, group: str, tmp_path: Path) -> None:
    if engine.missing:
        pytest.skip(engine.missing)
    if model == "ViT":
        pytest.importorskip("torch")
    tried = case(model, group)
    if (engine.name, model, group) in FAILS:
        with pytest.raises(EngineError):
            engine.run(tried.file(engine.runtime), tried.feeds, tmp_path)
        return
    found, _ = engine.run(tried.file(engine.runtime), tried.feeds, tmp_path)
    apart = difference(tried.expected, found)
    assert max(apart.values()) < tolerance(group, model), apart


@pytest.mark.parametrize("group", ["Grad-CAM", "guided"])
@pytest.mark.parametrize("model", [name for name in MODELS if name not in KINDS])
@pytest.mark.parametrize("engine", [e for e in ENGINES if e.name != "onnx.reference"], ids=lambda engine: engine.name)
def test_values_are_ours_on_the_zoo(zoo: Path, engine: Engine, model: str, group: str, tmp_path: Path) -> None:
    if engine.missing:
        pytest.skip(engine.missing)
    if model == "float16" and group == "guided" and engine.name in HALF:
        pytest.skip("half precision turns masks of a guided map")
    if reason := UNSOUND.get((engine.name, model)):
        pytest.skip(reason)
    tried = case(model, group)
    if (engine.name, model, group) in FAILS:
        with pytest.raises(EngineError):
            engine.run(tried.file(engine.runtime), tried.feeds, tmp_path)
        return
    found, _ = engine.run(tried.file(engine.runtime), tried.feeds, tmp_path)
    apart = difference(tried.expected, found)
    assert max(apart.values()) < tolerance(group, model), apart
