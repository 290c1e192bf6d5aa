# SPDX-License-Identifier: Apache-2.0
"""How the batch engine's folder grows: ``python -m benchmarks.batch_store keys --count 1000000``.

``keys`` fills a folder with made-up rows and maps through the engine's own files, and times writing, what a resumed run
does before its first image, opening, and looking up keys, at a tenth of the count and at all of it. ``stores`` writes
and reads the same maps as NPY files and as Zarr arrays (needs zarr). ``memory`` runs the engine on tiny images
and a tiny network and prints the resident memory of its processes (needs psutil).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx.parser
from PIL import Image

from portable_cam import assets, batch
from portable_cam.batch.inputs import Inputs, digest, listing, to_parquet
from portable_cam.batch.job import Job
from portable_cam.batch.layout import Layout, put
from portable_cam.batch.shard_files import ShardFiles
from portable_cam.batch.verify import verify
from portable_cam.export.read.load import fingerprint

GRID = (7, 7)
SHARD = 256


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = perf_counter()
    found = work()
    return perf_counter() - start, found


def report(**figures: Any) -> None:
    """A line of JSON."""
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in figures.items()}), flush=True)


def made_up(key: str, maps: np.ndarray, offset: int, shard: int) -> dict[str, Any]:
    """A row as the engine writes it."""
    place = {
        "name": "raw.gradcam",
        "file": f"maps/{shard:06d}.raw.gradcam.7x7.npy",
        "offset": offset,
        "count": len(maps),
        "low": [0.0],
        "scale": [1.0],
        "flat": [False],
    }
    record = json.dumps({"task": "classify", "layer": "layer4", "top": [["tabby", 0.5]] * 5})
    row = {"key": key, "status": "done", "error": None, "width": 500, "height": 375, "preprocessing": "RGB 224x224"}
    row |= {"targets": [1], "labels": ["tabby"], "scores": [9.5], "probabilities": [0.5], "flags": [[]]}
    return row | {
        "peaks": [[3.5, 3.5]],
        "boxes": [None],
        "shares": [None],
        "maps": [place],
        "overlays": [],
        "record": record,
    }


def fill(layout: Layout, count: int) -> float:
    """A finished folder of so many keys; seconds for the shards."""
    table = listing({"key": f"{i % 1000:03d}/{i:07d}.jpg", "url": f"/nowhere/{i:07d}.jpg"} for i in range(count))
    put(layout.inputs, to_parquet(table, SHARD))
    job = Job(str(assets.model()), fingerprint(assets.model()), "classify", ["gradcam"], shard_size=SHARD)
    Job(**{**vars(job), "inputs": count, "digest": digest(table)}).begin(layout)
    inputs, numbers = Inputs(layout.inputs), np.random.default_rng(0)
    start = perf_counter()
    for shard in range(inputs.shards):
        keys = inputs.keys(shard)
        with ShardFiles(layout, shard, len(keys)) as files:
            maps = numbers.random((len(keys), 1, *GRID)).astype(np.float16)
            rows = {i: made_up(key, maps[i], i, shard) for i, key in enumerate(keys)}
            files.add(rows, {"raw.gradcam.7x7.npy": list(maps)}, {})
            files.commit()
    return perf_counter() - start


def keys(count: int) -> None:
    """Times at a tenth of the count, and at all of it."""
    for number in (count // 10, count):
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(Path(folder) / "out")
            seconds = fill(layout, number)
            opening, results = timed(lambda layout=layout: batch.open(layout.root))
            chosen = random.Random(0).sample(range(number), 200)
            wanted = [f"{i % 1000:03d}/{i:07d}.jpg" for i in chosen]
            looking, _ = timed(lambda results=results, wanted=wanted: [results.row(key) for key in wanted])
            finished, done = timed(layout.finished)
            failing, _ = timed(results.failed)
            checking, verdict = timed(lambda layout=layout: verify(layout.root))
            report(
                keys=number,
                write_ms_per_1000=seconds / number * 1e6,
                open_s=opening,
                row_ms=looking / 200 * 1e3,
                list_finished_s=finished,
                read_status_s=failing,
                verify_s=checking,
                whole=verdict.whole,
                shards=len(done),
            )


def resume(count: int) -> None:
    """A real listing of so many files, all of whose shards but the last are finished: until the run is done."""
    with tempfile.TemporaryDirectory() as folder:
        photos, layout = Path(folder) / "photos", Layout(Path(folder) / "out")
        picture = Path(folder) / "one.png"
        Image.new("RGB", (8, 8)).save(picture)
        for i in range(count):
            place = photos / f"{i % 1000:03d}" / f"{i:07d}.png"
            if i < 1000:
                place.parent.mkdir(parents=True)
            place.hardlink_to(picture) if i % 50_000 else shutil.copy(picture, place)
            if not i % 50_000:
                picture = place  # a file system allows so many links to a file
        how: dict[str, Any] = {"task": "classify", "workers": 0, "methods": ("gradcam",)}
        last = -(-count // SHARD) - 1
        batch.run(assets.model(), photos, layout.root, shard=(last, last + 1), **how)
        part = layout.part(last).read_bytes()
        for shard in range(last):
            layout.part(shard).write_bytes(part)
        layout.part(last).unlink()
        seconds, _ = timed(lambda: batch.run(assets.model(), photos, layout.root, **how))
        report(resume_keys=count, seconds=seconds)


def stores(count: int) -> None:
    """The same maps as NPY files and as Zarr arrays, a shard of 256 in each file."""
    import zarr

    maps = np.random.default_rng(0).random((count, *GRID)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def npy() -> None:
            for start in range(0, count, SHARD):
                np.save(root / f"{start}.npy", maps[start : start + SHARD])

        def arrays(name: str, chunk: int, shard: int | None) -> Callable[[], Any]:
            def write() -> Any:
                whole = zarr.create_array(
                    root / name,
                    shape=maps.shape,
                    dtype=maps.dtype,
                    chunks=(chunk, *GRID),
                    shards=None if shard is None else (shard, *GRID),
                )
                for start in range(0, count, SHARD):
                    whole[start : start + SHARD] = maps[start : start + SHARD]
                return whole

            return write

        chosen = random.Random(0).sample(range(count), 300)
        writing, _ = timed(npy)
        reading, _ = timed(
            lambda: [np.load(root / f"{i - i % SHARD}.npy", mmap_mode="r")[i % SHARD].sum() for i in chosen]
        )
        report(store="NPY", write_s=writing, read_ms=reading / len(chosen) * 1e3, bytes=size_of(root, "*.npy"))
        for name, chunk, shard in (("zarr", SHARD, None), ("zarr sharded", 1, SHARD)):
            writing, whole = timed(arrays(name, chunk, shard))
            reading, _ = timed(lambda whole=whole: [whole[i].sum() for i in chosen])
            report(store=name, write_s=writing, read_ms=reading / len(chosen) * 1e3, bytes=size_of(root / name, "**/*"))


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of files."""
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def memory(count: int) -> None:
    """Resident memory of all processes, each tenth of the way."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for i in range(100):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(photos / f"{i}.png")
        (photos / "list.txt").write_text("\n".join(f"{i % 100}.png" for i in range(count)))
        seen = [-1]

        def tell(counts: Any) -> None:
            tenth = 10 * (counts.done + counts.failed) // count
            if tenth > seen[-1]:
                seen.append(tenth)
                me = psutil.Process()
                sizes = [process.memory_info().rss for process in (me, *me.children(recursive=True))]
                report(done=counts.done, megabytes=[round(size / 2**20) for size in sizes], per_second=counts.rate)

        weights = ", ".join(f"{v:.3f}" for v in np.random.default_rng(0).standard_normal(216))
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> small (float[N,3,32,32] x) => (float[N,8] y) '
            f"<float[8,3,3,3] w = {{{weights}}}> "
            "{ c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p) }"
        )
        how: dict[str, Any] = {"task": "classify", "preprocessing": "unit", "workers": 2}
        batch.run(model, photos / "list.txt", Path(folder) / "out", progress=tell, **how)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="How the batch engine's folder grows.")
    parser.add_argument("what", choices=("keys", "resume", "stores", "memory"))
    parser.add_argument("--count", type=int, default=1_000_000)
    given = parser.parse_args()
    {"keys": keys, "resume": resume, "stores": stores, "memory": memory}[given.what](given.count)


if __name__ == "__main__":
    main()
