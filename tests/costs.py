"""Which tests run by default, all but those marked ``slow``, and in how many processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest


def slow_tests_run(config: pytest.Config, path: Path) -> bool:
    """True where the slow tests of a file were asked for: by ``--slow``, by ``-m``, or by naming it or one of them."""
    named = {config.invocation_params.dir / argument.split("::")[0] for argument in config.args}
    return bool(config.option.slow or config.option.markexpr or path in named)


def runs_whole_suite(config: pytest.Config) -> bool:
    """True where the command line names no file or test and does not choose tests by a mark, and this is not one of the
    processes that such a run has begun."""
    chosen = config.option.markexpr or config.option.collectonly or hasattr(config, "workerinput")
    return not chosen and config.args == config.getini("testpaths")


def slow_but(kept: Iterable[str], values: Iterable[Any]) -> list[Any]:
    """Parameters of a test, marked ``slow`` but for the kept ones.

    Args:
        kept: What ``str`` makes of the values that stay; of a tuple, of its first element.
        values: As ``pytest.mark.parametrize`` takes them.

    Raises:
        ValueError: Something kept is none of the values.
    """
    wanted, found, seen = set(kept), [], set()
    for value in values:
        name = str(value[0] if isinstance(value, tuple) else value)
        seen.add(name)
        marks = [] if name in wanted else [pytest.mark.slow]
        found.append(pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks))
    if wanted - seen:
        raise ValueError(f"kept, but not among the parameters: {sorted(wanted - seen)}")
    return found


def slow_after(count: int, key: Callable[[Any], object], values: Iterable[Any]) -> list[Any]:
    """Parameters of a test, marked ``slow`` from the one after the first ``count`` of their kind on."""
    seen: Counter[object] = Counter()
    found = []
    for value in values:
        seen[key(value)] += 1
        found.append(pytest.param(value, marks=[pytest.mark.slow] if seen[key(value)] > count else []))
    return found
