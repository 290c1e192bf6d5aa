# SPDX-License-Identifier: Apache-2.0
"""Libraries that only some sources or places need, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from portable_cam.errors import OptionError
from portable_cam.spelling import installing


def library(name: str, extra: str = "batch") -> ModuleType:
    """A library by the name of its module.

    Raises:
        OptionError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise OptionError(f"{package} is not installed: {installing(extra)}") from error
