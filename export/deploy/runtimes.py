# SPDX-License-Identifier: Apache-2.0
"""The runtimes that a file is written for: what each wants of it, and what is not promised there.

``docs/runtimes.md`` has what was measured, on which version, and why a file is written so.
"""

from __future__ import annotations

from dataclasses import dataclass

from portable_cam.errors import OptionError


@dataclass(frozen=True)
class Runtime:
    """What a runtime wants.

    Attributes:
        name: As on the command line.
        title: As in text.
        least: The least version that a file runs on.
        opset: The greatest opset that it reads; None for the lowest that the graph needs, whatever that is.
        batch: How many images the file takes unless another number is asked for; None for any.
        defaults: It honours the default of an input, so that ``targets`` may be left out. (The web's takes the default,
            but refuses any other value.)
        loops: It has the Scan that any number of targets takes.
        pool_indices: It has a MaxPool that gives indices, and ScatterElements: the gradient of a MaxPool needs both,
            or it is written by comparisons instead.
        steep_masks: It computes in float32 throughout, so that the steep HardSigmoid that masks of a ReLU are is exact;
            comparisons take its place where a device may compute in float16, whose range it leaves.
        folded: What is constant is computed when the file is written, not left to the runtime: transposed weights are
            then stored beside the weights.
        shapes: It profits from the shapes stated inside the graph; else they are left out.
        photos: It computes with integers, as the way from a photo to the input does.
        promises: What is not certain there, a sentence each.
    """

    name: str
    title: str
    least: str
    opset: int | None = None
    batch: int | None = None
    defaults: bool = False
    loops: bool = False
    pool_indices: bool = True
    steep_masks: bool = True
    folded: bool = False
    shapes: bool = False
    photos: bool = True
    promises: tuple[str, ...] = ()


_NOT_RUN = "no machine that has run the tests has it: the file is written by its documentation alone"

RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("onnxruntime", "ONNX Runtime", "1.16", defaults=True, loops=True, shapes=True),
        Runtime(
            "web",
            "ONNX Runtime Web",
            "1.30",
            batch=1,
            pool_indices=False,
            promises=("where a ReLU's input is within rounding of zero, guided maps differ by that pixel",),
        ),
        Runtime(
            "openvino",
            "OpenVINO",
            "2026.4",
            batch=1,
            pool_indices=False,
            steep_masks=False,
            folded=True,  # it mixes up a square weight and the same one transposed in the graph: docs/runtimes.md
            promises=(
                "on a device with units for bfloat16 or float16 it computes in these unless INFERENCE_PRECISION_HINT "
                "says f32: maps then differ by percents, as the model's own outputs do",
            ),
        ),
        Runtime(
            "opencv",
            "OpenCV",
            "5.0",
            opset=18,
            batch=1,
            pool_indices=False,
            steep_masks=False,
            folded=True,
            photos=False,
            promises=(
                "version 5.0.0 gives values from memory that it has not written in some runs (seen with a segmenter): "
                "compare its outputs with those of ONNX Runtime before you rely on them",
            ),
        ),
        Runtime(
            "tract",
            "tract",
            "0.23",
            opset=18,
            batch=1,
            pool_indices=False,
            steep_masks=False,
            folded=True,
            promises=(
                "a float16 model is computed in float16 throughout, which turns a guided map's masks: export it in "
                "float32",
            ),
        ),
        Runtime(
            "tensorrt",
            "TensorRT",
            "10",
            batch=1,
            pool_indices=False,
            steep_masks=False,
            folded=True,
            promises=(_NOT_RUN,),
        ),
        Runtime(
            "coreml",
            "ONNX Runtime with the CoreML provider",
            "1.20",
            batch=1,
            defaults=True,
            pool_indices=False,
            steep_masks=False,
            promises=(_NOT_RUN,),
        ),
        Runtime("mobile", "ONNX Runtime on a phone", "1.16", batch=1, defaults=True, promises=(_NOT_RUN,)),
    )
}


def runtime_named(name: str) -> Runtime:
    """The record of a runtime.

    Raises:
        OptionError: There is none of this name.
    """
    if name not in RUNTIMES:
        raise OptionError(f"a file is written for one of {', '.join(RUNTIMES)}, not {name!r}")
    return RUNTIMES[name]
