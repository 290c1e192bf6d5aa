# SPDX-License-Identifier: Apache-2.0
"""What a worker had in hand when it died: images that crash a decoder or hang are found and passed over.

A byte for each image of a shard lies in a small mapped file, so that noting takes no system call, is there after
``kill -9``, and needs no room on a full disk.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

#: Stages.
IDLE, DECODING, RUNNING = 0, 1, 2
#: Deaths with an image alone in hand after which it is passed over: a person or the system may have killed the worker.
ENOUGH = 3


class Suspects:
    """The images of one shard.

    Args:
        path: The file.
        count: How many images there are.
        certain: The last worker died of what it did (a crash, the time limit), not of a kill from outside.

    Attributes:
        careful: Some image is under suspicion: one at a time is to be in hand.
    """

    def __init__(self, path: Path, count: int, *, certain: bool = False) -> None:
        if not path.exists() or path.stat().st_size != 3 * count:
            path.write_bytes(bytes(3 * count))  # written, so that its room on the disk is taken
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 3 * count)
        self._bytes = np.frombuffer(self._map, np.uint8).reshape(3, count)
        self._stage, self._deaths, self._shared = self._bytes
        held = np.flatnonzero(self._stage)
        if len(held) == 1:
            self._deaths[held] = ENOUGH if certain else np.minimum(self._deaths[held] + 1, ENOUGH)
        self._shared[held] = np.maximum(self._shared[held], self._stage[held])
        self._stage[:] = IDLE

    @property
    def careful(self) -> bool:
        return bool(self._shared.any())

    def condemned(self) -> dict[int, str]:
        """The images that are passed over, and what they did."""
        doing = {DECODING: "decoding", RUNNING: "explaining"}
        return {
            int(i): f"the worker died or hung while {doing[int(self._shared[i])]} it"
            for i in np.flatnonzero(self._deaths >= ENOUGH)
        }

    def take(self, i: int, stage: int) -> None:
        """An image is in hand."""
        self._stage[i] = stage

    def release(self, i: int) -> None:
        """An image is no longer in hand."""
        self._stage[i] = IDLE

    def close(self) -> None:
        """Nothing is in hand any more."""
        self._stage[:] = IDLE
        del self._stage, self._deaths, self._shared, self._bytes
        self._map.close()
        self._file.close()
