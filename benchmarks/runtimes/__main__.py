"""Where an exported file runs, and with which values: ``python -m benchmarks.runtimes``.

Writes ``benchmarks/results/runtimes.csv``, and with ``--docs`` the table of ``docs/runtimes.md``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import ROOT, machine, write_csv, write_table
from benchmarks.runtimes.cases import GROUPS, MODELS, Case, case, difference
from benchmarks.runtimes.engines import ENGINES, Engine, EngineError


@dataclass(frozen=True)
class Row:
    """One file on one engine: the greatest difference of any output relative to its greatest value, or an error.

    Attributes:
        ms: A run, on a machine that may be busy.
    """

    engine: str
    version: str
    model: str
    group: str
    difference: float | None
    worst: str
    ms: float | None
    error: str


def measure(engine: Engine, tried: Case, folder: Path) -> Row:
    """Run one file on one engine."""
    try:
        found, ms = engine.run(tried.file(engine.runtime), tried.feeds, folder)
    except EngineError as error:
        text = " ".join(str(error).split())
        return Row(engine.name, engine.version, tried.model, tried.group, None, "", None, text[:400])
    apart = difference(tried.expected, found)
    worst = max(apart, key=lambda name: apart[name])
    return Row(engine.name, engine.version, tried.model, tried.group, apart[worst], worst, round(ms, 1), "")


def table(rows: list[Row]) -> str:
    """The greatest difference for each engine and model, a column for each group of methods."""
    lines = ["| engine | model | " + " | ".join(GROUPS) + " |", "|---" * (2 + len(GROUPS)) + "|"]
    for engine, model in dict.fromkeys((f"{row.engine} {row.version}", row.model) for row in rows):
        cells = []
        for group in GROUPS:
            found = [r for r in rows if (f"{r.engine} {r.version}", r.model, r.group) == (engine, model, group)]
            cells.append("" if not found else "fails" if found[0].difference is None else f"{found[0].difference:.0e}")
        lines.append(f"| {engine} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all that is installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", action="append", choices=[engine.name for engine in ENGINES])
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "results" / "runtimes.csv")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/runtimes.md")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in ENGINES:
            if engine.name not in (arguments.engine or [engine.name]):
                continue
            if engine.missing:
                print(f"{engine.name}: not tried, {engine.missing}")
                continue
            for model in arguments.model or MODELS:
                for group in arguments.group or GROUPS:
                    row = measure(engine, case(model, group), Path(folder) / "run")
                    rows.append(row)
                    told = row.error or f"{row.difference:.1e} in {row.worst}, {row.ms} ms"
                    print(f"{engine.name} {row.version}: {model}, {group}: {told}", flush=True)
    write_csv(rows, machine(1, []), arguments.csv)
    text = table(rows)
    print(f"\n{text}")
    if arguments.docs:
        write_table(text, ROOT / "docs" / "runtimes.md", "runtimes")


if __name__ == "__main__":
    main()
