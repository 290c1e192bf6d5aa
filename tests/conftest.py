"""Shared fixtures. Tests on real models need the zoo, which lies beside the project: CI must have it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder with ``models/``, ``images/`` and ``labels/``."""
    folder = Path(os.environ.get("PORTABLE_CAM_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
    if not (folder / "models").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the zoo, and {folder} is not there")
        pytest.skip(f"no zoo at {folder}; set PORTABLE_CAM_ZOO to run the tests on real models")
    return folder


@pytest.fixture(scope="session")
def golden(zoo: Path) -> Path:
    """The folder with the peers' maps."""
    folder = zoo.parent / "golden"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the peers' maps, and {folder} is not there")
        pytest.skip(f"no peers' maps at {folder}")
    return folder
