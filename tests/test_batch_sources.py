# SPDX-License-Identifier: Apache-2.0
"""Sources of a batch: each gives the same images under keys of its own, in an order that is its own, too."""

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from portable_cam.batch import containers
from portable_cam.batch.given import keep
from portable_cam.batch.inputs import Input, Inputs, digest, listing, to_parquet
from portable_cam.batch.layout import Layout
from portable_cam.batch.sources import Sources
from portable_cam.errors import ImageError, OptionError
from portable_cam.image.decode import read_image

NAMES = ("a.png", "b/c.png", "b/d.PNG", "e.webp")
PIXELS = {name: np.random.default_rng(i).integers(0, 256, (5, 7, 3), np.uint8) for i, name in enumerate(NAMES)}


def encoded(name: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PIXELS[name]).save(sink, "WEBP" if name.endswith("webp") else "PNG", lossless=True)
    return sink.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(name))
    (tmp_path / "photos" / "b" / "notes.md").write_text("-")
    (tmp_path / "photos" / ".hidden.png").write_text("-")
    return tmp_path / "photos"


def of_folder(folder: Path) -> tuple[Any, list[str]]:
    return folder, sorted(NAMES)


def of_glob(folder: Path) -> tuple[Any, list[str]]:
    return f"{folder}/**/*.[pPw]*", sorted(NAMES)


def of_several(folder: Path) -> tuple[Any, list[str]]:
    return [folder / "b", folder / "a.png", folder / "e.webp"], ["a.png", "c.png", "d.PNG", "e.webp"]


def of_text(folder: Path) -> tuple[Any, list[str]]:
    (folder / "list.txt").write_text("\n".join(reversed(NAMES)) + "\n\n")
    return folder / "list.txt", sorted(NAMES)


def of_csv(folder: Path) -> tuple[Any, list[str]]:
    rows = [f"{i},{name},{'top2' if i else ''}" for i, name in enumerate(NAMES)]
    (folder / "list.csv").write_text("\n".join(["id,path,targets", *rows]))
    return folder / "list.csv", list("0123")


def of_parquet_paths(folder: Path) -> tuple[Any, list[str]]:
    table = pa.table({"file_name": list(NAMES), "targets": [[1, 2], [3], None, [4]]})
    pq.write_table(table, folder / "list.parquet")
    return folder / "list.parquet", sorted(NAMES)


def of_parquet_bytes(folder: Path) -> tuple[Any, list[str]]:
    cells = [{"bytes": encoded(name), "path": name} for name in NAMES]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 2, 3]}), folder / "images.parquet", row_group_size=3)
    return folder / "images.parquet", [f"images.parquet/{i:07d}" for i in range(4)]


def of_arrow(folder: Path) -> tuple[Any, list[str]]:
    """As ``datasets`` saves to disk."""
    place = folder / "dataset"
    place.mkdir()
    (place / "state.json").write_text("{}")
    table = pa.table({"img": [{"bytes": encoded(name), "path": None} for name in NAMES]})
    with (
        pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    return place, [f"data-00000-of-00001.arrow/{i:07d}" for i in range(4)]


def of_tar(folder: Path) -> tuple[Any, list[str]]:
    """As WebDataset has it: a key is all in front of the first dot."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i, name in enumerate(NAMES):
            for suffix, data in ((Path(name).suffix.lower(), encoded(name)), (".cls", b"3"), (".json", b"{}")):
                member = tarfile.TarInfo(f"x/{i:03d}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "shard.tar", [f"x/{i:03d}" for i in range(4)]


def of_fsspec(folder: Path) -> tuple[Any, list[str]]:
    system = fsspec.filesystem("memory")
    for name in NAMES:
        system.pipe(f"/photos/{name}", encoded(name))
    return "memory://photos", sorted(NAMES)


@pytest.mark.parametrize(
    "source",
    [of_folder, of_glob, of_several, of_text, of_csv, of_parquet_paths, of_parquet_bytes, of_arrow, of_tar, of_fsspec],
)
def test_each_source_gives_each_image_under_its_key(
    folder: Path, source: Callable[[Path], tuple[Any, list[str]]]
) -> None:
    named, keys = source(folder)
    found = Sources().find(named if isinstance(named, list) else [named])
    inputs = [Input(**row) for row in found.table.to_pylist()]
    assert [given.key for given in inputs] == keys
    images = [read_image(containers.read(given, folder)) for given in inputs]
    wanted = [PIXELS[name] for name in NAMES]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in wanted)


def test_files_that_are_no_images_are_counted(folder: Path) -> None:
    assert Sources().find([folder]).skipped == {".md": 1}


def test_a_folder_is_read_whole_but_for_results_and_links(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "overlay.png").write_bytes(encoded("a.png"))
    (folder / "b" / "back").symlink_to(folder)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded("a.png"))
    found = Sources(without=folder / "out").find([folder])
    inputs = [Input(**row) for row in found.table.to_pylist()]
    assert [given.key for given in inputs] == ["a.png", "b/c.png", "b/d.PNG", "caf\\xe9.png", "e.webp"]
    assert (read_image(containers.read(inputs[3], folder)) == PIXELS["a.png"]).all()
    assert found.skipped == {".md": 1, "linked folder": 1}


def test_targets_and_options_of_single_images(folder: Path) -> None:
    lines = ["path,target,question,region", 'a.png,"tabby, 3",what is it?,"1,2,3,4"', "b/c.png,,,"]
    (folder / "list.csv").write_text("\n".join(lines))
    first, second = (
        Input(**row) for row in Sources({"question", "region"}).find([folder / "list.csv"]).table.to_pylist()
    )
    assert first.own_targets == "tabby, 3"
    assert first.own_asked == {"question": "what is it?", "region": [1.0, 2.0, 3.0, 4.0]}
    assert (second.own_targets, second.own_asked) == (None, {})


@pytest.mark.parametrize("kind", ["arrays", "pairs", "bytes", "generator", "mapping", "PIL", "paths"])
def test_objects_are_kept_in_the_folder(tmp_path: Path, folder: Path, kind: str) -> None:
    images: Any = {
        "arrays": list(PIXELS.values()),
        "pairs": list(PIXELS.items()),
        "bytes": [(name, encoded(name)) for name in NAMES],
        "generator": (pixels for pixels in PIXELS.values()),
        "mapping": PIXELS,
        "PIL": [Image.fromarray(pixels) for pixels in PIXELS.values()],
        "paths": [(name, folder / name) for name in NAMES],
    }[kind]
    found = keep(images, Layout(tmp_path / "out"))
    inputs = [Input(**row) for row in found.table.to_pylist()]
    assert len(inputs) == 4
    back = {given.key: read_image(containers.read(given, tmp_path / "out")) for given in inputs}
    for (key, image), name in zip(sorted(back.items()), sorted(NAMES), strict=True):
        assert (image == PIXELS[name]).all()
        assert key == (name if kind in {"pairs", "bytes", "mapping", "paths"} else f"{NAMES.index(name):08d}")


def test_what_cannot_be_read_says_so(folder: Path, tmp_path: Path) -> None:
    def fails(source: Any, match: str) -> None:
        with pytest.raises(OptionError, match=match):
            Sources().find([source])

    fails(folder / "nowhere", "there is no file or folder")
    fails(folder / "*.bmp", "no file fits")
    (folder / "x.tar.gz").write_bytes(b"")
    fails(folder / "x.tar.gz", "unpack it")
    (folder / "x.tar").write_bytes(b"no tar file at all" * 90)
    fails(folder / "x.tar", "no tar file, or is damaged")
    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    fails(folder / "x.parquet", "its columns are a")
    (folder / "x.csv").write_text("a,b\n1,2\n")
    fails(folder / "x.csv", "has no column of paths")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.doc").write_text("")
    fails(tmp_path / "empty", r"no image was found \(1 x .doc")
    with pytest.raises(OptionError, match="empty"):
        keep([], Layout(tmp_path / "out"))


def test_a_container_that_is_cut_off_fails_by_the_image(folder: Path) -> None:
    path, _ = of_tar(folder)
    last = Input(**Sources().find([path]).table.to_pylist()[-1])
    path.write_bytes(path.read_bytes()[: (last.offset or 0) + 20])
    with pytest.raises(ImageError, match="ends before it does"):
        containers.read(last, folder)
    path.unlink()
    with pytest.raises(ImageError, match="cannot read x/003"):
        containers.read(last, folder)


@given(st.lists(st.sampled_from(["a", "b", "a#2", "b/c", "ü", "a#3"]), min_size=1, max_size=9), st.randoms())
def test_keys_are_unique_and_independent_of_the_order(keys: list[str], order: random.Random) -> None:
    rows = [{"key": key, "url": f"/{i}"} for i, key in enumerate(keys)]
    shuffled = order.sample(rows, len(rows))
    first, second = listing(rows), listing(shuffled)
    assert first == second
    assert digest(first) == digest(second)
    named = first["key"].to_pylist()
    assert len(set(named)) == len(keys)
    assert set(keys) <= set(named)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), min_size=1, max_size=30, unique=True))
def test_each_key_is_found_in_its_shard(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    path = tmp_path_factory.mktemp("list") / "inputs.parquet"
    table = listing({"key": key, "url": key} for key in keys)
    path.write_bytes(to_parquet(table, 4))
    inputs = Inputs(path)
    assert inputs.shards == -(-len(keys) // 4)
    for key in keys:
        shard, place = inputs.find(key) or (-1, -1)
        assert inputs.shard(shard)[place].key == key
    assert inputs.find("no such key") is None
    import pyarrow.parquet

    assert digest(pyarrow.parquet.read_table(path)) == digest(table)
