# SPDX-License-Identifier: Apache-2.0
"""The batch engine: every input once, the same bytes whoever makes them, and nothing lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from chaos.__main__ import campaign
from costs import slow_but
from detectors import IMAGE, SIZE, joined
from PIL import Image

import portable_cam as pcam
from portable_cam import batch
from portable_cam.batch import engine, shard, shard_files
from portable_cam.batch.inputs import Input
from portable_cam.batch.layout import Layout
from portable_cam.batch.maps import maps_of
from portable_cam.batch.rows import done_row
from portable_cam.batch.suspects import DECODING, ENOUGH, RUNNING, Suspects
from portable_cam.batch.verify import verify
from portable_cam.batch.written import write_coco
from portable_cam.errors import InputError, OptionError

#: Every batch of this file explains the small network so.
HOW: dict[str, Any] = {"task": "classify", "preprocessing": "unit", "workers": 0, "shard_size": 4}


def drawn(seed: int, size: tuple[int, int] = (12, 9)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


@pytest.fixture(scope="module")
def model(small_cnn: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_cnn, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images in two folders, two broken ones, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "inner").mkdir()
    for i in range(9):
        drawn(i).save(folder / ("inner" if i % 3 == 0 else "") / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "short.png").write_bytes((folder / "1.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def undisturbed(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    batch.run(model, photos, folder, targets="top2", **HOW)
    return folder


def results_in(folder: Path) -> dict[str, bytes]:
    """All files of results, but for what names the model's place."""
    files = [p for part in ("table.parquet", "maps", "overlays") for p in (folder / part).rglob("*") if p.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_every_input_once_and_failures_with_their_reason(undisturbed: Path) -> None:
    results = batch.open(undisturbed)
    table = results.table().to_pylist()
    keys = sorted([f"{'inner/' if i % 3 == 0 else ''}{i}.png" for i in range(9)] + ["broken.jpg", "short.png"])
    assert [row["key"] for row in table] == keys == list(results)
    assert {row["key"] for row in table if row["status"] == "failed"} == {"broken.jpg", "short.png"}
    assert "broken.jpg is not an image" in results.failed()["broken.jpg"]
    assert all(row["status"] == "done" and row["error"] is None for row in table if row["key"][0] not in "bs")
    assert results.complete
    assert len(results) == 11
    assert not any((undisturbed / "tmp").iterdir())


def test_a_result_is_the_explanation_of_its_image(undisturbed: Path, model: Path, photos: Path) -> None:
    found = batch.open(undisturbed)["inner/3.png"]
    alone = pcam.explain(model, photos / "inner" / "3.png", targets="top2", task="classify", preprocessing="unit")
    assert found.to_dict() == alone.to_dict()
    np.testing.assert_allclose(found["gradcam"], alone["gradcam"], atol=2e-3)
    np.testing.assert_allclose(found.raw["gradcam"], alone.raw["gradcam"], rtol=2e-3, atol=1e-4)
    assert (found.image == alone.image).all()
    assert found.overlay("gradcam", 1).size == (9, 12)


def test_failed_unknown_and_unfinished_keys_are_told_apart(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"short\.png is truncated"):
        batch.open(undisturbed)["short.png"]
    with pytest.raises(OptionError, match="there is no input 'x'"):
        batch.open(undisturbed)["x"]
    part = shutil.copytree(undisturbed, tmp_path / "out")
    (part / "table.parquet" / "000000.parquet").unlink()
    with pytest.raises(OptionError, match="not finished"):
        batch.open(part)["1.png"]
    assert "1.png" not in batch.open(part)
    assert "inner/3.png" in batch.open(part)


def test_a_photo_that_is_gone_is_grey_and_said_so(model: Path, tmp_path: Path) -> None:
    drawn(0).save(tmp_path / "a.png")
    results = batch.run(model, tmp_path / "a.png", tmp_path / "out", **HOW)
    (tmp_path / "a.png").unlink()
    found = results["a.png"]
    assert found.image.shape == (12, 9, 3)
    assert any("not where it was" in note for note in found.notes)


@pytest.mark.parametrize("profile", slow_but(["paper"], ["paper", "pytorch_grad_cam", "captum"]))
def test_maps_computed_from_stored_ones_are_those_of_the_graph(
    model: Path, photos: Path, tmp_path: Path, profile: str
) -> None:
    layers = "r2" if profile == "captum" else ["r1", "r2"]
    options: dict[str, Any] = {"profile": profile, "layer": layers, "task": "classify", "preprocessing": "unit"}
    image = photos / "1.png"
    results = batch.run(model, image, tmp_path / "out", ("gradcam",), "top3", workers=0, **options)
    alone = pcam.explain(model, image, ("gradcam",), "top3", **options)
    np.testing.assert_allclose(results["1.png"]["gradcam"], alone["gradcam"], atol=2e-3)


def test_maps_that_do_not_follow_from_the_layers_are_stored_themselves(model: Path, photos: Path) -> None:
    whole = pcam.explain(model, photos / "1.png", targets="top2", task="classify", preprocessing="unit")

    def names(**changes: Any) -> list[str]:
        changed = replace(whole, result=replace(whole.result, **changes))
        return [stored.name for stored in maps_of(changed, "layer", "float16", "paper")]

    assert names() == ["raw.gradcam"]
    assert names(maps={"gradcam": whole["gradcam"][..., ::-1].copy()}) == ["gradcam"]  # laid where the raw one is not
    assert names(views={"r2": np.zeros((1, 1, 2, 3), np.float32)}) == ["gradcam"]
    assert names(placed={"gradcam": [[2, 0, [1, None]], None]}) == ["gradcam"]
    assert names(raw={"gradcam": whole.raw["gradcam"][:, :, None]}) == ["gradcam"]
    assert names(maps={"gradcam": np.zeros_like(whole["gradcam"])}) == ["raw.gradcam"]  # flat, as a flag says


@pytest.mark.parametrize(("dtype", "maps"), [("float16", "image"), ("uint8", "layer"), ("uint8", "image")])
def test_precision_of_what_is_stored(model: Path, photos: Path, tmp_path: Path, dtype: Any, maps: Any) -> None:
    methods, image = ("gradcam", "guided_backprop"), photos / "1.png"
    results = batch.run(model, image, tmp_path / "out", methods, dtype=dtype, maps=maps, **HOW)
    alone = pcam.explain(model, image, methods, task="classify", preprocessing="unit")
    for method in methods:
        extent = np.ptp(alone[method])
        step = (1 / 255 if dtype == "uint8" else 2**-11) * extent
        np.testing.assert_allclose(results["1.png"][method], alone[method], atol=1.01 * step)
    assert {np.load(path).dtype.name for path in (tmp_path / "out" / "maps").iterdir()} == {dtype}


def test_a_map_of_huge_values_or_nan_survives() -> None:
    from portable_cam.batch.maps import decode, encode

    maps = np.array([[[1e9, -3e8]], [[np.nan, 1.0]], [[0.0, 0.0]], [[1e-12, 5e-13]]], np.float32)
    for dtype in ("float16", "uint8"):
        stored = encode("raw.gradcam", maps, dtype, np.zeros(4, bool))  # type: ignore[arg-type]
        back = decode(stored.values, stored.low.tolist(), stored.scale.tolist())
        np.testing.assert_allclose(back[[0, 2, 3]], maps[[0, 2, 3]], rtol=5e-3)
        assert np.isnan(back[1]).any()


def test_boxes_of_a_detector(make_model: Any, tmp_path: Path) -> None:
    body, weights = joined(
        7, "b, s = Split<axis = 1>(z, parts) m = Mul(b, two) p = Sigmoid(s) y = Concat<axis = 1>(m, p)"
    )
    weights |= {"parts": np.array([4, 3], np.int64), "two": np.float32(2)}
    onnx.save(make_model(body, weights, IMAGE, "float[1,7,42] y"), tmp_path / "model.onnx")
    for i in range(3):
        drawn(i, SIZE).save(tmp_path / f"{i}.png")
    options: dict[str, Any] = {"labels": ["a", "b", "c"], "threshold": 0.6, "task": "detect"}
    results = batch.run(tmp_path / "model.onnx", tmp_path / "*.png", tmp_path / "out", workers=0, **options)
    assert [row["status"] for row in results.table().to_pylist()] == ["done"] * 3
    row, alone = results.row("1.png"), pcam.explain(tmp_path / "model.onnx", tmp_path / "1.png", **options)
    assert row["boxes"] == [list(np.float32(d.box)) for d in alone.details]
    assert row["probabilities"] == [np.float32(d.detection) for d in alone.details]
    assert results["1.png"].to_dict() == alone.to_dict()
    written = json.loads(write_coco(results, tmp_path / "coco.json").read_text())
    assert len(written["annotations"]) == sum(len(r["labels"]) for r in results.table().to_pylist())
    left, top, right, bottom = alone.details[0].box  # type: ignore[misc]
    first = next(a for a in written["annotations"] if a["image_id"] == 1)
    np.testing.assert_allclose(first["bbox"], [left, top, right - left, bottom - top], rtol=1e-6)


def test_an_image_in_which_nothing_is_found_is_a_result(undisturbed: Path, model: Path, photos: Path) -> None:
    whole = pcam.explain(model, photos / "1.png", task="classify", preprocessing="unit")
    none = {"scores": whole.scores[:, :0], "targets": whole.targets[:, :0], "flags": [[]], "raw": {}}
    maps = {"gradcam": whole["gradcam"][:, :0]}
    nothing = replace(whole, result=replace(whole.result, maps=maps, **none), labels=[[]], details=[])
    assert maps_of(nothing, "layer", "float16", "paper") == []
    row = done_row(Input("1.png", "1.png"), nothing, [], [])
    assert (row["status"], row["labels"], row["peaks"], row["boxes"]) == ("done", [], [], [])
    results = batch.open(undisturbed)
    again, raw = results._maps(row, (8, 8), {}, "")[::-1]
    assert (again["gradcam"].shape, raw) == ((1, 0, 8, 8), {})


# -- the same bytes, whoever makes them --------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupted_at_each_image_it_goes_on_to_the_same_bytes(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    seen = 0

    def stop(counts: Any) -> None:
        nonlocal seen
        finished = counts.before + counts.done + counts.failed
        if finished > seen:  # one more than in the run before
            seen = finished
            raise StopError

    for _ in range(40):
        try:
            batch.run(model, photos, tmp_path / "out", targets="top2", progress=stop, **HOW)
        except StopError:
            continue
        break
    assert seen == 11
    assert results_in(tmp_path / "out") == results_in(undisturbed)
    assert verify(tmp_path / "out").whole


def test_parts_of_an_array_job_make_the_whole(model: Path, photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    for i in (2, 0, 1):
        results = batch.run(model, photos, tmp_path / "out", targets="top2", shard=(i, 3), **HOW)
        assert results.complete == (i == 1)
    assert results_in(tmp_path / "out") == results_in(undisturbed)


def test_order_of_the_inputs_does_not_matter(model: Path, photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    names = [p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.suffix in {".png", ".jpg"}]
    (tmp_path / "list.txt").write_text("\n".join(str(photos / name) for name in sorted(names, key=hash)))
    batch.run(model, tmp_path / "list.txt", tmp_path / "out", targets="top2", **HOW)
    again = batch.open(tmp_path / "out").table(["scores", "status"])
    by_key = {str(photos / row["key"]): row for row in batch.open(undisturbed).table().to_pylist()}
    assert again.to_pylist() == [
        {"scores": by_key[key]["scores"], "status": by_key[key]["status"]} for key in batch.open(tmp_path / "out")
    ]


@pytest.mark.parametrize("workers", [pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)])
def test_processes_make_the_same_bytes(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    results = batch.run(model, photos, tmp_path / "out", targets="top2", **{**HOW, "workers": workers})
    assert results_in(tmp_path / "out") == results_in(undisturbed)
    assert results.progress is not None
    assert (results.progress.done, results.progress.failed) == (9, 2)


# -- nothing silently different ----------------------------------------------------------------------------------------


def test_another_model_option_or_input_is_refused(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path, small_cnn: onnx.ModelProto
) -> None:
    def again(model: Path = model, source: Any = photos, **other: Any) -> None:
        batch.run(model, source, undisturbed, **{"targets": "top2", **HOW, **other})

    before = results_in(undisturbed)
    again()
    moved = shutil.copy(model, tmp_path / "moved.onnx")
    again(Path(moved))
    again(model)
    with pytest.raises(OptionError, match="targets 'top2', not 'top3'"):
        again(targets="top3")
    with pytest.raises(OptionError, match="alignment None, not 'field'"):
        again(alignment="field")
    with pytest.raises(OptionError, match="11 inputs, and these are 3"):
        again(source=photos / "inner")
    other = onnx.ModelProto()
    other.CopyFrom(small_cnn)
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(OptionError, match="another model"):
        again(tmp_path / "other.onnx")
    assert results_in(undisturbed) == before


def test_what_lies_beside_the_model_may_not_change(model: Path, photos: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(model, tmp_path / "model.onnx"))
    beside = tmp_path / "model.preprocess.json"
    beside.write_text('{"preset": "unit"}')
    options = {**HOW, "preprocessing": None}
    batch.run(path, photos, tmp_path / "out", shard=(0, 2), **options)
    beside.write_text('{"preset": "tf"}')
    with pytest.raises(OptionError, match="begun with preprocessing"):
        batch.run(path, photos, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"dtype": "float64"}, "dtype is one of float16, uint8"),
        ({"shard": (3, 3)}, "from 0 to n - 1"),
        ({"on": "spark"}, "on is local or ray"),
        ({"overlays": "gif"}, "jpg, webp, png"),
        ({"sets": {"a": object()}}, "sets is a object"),
        ({"time_limit": 0}, "above 0"),
    ],
)
def test_impossible_options(model: Path, photos: Path, tmp_path: Path, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        batch.run(model, photos, tmp_path / "out", **{**HOW, **wrong})


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def again(out: Path, other: int) -> Any:
    """A part under the number of another."""
    return shutil.copy(out / "table.parquet" / "000001.parquet", out / "table.parquet" / f"{other:06d}.parquet")


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda out: flip(sorted((out / "maps").iterdir())[0], -1), "is not as it was written"),
    (lambda out: sorted((out / "maps").iterdir())[0].unlink(), "is missing"),
    (lambda out: flip(out / "table.parquet" / "000001.parquet", 60), "table.parquet/000001.parquet"),
    (lambda out: again(out, 2), "its keys are not those"),
    (lambda out: again(out, 9), "of no shard"),
    (lambda out: shutil.copy(out / "table.parquet" / "000001.parquet", out / "inputs.parquet"), "not the list"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[said for _, said in DAMAGES])
def test_verify_finds_damage(undisturbed: Path, tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    assert verify(out).whole
    damage(out)
    found = verify(out)
    assert not found.whole
    assert any(said in line for line in found.wrong)


def test_verify_counts_what_is_not_finished(undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "table.parquet" / "000001.parquet").unlink()
    found = verify(out)
    assert (found.missing, found.whole, found.wrong) == (4, False, [])


def test_a_part_that_is_removed_is_made_again(model: Path, photos: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "table.parquet" / "000001.parquet").unlink()
    flip(out / "maps" / "000001.raw.gradcam.4x4.npy", -1)
    batch.run(model, photos, out, targets="top2", **HOW)
    assert results_in(out) == results_in(undisturbed)


@pytest.mark.parametrize(
    "damage",
    slow_but(["torn line", "wrong maps"], ["torn line", "lost line", "torn maps", "wrong maps", "no maps", "nonsense"]),
)
def test_a_shard_that_was_left_goes_on_behind_what_is_whole(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    left: list[Path] = []

    def stop(counts: Any) -> None:
        if counts.done == 3:
            left.extend((out / "tmp" / "000000").iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.run(model, photos, out, targets="top2", progress=stop, **HOW)
    journal = out / "tmp" / "000000" / "journal.jsonl"
    maps = out / "tmp" / "000000" / "raw.gradcam.4x4.npy"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    if damage == "torn line":
        journal.write_bytes(b"".join(lines)[:-20])
    elif damage == "lost line":
        journal.write_bytes(b"".join(lines[:1]))
    elif damage == "torn maps":
        maps.write_bytes(maps.read_bytes()[:-3])
    elif damage == "wrong maps":
        flip(maps, -1)
    elif damage == "no maps":
        maps.unlink()
    else:
        journal.write_bytes(b"\x00" * 100)
    batch.run(model, photos, out, targets="top2", **HOW)
    assert results_in(out) == results_in(undisturbed)


@pytest.mark.parametrize("what", slow_but(["maps"], ["maps", "journal", "rows", "list"]))
def test_a_full_disk_stops_it_and_loses_nothing(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        places: dict[str, tuple[Any, str]] = {
            "maps": (shard_files.GrowingNpy, "append"),
            "journal": (shard_files.ShardFiles, "add"),
            "rows": (shard_files.pq, "write_table"),
            "list": (engine, "write_inputs"),
        }
        patch.setattr(*places[what], full)
        for _ in range(ENOUGH + 1):  # no image is at fault, however often it is tried
            with pytest.raises(OptionError, match=r"no room left.*goes on where it stopped"):
                batch.run(model, photos, out, targets="top2", **HOW)
    batch.run(model, photos, out, targets="top2", **HOW)
    assert results_in(out) == results_in(undisturbed)


def test_two_processes_do_not_make_the_same_shard(undisturbed: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with shard_files.ShardFiles(layout, 3, 4), pytest.raises(shard_files.TakenError):
        shard_files.ShardFiles(layout, 3, 4)
    with shard_files.ShardFiles(layout, 3, 4) as files:
        assert files.rows == {}
    with pytest.raises(shard_files.TakenError):
        shard_files.ShardFiles(Layout(undisturbed), 1, 4)


# -- images that kill --------------------------------------------------------------------------------------------------


def test_an_image_is_condemned_only_by_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "suspects"

    def after(*images: int, stage: int = DECODING, certain: bool = False) -> tuple[bool, dict[int, str]]:
        """What is known after a worker that died with these in hand: whether to be careful, and the condemned."""
        data = bytearray(path.read_bytes() if path.exists() else bytes(3 * 5))
        for i in images:
            data[i] = stage
        path.write_bytes(data)
        suspects = Suspects(path, 5, certain=certain)
        suspects.take(4, RUNNING)  # in hand when the shard is left in order, as on a full disk: no suspicion
        found = suspects.careful, suspects.condemned()
        suspects.close()
        return found

    assert after() == (False, {})
    assert after() == (False, {})
    assert after(1, 2) == (True, {})
    for _ in range(ENOUGH - 1):
        assert after(2) == (True, {})
    assert list(after(2)[1]) == [2]
    assert "explaining" in after(3, stage=RUNNING, certain=True)[1][3]
    assert list(after()[1]) == [2, 3]


CRASH = """
    import os, sys
    if "worker" in " ".join(sys.orig_argv):
        from PIL import Image
        opened = Image.open
        def open(file, *given, **more):
            if b"CRASH" in file.getvalue():
                os.abort()
            return opened(file, *given, **more)
        Image.open = open
"""


@pytest.mark.slow
def test_an_image_that_crashes_the_decoder_and_one_that_hangs_are_passed_over(
    model: Path, photos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "2crash.png").write_bytes(b"CRASH")
    os.mkfifo(folder / "4hang.png")  # nobody ever writes into it
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(CRASH))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    options = {**HOW, "workers": 2, "time_limit": 4.0, "shard_size": 20}
    results = batch.run(model, folder, tmp_path / "out", targets="top2", **options)
    failed = results.failed()
    assert set(failed) == {"broken.jpg", "short.png", "2crash.png", "4hang.png"}
    assert "died or hung while decoding" in failed["2crash.png"]
    assert "died or hung while decoding" in failed["4hang.png"]
    others = {row["key"]: row["scores"] for row in batch.open(undisturbed).table().to_pylist()}
    assert {k: v for k, v in ((r["key"], r["scores"]) for r in results.table().to_pylist()) if k in others} == others
    assert results.progress is not None
    assert results.progress.lost >= 2
    assert verify(tmp_path / "out").whole


@pytest.mark.slow
def test_a_worker_that_cannot_begin_is_an_error_and_no_endless_loop(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'worker' in ' '.join(sys.orig_argv): os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(pcam.Error, match=r"die before they begin \(exit status 7"):
        batch.run(model, photos, tmp_path / "out", **{**HOW, "workers": 1})


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_error_of_the_run(model: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(pcam.errors.LayerError, match="nowhere"):
        batch.run(model, photos, tmp_path / "out", layer="nowhere", **{**HOW, "workers": 1})


@pytest.mark.slow
def test_chaos_small(tmp_path: Path) -> None:
    """Whole: ``python tests/chaos``."""
    assert campaign(tmp_path, runs=2, images=120, seed=5) == []


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: Any) -> subprocess.CompletedProcess[str]:
        code = "from portable_cam.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False
        )

    return call


@pytest.mark.slow
def test_the_command(
    command: Callable[..., subprocess.CompletedProcess[str]], model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("batch", model, photos, "-o", out, "--task", "classify", "--preset", "unit", "--workers", 1)
    done = command(*words, "--json", "--format", "json,csv,jpg")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["done"] == 9
    assert "error: broken.jpg is not an image" in done.stderr
    assert "passed over in folders: 1 files" in done.stderr
    assert len(list((out / "overlays").rglob("*.jpg"))) == 9
    assert (out / "coco.json").exists()
    assert (out / "table.csv").exists()
    again = command(*words, "--format", "jpg")
    assert again.returncode == 1
    assert "11 were finished before" in again.stdout
    checked = command("batch", "--verify", out)
    assert (checked.returncode, "is whole" in checked.stdout) == (0, True)
    next((out / "maps").iterdir()).unlink()
    assert command("batch", "--verify", out).returncode == 1
    assert command("batch", model, photos).returncode == 2


def test_metadata_of_a_part_names_its_files(undisturbed: Path) -> None:
    part = undisturbed / "table.parquet" / "000000.parquet"
    assert list(shard_files.files_of(part)) == ["maps/000000.raw.gradcam.4x4.npy"]
    table = pq.read_table(undisturbed / "table.parquet")  # the whole folder at once, as other programs read it
    assert len(table) == 11
    assert shard.AHEAD > 0
