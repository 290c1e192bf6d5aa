# SPDX-License-Identifier: Apache-2.0
"""The same job on a Ray cluster of several nodes on this machine, one of which is killed."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: In a process of its own: Ray leaves threads, sockets and signal handlers behind.
JOB = """
    import os, pathlib, sys
    sys.path.insert(0, sys.argv[1])
    from chaos.__main__ import contents, draw
    import ray
    from ray.cluster_utils import Cluster
    from portable_cam import batch
    from portable_cam.batch.verify import verify

    folder = pathlib.Path(sys.argv[2])
    model, photos = draw(folder, 160)
    how = {"targets": "top2", "task": "classify", "preprocessing": "unit", "shard_size": 8}
    batch.run(model, photos, folder / "alone", workers=0, **how)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    killed = []

    def progress(counts):
        if counts.done > 20 and not killed:
            killed.append(counts.done)
            cluster.remove_node(nodes[0], allow_graceful=False)

    results = batch.run(model, photos, folder / "out", on="ray", progress=progress, **how)
    counts = results.progress
    assert killed and verify(folder / "out").whole, (killed, verify(folder / "out"))
    assert contents(folder / "out") == contents(folder / "alone")
    print("killed after", killed[0], "of", counts.done + counts.failed, flush=True)
    os._exit(0)  # Ray's own clearing up minds that a node is gone
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "portable-cam[ray]"')
def test_a_node_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JOB), str(ROOT / "tests"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed after" in done.stdout
