# SPDX-License-Identifier: Apache-2.0
"""Every gradient rule, checked three ways: against torch autograd in float64, by finite differences of the ONNX model
(the referee where the two differ), and for linear operators by the adjoint identity <A x, y> = <x, A^T y>.

The table is ``rule_cases``. Each record is run in several forms: all its differentiable inputs as graph inputs, its
weights as constants, and with every dimension of its inputs known only at run time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rule_cases import CASES
from rule_cases.case import Case, Prepared, prepare

from portable_cam.errors import InputError, ModelError, UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.autodiff.rules import RULES
from portable_cam.runtime.session import Session
from portable_cam.testing import check_vjp


def against_torch(case: Case, p: Prepared, gradients: dict[str, np.ndarray], dy: np.ndarray, tolerance: float) -> None:
    """The gradients equal torch's, computed in float64 from the same numbers."""
    assert case.torch is not None
    tensors = [
        None
        if a is None
        else torch.tensor(np.asarray(a, np.float64) if a.dtype.kind == "f" else a, requires_grad=i in p.wrt)
        for i, a in enumerate(p.arrays)
    ]
    result = case.torch(*tensors)
    forward = p.session.run(p.feeds)[p.of]
    assert tuple(result.shape) == forward.shape, "the torch equivalent is another operator: its shape differs"
    np.testing.assert_allclose(
        forward,
        result.detach().numpy(),
        rtol=tolerance,
        atol=tolerance * max(1.0, np.abs(forward).max(initial=0.0)),
        err_msg="the torch equivalent is another operator",
    )
    expected = torch.autograd.grad(result, [tensors[i] for i in p.wrt], torch.tensor(np.asarray(dy, np.float64)))
    for i, want in zip(p.wrt, expected, strict=True):
        got = gradients[f"i{i}"].astype(np.float64)
        scale = max(1.0, want.abs().max().item() if want.numel() else 0.0)
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=tolerance * scale, err_msg=f"input {i} of {case}")


def adjoint(case: Case, p: Prepared, gradients: dict[str, np.ndarray], dy: np.ndarray, tolerance: float) -> None:
    """<A x, y> = <x, A^T y>, the constant part of an affine operator taken out."""
    session = p.session
    full = session.run(p.feeds)[p.of].astype(np.float64)
    for i in set(case.linear) & set(p.wrt):
        zero = session.run({**p.feeds, f"i{i}": np.zeros_like(p.feeds[f"i{i}"])})[p.of].astype(np.float64)
        forward, backward = (full - zero) * dy, gradients[f"i{i}"].astype(np.float64) * p.feeds[f"i{i}"]
        size = max(float(np.linalg.norm(forward)), float(np.linalg.norm(backward)))
        assert abs(forward.sum() - backward.sum()) <= tolerance * size, (
            f"<A x, y> = {forward.sum()}, <x, A^T y> = {backward.sum()}: input {i}"
        )


def random_like(output: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(output.shape), output.dtype)


def vjp(p: Prepared, seed: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The gradients for a random gradient of the output."""
    dy = random_like(p.session.run(p.feeds)[p.of], seed)
    session = Session(differentiate(p.model, p.of, [f"i{i}" for i in p.wrt]), threads=1)
    results = session.run({**{k: v for k, v in p.feeds.items() if k in session.inputs}, "seed": dy})
    return {f"i{i}": results[f"gradient.i{i}"] for i in p.wrt}, dy


def forms() -> list[Any]:
    """Each case with its inputs as inputs, and in further forms. By default three cases of an operator run, the first
    of them in its further forms too."""
    out, seen = [], Counter[tuple[str, str]]()
    for case in CASES:
        chosen = ["inputs"]
        if any(i.role == "w" for i in case.inputs):
            chosen.append("constant")
        if case.dynamic != "static":
            chosen.append("symbolic")
            if sum(i.role == "x" for i in case.inputs) > 1:
                chosen.append("unnamed")
        for form in chosen:
            seen[case.op, form] += 1
            marks = [pytest.mark.slow] if seen[case.op, form] > (2 if form == "inputs" else 1) else []
            out.append(pytest.param(case, form, id=f"{case}-{form}", marks=marks))
    return out


@pytest.mark.parametrize(("case", "form"), forms())
def test_rule(case: Case, form: str) -> None:
    p = prepare(case, form)
    if form in {"symbolic", "unnamed"} and case.dynamic == "no":
        with pytest.raises(UnsupportedOperatorError, match=case.why):
            differentiate(p.model, p.of, [f"i{i}" for i in p.wrt])
        return
    if case.fd:  # which has the gradients for a random dy too: the first that its generator of numbers draws
        gradients = check_vjp(p.model, p.feeds, p.of, [f"i{i}" for i in p.wrt], seed=3).gradients
        dy = random_like(p.session.run(p.feeds)[p.of], seed=3)
    else:
        gradients, dy = vjp(p)
    if case.torch is not None:
        against_torch(case, p, gradients, dy, case.tolerance)
    if case.linear:
        adjoint(case, p, gradients, dy, 1e-5)


#: Families whose records are of another kind: test files with a table CASES of their own, each record with an ``op``.
OTHER_TABLES = ("test_quantized.py", "test_recurrent.py", "test_control_flow.py")


def test_every_rule_has_a_case() -> None:
    judged = {case.op for case in CASES}
    for name in OTHER_TABLES:
        spec = importlib.util.spec_from_file_location(f"cases_of_{name}", Path(__file__).with_name(name))
        assert spec is not None
        assert spec.loader is not None
        table = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(table)
        judged |= {case.op for case in table.CASES}
    assert set(RULES) - judged == set(), "rules without a case in a table"
    assert judged - set(RULES) == set(), "cases for operators that have no rule"


def test_every_case_is_judged() -> None:
    assert [str(c) for c in CASES if c.torch is None and not c.fd and not c.linear] == []


# -- other precisions --------------------------------------------------------------------------------------------------


# float64: attributes are float32 in the file, and so are ONNX Runtime's epsilon, alpha and beta.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float64, 2e-7), pytest.param(np.float16, 4e-3, marks=pytest.mark.slow)],
    ids=["float64", "float16"],
)
@pytest.mark.parametrize("op", sorted({c.op for c in CASES}))
@pytest.mark.parametrize("enough", [1, pytest.param(sys.maxsize, marks=pytest.mark.slow)], ids=["one", "all"])
def test_other_precisions(op: str, dtype: Any, tolerance: float, enough: int) -> None:
    """Wherever ONNX Runtime runs the operator in this type, the gradient runs, and is as exact as the type."""
    judged, reasons = 0, set()
    for case in [c for c in CASES if c.op == op]:
        if judged == enough:
            break
        if case.torch is None or case.attributes.get("to", 1) != 1:
            reasons.add("no equivalent in torch in this type")
            continue
        with np.errstate(over="ignore"):
            p = prepare(case, "inputs", dtype)
        try:
            forward = p.session.run(p.feeds)[p.of]
        except (ModelError, InputError):
            reasons.add("ONNX Runtime has no kernel of this type")
            continue
        if dtype == np.float16 and not np.isfinite(forward).all():
            reasons.add("the values are beyond the range of the type")
            continue
        judged += 1
        gradients, dy = vjp(p)
        for i in p.wrt:
            assert gradients[f"i{i}"].dtype == dtype
        against_torch(case, p, gradients, dy, tolerance)
    if not judged:
        pytest.skip("; ".join(sorted(reasons)))
