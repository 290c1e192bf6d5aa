# SPDX-License-Identifier: Apache-2.0
"""Batches that are disturbed: ``python tests/chaos --runs 200 --images 500``.

Each run explains the same images into a folder of its own, again and again until nothing is left to do. Meanwhile, at
random moments drawn from the run's number, all of its processes are killed, one of its workers is, or its files may
not grow any more, as on a full disk. What is in the folder in the end must be, byte for byte, what an undisturbed run
makes. Whatever differs is listed, and is exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from PIL import Image

from portable_cam import batch
from portable_cam.batch.verify import verify

ROOT = Path(__file__).parents[2]
SIDE = 24  # pixels
#: Disturbances of a run, after which it is left alone.
MOST = 6
KINDS = ("kill all", "kill worker", "full disk")
#: One image in so many is broken.
BROKEN = 20
COMMAND = (
    "import sys; from portable_cam import batch; a = sys.argv; "
    "batch.run(a[1], a[2], a[3], targets='top2', task='classify', preprocessing='unit', workers=2, "
    "shard_size=int(a[4]))"
)


def draw(folder: Path, images: int) -> tuple[Path, Path]:
    """A small network and a folder of images, some of them broken."""
    numbers = np.random.default_rng(0)
    text = f"""<ir_version: 8, opset_import: ["": 17]> small (float[N,3,{SIDE},{SIDE}] x) => (float[N,10] y) {{
        c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1) r = Relu(c) d = Conv<pads = [1, 1, 1, 1]>(r, w2)
        s = Relu(d) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB = 1>(f, w3) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w1", (16, 3, 3, 3)), ("w2", (16, 16, 3, 3)), ("w3", (10, 16))):
        weight = numbers.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, folder / "model.onnx")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(images):
        path = photos / f"{i:05d}.png"
        Image.fromarray(numbers.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        if i % BROKEN == 7:
            path.write_bytes(path.read_bytes()[: int(numbers.integers(0, 900))])
    return folder / "model.onnx", photos


def contents(folder: Path) -> dict[str, bytes]:
    """What a run leaves: tables and maps."""
    files = [path for part in ("table.parquet", "maps") for path in (folder / part).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def workers_of(parent: int) -> list[int]:
    """The processes begun by another."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    with contextlib.suppress(OSError):
        return [int(child) for child in children.read_text().split()]
    return []


def disturbed(model: Path, photos: Path, out: Path, shard_size: int, drawn: random.Random) -> Counter[str]:
    """Run until it is done; what was done to it."""
    done: Counter[str] = Counter()
    command = [sys.executable, "-c", COMMAND, str(model), str(photos), str(out), str(shard_size)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for turn in range(MOST + 1):
        kind = drawn.choice(KINDS) if turn < MOST else ""
        limit = drawn.randrange(1000, 12_000) if kind == "full disk" else None

        def limited(limit: int | None = limit) -> None:
            if limit is not None:  # a file beyond it is an error, as one on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=limited
        )
        while kind.startswith("kill") and process.poll() is None:
            time.sleep(drawn.uniform(0.05, 4.0))
            children = workers_of(process.pid)
            if kind == "kill all":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                    done[kind] += 1
                break
            if children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(drawn.choice(children), signal.SIGKILL)
                    done[kind] += 1
            if done[kind] % 4 == 3:
                break
        status = process.wait()
        if kind == "full disk":
            done["full disk" if status else "unhurt"] += 1
        if not status:
            return done
    raise AssertionError(f"left alone it ended with status {status}")


def campaign(folder: Path, runs: int, images: int, seed: int = 0, shard_size: int = 32) -> list[str]:
    """All runs; what differs."""
    model, photos = draw(folder, images)
    undisturbed = folder / "undisturbed"
    batch.run(
        model,
        photos,
        undisturbed,
        targets="top2",
        task="classify",
        preprocessing="unit",
        workers=0,
        shard_size=shard_size,
    )
    wanted, wrong, done = contents(undisturbed), [], Counter[str]()
    for run in range(runs):
        out = folder / f"run{run}"
        try:
            done += disturbed(model, photos, out, shard_size, random.Random(seed + run))
        except AssertionError as error:
            wrong.append(f"run {seed + run}: {error}")
            continue
        found = contents(out)
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        verdict = verify(out)
        if differing or not verdict.whole:
            wrong.append(f"run {seed + run}: {', '.join(differing[:3])} {verdict}")
        elif len(verdict.wrong) == 0:
            subprocess.run(["rm", "-r", str(out)], check=True)
        print(json.dumps({"run": seed + run, "disturbances": done, "differing": len(wrong)}), file=sys.stderr)
    return wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Batches that are disturbed at random.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-size", type=int, default=32)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = campaign(Path(folder), given.runs, given.images, given.seed, given.shard_size)
    for line in wrong:
        print(line)
    print(f"{given.runs} runs of {given.images} images: {len(wrong)} differ from the undisturbed run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
