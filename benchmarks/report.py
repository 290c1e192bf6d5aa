"""What the benchmarks report with: the machine, a CSV file, a table between markers of a document, and the way from the
one to the others."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).parents[1]
Subject = TypeVar("Subject")
Row = TypeVar("Row", bound="DataclassInstance")


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


def parser_of(name: str, description: str, seconds: float) -> argparse.ArgumentParser:
    """The options of a benchmark of single models: how long, on how many threads, and where the results go.

    Args:
        name: Of its CSV file, and of its table in ``docs/benchmarks.md``.
        description: The docstring of its module, whose first line is shown.
        seconds: Per model.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=seconds, help="per model")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.csv")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    parser.set_defaults(name=name)
    return parser


def measure_all(
    subjects: Iterable[Subject],
    measure: Callable[[Subject], Row],
    describe: Callable[[Row], str],
    table: Callable[[Sequence[Row], dict[str, str]], str],
    facts: dict[str, str],
    arguments: argparse.Namespace,
) -> None:
    """Measure one subject after the other, each with its line, then write the CSV file and the table.

    Args:
        subjects: What to measure.
        measure: Gives the row of one.
        describe: The line that is printed of a row.
        table: The Markdown of all rows and the facts.
        facts: As :func:`machine` gives them.
        arguments: Of a parser of :func:`parser_of`.
    """
    rows = []
    for subject in subjects:
        rows.append(measure(subject))
        print(describe(rows[-1]), flush=True)
    write_csv(rows, facts, arguments.csv)
    text = table(rows, facts)
    print(f"\n{text}")
    if arguments.docs:
        write_table(text, ROOT / "docs" / "benchmarks.md", arguments.name)
