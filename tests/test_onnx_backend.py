# SPDX-License-Identifier: Apache-2.0
"""ONNX's own node tests: the gradient of each that may have one, against finite differences, and on the way the forward
pass of its normalised form against the outputs that the test expects."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from costs import slow_tests_run

from portable_cam.export.autodiff.registry import Entry
from portable_cam.export.autodiff.rules import NO_GRADIENT, RULES
from portable_cam.verify import operator_table as operators
from portable_cam.verify.conformance import LEFT_OUT, NodeCase, check_case, matching, node_cases

#: The tests of every operator, whose arrays the onnx package computes for seconds when it is asked.
pytestmark = pytest.mark.slow


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes the cases only where they are run."""
    if "case" in metafunc.fixturenames:
        cases = node_cases() if slow_tests_run(metafunc.config, Path(__file__)) else ()
        metafunc.parametrize("case", [c for c in cases if c.left_out is None], ids=str)


def by_name(name: str) -> NodeCase:
    (case,) = (case for case in node_cases() if case.name == name)
    return case


def test_node_case(case: NodeCase) -> None:
    check_case(case)


def test_at_least_800_are_checked() -> None:
    assert sum(case.left_out is None for case in node_cases()) >= 800


def test_what_is_left_out_exists() -> None:
    assert [pattern for pattern in LEFT_OUT if not matching(pattern)] == [], "patterns that name no test"


def test_nothing_is_both_refused_and_differentiated() -> None:
    assert set(operators.WITHOUT_RULE) & {*RULES, *NO_GRADIENT} == set()


def test_the_documented_table_is_that_of_the_registry() -> None:
    """Written for one version of onnx; another one has other operators and tests."""
    written = (Path(__file__).parents[1] / "docs" / "operators.md").read_text(encoding="utf-8")
    if f"(onnx {onnx.__version__}," not in written:
        pytest.skip("docs/operators.md was written with another version of onnx")
    assert written == operators.table(), "write it anew: python -m portable_cam.verify.operator_table docs/operators.md"


@pytest.mark.parametrize("name", ["test_sin", "test_gridsample_bicubic", "test_reduce_prod_keepdims_random"])
def test_a_wrong_gradient_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = by_name(name)
    entry = RULES[case.op_type]

    def off(v: Any) -> Any:
        answer = entry.rule(v)
        answers = list(answer) if isinstance(answer, list | tuple) else [answer]
        return [v.b.op("Mul", answers[0], 1.01), *answers[1:]]

    monkeypatch.setitem(RULES, case.op_type, Entry(off, entry.broadcasts))
    with pytest.raises(AssertionError, match="central differences give"):
        check_case(case)


def test_a_changed_output_is_seen() -> None:
    case = by_name("test_sin")
    moved = {name: value + np.float32(0.01) for name, value in case.expected.items()}
    with pytest.raises(AssertionError, match="output 'y'"):
        check_case(NodeCase(**{**vars(case), "expected": moved}))
