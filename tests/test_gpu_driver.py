# SPDX-License-Identifier: Apache-2.0
"""Kernels without torch: compiled ahead of time with no GPU, launched through a driver library that records calls."""

import ctypes
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from portable_cam.errors import DeviceError, InputError
from portable_cam.kernels import cubins, launch
from portable_cam.kernels.array import Array
from portable_cam.kernels.cubins import Cubins, all_variants, expected_parameters
from portable_cam.kernels.driver import Binary, Driver
from portable_cam.kernels.launch import Variant

ROOT = Path(__file__).parents[1]


class FakeCuda:
    """A driver library for a machine with two GPUs of compute capability 9.0."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fails: str | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            if name == self.fails:
                return 719
            out = arguments[0]._obj if arguments and hasattr(arguments[0], "_obj") else None
            if name == "cuDeviceGetCount":
                out.value = 2
            elif name == "cuDeviceGetAttribute":
                out.value = {75: 9, 76: 0}[arguments[1]]
            elif name == "cuGetErrorString":
                arguments[1]._obj.value = b"unspecified launch failure"
            elif out is not None:
                out.value = 1000 + len(self.calls)
            return 0

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


def array(pointer: int = 4096) -> Array:
    return Array(pointer, (4,), "float32", (1,))


def test_driver() -> None:
    cuda = FakeCuda()
    driver = Driver(1, cuda)
    assert driver.capability == 90
    assert [name for name, _ in cuda.calls[:2]] == ["cuInit", "cuDeviceGetCount"]
    assert cuda.named("cuDeviceGet")[0][1] == 1
    stream = driver.new_stream()
    assert stream > 0
    assert cuda.named("cuStreamCreate")[0][1] == 1  # CU_STREAM_NON_BLOCKING
    driver.copy_from_host(64, 128, 12, stream)
    to, source, size, on = cuda.named("cuMemcpyHtoDAsync_v2")[0]
    assert (to.value, source.value, size.value, on.value) == (64, 128, 12, stream)
    driver.copy_to_host(64, 128, 12, stream)
    driver.copy(64, 128, 12, stream)
    driver.synchronize(stream)
    driver.wait(7, stream)
    recorded, waited = cuda.named("cuEventRecord")[0], cuda.named("cuStreamWaitEvent")[0]
    assert recorded[0].value == waited[1].value
    assert (recorded[1].value, waited[0].value) == (stream, 7)
    assert len(cuda.named("cuEventDestroy_v2")) == 1


def test_launch_packs_arguments() -> None:
    cuda = FakeCuda()
    driver = Driver(0, cuda)
    binary = Binary("overlay", b"code", ("*fp32", "i32", "fp32", "*u8"), 4, 50_000)
    packed: list[Any] = []

    def record(handle: Any, *rest: Any) -> int:
        addresses = rest[8]
        kinds = (ctypes.c_uint64, ctypes.c_int32, ctypes.c_float, *[ctypes.c_uint64] * 3)
        assert len(addresses) == len(kinds)
        packed.append([kind.from_address(a).value for kind, a in zip(kinds, addresses, strict=True)])
        packed.append((handle.value, *rest[:7], rest[7].value, rest[9]))
        return 0

    cuda.cuLaunchKernel = record  # type: ignore[method-assign]
    driver.launch(binary, (3, 2), [array(4096), -5, 0.5, array(1 << 40)], 77)
    assert packed[0] == [4096, -5, 0.5, 1 << 40, 0, 0]
    assert packed[1][1:] == (3, 2, 1, 128, 1, 1, 50_000, 77, None)
    assert cuda.named("cuModuleLoadData")[0][1] == b"code"
    assert cuda.named("cuModuleGetFunction")[0][2] == b"overlay"
    assert cuda.named("cuFuncSetAttribute")[0][1:] == (8, 50_000)
    driver.launch(binary, (1,), [array(), 1, 1.0, array()], 77)
    assert len(cuda.named("cuModuleLoadData")) == 1
    with pytest.raises(InputError, match="not at a multiple of 16"):
        driver.launch(binary, (1,), [array(4100), 1, 1.0, array()], 77)


def test_driver_errors() -> None:
    with pytest.raises(DeviceError, match="there is no GPU 2: the driver has 2"):
        Driver(2, FakeCuda())
    cuda = FakeCuda()
    driver = Driver(0, cuda)
    cuda.fails = "cuStreamSynchronize"
    with pytest.raises(DeviceError, match="cuStreamSynchronize failed with error 719: unspecified launch failure"):
        driver.synchronize(0)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable_cam.kernels.driver._LIBRARY", "libnothing.so.7")
    with pytest.raises(DeviceError, match="there is no NVIDIA driver"):
        Driver()


def test_types_are_packed_as_declared() -> None:
    assert expected_parameters(("*fp16", "i32", "fp32")) == ("u64", "u32", "f32", "u64", "u64")


def test_variants_have_names_of_their_own() -> None:
    variants = list(all_variants())
    assert len({v.name for v in variants}) == len(variants)
    assert launch.type_of(True) == "i32"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels compiled by the command, in a process of its own: in this one Triton interprets them."""
    pytest.importorskip("triton")
    path = tmp_path_factory.mktemp("cubins") / "cubins.zip"
    code = (
        "import sys; from portable_cam.kernels.compile import main; main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    arguments = ["-o", str(path), "--arch", "75", "90", "--only", "overlay", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8 kernels" in done.stdout
    return path


def overlay_variant() -> Variant:
    return next(v for v in all_variants() if v.kernel == "overlay.overlay")


@pytest.mark.slow
def test_compiled_ahead(compiled: Path) -> None:
    variant = overlay_variant()
    binary = Cubins(90, compiled)[variant]
    assert binary.cubin[:4] == b"\x7fELF"
    assert (binary.name, binary.types, binary.warps) == ("overlay", variant.types, 4)
    assert Cubins(75, compiled)[variant].cubin != binary.cubin
    with zipfile.ZipFile(compiled) as file:
        manifest = json.loads(file.read("manifest.json"))
    assert manifest["source"] == cubins.source_hash()


@pytest.mark.slow
def test_an_overlay_is_rounded_as_numpy_does() -> None:
    """No product and sum become one operation, which would round once; elsewhere they may."""
    pytest.importorskip("triton")
    code = """
import triton
from portable_cam.kernels import cubins
compiled = triton.compile
def counted(*arguments, **options):
    made = compiled(*arguments, **options)
    print(made.asm["ptx"].count("fma."))
    return made
triton.compile = counted
for kernel in ("overlay.overlay", "upsample.upsample"):
    cubins.compile_variant(next(v for v in cubins.all_variants() if v.kernel == kernel), 90)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    overlay, upsample = map(int, done.stdout.split())
    assert overlay == 0
    assert upsample > 0


@pytest.mark.slow
def test_the_nearest_architecture(compiled: Path) -> None:
    entry = Cubins(90, compiled)._entry(overlay_variant())
    assert entry is not None
    assert entry["file"].endswith("sm_90.cubin")
    for capability in (70, 86, 97, 100):  # before the first, of another family, later but compiled for 9.0a, after all
        assert Cubins(capability, compiled)._entry(overlay_variant()) is None
    runs = [(a, c) for a in (75, 80, 90, 100) for c in (75, 80, 86, 89, 90, 97, 100, 103) if cubins._runs_on(a, c)]
    assert runs == [(75, 75), (80, 80), (80, 86), (80, 89), (90, 90), (100, 100)]


@pytest.mark.slow
def test_not_compiled_for_this_gpu(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="TRITON_INTERPRET is set"):
        Cubins(100, compiled)[overlay_variant()]
    monkeypatch.setattr(cubins, "find_spec", lambda name: None)
    assert not Cubins(90, compiled).available
    with pytest.raises(DeviceError, match="Triton, which is not installed"):
        Cubins(100, compiled)[overlay_variant()]
    monkeypatch.setattr(cubins, "all_variants", lambda: iter([overlay_variant()]))
    assert Cubins(90, compiled).available
    monkeypatch.setenv(cubins.ENVIRONMENT, str(compiled))
    assert Cubins(90).available


def test_a_file_that_does_not_fit(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK?")
    for path in (broken, tmp_path / "missing.zip"):
        with pytest.raises(DeviceError, match="cannot be read"):
            Cubins(90, path)
    monkeypatch.setattr(cubins, "source_hash", lambda: "other")
    with pytest.raises(DeviceError, match="compiled from other sources"):
        Cubins(90, compiled)


@pytest.mark.slow
def test_every_kernel_compiles() -> None:
    """Interpreted kernels may use what Triton's compiler refuses; and the launcher packs what the PTX declares, which
    is checked as they are compiled. One variant of each kernel, and those that are not compiled ahead of time."""
    pytest.importorskip("triton")
    code = """
import json

from portable_cam.kernels import cam
from portable_cam.kernels.cubins import all_variants, compile_variant
from portable_cam.kernels.launch import Variant

chosen = list({v.kernel: v for v in all_variants()}.values())
floats = ("*fp32",) * 3
for method in cam.METHODS:
    constants = (("METHOD", method), ("CHANNELS_LAST", True), ("ALIGNED", True), ("BLOCK_C", 32), ("BLOCK_P", 64))
    chosen.append(Variant("cam.weighted_sum", (*floats, *["i32"] * 9, "fp32"), constants))
    if method in cam.MEANS:
        chosen.append(Variant("cam.channel_weights", (*floats, *["i32"] * 8, "fp32"), constants))
types = ("*bf16", "*fp32", "*fp32", "i32", "i32", "i32", "fp32", "fp32")
chosen.append(Variant("moments.update_moments", types, (("FIRST", False), ("ALIGNED", True), ("BLOCK", 1024))))
for variant in chosen:
    assert compile_variant(variant, 90).cubin
print(json.dumps(sorted({v.kernel for v in chosen})))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    launched = {
        kernel
        for path in (ROOT / "kernels").glob("*.py")
        for kernel in re.findall(r'run\(\s*[\w.]+,\s*"(\w+\.\w+)"', path.read_text(encoding="utf-8"))
    }
    assert set(json.loads(done.stdout)) == launched
    assert len(launched) == 10


def test_streams_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from portable_cam.runtime.gpu import Cuda, device

    cuda = FakeCuda()
    monkeypatch.setattr(device, "Driver", lambda index: Driver(index, cuda))
    monkeypatch.setattr(device, "_STREAMS", {})
    first, second = device.CudaDevice(Cuda()), device.CudaDevice(Cuda())
    assert first.stream == second.stream
    assert len(cuda.named("cuStreamCreate")) == 1
    assert device.CudaDevice(Cuda(index=1)).stream != first.stream
    assert device.CudaDevice(Cuda(stream=0)).stream == 1
    cuda.calls.clear()
    first.enter()  # ours waits for the default stream
    first.hand_to(None)  # the default stream waits for ours
    first.hand_to(first.stream)
    assert [
        (to.value, before.value)
        for (to, *_), (_, before) in zip(cuda.named("cuStreamWaitEvent"), cuda.named("cuEventRecord"), strict=True)
    ] == [(first.stream, 1), (1, first.stream)]
    provider, host = first.providers(cuda_graphs=True)
    assert provider[1]["user_compute_stream"] == str(first.stream)
    assert host == "CPUExecutionProvider"
    assert device.has_kernels(first) == Cubins(90).available
