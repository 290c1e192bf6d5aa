# SPDX-License-Identifier: Apache-2.0
"""A process that makes shards: ``python -m portable_cam.batch.worker FOLDER``, with ``cli`` behind it where a user of
the command line reads its messages.

It reads a line of JSON for each shard and writes lines of JSON on what becomes of it. It ends when its input does, also
in the middle of a shard: so it does not outlive whoever began it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any

from portable_cam.batch.shard import ShardRunner
from portable_cam.batch.shard_files import TakenError
from portable_cam.errors import Error
from portable_cam.spelling import on_command_line


def main(root: str) -> None:
    """Work until there is no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def tell(event: str, **more: Any) -> None:
        answers.write(json.dumps({"event": event, **more}) + "\n")

    def report(failed: bool) -> None:
        tell("image", failed=failed)

    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    try:
        runner = ShardRunner(root)
        tell("ready", facts=runner.facts)
        while True:
            order = asked.get()
            shard = order["shard"]
            try:
                outcome = runner.run(shard, certain=order["certain"], report=report)
                tell("shard", **asdict(outcome))
            except TakenError:
                tell("taken", shard=shard)
    except Error as error:
        tell("error", kind=type(error).__name__, text=str(error))
    except Exception:  # a fault of this package: its text is what there is to go by
        tell("error", kind="Error", text=f"a worker failed: {traceback.format_exc()}")


def _listen(asked: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    with on_command_line() if sys.argv[2:] else contextlib.nullcontext():
        main(sys.argv[1])
