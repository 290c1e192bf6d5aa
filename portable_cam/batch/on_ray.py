# SPDX-License-Identifier: Apache-2.0
"""The same shards on the nodes of a Ray cluster, which share the folder of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from portable_cam.batch.layout import Layout
from portable_cam.batch.libraries import library
from portable_cam.batch.progress import Progress
from portable_cam.batch.shard import ShardRunner, Spent
from portable_cam.batch.shard_files import TakenError

#: A shard that one actor left to another may be left when that one dies: it is given again.
_ROUNDS = 3


class ShardActor:
    """Makes the shards that it is given; what Ray Data's ``map_batches`` takes.

    Args:
        root: The folder of results.
    """

    def __init__(self, root: str) -> None:
        self._runner = ShardRunner(root)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch; what became of each."""
        found: dict[str, list[Any]] = {name: [] for name in ("shard", "done", "failed", *vars(Spent()))}
        for shard in batch["shard"]:
            try:
                outcome = self._runner.run(int(shard))
            except TakenError:  # an actor before this one, or one that Ray took for dead: it makes the same
                continue
            row = {"shard": shard, "done": outcome.done, "failed": outcome.failed, **vars(outcome.spent)}
            for name, value in row.items():
                found[name].append(value)
        return found


def run_on_ray(
    layout: Layout,
    shards: Sequence[int],
    counts: Progress,
    tell: Callable[[Progress], None],
    ready: Callable[[dict[str, Any]], None],
    workers: int | None,
) -> None:
    """Make all of these shards.

    Args:
        layout: The folder of results, at the same path on every node.
        shards: Which.
        counts: Is kept up to date.
        tell: Called now and then with the counts.
        ready: Called once with what was found and chosen.
        workers: Actors, each on a core of its own; None for as many as the cluster has cores.

    Raises:
        OptionError: Ray is not installed.
    """
    ray, data = library("ray", "ray"), library("ray.data", "ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    actors = workers or int(ray.cluster_resources().get("CPU", 1))
    counts.workers = actors
    for _ in range(_ROUNDS):
        results = data.from_items([{"shard": shard} for shard in shards]).map_batches(
            ShardActor,
            fn_constructor_args=(str(layout.root.absolute()),),
            batch_size=1,
            concurrency=actors,
            num_cpus=1,
            max_restarts=-1,
            max_task_retries=-1,
        )
        for number, row in enumerate(results.iter_rows()):
            if not number:
                ready(json.loads(layout.facts.read_text(encoding="utf-8")))
            counts.done += int(row["done"])
            counts.failed += int(row["failed"])
            counts.add(Spent(*(float(row[name]) for name in vars(Spent()))))
            tell(counts)
        finished = layout.finished()
        shards = [shard for shard in shards if shard not in finished]
        if not shards:
            return
    counts.notes = (*counts.notes, f"{len(shards)} shards are not finished: give the command again")
