"""Which layer is explained where none is named: timm's and torchvision's networks, through both of torch's exporters.

``python -m benchmarks.layers`` needs timm and torchvision beside torch, and writes ``benchmarks/results/layers.csv``, a
row as soon as it is known; rows that the file has are kept, but for those of the networks named on the command line.
Weights are random: what is recorded is which layer was chosen, and of which module of torch's it is the output.
``tests/test_default_layers.py`` compares the file with what ``docs/methods.md`` promises.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import timm
import torch
import torchvision
from numpy.typing import NDArray

from portable_cam.errors import Error
from portable_cam.export import from_torch
from portable_cam.export.layers.candidates import candidates, find_axes
from portable_cam.export.layers.spatial import SpatialAxes
from portable_cam.export.passes.normalized import normalized
from portable_cam.export.targets.scores import find_scores
from portable_cam.runtime.session import Session

FILE = Path(__file__).parent / "results" / "layers.csv"
COLUMNS = ("network", "exporter", "image", "layer", "operator", "shape", "layout", "grid", "module", "also", "error")
FORK = multiprocessing.get_context("fork")  # a process of its own for each network, with what was imported
EXPORTERS = ("dynamo", "torchscript")
TIMM = """
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 swin_s3_tiny_224 levit_128s
    hiera_tiny_224 vit_tiny_patch16_224 vit_small_patch32_224 vit_base_patch16_gap_224 vit_tiny_r_s16_p8_224
    vit_small_patch14_reg4_dinov2 vit_relpos_small_patch16_224 vit_base_patch16_siglip_224 naflexvit_base_patch16_gap
    deit_tiny_distilled_patch16_224 deit3_small_patch16_224 eva02_tiny_patch14_224 beit_base_patch16_224 cait_xxs24_224
    xcit_nano_12_p16_224 crossvit_tiny_240 twins_pcpvt_small twins_svt_small pvt_v2_b0 coat_lite_tiny convit_tiny
    tnt_s_legacy_patch16_224 nest_tiny pit_ti_224 visformer_tiny volo_d1_224 mvitv2_tiny davit_tiny focalnet_tiny_srf
    gcvit_xxtiny maxvit_tiny_rw_224 coatnet_nano_rw_224 mobilevit_xxs mobilevitv2_050 edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 fastvit_t8 tiny_vit_5m_224 poolformer_s12
    mixer_s32_224 gmlp_ti16_224 resmlp_12_224 sequencer2d_s botnet26t_256 halonet26t lambda_resnet26t
    samvit_base_patch16_224 coat_tiny resnet18 densenet121 inception_v3 vgg11 efficientnet_b0 mobilenetv3_small_100
    regnetx_002 convnext_atto repvit_m0_9
""".split()
#: Smaller than the original, for the sake of time: of a kind of block that is repeated, so many.
_DEPTH = """
    vit_base_patch16_siglip_224 beit_base_patch16_224 naflexvit_base_patch16_gap vit_small_patch32_224
    vit_relpos_small_patch16_224 deit3_small_patch16_224 eva02_tiny_patch14_224 cait_xxs24_224 xcit_nano_12_p16_224
    tnt_s_legacy_patch16_224 vit_tiny_r_s16_p8_224 deit_tiny_distilled_patch16_224
""".split()
_STAGES = """
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 twins_pcpvt_small twins_svt_small
""".split()
FEWER: dict[str, dict[str, Any]] = {
    **{name: {"depth": 3} for name in _DEPTH},
    **{name: {"depths": (2, 2, 2, 2)} for name in _STAGES},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 3, "img_size": 224},
    "samvit_base_patch16_224": {"depth": 3, "global_attn_indexes": (2,)},
}
TORCHVISION = ("swin_t", "swin_v2_t", "maxvit_t")


def network(name: str) -> tuple[torch.nn.Module, tuple[int, int]]:
    """The network with random weights and ten classes, and the size of its image."""
    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "torchvision":
        size = 256 if short == "swin_v2_t" else 224
        return torchvision.models.get_model(short, weights=None, num_classes=10).eval(), (size, size)
    module = timm.create_model(short, pretrained=False, num_classes=10, **FEWER.get(short, {})).eval()
    height, width = module.pretrained_cfg["input_size"][1:]
    return module, (224, 224) if "img_size" in FEWER.get(short, {}) else (height, width)


def exported(module: torch.nn.Module, x: torch.Tensor, exporter: str) -> onnx.ModelProto:
    """With an open batch where torch can, else with that of ``x``."""
    if exporter == "dynamo":
        try:
            return from_torch(module, x)
        except Error:
            return from_torch(module, x, dynamic_batch=False)
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (x,),
        buffer,
        dynamo=False,
        opset_version=18,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
    )
    return onnx.load_from_string(buffer.getvalue())


def kept(module: torch.nn.Module, x: torch.Tensor, name: str, exporter: str, keep: Path | None) -> onnx.ModelProto:
    """From the folder, where the model is there."""
    if keep is None:
        return exported(module, x, exporter)
    path = keep / f"{name.replace('/', '.')}.{exporter}.onnx"
    if not path.exists():
        onnx.save(exported(module, x, exporter), path)
    return onnx.load(path)


def cells(value: NDArray[Any], axes: SpatialAxes) -> NDArray[Any]:
    """All numbers of the image's tokens or cells, sorted."""
    value = np.moveaxis(value, (axes.batch, *axes.axes), range(1 + len(axes.axes)))
    return np.sort(value[:, axes.prefix : value.shape[1] - axes.suffix] if axes.tokens else value, axis=None)


def modules_with(module: torch.nn.Module, x: torch.Tensor, value: NDArray[Any], axes: SpatialAxes) -> list[str]:
    """The modules whose output holds the same numbers, extra tokens aside; the last of them first."""
    found: list[tuple[float, str]] = []
    wanted = [np.sort(value, axis=None), cells(value, axes)]

    def compare(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            given = output.detach().numpy() if isinstance(output, torch.Tensor) else np.zeros(0)
            flat = np.sort(given, axis=None)
            differ = [float(np.abs(flat - w).max() / np.abs(w).max()) for w in wanted if w.size == flat.size]
            found.extend((difference, name) for difference in differ)

        return hook

    handles = [m.register_forward_hook(compare(name)) for name, m in module.named_modules() if name]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    least = min(found, default=(1.0, ""))[0]
    return [name for difference, name in found[::-1] if difference < min(2e-3, 2 * least + 1e-6)]


def examine(name: str, exporter: str, keep: Path | None = None) -> dict[str, str]:
    """A row of the table; exported models are kept in the folder ``keep``, if one is given."""
    row = dict.fromkeys(COLUMNS, "") | {"network": name, "exporter": exporter}
    module, size = network(name)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    row["image"] = f"{size[0]}x{size[1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = kept(module, x, name, exporter, keep)
    except Exception as error:  # torch's own, of any kind
        line = re.sub("\x1b[^m]*m", "", (str(error).splitlines() or [""])[0])
        return row | {"error": f"not exported: {type(error).__name__}: {line[:120]}"}
    try:
        known = normalized(model)
        found = candidates(known.graph, find_scores(known.graph, None).value)
    except Error as error:
        return row | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    if not found:
        return row | {"error": "no layer"}
    value, layer = found[0]
    axes = find_axes(known.graph)[value]
    cut = ir.to_proto(known.copy())
    del cut.graph.output[:]
    cut.graph.output.append(onnx.ValueInfoProto(name=layer.name))
    try:
        (there,) = Session(cut, threads=2).run({str(known.graph.inputs[0].name): x.numpy()}).values()
    except Error as error:
        return row | {"error": f"does not run: {str(error)[:200]}"}
    same = modules_with(module, x, there, axes)
    return row | {
        "layer": layer.name,
        "operator": layer.operator,
        "shape": " x ".join("?" if n is None else str(n) for n in layer.shape),
        "layout": layer.layout,
        "grid": " x ".join("?" if n is None else str(n) for n in layer.grid),
        "module": same[0] if same else "",
        "also": str(layer.why),
    }


def rows() -> dict[tuple[str, str], dict[str, str]]:
    """The rows of the file."""
    if not FILE.exists():
        return {}
    with FILE.open(newline="") as file:
        return {(row["network"], row["exporter"]): row for row in csv.DictReader(file)}


def write(found: dict[tuple[str, str], dict[str, str]]) -> None:
    """The file, in the order of the lists."""
    order = [(name, exporter) for name in names() for exporter in EXPORTERS]
    with FILE.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(found[key] for key in order if key in found)


def names() -> Iterator[str]:
    """All networks."""
    yield from (f"timm/{name}" for name in TIMM)
    yield from (f"torchvision/{name}" for name in TORCHVISION)


def alone(name: str, exporter: str, keep: Path | None = None) -> dict[str, str]:
    """As :func:`examine`, in a process of its own: what torch's exporters keep of a network is gone with it."""
    mine, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: theirs.send(examine(name, exporter, keep)))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        process.join()
        text = f"the process ended with {process.exitcode}"
        return dict.fromkeys(COLUMNS, "") | {"network": name, "exporter": exporter, "error": text}


def main() -> None:
    """All networks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="only these, as timm/resnet18, and again if the file has them")
    parser.add_argument("--exporter", choices=EXPORTERS, help="only this one")
    parser.add_argument("--keep", type=Path, help="a folder for the exported models")
    given = parser.parse_args()
    exporters = [given.exporter] if given.exporter else EXPORTERS
    for exporter in exporters:
        for name in given.networks or names():
            if not given.networks and (name, exporter) in rows():
                continue
            row = alone(name, exporter, given.keep)
            print(row["network"], exporter, row["grid"], row["module"] or row["layer"], row["error"], flush=True)
            write(rows() | {(name, exporter): row})


if __name__ == "__main__":
    main()
