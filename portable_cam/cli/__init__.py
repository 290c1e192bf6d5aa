# SPDX-License-Identifier: Apache-2.0
"""The command line, a file per command. Results go to files and stdout, diagnostics and progress to stderr; exit status
0 done, 1 some inputs failed (each named), 2 wrong use, 130 interrupted.

Little is imported here, so that Ctrl-C is handled while the rest is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portable_cam.cli.commands import app

__all__ = ["app", "main"]

_INTERRUPTED = 130  # 128 and the number of the signal, as shells have it
#: Clears the line of a progress bar, and shows the cursor that it hides.
_CLEAR = "\r\x1b[2K\x1b[?25h"


def main() -> None:
    """The entry point."""
    with _interruptible():
        from portable_cam.cli.commands import run

        status = run()
    sys.exit(status)


def __getattr__(name: str) -> Any:
    if name == "app":
        from portable_cam.cli.commands import app

        return app
    raise AttributeError(f"module 'portable_cam.cli' has no attribute {name!r}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once, with a line, without what is being written.

    No exception is raised: one that arises in a callback or an import of a library is caught there, or printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    files = sys.modules.get("portable_cam.export.read.whole_files")
    if files is not None and hasattr(files, "discard_unfinished"):  # else nothing is being written
        files.discard_unfinished()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{_CLEAR if os.isatty(2) else ''}interrupted\n".encode())
    os._exit(_INTERRUPTED)
