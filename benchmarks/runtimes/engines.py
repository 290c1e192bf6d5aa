# SPDX-License-Identifier: Apache-2.0
"""The engines that a file is tried on, each in an environment of its own: several bring files that overwrite another's.

An environment is a folder in the one that ``PORTABLE_CAM_ENGINES`` names: a virtual environment of Python, or for
JavaScript a folder with ``node_modules``. ``docs/runtimes.md`` says how each is made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

HERE = Path(__file__).parent
FOLDER = os.environ.get("PORTABLE_CAM_ENGINES")
_TIME_LIMIT = 300  # seconds


class EngineError(Exception):
    """The engine refused the file, or failed to run it; what it said."""


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        name: Of the engine and of its environment.
        drive: What drives it: a name in ``drive.py``, or of a package in ``drive.mjs``.
        package: Whose version is shown.
        runtime: What files are written for it.
    """

    name: str
    drive: str
    package: str
    runtime: str

    @property
    def scripted(self) -> bool:
        """Driven by Node."""
        return self.drive in {"onnxruntime-node", "onnxruntime-web"}

    @property
    def command(self) -> list[str]:
        """What runs a folder, which is to be appended."""
        if self.scripted:
            return ["node", str(HERE / "drive.mjs"), self.drive]
        return [self._python, str(HERE / "drive.py"), self.drive]

    @property
    def _python(self) -> str:
        return sys.executable if self._here else str(Path(FOLDER or "") / self.name / "bin" / "python")

    @property
    def _here(self) -> bool:
        """Tried in this environment, which has it."""
        return self.name in {"onnxruntime", "onnx.reference"}

    @cached_property
    def missing(self) -> str | None:
        """Why it cannot be tried; None if it can."""
        if self._here:
            return None
        if FOLDER is None:
            return "PORTABLE_CAM_ENGINES does not name the folder with the engines' environments"
        where = Path(FOLDER) / "node" / "node_modules" / self.drive if self.scripted else Path(self._python)
        if not where.exists():
            return f"{where} does not exist"
        return "Node is not installed" if self.scripted and shutil.which("node") is None else None

    @cached_property
    def version(self) -> str:
        """Of its package."""
        if self.scripted:
            described = Path(FOLDER or "") / "node" / "node_modules" / self.drive / "package.json"
            return str(json.loads(described.read_text())["version"])
        ask = f"from importlib.metadata import version; print(version({self.package!r}))"
        return subprocess.run([self._python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()

    def run(
        self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], folder: Path
    ) -> tuple[dict[str, NDArray[Any]], float]:
        """What the engine computes, and the milliseconds that a run takes.

        Raises:
            EngineError: It does not.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        listed = []
        for i, (name, value) in enumerate(feeds.items()):
            np.ascontiguousarray(value).tofile(folder / f"input_{i}.bin")
            kind = {"name": name, "dtype": str(value.dtype), "shape": list(value.shape)}
            listed.append({**kind, "file": f"input_{i}.bin"})
        outputs = [value.name for value in model.graph.output]
        (folder / "inputs.json").write_text(json.dumps({"inputs": listed, "outputs": outputs}))
        further: Sequence[str] = [str(Path(FOLDER or "") / "node")] if self.scripted else []
        (folder / "result.json").unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        try:
            done = subprocess.run(
                [*self.command, str(folder), *further],
                capture_output=True,
                text=True,
                timeout=_TIME_LIMIT,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"no result within {_TIME_LIMIT} s") from None
        if not (folder / "result.json").exists():
            last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            raise EngineError(f"the process ended with status {done.returncode}: {last}")
        result = json.loads((folder / "result.json").read_text())
        if result["error"] is not None:
            raise EngineError(result["error"])
        written = json.loads((folder / "outputs.json").read_text())["outputs"]
        values = {o["name"]: np.fromfile(folder / o["file"], o["dtype"]).reshape(o["shape"]) for o in written}
        return values, float(result["ms"])


ENGINES = (
    Engine("onnxruntime-1.16", "onnxruntime", "onnxruntime", "onnxruntime"),
    Engine("onnxruntime-1.17", "onnxruntime", "onnxruntime", "onnxruntime"),
    Engine("onnxruntime-1.18", "onnxruntime", "onnxruntime", "onnxruntime"),
    Engine("onnxruntime", "onnxruntime", "onnxruntime", "onnxruntime"),
    Engine("onnxruntime-node", "onnxruntime-node", "onnxruntime-node", "onnxruntime"),
    Engine("onnxruntime-web", "onnxruntime-web", "onnxruntime-web", "web"),
    Engine("openvino", "openvino", "openvino", "openvino"),
    Engine("onnxruntime-openvino", "onnxruntime_openvino", "onnxruntime-openvino", "openvino"),
    Engine("opencv", "opencv", "opencv-python-headless", "opencv"),
    Engine("tract", "tract", "tract", "tract"),
    Engine("onnx.reference", "reference", "onnx", "onnxruntime"),
)
