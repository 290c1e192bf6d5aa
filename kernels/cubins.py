"""Compiled kernels: made by Triton without a GPU, kept in one file, found by variant and architecture.

The file is a zip with a ``manifest.json`` and a cubin for each variant and architecture. A cubin runs on its
architecture and, before 9.0, on later ones of the same major number. ``PORTABLE_CAM_CUBINS`` names the file; without it
the one beside this module is taken, if somebody put one there. A variant that is not in it is compiled on the spot
where Triton is installed (torch is not needed for that).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from portable_cam.errors import DeviceError
from portable_cam.kernels import cam, guided, moments, overlay, upsample
from portable_cam.kernels.driver import PARAMETERS, POINTER, SCRATCH, Binary
from portable_cam.kernels.launch import Variant
from portable_cam.spelling import installing

ARCHITECTURES = (75, 80, 90, 100, 120)
ENVIRONMENT = "PORTABLE_CAM_CUBINS"
BESIDE = Path(__file__).parent / "cubins.zip"
_MANIFEST = "manifest.json"
_ENTRY = re.compile(r"\.visible \.entry \w+\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param \.(\w+)")


@dataclass(frozen=True)
class Compiled:
    """What Triton made of a variant: the machine code, its entry point, and the parameters that its PTX declares."""

    name: str
    cubin: bytes
    shared: int
    parameters: tuple[str, ...]


def all_variants() -> Iterator[Variant]:
    """The variants that explanations need."""
    for module in (cam, upsample, guided, overlay, moments):
        yield from module.variants()


def source_hash() -> str:
    """Changes whenever a kernel does."""
    digest = sha256()
    for path in sorted((Path(__file__).parent / "jit").glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def expected_parameters(types: Sequence[str]) -> tuple[str, ...]:
    """What the launcher packs for these arguments, in PTX's names."""
    return (*(PARAMETERS.get(kind, POINTER)[0] for kind in types), *(POINTER[0],) * SCRATCH)


def compile_variant(variant: Variant, architecture: int) -> Compiled:
    """Compile for an architecture (90 for sm_90), with no GPU and no torch.

    Raises:
        DeviceError: Triton is not installed or interprets kernels, or its parameters are not those that the launcher
            packs.
    """
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")  # a quarter of the size
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if find_spec("triton") is None:
        raise DeviceError(f"kernels are compiled by Triton, which is not installed: {installing('gpu')}")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = variant.function()
    if not isinstance(function, triton.runtime.JITFunction):
        raise DeviceError("Triton interprets kernels in this process (TRITON_INTERPRET is set), so it compiles none")
    names = function.arg_names[: len(variant.types)]
    signature = dict(zip(names, variant.types, strict=True)) | dict.fromkeys(dict(variant.constants), "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(variant.types) if kind.startswith("*")}
    source = ASTSource(function, signature=signature, constexprs=dict(variant.constants), attrs=aligned)
    options = {"num_warps": variant.warps, "enable_fp_fusion": variant.fp_fusion}
    made: Any = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    entry = _ENTRY.search(made.asm["ptx"])
    parameters = tuple(_PARAMETER.findall(entry.group(1))) if entry else ()
    if parameters != expected_parameters(variant.types) or made.metadata.global_scratch_size:
        raise DeviceError(
            f"kernel {variant.kernel} compiled by this Triton takes {parameters}, not "
            f"{expected_parameters(variant.types)}: the launcher does not know its convention"
        )
    return Compiled(made.metadata.name, made.asm["cubin"], made.metadata.shared, parameters)


def write(path: Path, made: dict[tuple[Variant, int], Compiled]) -> None:
    """Pack compiled kernels into one file."""
    entries: dict[str, Any] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for (variant, architecture), compiled in sorted(made.items(), key=lambda item: (item[0][0].name, item[0][1])):
            member = f"{variant.name}.sm_{architecture}.cubin"
            entries.setdefault(variant.name, {})[str(architecture)] = {
                "file": member,
                "entry": compiled.name,
                "shared": compiled.shared,
            }
            file.writestr(zipfile.ZipInfo(member), compiled.cubin, zipfile.ZIP_DEFLATED)
        manifest = {"source": source_hash(), "kernels": entries}
        file.writestr(zipfile.ZipInfo(_MANIFEST), json.dumps(manifest, indent=1), zipfile.ZIP_DEFLATED)


class Cubins:
    """The compiled kernels for one GPU.

    Args:
        capability: The GPU's architecture, 90 for sm_90.
        path: The file of compiled kernels; None for the one that the environment names or that lies beside this module.

    Raises:
        DeviceError: The file is named but missing, damaged, or compiled from other kernels.
    """

    def __init__(self, capability: int, path: Path | None = None) -> None:
        self._capability = capability
        self._made: dict[Variant, Binary] = {}
        named = path or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
        self._path = named or (BESIDE if BESIDE.exists() else None)
        self._entries: dict[str, dict[str, Any]] = {} if self._path is None else _read_manifest(self._path)

    @property
    def available(self) -> bool:
        """Whether the kernels of explanations can run: compiled ahead of time, or by Triton when needed."""
        if find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") != "1":
            return True
        return all(self._entry(variant) is not None for variant in all_variants())

    def __getitem__(self, variant: Variant) -> Binary:
        """Raises:
        DeviceError: It is not in the file, and Triton is not there to compile it.
        """
        if variant not in self._made:
            self._made[variant] = self._find(variant)
        return self._made[variant]

    def _find(self, variant: Variant) -> Binary:
        entry = self._entry(variant)
        if entry is None:
            made = compile_variant(variant, self._capability)
            return Binary(made.name, made.cubin, variant.types, variant.warps, made.shared)
        assert self._path is not None
        with zipfile.ZipFile(self._path) as file:
            cubin = file.read(entry["file"])
        return Binary(entry["entry"], cubin, variant.types, variant.warps, entry["shared"])

    def _entry(self, variant: Variant) -> dict[str, Any] | None:
        """That of the nearest architecture which runs on this GPU."""
        found: dict[str, dict[str, Any]] = self._entries.get(variant.name, {})
        fits = [a for a in map(int, found) if _runs_on(a, self._capability)]
        return found[str(max(fits))] if fits else None


def _runs_on(architecture: int, capability: int) -> bool:
    """From 9.0 on, Triton compiles for the features of one architecture alone (sm_90a)."""
    if architecture >= 90:
        return architecture == capability
    return architecture // 10 == capability // 10 and architecture <= capability


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read(_MANIFEST))
        source, entries = manifest["source"], manifest["kernels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DeviceError(f"the file of compiled kernels {path} cannot be read: {error}") from None
    if source != source_hash():
        raise DeviceError(
            f"the kernels in {path} were compiled from other sources: run python -m portable_cam.kernels.compile again"
        )
    return dict(entries)
