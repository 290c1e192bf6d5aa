# SPDX-License-Identifier: Apache-2.0
"""How far a batch is."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from portable_cam.batch.shard import Spent


@dataclass
class Progress:
    """Counts of one run.

    Attributes:
        total: Inputs of the shards that this run has to do.
        before: Of all inputs of the job, those that were finished before.
        done: Inputs that were explained.
        failed: Inputs that could not be.
        workers: Processes at work.
        lost: Workers that died.
        spent: Seconds of all workers, by what they did.
    """

    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    workers: int = 0
    lost: int = 0
    spent: Spent = field(default_factory=Spent)
    started: float = field(default_factory=monotonic)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return monotonic() - self.started

    @property
    def rate(self) -> float:
        """Images a second."""
        return (self.done + self.failed) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds, if it goes on like this; None before the first image."""
        finished = self.done + self.failed
        return None if not finished else (self.total - finished) / self.rate

    @property
    def slowest(self) -> str:
        """What the workers spend most time with; empty before the first shard is finished."""
        most = max(vars(self.spent), key=lambda name: float(getattr(self.spent, name)))
        return most if getattr(self.spent, most) else ""

    def add(self, spent: Spent) -> None:
        """Seconds of a worker."""
        for name, seconds in vars(spent).items():
            setattr(self.spent, name, getattr(self.spent, name) + seconds)
