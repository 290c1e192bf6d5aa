# SPDX-License-Identifier: Apache-2.0
"""What is measured on a GPU, tried without one: each step is a process that ends by itself or is ended."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.gpu import steps
from benchmarks.gpu.steps import Step, run


def test_correctness_comes_before_speed() -> None:
    for call in ("first", "second", "all"):
        names = [step.name for step in steps.steps(call, on_gpu=True)]
        assert names[0].startswith("test_")
        assert len(names) == len(set(names))
    both = sum(step.limit for call in ("first", "second") for step in steps.steps(call, on_gpu=True))
    assert both <= 15 * 60, "what a quarter of an hour holds, were every step to take its limit"


def test_a_step_that_hangs_and_one_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(Step("hangs", 1, ("timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)")), tmp_path) == 124
    assert run(Step("fails", 60, ("no_such_module",)), tmp_path) != 0
    assert "No module named no_such_module" in capfd.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"hangs.log", "fails.log"}


@pytest.mark.slow
def test_the_steps_without_a_gpu(tmp_path: Path) -> None:
    chosen = steps.steps("all", on_gpu=False)
    assert [step.name for step in chosen] == ["kernels", "models_tf32", "probe"]
    for step in chosen:
        assert run(step, tmp_path) == 0, (tmp_path / f"{step.name}.log").read_text()
        with (tmp_path / f"{step.name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert all(row["device"] and row["torch"] and row["commit"] for row in rows)
