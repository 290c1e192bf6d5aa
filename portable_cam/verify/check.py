# SPDX-License-Identifier: Apache-2.0
"""The outcome of a check, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_NOT_TESTED = "not tested"
#: Proves nothing of the gradient, and so does not fail.
_EVIDENCE = frozenset({"occlusion"})


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: One of those in :mod:`portable_cam.verify.checks`.
        passed: None where it was not tested.
        detail: What was compared, in a few words; why, where it was not tested.
        value: The figure that was judged, as a relative difference; None where there is none.
    """

    name: str
    passed: bool | None
    detail: str
    value: float | None = None

    @property
    def verdict(self) -> str:
        """``passed``, ``FAILED`` or ``not tested``; ``disagrees`` for an occlusion, which proves nothing."""
        if self.passed is None:
            return _NOT_TESTED
        return "passed" if self.passed else "disagrees" if self.name in _EVIDENCE else "FAILED"

    def to_dict(self) -> dict[str, Any]:
        """As plain data; ``passed`` is true, false or ``"not tested"``."""
        return asdict(self) | {"passed": _NOT_TESTED if self.passed is None else self.passed}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Check:
        """From :meth:`to_dict`."""
        return cls(**{**content, "passed": None if content["passed"] == _NOT_TESTED else content["passed"]})


def not_tested(why: str) -> Check:
    """A check that could not be made, still without a name."""
    return Check("", None, why)


def describe(checks: Sequence[Check]) -> str:
    """One line for a person."""
    by_verdict: dict[str, list[str]] = {}
    for check in checks:
        failed = f" ({check.detail})" if check.passed is False else ""
        by_verdict.setdefault(check.verdict, []).append(check.name + failed)
    return "; ".join(f"{', '.join(names)} {verdict}" for verdict, names in by_verdict.items())
