"""Mutated models: ``python tests/fuzz --count 3000``.

Case ``i`` is always the same: seed model ``i`` modulo their number, mutated by a random generator seeded with ``i``.
Cases run in processes of their own, under limits of CPU time and memory. Each must end in an explanation or in an
error of the project's own kind. Anything else, a crash of the interpreter and a hang included, is listed, and is exit
status 1.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WALL_SECONDS = 120  # of one case; CPU time has a limit of its own, this one is for what sleeps


def run_range(start: int, stop: int, step: int) -> list[dict[str, Any]]:
    """The cases in turn; where the process dies, a new one goes on behind the case that killed it."""
    found: list[dict[str, Any]] = []
    while start < stop:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(HERE / "worker.py"), str(start), str(stop), str(step)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        running: dict[str, Any] | None = None
        for line in lines_of(process):
            record = json.loads(line)
            if "explain" in record:
                found.append(record)
                running = None
            else:
                running = record
        status = process.wait()
        if running is None and status:
            raise SystemExit(f"the worker fails by itself: {' '.join(command)}")
        if running is None:
            break
        died = "hangs" if status in {-signal.SIGPROF, -signal.SIGKILL} else f"ends with status {status}"
        found.append(running | {"explain": f"BUG: the process {died}"})
        start = running["case"] + step
    return found


def lines_of(process: subprocess.Popen[str]) -> Any:
    """The lines as they come; a process that is silent for too long is killed."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=WALL_SECONDS)
        except queue.Empty:
            process.kill()
            continue
        if line is None:
            return
        yield line


def bugs(record: dict[str, Any]) -> dict[str, str]:
    return {what: text for what, text in record.items() if isinstance(text, str) and text.startswith("BUG")}


def summary(records: list[dict[str, Any]]) -> str:
    counts = collections.Counter(record.get("explain", "?").split(":")[0] for record in records)
    slowest = max((record.get("seconds", 0.0) for record in records), default=0.0)
    parts = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    return f"{len(records)} mutated models: {parts}; slowest {slowest} s"


def growth(records: list[dict[str, Any]]) -> float:
    """MB per case over the second half of a process's life, when caches are full."""
    series = [record["memory"] for record in records if "memory" in record]
    half = series[len(series) // 2 :]
    return (half[-1] - half[0]) / len(half) if len(half) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write a line of JSON for each case")
    arguments = parser.parse_args()
    stop = arguments.start + arguments.count
    with ThreadPoolExecutor(arguments.processes) as pool:
        starts = range(arguments.start, arguments.start + arguments.processes)
        parts = list(pool.map(lambda start: run_range(start, stop, arguments.processes), starts))
    records = sorted((record for part in parts for record in part), key=lambda record: record["case"])
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    for record in records:
        for what, text in bugs(record).items():
            print(f"case {record['case']} ({record['seed']}; {', '.join(record['mutations'])}), {what}: {text}\n")
    failed = sum(bool(bugs(record)) for record in records)
    per_case = max(growth(part) for part in parts)
    print(f"{summary(records)}; memory grows by {per_case:.3f} MB a case; {failed} bugs")
    if failed or len(records) != arguments.count:
        sys.exit(1)


if __name__ == "__main__":
    main()
