"""Where an exported file runs: ``python -m benchmarks.runtimes``. Values are compared with what this project computes
itself; the table stands in ``docs/runtimes.md``."""
