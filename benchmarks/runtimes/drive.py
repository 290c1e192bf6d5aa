"""Runs one file on one engine, in the Python that has the engine: ``python drive.py ENGINE FOLDER``.

Imports nothing but numpy and the engine, so that it runs in an environment of the engine's own. The folder has
``model.onnx``, ``inputs.json`` and the arrays that it names; what comes out is written beside them, with
``result.json``: what failed, or the milliseconds of a run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5

Arrays = dict[str, Any]
Run = Callable[[Arrays], Arrays]


def read(folder: Path) -> tuple[Arrays, list[str]]:
    """The inputs, and the names of the outputs in the file's order."""
    said = json.loads((folder / "inputs.json").read_text())
    arrays = {i["name"]: np.fromfile(folder / i["file"], i["dtype"]).reshape(i["shape"]) for i in said["inputs"]}
    return arrays, said["outputs"]


def write(folder: Path, arrays: Arrays) -> None:
    """Write the outputs."""
    listed = []
    for i, (name, array) in enumerate(arrays.items()):
        value = np.ascontiguousarray(array)
        value.tofile(folder / f"output_{i}.bin")
        listed.append({"name": name, "dtype": str(value.dtype), "shape": list(value.shape), "file": f"output_{i}.bin"})
    (folder / "outputs.json").write_text(json.dumps({"outputs": listed}))


def _onnxruntime(model: str, outputs: list[str], providers: list[str]) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=providers)
    if session.get_providers()[0] != providers[0]:
        raise RuntimeError(f"it runs on {session.get_providers()[0]}")
    return lambda feeds: dict(zip(outputs, session.run(outputs, feeds), strict=True))


def onnxruntime(model: str, outputs: list[str], inputs: Arrays) -> Run:
    return _onnxruntime(model, outputs, ["CPUExecutionProvider"])


def onnxruntime_openvino(model: str, outputs: list[str], inputs: Arrays) -> Run:
    return _onnxruntime(model, outputs, ["OpenVINOExecutionProvider", "CPUExecutionProvider"])


def openvino(model: str, outputs: list[str], inputs: Arrays) -> Run:
    import openvino as ov

    core = ov.Core()
    # on a processor with bfloat16 units it would compute in that type
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    taken = {port.get_any_name() for port in compiled.inputs}

    def run(feeds: Arrays) -> Arrays:
        found = compiled({name: value for name, value in feeds.items() if name in taken})
        return {name: np.array(found[port]) for name, port in zip(outputs, compiled.outputs, strict=True)}

    return run


def opencv(model: str, outputs: list[str], inputs: Arrays) -> Run:
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(model)

    def run(feeds: Arrays) -> Arrays:
        for name, value in feeds.items():
            net.setInput(value, name)
        return {name: np.array(value) for name, value in zip(outputs, net.forward(outputs), strict=True)}

    return run


def tract(model: str, outputs: list[str], inputs: Arrays) -> Run:
    import tract as engine

    loaded = engine.onnx().load(model)
    for i in range(loaded.input_count()):
        value = inputs[loaded.input_name(i)]
        letters = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8", "float16": "f16", "bool": "bool"}
        fact = ",".join([*map(str, value.shape), letters[str(value.dtype)]])
        loaded.set_input_fact(i, fact)
    order = [loaded.input_name(i) for i in range(loaded.input_count())]
    names = [loaded.output_name(i) for i in range(loaded.output_count())]
    runnable = loaded.into_model().into_runnable()

    def run(feeds: Arrays) -> Arrays:
        found = runnable.run([feeds[name] for name in order])
        given = outputs if len(names) == len(outputs) else names
        return {name: np.array(value.to_numpy()) for name, value in zip(given, found, strict=True)}

    return run


def reference(model: str, outputs: list[str], inputs: Arrays) -> Run:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(model))
    return lambda feeds: dict(zip(outputs, evaluator.run(outputs, feeds), strict=True))


ENGINES = {
    "onnxruntime": onnxruntime,
    "onnxruntime_openvino": onnxruntime_openvino,
    "openvino": openvino,
    "opencv": opencv,
    "tract": tract,
    "reference": reference,
}


def main(engine: str, folder: Path) -> None:
    """Run it, twice at least: some engines fail only on a second run."""
    inputs, outputs = read(folder)
    result: dict[str, Any] = {"error": None}
    try:
        run = ENGINES[engine](str(folder / "model.onnx"), outputs, inputs)
        begin = time.perf_counter()
        found = run(inputs)
        first = time.perf_counter() - begin
        times = [first]
        for _ in range(ROUNDS if first < 1 else 1):
            begin = time.perf_counter()
            found = run(inputs)
            times.append(time.perf_counter() - begin)
        write(folder, found)
        result["ms"] = 1000 * min(times)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
