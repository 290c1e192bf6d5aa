# SPDX-License-Identifier: Apache-2.0
"""How much a method of many passes may cost, for each image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from portable_cam.errors import OptionError


@dataclass(frozen=True)
class Budget:
    """The most passes, and the most seconds; None for as many as it takes."""

    passes: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, given: Budget | int | str | None) -> Budget:
        """From a number of passes, or a text as ``10s``, ``2min`` or ``4000``.

        Raises:
            OptionError: It is neither.
        """
        if given is None:
            return cls()
        if isinstance(given, Budget):
            return given
        text = str(given).strip().lower()
        for unit, seconds in (("min", 60), ("s", 1), ("", None)):
            number = text.removesuffix(unit) if unit else text
            if text.endswith(unit) and _is_number(number) and float(number) > 0:
                if seconds is not None:
                    return cls(seconds=float(number) * seconds)
                if float(number) == int(float(number)):
                    return cls(passes=int(float(number)))
        raise OptionError(f"a budget is a time, as 10s or 2min, or a number of passes, as 4000, not {given!r}")

    def describe(self) -> str:
        """As a user gives it."""
        return f"{self.passes} passes" if self.passes is not None else f"{self.seconds:g} s"

    def batches(self, total: int, size: int, *, sampled: bool, what: str) -> Iterator[int]:
        """How many passes each batch makes, until all are made or the budget is spent.

        Args:
            total: How many there are to make.
            size: At once.
            sampled: Fewer will do; at least one batch is made.
            what: For messages.

        Raises:
            OptionError: The budget does not suffice where all of them are needed. Told before the first pass where the
                budget is a number of passes, after the first batch where it is a time.
        """
        most = total if self.passes is None else min(total, self.passes)
        if most < total and not sampled:
            raise OptionError(f"{what} takes {total} passes for an image, and the budget is {self.passes}: raise it")
        start, done, longest = time.monotonic(), 0, 0.0
        while done < most:
            before, count = time.monotonic(), min(size, most - done)
            yield count
            done += count
            now = time.monotonic()
            longest = max(longest, now - before)
            if self.seconds is None or done == most:
                continue
            if sampled and now - start + longest > self.seconds:
                return
            expected = (now - start) * total / done
            if not sampled and expected > self.seconds:
                raise OptionError(
                    f"{what} would take about {expected:.3g} s for its {total} passes, and the budget is "
                    f"{self.seconds:g} s: raise it, or choose coarser parameters"
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
