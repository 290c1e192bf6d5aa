# SPDX-License-Identifier: Apache-2.0
"""Models on their way to another process: a path stays a path, whatever else becomes bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.read.load import fingerprint
from portable_cam.export.read.weights import to_proto


class ModelFile:
    """A model's file as it was, to be pickled.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._sha256: str | None = None
        self._stamp = self._stat()

    def __getstate__(self) -> dict[str, Any]:
        if self._stat() != self._stamp:
            raise ModelError(f"{self.path} has changed since it was read: make the explainer again")
        return {"path": self.path, "_sha256": self._sha256 or fingerprint(self.path), "_stamp": None}

    def unpacked(self) -> Path:
        """The path.

        Raises:
            ModelError: The file is not there, or holds another model by now.
        """
        if not self.path.is_file():
            raise ModelError(
                f"{self.path} is not there: a model given by path travels as a path; give its bytes instead"
            )
        if self._sha256 is not None and fingerprint(self.path) != self._sha256:
            raise ModelError(
                f"{self.path} has changed since the explainer was pickled, which would explain another model: make the "
                "explainer again"
            )
        return self.path

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except (OSError, ValueError):  # ValueError: a null character in the path
            return None
        return found.st_mtime_ns, found.st_size


def pack(model: Any) -> Any:
    """A model as something that can be pickled; what is no model stays as it is.

    Raises:
        ModelError: An ``onnx_ir.Model`` is larger than a protobuf can be.
    """
    if isinstance(model, str | Path):
        return ModelFile(model)
    if isinstance(model, ir.Model):
        return to_proto(model).SerializeToString()
    return bytes(model) if isinstance(model, bytearray | memoryview) else model


def unpack(model: Any) -> Any:
    """What :func:`pack` was given, or the same as bytes."""
    return model.unpacked() if isinstance(model, ModelFile) else model
