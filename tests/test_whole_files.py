"""Files are complete or absent, whatever happens while they are written; Ctrl-C says so in a line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from portable_cam.errors import OptionError
from portable_cam.export.read.whole_files import discard_unfinished, scratch_folder, whole_file, write_whole
from portable_cam.report.files import save

ROOT = Path(__file__).parents[1]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "before")

    def stop_halfway() -> None:
        with whole_file(path) as place:
            place.write_text("half")
            assert path.read_text() == "before"
            assert (place.parent, place.suffix) == (path.parent, ".txt")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_halfway()
    assert path.read_text() == "before"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    write_whole(path, "after")
    assert path.read_text() == "after"


def test_links_and_devices(tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    write_whole(link, "through")
    assert link.is_symlink()
    assert target.read_text() == "through"
    write_whole("/dev/null", "gone")
    assert not Path("/dev/null").is_file()


def test_a_name_that_is_hard_to_write(tmp_path: Path) -> None:
    name = "n" * 251 + ".txt"
    write_whole(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="nowhere") as error:
        write_whole("/proc/nowhere/a.txt", "x")
    assert "part" not in str(error.value)


def test_what_is_unfinished_is_removed(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.npy") as place, scratch_folder(tmp_path / "b.onnx") as folder:
        place.write_text("half")
        (folder / "weights").write_text("half")
        discard_unfinished()
        assert list(tmp_path.iterdir()) == []
        place.write_text("so that the block can end")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_a_picture_that_cannot_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the disk is full: no half of a file, and an error that names the folder."""

    def half(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OptionError, match="No space left on device"):
        save(tmp_path, "a", images={"cat.gradcam": np.zeros((4, 4, 3), np.uint8)}, formats=("png",))
    assert list(tmp_path.iterdir()) == []


#: What is interrupted: while it writes, while a library runs, and in a callback, where exceptions are printed.
MOMENTS = {
    "writing": "with whole_file('out/a.txt') as p:\n    p.write_text('half')\n    wait()",
    "in a library that catches all": "while True:\n    try:\n        wait()\n    except BaseException:\n        pass",
    "in a callback": "class A:\n    def __del__(self):\n        wait()\nA()",
    "importing": "import atexit\nwait()",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_at_any_moment(moment: str, tmp_path: Path) -> None:
    script = (
        "import time\nfrom portable_cam import cli\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(30)\n"
        "with cli._interruptible():\n"
        "    from portable_cam.export.read.whole_files import whole_file\n    "
    )
    script += MOMENTS[moment].replace("\n", "\n    ")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert list(tmp_path.rglob("*.txt")) == []
    assert list(tmp_path.rglob("*.part*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.8, 1.5, 2.5, 3.5])
def test_interrupted_while_explaining(delay: float, small_cnn: onnx.ModelProto, tmp_path: Path) -> None:
    """The command itself, with more photos than it can do in that time."""
    (tmp_path / "m.onnx").write_bytes(small_cnn.SerializeToString())
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    for i in range(200):
        os.link(tmp_path / "a.png", tmp_path / f"{i}.png")
    command = [sys.executable, "-c", "from portable_cam.cli import main; main()", "explain", "m.onnx", ".", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--format", "png,npy,json"],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.rglob("*.part*")) == []
    for path in tmp_path.glob("out/*.png"):
        with Image.open(path) as image:
            image.load()
    for path in tmp_path.glob("out/*.npy"):
        np.load(path)
