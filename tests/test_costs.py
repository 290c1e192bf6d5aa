"""Which runs of pytest take several processes."""

from types import SimpleNamespace
from typing import Any

import pytest
from costs import runs_whole_suite


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"args": ["tests/test_rules.py"]}, False),
        ({"args": ["tests/test_rules.py::test_rule"]}, False),
        ({"markexpr": "gpu"}, False),
        ({"collectonly": True}, False),
        ({"workerinput": {"workerid": "gw0"}}, False),  # else each process would begin more of them, without end
    ],
    ids=str,
)
def test_runs_whole_suite(given: dict[str, Any], expected: bool) -> None:
    option = SimpleNamespace(markexpr=given.get("markexpr", ""), collectonly=given.get("collectonly", False))
    config = SimpleNamespace(option=option, args=given.get("args", ["tests"]), getini={"testpaths": ["tests"]}.get)
    if "workerinput" in given:
        config.workerinput = given["workerinput"]
    assert runs_whole_suite(config) is expected  # type: ignore[arg-type]
