"""What the benchmarks report with: the machine, a CSV file, a table between markers of a document."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).parents[1]


def machine(threads: int, packages: Sequence[str]) -> dict[str, str]:
    """What the figures were measured on, and the versions of these packages."""
    model = next(
        (
            li.split(":", 1)[1].strip()
            for li in Path("/proc/cpuinfo").read_text().splitlines()
            if li.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": date.today().isoformat(),
        "cpu": model,
        "threads": str(threads),
        "commit": commit.stdout.strip(),
        **{package: version(package) for package in packages},
    }


def write_csv(rows: Sequence[DataclassInstance], facts: Mapping[str, str], path: Path) -> None:
    """One line for each row, with the facts in further columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(rows[0]), *facts])
        writer.writeheader()
        writer.writerows({**asdict(row), **facts} for row in rows)


def write_table(text: str, path: Path, name: str = "") -> None:
    """Replace what stands between the markers of a document; where it has several tables, they have names."""
    begin, end = (f"<!-- benchmarks:{f'{name}:' if name else ''}{place} -->" for place in ("begin", "end"))
    before, rest = path.read_text().split(begin, 1)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}")
